// K1, K3: y = act(x W^T + bias) for few samples, bound by reading the weights once.
//
// The weights are the left operand, so that 16 outputs cost the same for 1 as for 8 samples. A warp takes one tile of 16
// outputs x 128 columns at a time: every lane reads its operands as 16 contiguous bytes and makes them with a shift and
// a mask. The warps of a block share the columns; their sums meet in shared memory, in a fixed order.
//
// FORMAT 0, two bits: word s, field h + 2 r (from the highest bits down), byte j = code of output g + 8 h, column
//   32 s + 16 r + 4 t + j; in two's complement, so that a field in the top bits of a byte is 64 times the code, and in
//   the top bits of a half word twice the code as bfloat16.
// FORMAT 1, four bits: word 2 s + r, field h, byte j; 16 times the code.
// FORMAT 2, bitmap: two words a lane say which of its 64 codes are not zero (bit 16 s + 8 r + 4 h + j), the signs follow
//   in the order lane, bit, packed for all tiles; `sign_start` is the first one of each tile.
// Tiles without a code can be left out (LISTED): tile_start (blocks + 1), tile_index name those that are there.
//
// scale, and zero points with ZEROS (outputs, groups): `group` tiles share one. x: quantize.cu, ORDER 0; LIMBS as there.
#include "device.cuh"
#include "numbers.cuh"
#include "scales.cuh"

#define WARPS 8
#define DEPTH 4  // tiles on their way to a warp
#define SAMPLES (8 * SETS)
#define OUTPUTS (16 * BLOCKS)

#if FORMAT == 0
#define WORDS 4
#define FOLD (LIMBS ? 1.0f / 64 : 1.0f / 2)
#elif FORMAT == 1
#define WORDS 8
#define FOLD (1.0f / 16)
#else
#define WORDS 2
#define FOLD (1.0f / 64)
#endif

#if LIMBS
typedef int Sum;
#define PLANES LIMBS
#else
typedef float Sum;
#define PLANES 1
#endif

struct Weights {
  u32 word[WORDS];
};

__device__ __forceinline__ Weights load_weights(const u32* packed, i64 tile, int lane) {
  Weights w;
  const u32* from = packed + (tile * 32 + lane) * WORDS;
#if FORMAT == 2
  w.word[0] = from[0];
  w.word[1] = from[1];
#else
#pragma unroll
  for (int q = 0; q < WORDS / 4; ++q) {
    Quad quad = load_streaming(from + 4 * q);
#pragma unroll
    for (int i = 0; i < 4; ++i) w.word[4 * q + i] = quad.word[i];
  }
#endif
  return w;
}

#if FORMAT == 2
// The signs of this lane's codes: as many bits as its words have ones, from bit `start` of `signs` on.
__device__ __forceinline__ u64 lane_signs(const Weights& w, const u32* signs, i64 start) {
  int own = count_bits(w.word[0]) + count_bits(w.word[1]), before = own;
  int lane = threadIdx.x % 32;
#pragma unroll
  for (int by = 1; by < 32; by *= 2) {
    int other = (int)shuffle_up((u32)before, by);
    before += lane >= by ? other : 0;
  }
  i64 first = start + before - own;
  const u32* from = signs + first / 32;
  int shift = (int)(first % 32);
  u64 low = (u64)from[0] | (u64)from[1] << 32;
  return shift ? low >> shift | (u64)from[2] << (64 - shift) : low;
}

// byte j of spread[16 mask + bits]: 0 where bit j of `mask` is 0, else 64 or, where its bit of `bits` is 1, -64.
__device__ __forceinline__ void fill_spread(u32* spread) {
  for (int entry = threadIdx.x; entry < 256; entry += 32 * WARPS) {
    u32 word = 0, bits = entry & 15;
    for (int j = 0; j < 4; ++j) {
      if (!(entry >> (4 + j) & 1)) continue;
      word |= (bits & 1 ? 0xC0u : 0x40u) << (8 * j);
      bits >>= 1;
    }
    spread[entry] = word;
  }
}
#endif

