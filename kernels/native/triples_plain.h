// Tables and tiles of triples (kernel.h) as a compiler makes them of plain C++. All is static.
#pragma once
#include "kernel.h"

namespace robustq {
namespace {

void triples(const float* x, int64_t count, float* tables) {
  static const float value[3] = {0.0f, 1.0f, -1.0f};
  for (int64_t t = 0; t < count; ++t, x += 3, tables += kTripleTable)
    for (int i = 0; i < kTripleTable; ++i)
      tables[i] = i < 27 ? value[i % 3] * x[0] + value[i / 3 % 3] * x[1] + value[i / 9] * x[2] : __builtin_nanf("");
}

template <int B>
void triple_tile(const TripleTile& t) {
  float sum[B][kLanes] = {};
  const float* table = t.tables;
  for (int64_t w = 0; w < t.count; ++w)
    for (int i = 0; i < kTriples; ++i, table += kTripleTable)
      for (int b = 0; b < B; ++b)
        for (int lane = 0; lane < kLanes; ++lane)
          sum[b][lane] += table[t.words[b * t.block_stride + w * kLanes + lane] >> (5 * i) & 31];
  for (int b = 0; b < B; ++b)
    for (int lane = 0; lane < kLanes; ++lane) t.sum[b * kLanes + lane] = sum[b][lane];
}

}  // namespace
}  // namespace robustq
