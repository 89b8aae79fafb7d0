// AVX2 with FMA: a block of 16 outputs is two registers. Decoding as in avx512.cpp.
#include <immintrin.h>

#include "kernel.h"
#include "triples_plain.h"

namespace robustq {
namespace {

constexpr int kWidth = 8;

inline __m256 values() {
  const float nan = __builtin_nanf("");
  return _mm256_setr_ps(0.0f, 1.0f, nan, -1.0f, 0.0f, 1.0f, nan, -1.0f);
}

template <int R, int B>
void tile(const Tile& t) {
  constexpr int V = 2 * B;  // registers across the outputs
  const __m256 table = values();
  __m256 acc[R][V];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) acc[r][v] = _mm256_setzero_ps();
  for (int64_t w = t.first / kLanes; w * kLanes < t.last; ++w) {
    const int64_t k0 = w * kLanes;
    const int begin = t.first > k0 ? int(t.first - k0) : 0;
    const int end = t.last - k0 < kLanes ? int(t.last - k0) : kLanes;
    const uint32_t* words = t.words + k0;
    const float* x = t.x + k0;
    for (int f = begin; f < end; ++f) {
      const __m128i shift = _mm_cvtsi32_si128(2 * f);
      __m256 value[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) {
        const uint32_t* at = words + v / 2 * t.block_stride + v % 2 * kWidth;
        const __m256i word = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at));
        value[v] = _mm256_permutevar_ps(table, _mm256_srl_epi32(word, shift));
      }
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m256 xr = _mm256_set1_ps(x[r * t.ldx + f]);
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) acc[r][v] = _mm256_fmadd_ps(value[v], xr, acc[r][v]);
      }
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) _mm256_storeu_ps(t.sum + (r * V + v) * kWidth, acc[r][v]);
}

void dense_row(const uint32_t* words, int64_t first, int64_t last, float scale, float* out) {
  const __m256 table = _mm256_mul_ps(values(), _mm256_set1_ps(scale));
  const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
  const __m256i shifts = _mm256_slli_epi32(lanes, 1);
  for (int64_t k = first; k < last;) {
    const int skip = int(k % kWidth);  // eight columns are half a word
    const int64_t left = last - k;
    const int count = left < kWidth - skip ? int(left) : kWidth - skip;
    const uint32_t word = words[k / kLanes * kLanes] >> (2 * (k % kLanes));
    const __m256i codes = _mm256_srlv_epi32(_mm256_set1_epi32(int(word)), shifts);
    const __m256i mask = _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lanes);
    _mm256_maskstore_ps(out + (k - first), mask, _mm256_permutevar_ps(table, codes));
    k += count;
  }
}

int64_t peak(int64_t rounds) {
  __m256 sum[12], x = _mm256_set1_ps(1.0f);
#pragma GCC unroll 12
  for (int i = 0; i < 12; ++i) sum[i] = x;
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 12
    for (int i = 0; i < 12; ++i) asm volatile("vfmadd231ps %1, %1, %0" : "+v"(sum[i]) : "v"(x));
  return rounds * 12 * 8;
}

}  // namespace

#define ROW1(R) {tile<R, 1>}
#define ROW2(R) {tile<R, 1>, tile<R, 2>}
const Isa avx2_isa = {6, {{}, ROW2(1), ROW2(2), ROW1(3), ROW1(4), ROW1(5), ROW1(6)}, nullptr, {}, dense_row, peak,
                        triples, {triple_tile<1>, triple_tile<kPairBlocks>}};

}  // namespace robustq
