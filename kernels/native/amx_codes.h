// Codes as tiles of float16 or bfloat16, decoded while the unit works. All of it static: see CMakeLists.txt.
//
// A tile has 16 outputs and 32 columns of the layer, two in each row: those that are added at once.
#pragma once
#include <immintrin.h>

#include "amx.h"
#include "exact.h"
#include "integer.h"

namespace robustq {
namespace {

// A small whole number, at most 255 in magnitude, as the sixteen bits that it is.
template <Product P>
constexpr uint16_t half_of(int value) {
  constexpr int kMantissa = P == Product::kFp16 ? 10 : 7, kBias = P == Product::kFp16 ? 15 : 127;
  const int magnitude = value < 0 ? -value : value;
  if (magnitude == 0) return 0;
  int exponent = 0;
  while (magnitude >> (exponent + 1)) ++exponent;
  const int mantissa = (magnitude << (kMantissa - exponent)) & ((1 << kMantissa) - 1);
  return uint16_t((value < 0 ? 0x8000 : 0) | (exponent + kBias) << kMantissa | mantissa);
}

template <Product P>
struct alignas(64) PairTable {
  uint32_t of[16] = {};
  constexpr PairTable() {
    const uint32_t nan = P == Product::kFp16 ? 0x7e00 : 0x7fc0;
    const uint32_t value[4] = {0, half_of<P>(1), nan, half_of<P>(-1)};
    for (int i = 0; i < 16; ++i) of[i] = value[i & 3] | value[i >> 2] << 16;
  }
};
template <Product P>
constexpr PairTable<P> kPairs = {};

// Words of two bits a code (kernel.h): four bits are two columns of an output, and a table has the pair for them.
template <Product P>
class Words {
 public:
  explicit Words(const ExactTile& t) : t_(t), table_(_mm512_load_si512(kPairs<P>.of)) {}

  void group(int64_t) {}

  // Blocks `block` and the next, for a step.
  inline void operator()(int64_t step, int block, uint8_t* first, uint8_t* second) const {
    one(step, block, first);
    one(step, block + 1, second);
  }

 private:
  inline void one(int64_t step, int block, uint8_t* to) const {
    const uint32_t* words = t_.words[block] + 32 * step;
    __m512i first = _mm512_loadu_si512(words), second = _mm512_setzero_si512();
    if (step + 1 < t_.steps) {
      second = _mm512_loadu_si512(words + 16);
    } else {  // there may be no second word
      first = _mm512_and_si512(first, _mm512_set1_epi32(int(t_.last[0])));
      if (t_.last[1]) second = _mm512_and_si512(_mm512_loadu_si512(words + 16), _mm512_set1_epi32(int(t_.last[1])));
    }
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i, first = _mm512_srli_epi32(first, 4))
      _mm512_store_si512(to + 64 * i, _mm512_permutexvar_epi32(first, table_));
#pragma GCC unroll 8
    for (int i = 8; i < 16; ++i, second = _mm512_srli_epi32(second, 4))
      _mm512_store_si512(to + 64 * i, _mm512_permutexvar_epi32(second, table_));
  }

  const ExactTile& t_;
  const __m512i table_;
};

// Of 16 outputs from `o` on, as int32.
inline __m512i zero_points(const ExactTile& t, int64_t group, int64_t o) {
  return _mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(lanes(t.outputs - o), t.zero + group * t.zero_group + o));
}

// What five bits of a field stand for. With zero points, a code less its own; else a code, whatever the bits above it
// are.
template <Product P, int Bits, bool Zero>
struct alignas(64) CodeTable {
  uint16_t of[32] = {};
  constexpr CodeTable() {
    for (int i = 0; i < 32; ++i) {
      const int less = i < 16 ? i : i - 32, code = i % (1 << Bits) - (Bits == 2 ? 1 : 8);
      of[i] = half_of<P>(Zero ? less : code);
    }
  }
};
template <Product P, int Bits, bool Zero>
constexpr CodeTable<P, Bits, Zero> kCodes = {};

// Bytes of two or four bits a code (integer.h). The first and third of four columns, which are the lower bytes of lanes
// of 16 bits, make one row of the tile, the others the next.
template <Product P, int Bits, bool Zero>
class Bytes {
 public:
  explicit Bytes(const ExactTile& t) : t_(t), table_(_mm512_load_si512(kCodes<P, Bits, Zero>.of)) {}

  // What zero points there are, of a group that begins.
  void group(int64_t group) {
    for (int f = 0; Zero && f < kFields; ++f)
      zero_[f] = _mm512_mullo_epi32(zero_points(t_, group, 16 * f), _mm512_set1_epi32(0x00010001));
  }

  // Blocks `block` and the next, for a step.
  inline void operator()(int64_t step, int block, uint8_t* first, uint8_t* second) const {
    constexpr int kPart = 8 / Bits;                // fields of a line of 64 bytes
    constexpr int64_t kParts = 8, kRows = 2 * 64;  // steps of codes, and what they make of a tile
    const int field = t_.field + block;
    const int64_t from = kParts * step, count = t_.parts - from;
    const uint8_t* codes = t_.codes + from * 32 * Bits + 64 * (field / kPart);
    const unsigned down = unsigned(field % kPart * Bits);
    if (count >= kParts) {
#pragma GCC unroll 8
      for (int64_t part = 0; part < kParts; ++part)
        decode(codes + part * 32 * Bits, down, block, first + part * kRows, second + part * kRows);
      return;
    }
    for (int64_t part = 0; part < count; ++part)
      decode(codes + part * 32 * Bits, down, block, first + part * kRows, second + part * kRows);
    for (int64_t at = count * kRows; at < kExactBytes; at += 64) {
      _mm512_store_si512(first + at, _mm512_setzero_si512());
      _mm512_store_si512(second + at, _mm512_setzero_si512());
    }
  }

 private:
  inline void decode(const uint8_t* codes, unsigned down, int block, uint8_t* first, uint8_t* second) const {
    __m512i line = _mm512_loadu_si512(codes);
    if (Bits == 2) line = _mm512_srli_epi16(line, down);
    rows(line, zero_[block], first);
    rows(_mm512_srli_epi16(line, Bits), zero_[block + 1], second);
  }

  // Codes in the lowest bits of bytes -> two rows.
  inline void rows(__m512i codes, __m512i zero, uint8_t* to) const {
#pragma GCC unroll 2
    for (int row = 0; row < 2; ++row, codes = _mm512_srli_epi16(codes, 8)) {
      __m512i code = codes;
      if (Zero) code = _mm512_sub_epi16(_mm512_and_si512(code, _mm512_set1_epi16((1 << Bits) - 1)), zero);
      _mm512_store_si512(to + 64 * row, _mm512_permutexvar_epi16(code, table_));
    }
  }

  const ExactTile& t_;
  const __m512i table_;
  __m512i zero_[kFields];
};

}  // namespace
}  // namespace robustq
