// AVX-512: 16 outputs a register. vpermilps looks a two-bit code up in {0, 1, NaN, -1} and ignores the higher bits, so
// decoding is one shift and one shuffle for 16 weights, shared by all rows of the tile.
#include <immintrin.h>

#include "kernel.h"

namespace robustq {
namespace {

inline __m512 values() {
  const float nan = __builtin_nanf("");
  return _mm512_broadcast_f32x4(_mm_setr_ps(0.0f, 1.0f, nan, -1.0f));
}

template <int R, int B>
void tile(const Tile& t) {
  const __m512 table = values();
  __m512 acc[R][B];
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) acc[r][b] = _mm512_setzero_ps();
  for (int64_t w = t.first / kLanes; w * kLanes < t.last; ++w) {
    const int64_t k0 = w * kLanes;
    const int begin = t.first > k0 ? int(t.first - k0) : 0;
    const int end = t.last - k0 < kLanes ? int(t.last - k0) : kLanes;
    const __m128i skip = _mm_cvtsi32_si128(2 * begin);
    __m512i word[B];
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b)
      word[b] = _mm512_srl_epi32(_mm512_loadu_si512(t.words + b * t.block_stride + k0), skip);
    const float* x = t.x + k0;
#pragma GCC unroll 2
    for (int f = begin; f < end; ++f) {
      if (R * B + 2 * B > 30) {  // too much for the registers: x comes from memory each time
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) {
          const __m512 value = _mm512_permutevar_ps(table, word[b]);
          word[b] = _mm512_srli_epi32(word[b], 2);
#pragma GCC unroll 12
          for (int r = 0; r < R; ++r)
            asm("vfmadd231ps %2%{1to16%}, %1, %0" : "+v"(acc[r][b]) : "v"(value), "m"(x[r * t.ldx + f]));
        }
        continue;
      }
      __m512 value[B];
#pragma GCC unroll 8
      for (int b = 0; b < B; ++b) {
        value[b] = _mm512_permutevar_ps(table, word[b]);
        word[b] = _mm512_srli_epi32(word[b], 2);
      }
#pragma GCC unroll 12
      for (int r = 0; r < R; ++r) {
        const __m512 xr = _mm512_set1_ps(x[r * t.ldx + f]);
#pragma GCC unroll 8
        for (int b = 0; b < B; ++b) acc[r][b] = _mm512_fmadd_ps(value[b], xr, acc[r][b]);
      }
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int b = 0; b < B; ++b) _mm512_storeu_ps(t.sum + (r * B + b) * kLanes, acc[r][b]);
}

// vpermps takes the four lowest bits of each lane.
template <int R, int B>
void pair_tile(const PairTile& t) {
  __m512 acc[R][B];
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) acc[r][b] = _mm512_setzero_ps();
  const float* tables = t.tables;
  for (int64_t w = 0; w < t.count; ++w) {
    __m512i word[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const uint32_t* from = t.words + b * t.block_stride + kLanes * w;
      word[b] = _mm512_loadu_si512(from);
      _mm_prefetch(from + B * t.block_stride, _MM_HINT_T1);  // what the next tile reads
    }
#pragma GCC unroll 2
    for (int pair = 0; pair < kLanes / 2; ++pair, tables += kPairTable) {
#pragma GCC unroll 6
      for (int r = 0; r < R; ++r) {
        const __m512 table = _mm512_loadu_ps(tables + r * t.row_stride);
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) acc[r][b] = _mm512_add_ps(acc[r][b], _mm512_permutexvar_ps(word[b], table));
      }
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) word[b] = _mm512_srli_epi32(word[b], 4);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) _mm512_storeu_ps(t.sum + (r * B + b) * kLanes, acc[r][b]);
}

void pairs(const float* x, int64_t columns, float* tables) {
  const __m512i entry = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 first = _mm512_permutevar_ps(values(), entry);
  const __m512 second = _mm512_permutevar_ps(values(), _mm512_srli_epi32(entry, 2));
  for (int64_t k = 0; k < columns; k += 2, tables += kPairTable)
    _mm512_storeu_ps(tables, _mm512_fmadd_ps(first, _mm512_set1_ps(x[k]),
                                             _mm512_mul_ps(second, _mm512_set1_ps(x[k + 1]))));
}

