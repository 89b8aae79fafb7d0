// AVX-512 VNNI: vpdpbusd adds four products of an unsigned and a signed byte to each of 16 sums.
//
// The fields of a byte are only masked, never shifted: field b is 2^(bits * b) times too large, and so is its sum, until
// the end. The sums stay in registers (64 outputs x 6 planes = 24 of 32); as inline assembly, because g++ 12 spills the
// accumulators of the intrinsic. tests/kernels/test_spills.py looks for them in the built module.
#include <immintrin.h>

#include "integer_plain.h"

namespace robustq {
namespace {

constexpr int kAhead = 2048;  // bytes; measured: 0 is four times slower from the third-level cache, 8192 twice

inline void multiply_add(__m512i& sum, __m512i unsigned_bytes, __m512i signed_bytes) {
  asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(unsigned_bytes), "v"(signed_bytes));
}

inline int32_t load_step(const int8_t* x) {
  int32_t four;
  std::memcpy(&four, x, sizeof four);
  return four;
}

// Bits 8: decoded weights.
template <int Bits>
inline __m512i field(const uint8_t* codes, int b) {
  if (Bits == 8) return _mm512_loadu_si512(codes + 64 * b);
  if (Bits == 2) return _mm512_and_si512(_mm512_loadu_si512(codes), _mm512_set1_epi8(char(3 << 2 * b)));
  return _mm512_and_si512(_mm512_loadu_si512(codes + 64 * (b / 2)), _mm512_set1_epi8(char(15 << 4 * (b % 2))));
}

template <int Bits>
constexpr int field_shift(int b) {
  return Bits == 8 ? 0 : Bits == 4 ? 4 * (b % 2) : 2 * b;
}

// Field b and those below it in the byte, for `few`: the highest one's mask is saved, and a difference gives the field.
template <int Bits>
inline __m512i fields_to(const uint8_t* codes, int b) {
  const __m512i byte = _mm512_loadu_si512(codes + 64 * (b * Bits / 8)), upper = _mm512_set1_epi8(char(0xff >> (8 - Bits - b * Bits % 8)));
  return (b + 1) * Bits % 8 == 0 ? byte : _mm512_and_si512(byte, upper);
}

template <int N, int B, int Bits>
inline void step(__m512i (&acc)[N][B], const int8_t* const (&x)[N], int64_t at, const uint8_t* codes) {
  __m512i code[B];
#pragma GCC unroll 4
  for (int b = 0; b < B; ++b) code[b] = field<Bits>(codes, b);
#pragma GCC unroll 24
  for (int n = 0; n < N; ++n) {
    const __m512i four = _mm512_set1_epi32(load_step(x[n] + at));
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b)
      if (Bits == 8) multiply_add(acc[n][b], four, code[b]);
      else multiply_add(acc[n][b], code[b], four);
  }
}

template <int N, int B, int Bits>
void tile(const IntegerTile& t) {
  constexpr int kStep = 32 * Bits;
  constexpr bool kTwo = N * B <= 8;  // few sums: two sets, or each step would wait for the one before
  __m512i acc[N][B], other[N][B];
#pragma GCC unroll 24
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) acc[n][b] = other[n][b] = _mm512_setzero_si512();
  const uint8_t* codes = t.codes;
  for (int64_t s = 0; s < t.count; ++s) {
    const int8_t* x[N];
#pragma GCC unroll 24
    for (int n = 0; n < N; ++n) x[n] = t.rows[n] + t.segments[s].offset;
    const int64_t end = 4 * t.segments[s].steps;
    int64_t at = 0;
    if (kTwo) {
      for (; at + 8 <= end; at += 8, codes += 2 * kStep) {
        _mm_prefetch(codes + kAhead, _MM_HINT_T0);
        _mm_prefetch(codes + kAhead + 64, _MM_HINT_T0);
        step<N, B, Bits>(acc, x, at, codes);
        step<N, B, Bits>(other, x, at + 4, codes + kStep);
      }
    }
    for (; at < end; at += 4, codes += kStep) step<N, B, Bits>(acc, x, at, codes);
  }
#pragma GCC unroll 24
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const __m512i sum = kTwo ? _mm512_add_epi32(acc[n][b], other[n][b]) : acc[n][b];
      _mm512_storeu_si512(t.sum + n * kOutputs + 16 * b, _mm512_srai_epi32(sum, field_shift<Bits>(b)));
    }
}