// Left operands of step s (32 columns); for bfloat16 of half a step, r.
__device__ __forceinline__ void unpack(const Weights& w, int s, int r, u32 (&a)[4], u64* signs, const u32* spread) {
#if FORMAT == 0 && LIMBS
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = w.word[s] << (2 * i) & 0xC0C0C0C0u;
#elif FORMAT == 0
#pragma unroll
  for (int h = 0; h < 2; ++h) {
    a[h] = w.word[s] << (2 * (h + 2 * r)) & 0xC000C000u;
    a[h + 2] = w.word[s] << (2 * (h + 2 * r) + 8) & 0xC000C000u;
  }
#elif FORMAT == 1
#pragma unroll
  for (int i = 0; i < 4; ++i) a[i] = w.word[2 * s + i / 2] << (4 * (i % 2)) & 0xF0F0F0F0u;
#else
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    u32 mask = w.word[s / 2] >> (16 * (s % 2) + 8 * (i / 2) + 4 * (i % 2)) & 15;
    a[i] = spread[16 * mask + (u32)(*signs & 15)];
    *signs >>= count_bits(mask);
  }
#endif
}

extern "C" __global__ void __launch_bounds__(32 * WARPS)
    small_linear(const u32* packed, const u32* signs, const i64* sign_start, const int* tile_start,
                 const int* tile_index, const u8* q, i64 plane, const float* unit, const float* scale, int groups,
                 int group, const float* bias, Element* y, int samples, int outputs, int tiles, int relu,
                 const float* zero, const int* sums) {
  float* meeting = (float*)shared_memory();  // (WARPS, SAMPLES, OUTPUTS)
  const u32* spread = 0;
#if FORMAT == 2
  u32* table = (u32*)(meeting + WARPS * SAMPLES * OUTPUTS);
  fill_spread(table);
  synchronize();
  spread = table;
#endif
  int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  int first_block = blockIdx.x * BLOCKS, all_blocks = (outputs + 15) / 16;
  int first_sample = blockIdx.y * SAMPLES;

  Sum sum[PLANES][BLOCKS][SETS][4] = {};
  float total[BLOCKS][SETS][4] = {};
#if LISTED
  int from = tile_start[first_block], count = tile_start[first_block + 1] - from;
#else
  int count = tiles;
#endif
  int begin = (int)((i64)count * warp / WARPS), end = (int)((i64)count * (warp + 1) / WARPS);

  // The place of entry p of a block of outputs among the packed tiles.
  auto place = [&](int block, int p) -> i64 {
#if LISTED
    return (i64)from + p;
#else
    return (i64)(first_block + block) * tiles + p;
#endif
  };
  auto fetch = [&](Weights(&w)[BLOCKS], int p) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
      if (p < end && first_block + block < all_blocks) w[block] = load_weights(packed, place(block, p), lane);
  };
  Scales factor_of{scale, zero, sums, groups, outputs, samples, FOLD};
  // Sums of a group to float32, times its scale; its zero points once, where it is `complete`.
  auto settle_group = [&](int index, bool complete) {
#pragma unroll
    for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        int output = (first_block + block) * 16 + g + 8 * h;
        float factor = factor_of(output, index), point = complete ? factor_of.zero_of(output, index) : 0.0f;
#pragma unroll
        for (int set = 0; set < SETS; ++set)
#pragma unroll
          for (int c = 0; c < 2; ++c) {
            float value = (float)sum[0][block][set][2 * h + c];
            if (PLANES == 2) value = 256.0f * value + (float)sum[PLANES - 1][block][set][2 * h + c];
            float less = ZEROS ? point * factor_of.sum_of(first_sample + 8 * set + 2 * t + c, index) : 0.0f;
            total[block][set][2 * h + c] += factor * (value - less);
            for (int limb = 0; limb < PLANES; ++limb) sum[limb][block][set][2 * h + c] = 0;
          }
      }
  };

  Weights ring[DEPTH][BLOCKS] = {};
