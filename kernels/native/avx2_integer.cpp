// AVX2: vpmaddubsw multiplies bytes and adds neighbours in 16 bits, which hold kShort<Bits> steps. At 2 bits the odd
// fields stay where they are, four times too large, which saves two shifts: 15 * 2 * 8 * 128 = 30720; at 4 bits
// 8 * 2 * 15 * 128 = 30720; of decoded codes, which may come from 4 bits, 8 * 2 * 8 * 255 = 32640. Eight lanes at a
// time, half of a load of 64 bytes, so that the sums of two planes stay in registers; the other half follows while the
// bytes of those few steps are in the first-level cache.
#include <immintrin.h>

#include "integer_plain.h"

namespace robustq {
namespace {

constexpr int kAhead = 4096;  // bytes

template <int Bits>
constexpr int64_t kShort = Bits == 2 ? 15 : 8;

template <int Bits>
constexpr int field_shift(int b) {  // by which the sums of field b are too large
  return Bits == 2 ? 2 * (b % 2) : 0;
}

template <int Bits>
inline __m256i field(const uint8_t* codes, int b) {
  if (Bits == 8) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 64 * b));
  const uint8_t* at = codes + (Bits == 4 ? 64 * (b / 2) : 0);
  const int shift = Bits == 4 ? 4 * (b % 2) : 4 * (b / 2);
  const __m256i word = _mm256_srli_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), shift);
  return _mm256_and_si256(word, _mm256_set1_epi8(char(((1 << (Bits & 7)) - 1) << field_shift<Bits>(b))));
}

inline __m256i four(const int8_t* x) {
  int32_t value;
  std::memcpy(&value, x, sizeof value);
  return _mm256_set1_epi32(value);
}

// As assembly: g++ 12 keeps the sums of the intrinsics on the stack.
inline void multiply_add(__m256i& sum, __m256i unsigned_bytes, __m256i signed_bytes) {
  __m256i product;
  asm("vpmaddubsw %3, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum), "=&x"(product) : "x"(unsigned_bytes), "x"(signed_bytes));
}

// sum += products of `steps` steps, at most kShort<Bits>, of eight lanes. The first half asks the memory for what comes
// later: from the third-level cache that is twice as fast.
template <int N, int B, int Bits, bool First>
inline void half(const int8_t* const (&x)[N], const uint8_t* codes, int64_t steps, int32_t* sum) {
  __m256i acc[N][B];
#pragma GCC unroll 6
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) acc[n][b] = _mm256_setzero_si256();
  for (int64_t at = 0; at < 4 * steps; at += 4, codes += 32 * Bits) {
    __m256i activations[N];
#pragma GCC unroll 6
    for (int n = 0; n < N; ++n) activations[n] = four(x[n] + at);
    if (First && Bits != 8) _mm_prefetch(codes + kAhead, _MM_HINT_T0);
    if (First && Bits == 4) _mm_prefetch(codes + kAhead + 64, _MM_HINT_T0);
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      const __m256i code = field<Bits>(codes, b);
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n)
        if (Bits == 8) multiply_add(acc[n][b], activations[n], code);
        else multiply_add(acc[n][b], code, activations[n]);
    }
  }
#pragma GCC unroll 6
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) {
      __m256i* to = reinterpret_cast<__m256i*>(sum + n * kOutputs + 16 * b);
      const __m256i products = _mm256_madd_epi16(acc[n][b], _mm256_set1_epi16(1));
      _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), products));
    }
}

template <int N, int B, int Bits>
void tile(const IntegerTile& t) {
  for (int n = 0; n < N; ++n) std::memset(t.sum + n * kOutputs, 0, 16 * B * sizeof(int32_t));
  const uint8_t* codes = t.codes;
  for (int64_t s = 0; s < t.count; ++s) {
    const int8_t* x[N];
    for (int n = 0; n < N; ++n) x[n] = t.rows[n] + t.segments[s].offset;
    for (int64_t left = t.segments[s].steps; left > 0;) {
      const int64_t steps = left < kShort<Bits> ? left : kShort<Bits>;
      half<N, B, Bits, true>(x, codes, steps, t.sum);
      half<N, B, Bits, false>(x, codes + 32, steps, t.sum + 8);
      for (int n = 0; n < N; ++n) x[n] += 4 * steps;
      codes += 32 * Bits * steps;
      left -= steps;
    }
  }
  if (Bits != 2) return;
  for (int n = 0; n < N; ++n)
    for (int b = 1; b < B; b += 2)
      for (int lane = 0; lane < 16; ++lane) t.sum[n * kOutputs + 16 * b + lane] >>= field_shift<Bits>(b);
}

template <int Bits>
void decode(const uint8_t* codes, int64_t steps, uint8_t* out, int32_t* excess) {
  const __m256i zero = _mm256_set1_epi8(Bits == 2 ? 1 : 8), offset = _mm256_set1_epi8(char(128));
  __m256i sum[2 * kFields] = {};
  for (int64_t s = 0; s < steps; ++s, codes += 32 * Bits, out += kDecodedStep)
#pragma GCC unroll 8
    for (int v = 0; v < 2 * kFields; ++v) {
      const __m256i shifted = field<Bits>(codes + 32 * (v % 2), v / 2);
      const __m256i code = _mm256_sub_epi8(_mm256_srli_epi16(shifted, field_shift<Bits>(v / 2)), zero);
      const __m256i pairs = _mm256_maddubs_epi16(offset, code);
      sum[v] = _mm256_add_epi32(sum[v], _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 32 * v), code);
    }
  for (int v = 0; v < 2 * kFields; ++v) _mm256_storeu_si256(reinterpret_cast<__m256i*>(excess + 8 * v), sum[v]);
}

int64_t peak(int64_t rounds) {
  __m256i sum[8], x = _mm256_set1_epi8(1);
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i) sum[i] = x;
  for (int64_t r = 0; r < rounds; ++r)
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      __m256i product;
      asm volatile("vpmaddubsw %2, %2, %1\n\tvpaddw %1, %0, %0" : "+x"(sum[i]), "=&x"(product) : "x"(x));
    }
  return rounds * 8 * 32;
}

}  // namespace

#define TILES2(B, W) nullptr, tile<1, B, W>, tile<2, B, W>
#define TILES4(B, W) TILES2(B, W), tile<3, B, W>, tile<4, B, W>
#define TILES6(B, W) TILES4(B, W), tile<5, B, W>, tile<6, B, W>
#define TILES(W) {{TILES6(1, W)}, {TILES4(2, W)}, {TILES2(4, W)}}
const Integer avx2_integer = {
    24, {TILES(2), TILES(4), TILES(8)}, {}, {decode<2>, decode<4>}, finish, settle, larger, magnitude, quantize, total, peak, read,
    {expand<2>, expand<4>}, {4, 4}};

}  // namespace robustq