// Sixteen sums: so few the intrinsic keeps in registers, and g++ 12 would copy those of the assembly around.
template <int N, int S, int Bits>
void few(const IntegerTile& t) {
  __m512i acc[S][N][kFields];
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
      for (int b = 0; b < kFields; ++b) acc[s][n][b] = _mm512_setzero_si512();
  const uint8_t* codes = t.codes;
  for (int64_t segment = 0; segment < t.count; ++segment) {
    const int8_t* x[N];
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n) x[n] = t.rows[n] + t.segments[segment].offset;
    const int64_t end = 4 * t.segments[segment].steps;
    for (int64_t at = 0; at < end; at += 4, codes += 32 * Bits) {
      __m512i four[N];
#pragma GCC unroll 2
      for (int n = 0; n < N; ++n) four[n] = _mm512_set1_epi32(load_step(x[n] + at));
#pragma GCC unroll 4
      for (int s = 0; s < S; ++s) {
        const uint8_t* from = codes + s * t.block_bytes;
        _mm_prefetch(from + kAhead, _MM_HINT_T0);
        if (Bits == 4) _mm_prefetch(from + kAhead + 64, _MM_HINT_T0);
#pragma GCC unroll 4
        for (int b = 0; b < kFields; ++b) {
          const __m512i code = fields_to<Bits>(from, b);
#pragma GCC unroll 2
          for (int n = 0; n < N; ++n) acc[s][n][b] = _mm512_dpbusd_epi32(acc[s][n][b], code, four[n]);
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int s = 0; s < S; ++s)
#pragma GCC unroll 2
    for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
      for (int b = 0; b < kFields; ++b) {
        const __m512i below = b * Bits % 8 ? acc[s][n][b - 1] : _mm512_setzero_si512();
        _mm512_storeu_si512(t.sum + (s * N + n) * kOutputs + 16 * b,
                            _mm512_srai_epi32(_mm512_sub_epi32(acc[s][n][b], below), field_shift<Bits>(b)));
      }
}

template <int Bits>
void decode(const uint8_t* codes, int64_t steps, uint8_t* out, int32_t* excess) {
  const __m512i zero = _mm512_set1_epi8(Bits == 2 ? 1 : 8), offset = _mm512_set1_epi8(char(128));
  __m512i sum[kFields] = {};
  for (int64_t s = 0; s < steps; ++s, codes += 32 * Bits, out += kDecodedStep)
#pragma GCC unroll 4
    for (int b = 0; b < kFields; ++b) {
      const __m512i code = _mm512_sub_epi8(_mm512_srli_epi32(field<Bits>(codes, b), field_shift<Bits>(b)), zero);
      multiply_add(sum[b], offset, code);
      _mm512_storeu_si512(out + 64 * b, code);
    }
  for (int b = 0; b < kFields; ++b) _mm512_storeu_si512(excess + 16 * b, sum[b]);
}

// As `settle` in integer_plain.h, 16 outputs at a time; what belongs to them stays in registers for all rows.
template <bool Two>
void settle_fields(const Settle& s) {
  const __m512 least = _mm512_set1_ps(s.relu ? 0.0f : -std::numeric_limits<float>::infinity());
  for (int first = 0; first < s.outputs; first += 16) {
    const __mmask16 mask = s.outputs - first < 16 ? __mmask16((1 << (s.outputs - first)) - 1) : __mmask16(0xffff);
    const __m512 weight_scale = _mm512_maskz_loadu_ps(mask, s.weight_scale + first);
    const __m512 bias = s.bias ? _mm512_maskz_loadu_ps(mask, s.bias + first) : _mm512_setzero_ps();
    const __m512i excess = s.excess ? _mm512_maskz_loadu_epi32(mask, s.excess + first) : _mm512_setzero_si512();
    const int32_t* sum = s.sum + first;
    for (int row = 0; row < s.rows; ++row, sum += s.planes * s.stride) {
      if (s.target[row] < 0) continue;
      const int64_t at = s.target[row] * s.pitch + first;
      __m512 value = _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_maskz_loadu_epi32(mask, sum), excess));
      if (Two) {
        const __m512i low = _mm512_sub_epi32(_mm512_maskz_loadu_epi32(mask, sum + s.stride), excess);
        value = _mm512_fmadd_ps(value, _mm512_set1_ps(256.0f), _mm512_cvtepi32_ps(low));
      }
      value = _mm512_mul_ps(value, _mm512_mul_ps(weight_scale, _mm512_set1_ps(s.scale[s.image[row]])));
      if (s.bias) value = _mm512_add_ps(value, bias);
      if (s.residual) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, s.residual + at));
      _mm512_mask_storeu_ps(s.y + at, mask, _mm512_max_ps(least, value));  // NaN stays: the second operand is given
    }
  }
}

void settle_vectors(const Settle& s) { s.planes == 2 ? settle_fields<true>(s) : settle_fields<false>(s); }

int64_t peak(int64_t rounds) {
  __m512i sum[16], x = _mm512_set1_epi8(1);
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) sum[i] = x;
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 16
    for (int i = 0; i < 16; ++i) asm volatile("vpdpbusd %1, %1, %0" : "+v"(sum[i]) : "v"(x));
  return rounds * 16 * 64;
}

}  // namespace

#define TILES6(B, W) nullptr, tile<1, B, W>, tile<2, B, W>, tile<3, B, W>, tile<4, B, W>, tile<5, B, W>, tile<6, B, W>
#define TILES12(B, W) TILES6(B, W), tile<7, B, W>, tile<8, B, W>, tile<9, B, W>, tile<10, B, W>, tile<11, B, W>, tile<12, B, W>
#define FEW(W) {nullptr, few<1, 4, W>, few<2, 2, W>}
#define TILES(W) {{TILES12(1, W)}, {TILES12(2, W)}, {TILES6(4, W)}}
const Integer avx512vnni_integer = {
    24, {TILES(2), TILES(4), TILES(8)}, {FEW(2), FEW(4)}, {decode<2>, decode<4>}, finish, settle_vectors, larger, magnitude, quantize, total, peak, read,
    {expand<2>, expand<4>}, {1, 3}};

}  // namespace robustq
