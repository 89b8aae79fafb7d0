// Plain C++: any processor. A word is decoded once and used for every row of the tile.
#include "kernel.h"
#include "triples_plain.h"

namespace robustq {
namespace {

const float kValue[4] = {0.0f, 1.0f, __builtin_nanf(""), -1.0f};

template <int R>
void tile(const Tile& t) {
  float acc[R][kLanes] = {};
  for (int64_t w = t.first / kLanes; w * kLanes < t.last; ++w) {
    const uint32_t* word = t.words + w * kLanes;
    const int64_t k0 = w * kLanes;
    const int begin = t.first > k0 ? int(t.first - k0) : 0;
    const int end = t.last - k0 < kLanes ? int(t.last - k0) : kLanes;
    for (int f = begin; f < end; ++f) {
      float value[kLanes];
      for (int lane = 0; lane < kLanes; ++lane) value[lane] = kValue[word[lane] >> (2 * f) & 3];
      for (int r = 0; r < R; ++r) {
        const float x = t.x[r * t.ldx + k0 + f];
        for (int lane = 0; lane < kLanes; ++lane) acc[r][lane] += value[lane] * x;
      }
    }
  }
  for (int r = 0; r < R; ++r)
    for (int lane = 0; lane < kLanes; ++lane) t.sum[r * kLanes + lane] = acc[r][lane];
}

void dense_row(const uint32_t* words, int64_t first, int64_t last, float scale, float* out) {
  for (int64_t k = first; k < last; ++k)
    out[k - first] = scale * kValue[words[k / kLanes * kLanes] >> (2 * (k % kLanes)) & 3];
}

// A loop that the compiler may vectorise as it likes.
int64_t peak(int64_t rounds) {
  volatile float value = 0.5f;
  const float x = value;
  float sum[16] = {};
  for (int64_t r = 0; r < rounds; ++r)
    for (int i = 0; i < 16; ++i) sum[i] = sum[i] * x + x;
  for (int i = 0; i < 16; ++i) value = sum[i];
  return 16 * rounds;
}

}  // namespace

const Isa scalar_isa = {4, {{}, {tile<1>}, {tile<2>}, {tile<3>}, {tile<4>}}, nullptr, {}, dense_row, peak,
                        triples, {triple_tile<1>, triple_tile<kPairBlocks>}};

}  // namespace robustq
