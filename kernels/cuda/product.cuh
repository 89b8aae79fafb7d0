// What the products for many samples share (gemm.cu, hopper.cu): the left operands out of packed words, and what
// becomes of the sums. FORMAT 0 and 1 are those of small.cu; a warp makes 16 outputs, with the sums as mma_s8 has them.
#pragma once

#include "device.cuh"
#include "numbers.cuh"
#include "scales.cuh"

#define TILE 128  // columns

#if FORMAT == 0
#define WORDS 4
#define FOLD (1.0f / 64)
#else
#define WORDS 8
#define FOLD (1.0f / 16)
#endif

struct Weights {
  u32 word[WORDS];
};

// The left operand of step s, 32 columns.
__device__ __forceinline__ void unpack(const Weights& w, int s, u32 (&a)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i)
#if FORMAT == 0
    a[i] = w.word[s] << (2 * i) & 0xC0C0C0C0u;
#else
    a[i] = w.word[2 * s + i / 2] << (4 * (i % 2)) & 0xF0F0F0F0u;
#endif
}

// y = act(sums * unit + bias + residual). y and residual (rows, outputs), for a convolution channels last; unit and
// `largest` a sample, which is `per_sample` rows. `largest`, if given, takes the largest magnitude of y as bits.
struct Results {
  const float* unit;
  const float* bias;
  const Element* residual;
  Element* y;
  u32* largest;
  i64 rows;
  int outputs, relu, per_sample;
};

// Takes the largest magnitudes of a warp to memory: one write where its lanes have the same sample, as most have.
__device__ __forceinline__ void raise_largest(u32* largest, i64 sample, u32 most) {
  u32 own = (u32)sample, same = 1;
#pragma unroll
  for (int mask = 16; mask; mask >>= 1) {
    u32 other = shuffle_xor(own, mask), others = shuffle_xor(most, mask);
    same = shuffle_xor(same, mask) & same & (other == own);
    if (other == own && others > most) most = others;
  }
  if (sample >= 0 && (!same || threadIdx.x % 32 == 0)) raise_to(largest + sample, most);
}

// This lane's results of 16 outputs from `first_output` on and 8 SETS rows from `first_row` on. value(set, i): the
// scaled sum of output g + 8 (i / 2) and row 8 set + 2 t + i % 2.
template <int SETS, class Value>
__device__ __forceinline__ void finish(const Results& to, int first_output, i64 first_row, Value value) {
  int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
  int output[2] = {first_output + g, first_output + g + 8};
  float shift[2] = {0.0f, 0.0f};
  for (int h = 0; to.bias && h < 2; ++h) shift[h] = output[h] < to.outputs ? to.bias[output[h]] : 0.0f;
  opaque(first_row);  // or else the places of all results are worked out, and kept, at once
  i64 sample = -1;
  u32 most = 0;
#pragma unroll
  for (int set = 0; set < SETS; ++set)
#pragma unroll
    for (int c = 0; c < 2; ++c) {
      i64 row = first_row + 8 * set + 2 * t + c;
      if (row >= to.rows) continue;
      i64 before = sample;
      sample = to.per_sample == 1 ? row : row / to.per_sample;
      if (to.largest && before >= 0 && before != sample) {
        raise_to(to.largest + before, most);
        most = 0;
      }
      float of_sample = to.unit[sample];
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        if (output[h] >= to.outputs) continue;
        float result = value(set, 2 * h + c) * of_sample + shift[h];
        if (to.residual) result += widen(to.residual[row * to.outputs + output[h]]);
        if (to.relu) result = result > 0 || result != result ? result : 0.0f;
        Element stored = narrow(result);
        to.y[row * to.outputs + output[h]] = stored;
        u32 bits = float_bits(widen(stored)) & 0x7FFFFFFF;
        most = bits > most ? bits : most;
      }
    }
  if (to.largest) raise_largest(to.largest, sample, most);
}
