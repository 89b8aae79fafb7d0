// The loops of floats.h for the vectors of an instruction set: V has type, width and a few operations. All is static, as
// in integer_plain.h.
#pragma once
#include <cstring>
#include <limits>

#include "floats.h"
#include "lanes_plain.h"

namespace robustq {
namespace {

// N rows, B vectors of outputs.
template <class V, int N, int B>
void float_tile(const FloatTile& t) {
  typename V::type sum[N][B];
#pragma GCC unroll 12
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) sum[n][b] = V::set(0.0f);
  const float* weights = t.weights;
  const int64_t line = t.line;
  for (int64_t part = 0; part < t.parts; ++part) {
    const float* x[N];
#pragma GCC unroll 12
    for (int n = 0; n < N; ++n) x[n] = t.x[n] + t.columns[part].offset;
    const int64_t count = t.columns[part].count;
    for (int64_t k = 0; k < count; ++k, weights += line) {
      typename V::type weight[B];
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) weight[b] = V::load(weights + b * V::width);
#pragma GCC unroll 12
      for (int n = 0; n < N; ++n) {
        const typename V::type value = V::set(x[n][k]);
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) sum[n][b] = V::multiply_add(weight[b], value, sum[n][b]);
      }
    }
  }
#pragma GCC unroll 12
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      float* to = t.sum + n * line + b * V::width;
      V::store(to, t.add ? V::add(sum[n][b], V::load(to)) : sum[n][b]);
    }
}

// Lanes of which `count` are wanted, fewer than a vector; the others are zero.
template <class V>
inline typename V::type some(const float* from, int64_t count) {
  float part[V::width] = {};
  std::memcpy(part, from, size_t(count) * sizeof(float));
  return V::load(part);
}

// Sums are there in whole blocks of 16 lanes; what belongs to outputs is not.
template <class V>
void float_settle(const FloatSettle& s) {
  const typename V::type least = V::set(s.relu ? 0.0f : -std::numeric_limits<float>::infinity());
  const typename V::type factor = V::set(s.factor);
  for (int64_t i = 0; i < s.outputs; i += V::width) {
    const int64_t count = s.outputs - i;
    const bool whole = count >= V::width;
    const typename V::type scale = whole ? V::load(s.scale + i) : some<V>(s.scale + i, count);
    typename V::type bias = V::set(0.0f);
    if (s.bias) bias = whole ? V::load(s.bias + i) : some<V>(s.bias + i, count);
    for (int64_t row = 0; row < s.rows; ++row) {
      typename V::type value = V::multiply(V::multiply(V::load(s.sum + row * s.line + i), factor), scale);
      if (s.bias) value = V::add(value, bias);
      const float* residual = s.residual ? s.residual + row * s.pitch + i : nullptr;
      if (residual) value = V::add(value, whole ? V::load(residual) : some<V>(residual, count));
      value = V::larger(least, value);
      float* y = s.y + row * s.pitch + i;
      if (whole) {
        V::store(y, value);
      } else {
        float part[V::width];
        V::store(part, value);
        std::memcpy(y, part, size_t(count) * sizeof(float));
      }
    }
  }
}

// Byte c of a lane's four holds column c of a step; field b of it belongs to the output 16 b + lane (integer.h).
template <class V, int Bits>
void float_decode(const uint8_t* codes, int64_t columns, int fields, float* to, int64_t line) {
  constexpr int kPart = 8 / Bits;
  for (int64_t k = 0; k < columns; ++k, to += line) {
    const uint8_t* step = codes + k / 4 * 32 * Bits;
    for (int field = 0; field < fields; ++field) {
      const int shift = int(8 * (k % 4)) + field % kPart * Bits;
      for (int i = 0; i < 16; i += V::width)
        V::store(to + 16 * field + i, V::template code<Bits>(step + field / kPart * 64 + 4 * i, shift));
    }
  }
}

}  // namespace
}  // namespace robustq