// vpermi2ps takes the five lowest bits of each lane, the fifth of which chooses between two registers.
template <int B>
void triple_tile(const TripleTile& t) {
  __m512 acc[B];
#pragma GCC unroll 4
  for (int b = 0; b < B; ++b) acc[b] = _mm512_setzero_ps();
  const float* tables = t.tables;
  for (int64_t w = 0; w < t.count; ++w) {
    __m512i word[B];
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const uint32_t* from = t.words + b * t.block_stride + kLanes * w;
      word[b] = _mm512_loadu_si512(from);
      _mm_prefetch(from + B * t.block_stride, _MM_HINT_T1);  // what the next tile reads
    }
#pragma GCC unroll 6
    for (int i = 0; i < kTriples; ++i, tables += kTripleTable) {
      const __m512 low = _mm512_loadu_ps(tables), high = _mm512_loadu_ps(tables + 16);
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b) acc[b] = _mm512_add_ps(acc[b], _mm512_permutex2var_ps(low, word[b], high));
#pragma GCC unroll 4
      for (int b = 0; b < B; ++b)
        if (i + 1 < kTriples) word[b] = _mm512_srli_epi32(word[b], 5);
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < B; ++b) _mm512_storeu_ps(t.sum + b * kLanes, acc[b]);
}

void triples(const float* x, int64_t count, float* tables) {
  alignas(64) float of[3][kTripleTable];
  const float value[3] = {0.0f, 1.0f, -1.0f}, nan = __builtin_nanf("");
  for (int i = 0; i < kTripleTable; ++i) {
    of[0][i] = i < 27 ? value[i % 3] : nan;
    of[1][i] = i < 27 ? value[i / 3 % 3] : nan;
    of[2][i] = i < 27 ? value[i / 9] : nan;
  }
  __m512 first[2], second[2], third[2];
  for (int h = 0; h < 2; ++h) {
    first[h] = _mm512_load_ps(of[0] + 16 * h);
    second[h] = _mm512_load_ps(of[1] + 16 * h);
    third[h] = _mm512_load_ps(of[2] + 16 * h);
  }
  for (int64_t t = 0; t < count; ++t, x += 3, tables += kTripleTable) {
    const __m512 x0 = _mm512_set1_ps(x[0]), x1 = _mm512_set1_ps(x[1]), x2 = _mm512_set1_ps(x[2]);
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h)
      _mm512_storeu_ps(tables + 16 * h,
                       _mm512_fmadd_ps(first[h], x0, _mm512_fmadd_ps(second[h], x1, _mm512_mul_ps(third[h], x2))));
  }
}

// One word holds 16 columns of one row: the lanes shift it by 0, 2, ... 30 bits.
void dense_row(const uint32_t* words, int64_t first, int64_t last, float scale, float* out) {
  const __m512 table = _mm512_mul_ps(values(), _mm512_set1_ps(scale));
  const __m512i shifts = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  for (int64_t k = first; k < last;) {
    const int skip = int(k % kLanes);
    const int64_t left = last - k;
    const int count = left < kLanes - skip ? int(left) : kLanes - skip;
    const uint32_t word = words[k - skip] >> (2 * skip);
    const __m512i codes = _mm512_srlv_epi32(_mm512_set1_epi32(int(word)), shifts);
    _mm512_mask_storeu_ps(out + (k - first), __mmask16((1u << count) - 1), _mm512_permutevar_ps(table, codes));
    k += count;
  }
}

int64_t peak(int64_t rounds) {
  __m512 sum[16], x = _mm512_set1_ps(1.0f);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = x;
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) asm volatile("vfmadd231ps %1, %1, %0" : "+v"(sum[i]) : "v"(x));
  return rounds * 16 * 16;
}

}  // namespace

#define ROW2(R) {tile<R, 1>, tile<R, 2>}
#define ROW4(R) {tile<R, 1>, tile<R, 2>, tile<R, 4>}
#define ROW8(R) {tile<R, 1>, tile<R, 2>, tile<R, 4>, tile<R, 8>}
#define PAIR(R) {pair_tile<R, 1>, pair_tile<R, kPairBlocks>}
const Isa avx512_isa = {12,
                        {{}, ROW8(1), ROW4(2), ROW4(3), ROW4(4), ROW4(5), ROW4(6), ROW2(7), ROW2(8), ROW2(9), ROW2(10),
                         ROW2(11), ROW2(12)},
                        pairs,
                        {{}, PAIR(1), PAIR(2), PAIR(3), PAIR(4), PAIR(5), PAIR(6)},
                        dense_row, peak,
                        triples, {triple_tile<1>, triple_tile<kPairBlocks>}};

}  // namespace robustq