#pragma unroll
  for (int d = 0; d < DEPTH; ++d) fetch(ring[d], begin + d);
  for (int base = begin; base < end; base += DEPTH) {
#pragma unroll
    for (int d = 0; d < DEPTH; ++d) {
      int p = base + d;
      if (p >= end) break;
      Weights now[BLOCKS];
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block) now[block] = ring[d][block];
      fetch(ring[d], p + DEPTH);
#if LISTED
      int tile = tile_index[from + p];
#else
      int tile = p;
#endif
      u64 own_signs[BLOCKS] = {};
#if FORMAT == 2
#pragma unroll
      for (int block = 0; block < BLOCKS; ++block)
        if (first_block + block < all_blocks)
          own_signs[block] = lane_signs(now[block], signs, sign_start[place(block, p)]);
#endif
#if LIMBS
      // 32 bytes a lane: those of the samples that are there. The others stay zero.
      Quad x[PLANES][SETS][2] = {};
#pragma unroll
      for (int set = 0; set < SETS; ++set)
        if (first_sample + 8 * set + g < samples)
#pragma unroll
          for (int limb = 0; limb < PLANES; ++limb) {
            const u8* at = q + limb * plane + (((i64)(first_sample / 8 + set) * tiles + tile) * 32 + lane) * 32;
            x[limb][set][0] = load_cached(at);
            x[limb][set][1] = load_cached(at + 16);
          }
#pragma unroll
      for (int s = 0; s < 4; ++s)
#pragma unroll
        for (int block = 0; block < BLOCKS; ++block) {
          u32 a[4];
          unpack(now[block], s, 0, a, &own_signs[block], spread);
#pragma unroll
          for (int set = 0; set < SETS; ++set)
#pragma unroll
            for (int limb = 0; limb < PLANES; ++limb)
              mma_s8(sum[limb][block][set], a, x[limb][set][s / 2].word[s % 2 * 2], x[limb][set][s / 2].word[s % 2 * 2 + 1]);
        }
#else
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        Quad x[SETS] = {};
#pragma unroll
        for (int set = 0; set < SETS; ++set)
          if (first_sample + 8 * set + g < samples)
            x[set] = load_cached(q + (((i64)(first_sample / 8 + set) * tiles + tile) * 32 + lane) * 64 + 16 * s);
#pragma unroll
        for (int r = 0; r < 2; ++r)
#pragma unroll
          for (int block = 0; block < BLOCKS; ++block) {
            u32 a[4];
            unpack(now[block], s, r, a, &own_signs[block], spread);
#pragma unroll
            for (int set = 0; set < SETS; ++set)
              mma_bf16(sum[0][block][set], a, x[set].word[2 * r], x[set].word[2 * r + 1]);
          }
      }
#endif
      // A warp's share need not begin or end with a group: its part of one is scaled like the whole.
      bool last = p + 1 == end;
#if LISTED
      int next = last ? -1 : tile_index[from + p + 1] / group;
#else
      int next = last ? -1 : (p + 1) / group;
#endif
      if (next != tile / group) settle_group(tile / group, (tile + 1) % group == 0 || tile + 1 == tiles);
    }
  }

#pragma unroll
  for (int block = 0; block < BLOCKS; ++block)
#pragma unroll
    for (int set = 0; set < SETS; ++set)
#pragma unroll
      for (int i = 0; i < 4; ++i)
        meeting[(warp * SAMPLES + 8 * set + 2 * t + i % 2) * OUTPUTS + 16 * block + g + i / 2 * 8] = total[block][set][i];
  synchronize();
  for (int i = threadIdx.x; i < SAMPLES * OUTPUTS; i += 32 * WARPS) {
    int sample = first_sample + i / OUTPUTS, output = blockIdx.x * OUTPUTS + i % OUTPUTS;
    if (sample >= samples || output >= outputs) continue;
    float value = 0.0f;
    for (int w = 0; w < WARPS; ++w) value += meeting[w * SAMPLES * OUTPUTS + i];
    if (LIMBS) value *= unit[sample];
    if (bias) value += bias[output];
    if (relu) value = value > 0 || value != value ? value : 0.0f;
    y[(i64)sample * outputs + output] = narrow(value);
  }
}
