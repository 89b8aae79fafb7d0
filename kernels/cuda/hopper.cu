// K2 for Hopper alone (sm_90a): as gemm.cu for linear layers, with the work divided among warps of different kinds.
//
// A block stays on its multiprocessor and takes one tile of y after another, HEIGHT outputs x SAMPLES samples. One warp
// fetches: for each 128 columns a stage of shared memory, by copies in bulk that the hardware carries out. Two groups
// of four warps multiply, BLOCKS times 64 outputs each: while the tensor cores work on one block a group unpacks the
// weights of the next, and while it scales and writes its results the fetching for the next tile goes on.
//
// A stage: 128 rows of activations in the order of quantize.cu, ORDER 3 (LIMBS 2: 64 samples' high bytes, then their
// low ones, so that a product has 128 columns either way), then HEIGHT / 16 tiles of weights in fragment order (FORMAT
// 0 or 1 of small.cu). full[s]: the copies into stage s have come; empty[s]: all eight multiplying warps are done with
// it. In turn r (from 0 on) of a stage its barriers complete their phase r; one waits for a phase by its parity.
#define WGMMA 1
#include "product.cuh"

#define FETCHING 128  // threads of the group whose first warp fetches; groups of four warps share their registers
#define GROUPS 2
#define HEIGHT (GROUPS * BLOCKS * 64)
#define SAMPLES (128 / LIMBS)
#define ALONG (128 * 16)  // bytes from a piece of 16 columns to the next
#define DOWN 128          // from 8 rows to the next 8
#define ROW_BYTES (128 * TILE)
#define WEIGHT_BYTES (32 * WORDS * 4)
#define STAGE_BYTES (ROW_BYTES + HEIGHT / 16 * WEIGHT_BYTES)
#define BAND 16  // tiles of samples that are worked on together, so that weights and activations stay in the cache

struct Place {
  i64 samples;  // tile of samples
  int block;    // the first of its blocks of 16 outputs
};

// Bands of samples one after the other, in them outputs, in these samples.
__device__ __forceinline__ Place place_of(i64 index, i64 across, int down) {
  i64 band = index / (BAND * down), rest = index % (BAND * down), first = band * BAND;
  i64 width = across - first < BAND ? across - first : BAND;
  return {first + rest % width, (int)(rest / width) * (HEIGHT / 16)};
}

struct Ring {
  u8* stages;
  u64* full;
  u64* empty;
};

__device__ __forceinline__ void fetch(const Ring& ring, const u32* packed, const u8* q, i64 across, int down,
                                      int outputs, int tiles) {
  int lane = threadIdx.x % 32, all_blocks = (outputs + 15) / 16;
  u32 step = 0;
  for (i64 index = blockIdx.x; index < across * down; index += gridDim.x) {
    Place at = place_of(index, across, down);
    int blocks = all_blocks - at.block < HEIGHT / 16 ? all_blocks - at.block : HEIGHT / 16;
    const u8* rows = q + at.samples * tiles * ROW_BYTES;
    const u8* weights = (const u8*)packed + (i64)(at.block + lane) * tiles * WEIGHT_BYTES;
    for (int tile = 0; tile < tiles; ++tile, ++step) {
      int s = step % STAGES;
      u8* stage = ring.stages + s * STAGE_BYTES;
      // The turn before; at first there is none, which counts as complete.
      barrier_wait(ring.empty + s, step / STAGES % 2 ^ 1);
      if (lane == 0) barrier_expect(ring.full + s, ROW_BYTES + blocks * WEIGHT_BYTES);
      synchronize_warp();
      u8* own = stage + ROW_BYTES + lane * WEIGHT_BYTES;
      if (lane < blocks) copy_bulk(own, weights + (i64)tile * WEIGHT_BYTES, WEIGHT_BYTES, ring.full + s);
      if (lane == 31) copy_bulk(stage, rows + (i64)tile * ROW_BYTES, ROW_BYTES, ring.full + s);
    }
  }
}

__device__ __forceinline__ Weights load_weights(const u8* stage, int block, bool present) {
  Weights w = {};
  const u8* from = stage + ROW_BYTES + block * WEIGHT_BYTES + threadIdx.x % 32 * WORDS * 4;
#pragma unroll
  for (int quad = 0; present && quad < WORDS / 4; ++quad) {
    Quad found = load_shared(from + 16 * quad);
#pragma unroll
    for (int i = 0; i < 4; ++i) w.word[4 * quad + i] = found.word[i];
  }
  return w;
}

