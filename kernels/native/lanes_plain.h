// The loops of lanes.h for the vectors of an instruction set: V has type, width and a few operations. All is static, as
// in integer_plain.h.
#pragma once
#include <cstring>
#include <limits>

#include "lanes.h"

namespace robustq {
namespace {

constexpr int kPositions = 8;  // whose sums are in registers

// P positions, one vector of lanes; of a last vector, maybe not all lanes.
template <class V, int P, bool Whole>
inline void lane_tile(const LaneLine& l, int64_t first, int64_t position) {
  typename V::type sum[P];
#pragma GCC unroll 8
  for (int p = 0; p < P; ++p) sum[p] = V::set(0.0f);
  const int64_t block = first / kLaneBlock, lane = first % kLaneBlock, step = l.step;
  const float* codes = l.codes + block * l.taps * kLaneBlock + lane;
  const int64_t offset = position * step + block * l.block + lane;
  for (int64_t tap = 0; tap < l.taps; ++tap, codes += kLaneBlock) {
    const float* x = l.x[tap] + offset;
    const typename V::type code = V::load(codes);
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) sum[p] = V::multiply_add(code, V::load(x + p * step), sum[p]);
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
#pragma GCC unroll 8
    for (int p = 0; p < P; ++p) {
      if (l.residual) sum[p] = V::add(sum[p], V::load(l.residual + at + p * l.outputs));
      V::store(l.y + at + p * l.outputs, V::larger(least, sum[p]));
    }
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

#define LANE_TILES(W) {nullptr, lane_tile<V, 1, W>, lane_tile<V, 2, W>, lane_tile<V, 3, W>, lane_tile<V, 4, W>, \
                       lane_tile<V, 5, W>, lane_tile<V, 6, W>, lane_tile<V, 7, W>, lane_tile<V, kPositions, W>}
template <class V>
void lane_line(const LaneLine& l) {
  static constexpr void (*kTile[2][kPositions + 1])(const LaneLine&, int64_t, int64_t) = {LANE_TILES(false), LANE_TILES(true)};
  const int64_t tiles = (l.positions + kPositions - 1) / kPositions;
  for (int64_t first = 0; first < l.outputs; first += V::width) {
    const auto& tile = kTile[first + V::width <= l.outputs];
    for (int64_t t = 0; t < tiles; ++t) {  // even tiles: 14 positions are 7 + 7, not 8 + 6
      const int64_t position = l.positions * t / tiles, count = l.positions * (t + 1) / tiles - position;
      tile[count](l, first, position);
    }
  }
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
