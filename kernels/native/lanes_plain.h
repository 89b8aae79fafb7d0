// The loops of lanes.h for the vectors of an instruction set: V has type, width and a few operations. All is static, as
// in integer_plain.h.
#pragma once
#include <cstring>
#include <limits>

#include "lanes.h"

namespace robustq {
namespace {

constexpr int kPositions = 8;  // whose sums are in registers

// Codes of the taps of a vector of lanes: of a 3 x 3 depthwise kernel in registers, if there are enough, else in memory.
template <class V, int Taps>
struct LaneCodes {
  static constexpr bool kKept = Taps > 0 && V::width == 16;
  explicit LaneCodes(const float* from) : at(from) {
#pragma GCC unroll 9
    for (int tap = 0; kKept && tap < Taps; ++tap) kept[tap] = V::load(from + tap * kLaneBlock);
  }
  inline typename V::type operator[](int64_t tap) const { return kKept ? kept[tap] : V::load(at + tap * kLaneBlock); }
  const float* at;
  typename V::type kept[kKept ? Taps : 1];
};

// P positions, one vector of lanes; of a last vector, maybe not all lanes.
template <class V, int P, bool Whole, int Taps>
inline void lane_tile(const LaneLine& l, const LaneCodes<V, Taps>& codes, int64_t first, int64_t position) {
  typename V::type sum[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) sum[p] = V::set(0.0f);
  const int64_t step = l.step, offset = position * step + first / kLaneBlock * l.block + first % kLaneBlock;
  const auto add = [&](int64_t tap) {
    const float* x = l.x[tap] + offset;
    const typename V::type code = codes[tap];
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] = V::multiply_add(code, V::load(x + p * step), sum[p]);
  };
  if (Taps) {
#pragma GCC unroll 9
    for (int tap = 0; tap < Taps; ++tap) add(tap);
  } else {
    for (int64_t tap = 0; tap < l.taps; ++tap) add(tap);
  }
  const typename V::type scale = V::load(l.scale + first);
  const typename V::type least = V::set(l.relu ? 0.0f : -std::numeric_limits<float>::infinity());
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) sum[p] = V::multiply(sum[p], scale);
  if (l.bias) {
    const typename V::type bias = V::load(l.bias + first);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] = V::add(sum[p], bias);
  }
  const int64_t at = position * l.outputs + first;
  if (Whole) {
    if (l.residual) {
#pragma GCC unroll 8
      for (int p = 0; p < P; ++p) sum[p] = V::add(sum[p], V::load(l.residual + at + p * l.outputs));
    }
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) V::store(l.y + at + p * l.outputs, V::larger(least, sum[p]));
    return;
  }
  float part[V::width];
  const size_t bytes = size_t(l.outputs - first) * sizeof(float);
  for (int p = 0; p < P; ++p) {
    if (l.residual) {
      std::memset(part, 0, sizeof part);
      std::memcpy(part, l.residual + at + p * l.outputs, bytes);
      sum[p] = V::add(sum[p], V::load(part));
    }
    V::store(part, V::larger(least, sum[p]));
    std::memcpy(l.y + at + p * l.outputs, part, bytes);
  }
}

template <class V, bool Whole, int Taps>
void lane_vector(const LaneLine& l, int64_t first) {
  const LaneCodes<V, Taps> codes(l.codes + first / kLaneBlock * l.taps * kLaneBlock + first % kLaneBlock);
  int64_t position = 0;
  for (; position + kPositions <= l.positions; position += kPositions)
    lane_tile<V, kPositions, Whole>(l, codes, first, position);
  const int64_t rest = l.positions - position;
  if (rest & 4) {
    lane_tile<V, 4, Whole>(l, codes, first, position);
    position += 4;
  }
  if (rest & 2) {
    lane_tile<V, 2, Whole>(l, codes, first, position);
    position += 2;
  }
  if (rest & 1) lane_tile<V, 1, Whole>(l, codes, first, position);
}

template <class V>
void lane_line(const LaneLine& l) {
  int64_t first = 0;
  for (; first + V::width <= l.outputs; first += V::width)
    l.taps == 9 ? lane_vector<V, true, 9>(l, first) : lane_vector<V, true, 0>(l, first);
  if (first < l.outputs) lane_vector<V, false, 0>(l, first);
}

// Adding 1.5 * 2^23 and taking it off again leaves the nearest integer, ties to even.
template <class V>
void lane_round(const LaneRounding& r) {
  constexpr float kShift = 12582912.0f;
  const typename V::type factor = V::set(r.factor), shift = V::set(kShift);
  for (int64_t pixel = 0; pixel < r.pixels; ++pixel) {
    const float* x = r.x + pixel * r.x_step;
    const auto to = [&](int64_t i) { return r.to + pixel * r.step + i / kLaneBlock * r.block + i % kLaneBlock; };
    int64_t i = 0;
    if (r.factor == 0.0f) {
      for (; i + V::width <= r.count; i += V::width) V::store(to(i), V::load(x + i));
      for (; i < r.count; ++i) *to(i) = x[i];
    }
    for (; i + V::width <= r.count; i += V::width)
      V::store(to(i), V::subtract(V::add(V::multiply(V::load(x + i), factor), shift), shift));
    for (; i < r.count; ++i) {
      const float shifted = x[i] * r.factor + kShift;
      *to(i) = shifted - kShift;
    }
  }
}

}  // namespace
}  // namespace robustq
