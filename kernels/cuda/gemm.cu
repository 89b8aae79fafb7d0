// K2, K4: y = act(x W^T + bias + residual) for many samples, and convolution as the same product over patches.
//
// A block makes 128 outputs x COLUMNS samples; each of its 8 warps has 16 outputs and all the samples. Weights go from
// memory to registers (fragment order, FORMAT 0 and 1 of small.cu) and are unpacked there; activations go through
// STAGES buffers in shared memory, as pieces of 8 samples x 16 bytes, which are free of bank conflicts for the copies
// as for either kind of tensor core: WGMMA (sm_90a) or mma.sync (all others).
//
// x: quantize.cu, ORDER 1 (LINEAR) or ORDER 2 (CONVOLUTION: rows of the product are output pixels, columns are
// (kernel row, kernel column, padded channel), a piece of 16 bytes has one tap). LIMBS 1 or 2 planes.
// y (rows, outputs): for a convolution that is channels-last order. scale (outputs, groups) with `group` tiles each.
#include "product.cuh"

#define WARPS 8
#define PIECES (TILE / 16)
#define DOWN 128                          // bytes from 8 samples to the next 8
#define ALONG (COLUMNS * 16 + 16)         // from a piece to the next along a row; the 16 spread the banks
#define STAGE_BYTES (LIMBS * PIECES * ALONG)
#define SETS (COLUMNS / 8)

#if CONVOLUTION
struct Geometry {
  int height, width, channels, out_height, out_width, kernel_width, taps;
  int stride_y, stride_x, pad_y, pad_x, dilation_y, dilation_x;
};
#define PER_SAMPLE (shape.out_height * shape.out_width)
#else
struct Geometry {
  int unused;
};
#define PER_SAMPLE 1
#endif

// Where the 16 bytes of a piece of a row come from; null where there is only padding.
__device__ __forceinline__ const u8* source(const u8* q, i64 row, i64 rows, int piece, int tiles, const Geometry& shape) {
  if (row >= rows) return 0;
#if CONVOLUTION
  int slices = shape.channels / 16, tap = piece / slices;
  if (tap >= shape.taps) return 0;
  i64 pixel = row % PER_SAMPLE, sample = row / PER_SAMPLE;
  int y = (int)(pixel / shape.out_width) * shape.stride_y - shape.pad_y + tap / shape.kernel_width * shape.dilation_y;
  int x = (int)(pixel % shape.out_width) * shape.stride_x - shape.pad_x + tap % shape.kernel_width * shape.dilation_x;
  if (y < 0 || y >= shape.height || x < 0 || x >= shape.width) return 0;
  return q + ((sample * shape.height + y) * shape.width + x) * shape.channels + piece % slices * 16;
#else
  return q + row * tiles * TILE + piece * 16;
#endif
}

__device__ __forceinline__ void fill(u8* stage, const u8* q, i64 plane, i64 first, i64 rows, int tile, int tiles,
                                     const Geometry& shape) {
  for (int i = threadIdx.x; i < COLUMNS * PIECES; i += 32 * WARPS) {
    int piece = i % PIECES, row = i / PIECES;
    const u8* from = source(q, first + row, rows, tile * PIECES + piece, tiles, shape);
    u8* to = stage + piece * ALONG + row * 16;
#pragma unroll
    for (int limb = 0; limb < LIMBS; ++limb)
      copy_async(to + limb * PIECES * ALONG, from ? from + limb * plane : q, from != 0);
  }
}

__device__ __forceinline__ Weights load_weights(const u32* packed, i64 tile, bool present) {
  Weights w = {};
  const u32* from = packed + (tile * 32 + threadIdx.x % 32) * WORDS;
#pragma unroll
  for (int quad = 0; present && quad < WORDS / 4; ++quad) {
    Quad found = load_cached(from + 4 * quad);
#pragma unroll
    for (int i = 0; i < 4; ++i) w.word[4 * quad + i] = found.word[i];
  }
  return w;
}

// sum += weights of a tile times the samples of a stage.
__device__ __forceinline__ void multiply(int (&sum)[LIMBS][SETS][4], const Weights& w, const u8* stage) {
#if WGMMA
  u32 a[4][4];
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    unpack(w, s, a[s]);
    ready(a[s]);
  }
