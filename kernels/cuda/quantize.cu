// K5: activations to signed bytes with one scale a sample, in the order in which the products read them.
//
// LIMBS 1: x = scale * q, |q| <= 127. LIMBS 2: x = scale * (256 high + low), |256 high + low| <= 127 * 256, two planes.
// LIMBS 0: bfloat16, no scale. A sample with an infinity or NaN gets the scale NaN: its outputs are NaN, as they should;
// one below SMALLEST throughout counts as zero, as lowbit.py has it.
// Columns are padded with zeros to `tiles` of 128, so that no product needs a mask.
//
// ORDER 0, for small batches: by tiles of 8 samples x 128 columns, in them by lane (4 g + t: sample g, columns
// 16 i + 4 t ... + 3), so that a warp reads its operands as one contiguous piece. ORDER 1: row after row.
// ORDER 2, images: x (samples, channels, height, width) by any strides -> (samples, height, width, padded channels).
// ORDER 3, for hopper.cu: by tiles of 128 / LIMBS samples x 128 columns, in them by pieces of 16 columns, in these the
// high bytes of each sample, then (`plane` bytes on) the low ones.
#include "device.cuh"
#include "numbers.cuh"

#define THREADS 256
#define TILE 128
#define SMALLEST 1e-30f
#define ROWS (128 / LIMBS)  // of a tile of ORDER 3

// The largest magnitude as bits: they order like the values, with infinity and NaN above all. Every thread gets it.
__device__ __forceinline__ u32 largest_of_block(u32 mine) {
  u32* found = (u32*)shared_memory();
#pragma unroll
  for (int mask = 16; mask; mask >>= 1) {
    u32 other = shuffle_xor(mine, mask);
    mine = other > mine ? other : mine;
  }
  if (threadIdx.x % 32 == 0) found[threadIdx.x / 32] = mine;
  synchronize();
  for (int warp = 0; warp < THREADS / 32; ++warp) mine = found[warp] > mine ? found[warp] : mine;
  return mine;
}

// The scale of a sample, and its inverse: 0 where there is nothing to scale.
__device__ __forceinline__ float scale_of(u32 largest, float* inverse) {
  const float levels = LIMBS == 2 ? 127.0f * 256.0f : 127.0f;
  *inverse = 0.0f;
  if (largest >= 0x7F800000) return bits_float(0x7FC00000);
  if (bits_float(largest) < SMALLEST) return 0.0f;
  *inverse = levels / bits_float(largest);
  return bits_float(largest) / levels;
}

// Four values -> their bytes in each limb, and the sum of the four integers.
__device__ __forceinline__ int to_bytes(const float (&x)[4], float inverse, u32* high, u32* low) {
  int sum = 0;
  *high = *low = 0;
#pragma unroll
  for (int j = 0; j < 4; ++j) {
    int q = round_to_int(x[j] * inverse);
    int top = LIMBS == 2 ? (q + 128) >> 8 : q;
    *high |= (u32)(top & 255) << (8 * j);
    if (LIMBS == 2) *low |= (u32)((q - 256 * top) & 255) << (8 * j);
    sum += q;
  }
  return sum;
}

