// AVX2: vpmaddubsw multiplies bytes and adds neighbours in 16 bits. Fields are shifted down first, so that 16 bits hold
// kShort<Bits> steps: 63 * 2 * 2 * 128 = 32256 at 2 bits, 8 * 2 * 15 * 128 = 30720 at 4, and of decoded codes, which
// may come from 4 bits, 8 * 2 * 8 * 255 = 32640. Eight lanes at a time, half of
// a load of 64 bytes: that way the sums of three planes stay in registers.
#include <immintrin.h>

#include "integer_plain.h"

namespace robustq {
namespace {

template <int Bits>
constexpr int64_t kShort = Bits == 2 ? 63 : 8;

template <int Bits>
inline __m256i field(const uint8_t* codes, int b) {
  if (Bits == 8) return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 64 * b));
  const uint8_t* at = codes + (Bits == 4 ? 64 * (b / 2) : 0);
  const int shift = Bits == 4 ? 4 * (b % 2) : 2 * b;
  const __m256i word = _mm256_srli_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)), shift);
  return _mm256_and_si256(word, _mm256_set1_epi8((1 << (Bits & 7)) - 1));
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

template <int N, int B, int Bits>
void half(const IntegerTile& t, int lane) {
  const uint8_t* codes = t.codes + 4 * lane;
  __m256i total[N][B];
#pragma GCC unroll 6
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b) total[n][b] = _mm256_setzero_si256();
  for (int64_t s = 0; s < t.count; ++s) {
    const int8_t* x[N];
#pragma GCC unroll 6
    for (int n = 0; n < N; ++n) x[n] = t.rows[n] + t.segments[s].offset;
    const int64_t end = 4 * t.segments[s].steps;
    for (int64_t at = 0; at < end;) {
      const int64_t stop = end - at < 4 * kShort<Bits> ? end : at + 4 * kShort<Bits>;
      __m256i acc[N][B];
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) acc[n][b] = _mm256_setzero_si256();
      for (; at < stop; at += 4, codes += 32 * Bits) {
        __m256i activations[N];
#pragma GCC unroll 6
        for (int n = 0; n < N; ++n) activations[n] = four(x[n] + at);
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
        for (int b = 0; b < B; ++b)
          total[n][b] = _mm256_add_epi32(total[n][b], _mm256_madd_epi16(acc[n][b], _mm256_set1_epi16(1)));
      // The totals wait in memory: in registers they drive out the sums of the inner loop.
#pragma GCC unroll 6
      for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
        for (int b = 0; b < B; ++b) asm("" : "+m"(total[n][b]));
    }
  }
#pragma GCC unroll 6
  for (int n = 0; n < N; ++n)
#pragma GCC unroll 4
    for (int b = 0; b < B; ++b)
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(t.sum + n * kOutputs + 16 * b + lane), total[n][b]);
}

template <int N, int B, int Bits>
void tile(const IntegerTile& t) {
  half<N, B, Bits>(t, 0);
  half<N, B, Bits>(t, 8);
}

template <int Bits>
void decode(const uint8_t* codes, int64_t steps, uint8_t* out, int32_t* excess) {
  const __m256i zero = _mm256_set1_epi8(Bits == 2 ? 1 : 8), offset = _mm256_set1_epi8(char(128));
  __m256i sum[2 * kFields] = {};
  for (int64_t s = 0; s < steps; ++s, codes += 32 * Bits, out += kDecodedStep)
#pragma GCC unroll 8
    for (int v = 0; v < 2 * kFields; ++v) {
      const __m256i code = _mm256_sub_epi8(field<Bits>(codes + 32 * (v % 2), v / 2), zero);
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
    24, {TILES(2), TILES(4), TILES(8)}, {}, {decode<2>, decode<4>}, finish, settle, larger, magnitude, quantize, total, peak, read};

}  // namespace robustq
