// What sparse tables need in plain C++, compiled for each instruction set; all of it static.
#pragma once
#include "sparse.h"

namespace robustq {
namespace {

template <int Units>
void load_units(const float* x, int64_t ldx, int64_t rows, int64_t count, float* columns) {
  constexpr int kRowsOf = Units * kUnit;
  for (int64_t k = 0; k < count; ++k)
    for (int64_t r = 0; r < kRowsOf; ++r) columns[k * kRowsOf + r] = r < rows ? x[r * ldx + k] : 0.0f;
}

[[maybe_unused]] void load_plain(const float* x, int64_t ldx, int64_t rows, int64_t count, int units, float* columns) {
  if (units == 1) load_units<1>(x, ldx, rows, count, columns);
  else if (units == 2) load_units<2>(x, ldx, rows, count, columns);
  else load_units<4>(x, ldx, rows, count, columns);
}

// Sixteen rows of one group.
template <int Together>
inline void combine_unit(const float* column, int64_t lanes, float* table) {
  for (int i = 0; i < Together; ++i) {
    const int before = kEntries[i];
    const float* x = column + i * lanes;
    for (int r = 0; r < kUnit; ++r) table[before * lanes + r] = x[r];
    for (int e = 0; e < before; ++e) {
      const float* sum = table + e * lanes;
      float* plus = table + (before + 1 + e) * lanes;
      float* minus = plus + before * lanes;
      for (int r = 0; r < kUnit; ++r) {
        plus[r] = sum[r] + x[r];
        minus[r] = sum[r] - x[r];
      }
    }
  }
}

void combine_plain(const float* columns, int64_t groups, int together, int units, float* table) {
  const int64_t lanes = units * kUnit;
  for (int64_t g = 0; g < groups; ++g)
    for (int u = 0; u < units; ++u) {
      const float* column = columns + g * together * lanes + u * kUnit;
      float* to = table + g * kEntries[together] * lanes + u * kUnit;
      if (together == 2) combine_unit<2>(column, lanes, to);
      else combine_unit<3>(column, lanes, to);
    }
}

[[maybe_unused]] void store_plain(const SparseStore& s) {
  const int64_t lanes = s.units * kUnit;
  for (int64_t r = 0; r < s.rows; ++r) {
    const float row_scale = s.row_scale ? s.row_scale[r] : 1.0f;
    float* y = s.y + r * s.ldy;
    for (int64_t o = 0; o < s.outputs; ++o) {
      const float value = s.sums[o * lanes + r] * (s.scale[o * s.scale_step] * row_scale) + (s.bias ? s.bias[o] : 0.0f);
      y[o] = s.relu && value < 0.0f ? 0.0f : value;
    }
  }
}

// Any vector V of `Width` floats with zero(), load(), store(), plus() and minus().
template <class V, int Units>
void add_records(const uint8_t* at, const uint8_t* end, const float* table, float* sums) {
  constexpr int kVectors = Units * kUnit / V::kWidth;
  while (at < end) {
    float* to = sums + (at[0] | at[1] << 8) * int64_t(Units * kUnit);
    const uint8_t* minus = at + kHeader + at[2];
    const uint8_t* next = minus + at[3];
    V sum[kVectors];
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sum[v] = V::load(to + v * V::kWidth);
    for (at += kHeader; at < minus; ++at) {
      const float* entry = table + *at * int64_t(Units * kUnit);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[v] = V::plus(sum[v], V::load(entry + v * V::kWidth));
    }
    for (; at < next; ++at) {
      const float* entry = table + *at * int64_t(Units * kUnit);
#pragma GCC unroll 16
      for (int v = 0; v < kVectors; ++v) sum[v] = V::minus(sum[v], V::load(entry + v * V::kWidth));
    }
#pragma GCC unroll 16
    for (int v = 0; v < kVectors; ++v) sum[v].store(to + v * V::kWidth);
  }
}

}  // namespace
}  // namespace robustq