#if ORDER != 2
// x (rows, columns) -> q, planes of `plane` bytes; one block a sample, those from `rows` on write zeros. `sums`, if
// given, (rows, groups) of zeros, takes the sum of the integers of each `group` tiles, which zero points are times.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_rows(const Element* x, i64 rows, int columns, int tiles, u8* q, i64 plane, float* scale, int* sums,
                  int groups, int group) {
  i64 row = blockIdx.x;
  bool real = row < rows;
  const Element* from = x + row * columns;
  float inverse = 0.0f;
#if LIMBS
  u32 largest = 0;
  for (int k = threadIdx.x; real && k < columns; k += THREADS) {
    u32 bits = float_bits(widen(from[k])) & 0x7FFFFFFF;
    largest = bits > largest ? bits : largest;
  }
  float unit = scale_of(largest_of_block(largest), &inverse);
  if (threadIdx.x == 0 && real) scale[row] = unit;
#endif
  for (int four = threadIdx.x; four < tiles * (TILE / 4); four += THREADS) {
    int k = 4 * four;
    float value[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) value[j] = real && k + j < columns ? widen(from[k + j]) : 0.0f;
#if ORDER == 0
    int tile = k / TILE, step = k % TILE / 32, half = k % 32 / 16, t = k % 16 / 4;
    i64 place = (((row / 8) * tiles + tile) * 32 + row % 8 * 4 + t) * 32 + step * 8 + half * 4;
#elif ORDER == 1
    i64 place = row * tiles * TILE + k;
#else
    i64 place = (((row / ROWS) * tiles + k / TILE) * (TILE / 16) + k % TILE / 16) * 128 * 16 + row % ROWS * 16 + k % 16;
#endif
#if LIMBS
    u32 high, low;
    int sum = to_bytes(value, inverse, &high, &low);
    *(u32*)(q + place) = high;
    if (LIMBS == 2) *(u32*)(q + plane + place) = low;
    if (sums && real) {  // a warp has a tile
#pragma unroll
      for (int mask = 16; mask; mask >>= 1) sum += (int)shuffle_xor((u32)sum, mask);
      if (threadIdx.x % 32 == 0) add_to(sums + row * groups + k / TILE / group, sum);
    }
#else
    // The weights come out of their words as bytes 1, 3 and 0, 2: so do the columns.
    *(u32*)(q + 2 * place) = to_bf16(value[1]) | (u32)to_bf16(value[3]) << 16;
    *(u32*)(q + 2 * place + 4) = to_bf16(value[0]) | (u32)to_bf16(value[2]) << 16;
#endif
  }
}
#else
// `padded` channels are a multiple of 16, strides in elements. `largest`, if given, is the largest magnitude of each
// sample as bits (gemm.cu has left it): then several blocks, along y, share a sample; else one block has it to itself.
extern "C" __global__ void __launch_bounds__(THREADS)
    quantize_images(const Element* x, int channels, int height, int width, i64 by_sample, i64 by_channel, i64 by_row,
                    i64 by_column, int padded, const u32* largest, u8* q, i64 plane, float* scale) {
  const Element* from = x + blockIdx.x * by_sample;
  i64 pixels = (i64)height * width, fours = padded / 4;
  u32 most = 0;
  for (i64 i = threadIdx.x; !largest && i < pixels * channels; i += THREADS) {
    i64 channel = i / pixels, pixel = i % pixels;
    u32 bits = float_bits(widen(from[channel * by_channel + pixel / width * by_row + pixel % width * by_column]));
    bits &= 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  float inverse, unit = scale_of(largest ? largest[blockIdx.x] : largest_of_block(most), &inverse);
  if (threadIdx.x == 0 && blockIdx.y == 0) scale[blockIdx.x] = unit;
  for (i64 i = blockIdx.y * THREADS + threadIdx.x; i < pixels * fours; i += (i64)gridDim.y * THREADS) {
    // Neighbouring threads have neighbouring channels where these are neighbours in memory, else pixels.
    i64 pixel = by_channel == 1 ? i / fours : i % pixels;
    int channel = 4 * (int)(by_channel == 1 ? i % fours : i / pixels);
    const Element* at = from + pixel / width * by_row + pixel % width * by_column;
    float value[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) value[j] = channel + j < channels ? widen(at[(channel + j) * by_channel]) : 0.0f;
    u32 high, low;
    to_bytes(value, inverse, &high, &low);
    i64 place = (blockIdx.x * pixels + pixel) * padded + channel;
    *(u32*)(q + place) = high;
    if (LIMBS == 2) *(u32*)(q + plane + place) = low;
  }
}
#endif