#pragma unroll
  for (int limb = 0; limb < LIMBS; ++limb) settle(sum[limb]);
  begin_products();
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int limb = 0; limb < LIMBS; ++limb)
      wgmma_s8(sum[limb], a[s], describe(stage + (limb * PIECES + 2 * s) * ALONG, ALONG, DOWN));
  finish_products();
#pragma unroll
  for (int limb = 0; limb < LIMBS; ++limb) settle(sum[limb]);
#else
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int s = 0; s < 4; ++s) {
    u32 a[4];
    unpack(w, s, a);
#pragma unroll
    for (int limb = 0; limb < LIMBS; ++limb)
#pragma unroll
      for (int set = 0; set < SETS; ++set) {
        const u8* at = stage + (limb * PIECES + 2 * s) * ALONG + set * DOWN + lane * 4;
        mma_s8(sum[limb][set], a, *(const u32*)at, *(const u32*)(at + ALONG));
      }
  }
#endif
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    large_product(const u32* packed, const u8* q, i64 plane, const float* unit, const float* scale, int groups,
                  int group, const float* bias, const Element* residual, Element* y, u32* largest, i64 rows,
                  int outputs, int tiles, int relu, const float* zero, const int* sums, Geometry shape) {
  u8* stages = shared_memory();
  int block = blockIdx.y * WARPS + threadIdx.x / 32, own = block * 16 + threadIdx.x % 32 / 4;
  bool present = block * 16 < outputs;
  i64 first = (i64)blockIdx.x * COLUMNS;

  int sum[LIMBS][SETS][4] = {};
#if GROUPED
  float total[SETS][4] = {};
#endif
  Scales factor{scale, zero, sums, groups, outputs, rows, FOLD};
  auto value_of = [&](int set, int i) {
    float value = (float)sum[0][set][i];
    return LIMBS == 2 ? 256.0f * value + (float)sum[LIMBS - 1][set][i] : value;
  };

#pragma unroll
  for (int ahead = 0; ahead < STAGES - 1; ++ahead) {
    if (ahead < tiles) fill(stages + ahead * STAGE_BYTES, q, plane, first, rows, ahead, tiles, shape);
    commit_copies();
  }
  Weights next = load_weights(packed, (i64)block * tiles, present);
  for (int tile = 0; tile < tiles; ++tile) {
    wait_copies<STAGES - 2>();
#if WGMMA
    publish_shared();
#endif
    // Everybody's copies of this tile have come, and nobody reads the tile before it any more.
    synchronize();
    int ahead = tile + STAGES - 1;
    if (ahead < tiles) fill(stages + ahead % STAGES * STAGE_BYTES, q, plane, first, rows, ahead, tiles, shape);
    commit_copies();
    Weights now = next;
    if (tile + 1 < tiles) next = load_weights(packed, (i64)block * tiles + tile + 1, present);
    multiply(sum, now, stages + tile % STAGES * STAGE_BYTES);
#if GROUPED
    if (tile + 1 == tiles || (tile + 1) % group == 0) {
      int index = tile / group;
      float row[2] = {factor(own, index), factor(own + 8, index)};
      float point[2] = {factor.zero_of(own, index), factor.zero_of(own + 8, index)};
#pragma unroll
      for (int set = 0; set < SETS; ++set)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          float less = point[i / 2] * factor.sum_of(first + 8 * set + threadIdx.x % 4 * 2 + i % 2, index);
          total[set][i] += row[i / 2] * (value_of(set, i) - less);
          for (int limb = 0; limb < LIMBS; ++limb) sum[limb][set][i] = 0;
        }
    }
#endif
  }
  wait_copies<0>();

  Results to{unit, bias, residual, y, largest, rows, outputs, relu, PER_SAMPLE};
#if GROUPED
  finish<SETS>(to, block * 16, first, [&](int set, int i) { return total[set][i]; });
#else
  float row[2] = {factor(own, 0), factor(own + 8, 0)};
  finish<SETS>(to, block * 16, first, [&](int set, int i) { return row[i / 2] * value_of(set, i); });
#endif
}