__device__ __forceinline__ void multiply(const Ring& ring, const Scales& factor, int group, const Results& to,
                                         i64 across, int down, int tiles) {
  int warps = (threadIdx.x - FETCHING) / 128 * BLOCKS * 4 + threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
  u32 step = 0;
  for (i64 index = blockIdx.x; index < across * down; index += gridDim.x) {
    Place at = place_of(index, across, down);
    int sum[BLOCKS][16][4] = {};
    u32 a[BLOCKS][4][4];
#if GROUPED
    float total[BLOCKS][16 / LIMBS][4] = {};
#endif
    auto first_output = [&](int b) { return (at.block + warps + 4 * b) * 16; };
    auto value_of = [&](int b, int set, int i) {
      float value = (float)sum[b][set][i];
      return LIMBS == 2 ? 256.0f * value + (float)sum[b][set + 8 * (LIMBS - 1)][i] : value;
    };
    for (int tile = 0; tile < tiles; ++tile, ++step) {
      int s = step % STAGES;
      const u8* stage = ring.stages + s * STAGE_BYTES;
      barrier_wait(ring.full + s, step / STAGES % 2);
#pragma unroll
      for (int b = 0; b < BLOCKS; ++b) {
        // The products of this block with the stage before are done, those of the other one may be under way.
        wait_products<BLOCKS - 1>();
        settle(sum[b]);
        if (b == BLOCKS - 1 && tile && lane == 0) barrier_arrive(ring.empty + (step - 1) % STAGES);
        Weights w = load_weights(stage, warps + 4 * b, first_output(b) < to.outputs);
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          unpack(w, k, a[b][k]);
          ready(a[b][k]);
        }
        begin_products();
#pragma unroll
        for (int k = 0; k < 4; ++k) wgmma_s8(sum[b], a[b][k], describe(stage + 2 * k * ALONG, ALONG, DOWN));
        commit_products();
      }
#if GROUPED
      if (tile + 1 == tiles || (tile + 1) % group == 0) {
        wait_products<0>();
#pragma unroll
        for (int b = 0; b < BLOCKS; ++b) {
          settle(sum[b]);
          int own = first_output(b) + lane / 4, index = tile / group;
          float row[2] = {factor(own, index), factor(own + 8, index)};
          float point[2] = {factor.zero_of(own, index), factor.zero_of(own + 8, index)};
#pragma unroll
          for (int set = 0; set < 16 / LIMBS; ++set)
#pragma unroll
            for (int i = 0; i < 4; ++i) {
              float less = point[i / 2] * factor.sum_of(at.samples * SAMPLES + 8 * set + lane % 4 * 2 + i % 2, index);
              total[b][set][i] += row[i / 2] * (value_of(b, set, i) - less);
              for (int limb = 0; limb < LIMBS; ++limb) sum[b][set + 8 * limb][i] = 0;
            }
        }
      }
#endif
    }
    wait_products<0>();
    if (lane == 0) barrier_arrive(ring.empty + (step - 1) % STAGES);
#pragma unroll
    for (int b = 0; b < BLOCKS; ++b) {
      settle(sum[b]);
#if GROUPED
      finish<16 / LIMBS>(to, first_output(b), at.samples * SAMPLES, [&](int set, int i) { return total[b][set][i]; });
#else
      int own = first_output(b) + lane / 4;
      float row[2] = {factor(own, 0), factor(own + 8, 0)};
      finish<16 / LIMBS>(to, first_output(b), at.samples * SAMPLES,
                         [&](int set, int i) { return row[i / 2] * value_of(b, set, i); });
#endif
    }
  }
}

extern "C" __global__ void __launch_bounds__(FETCHING + 128 * GROUPS, 1)
    specialised_product(const u32* packed, const u8* q, const float* unit, const float* scale, int groups, int group,
                        const float* bias, Element* y, i64 rows, int outputs, int tiles, int relu, const float* zero,
                        const int* sums) {
  Ring ring{shared_memory()};
  ring.full = (u64*)(ring.stages + STAGES * STAGE_BYTES);
  ring.empty = ring.full + STAGES;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; ++s) {
      barrier_create(ring.full + s, 1);
      barrier_create(ring.empty + s, 4 * GROUPS);
    }
    publish_shared();
  }
  synchronize();
  i64 across = (rows + SAMPLES - 1) / SAMPLES;
  int down = (outputs + HEIGHT - 1) / HEIGHT;
  if (threadIdx.x < FETCHING) {
    lower_registers<40>();
    if (threadIdx.x < 32) fetch(ring, packed, q, across, down, outputs, tiles);
  } else {
    raise_registers<232>();
    Results to{unit, bias, 0, y, 0, rows, outputs, relu, 1};
    multiply(ring, Scales{scale, zero, sums, groups, outputs, rows, FOLD}, group, to, across, down, tiles);
  }
}
