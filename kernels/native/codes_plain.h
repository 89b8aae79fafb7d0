// Linear layers of floats.h for the vectors of an instruction set: V as in floats_plain.h, with words of codes besides. All
// is static, as in integer_plain.h.
#pragma once
#include "floats_plain.h"

namespace robustq {
namespace {

// The next column of all words: its codes are in the lowest bits, field by field.
template <class V, int Bits, int R, int Words, int N, bool Shift>
inline void add_column(typename V::words (&word)[Words], const typename V::type (&shift)[N], const float* x, int64_t ldx,
                       typename V::type (&part)[R][N]) {
  constexpr int kPart = 8 / Bits, kVectors = 16 / V::width;
  typename V::type value[R];
#pragma GCC unroll 4
  for (int r = 0; r < R; ++r) value[r] = V::set(x[r * ldx]);
#pragma GCC unroll 4
  for (int field = 0; field < kPart; ++field)
#pragma GCC unroll 8
    for (int w = 0; w < Words; ++w) {
      const int n = (w / kVectors * kPart + field) * kVectors + w % kVectors;
      typename V::type code = V::template number<Bits>(word[w]);
      word[w] = V::template down<Bits>(word[w]);
      if (Shift) code = V::subtract(code, shift[n]);
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) part[r][n] = V::multiply_add(code, value[r], part[r][n]);
    }
}

// H lines of 64 bytes of a step at a time, of the one or two (Bits 4) that it has.
template <class V, int Bits, int R, int H, bool Shift>
void code_tile(const CodeTile& t) {
  constexpr int kVectors = 16 / V::width, kWords = H * kVectors, N = kWords * (8 / Bits), kStep = 32 * Bits;
  for (int line = 0; line < Bits / 2; line += H) {
    const uint8_t* codes = t.codes + 64 * line;
    const int64_t first = line * 16 * (8 / Bits);  // output
    for (int64_t k0 = 0, group = 0; k0 < t.columns; k0 += t.width, ++group) {
      const int64_t end = t.columns - k0 < t.width ? t.columns : k0 + t.width;
      typename V::type part[R][N], shift[N];
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        if (Shift) shift[n] = V::load(t.shift + group * 64 + first + n * V::width);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) part[r][n] = V::set(0.0f);
      }
      typename V::words word[kWords];
      int64_t k = k0;
      for (; k + 4 <= end; k += 4, codes += kStep) {
#pragma GCC unroll 8
        for (int w = 0; w < kWords; ++w) word[w] = V::load_words(codes + 4 * V::width * w);
#pragma GCC unroll 4
        for (int c = 0; c < 4; ++c) add_column<V, Bits, R, kWords, N, Shift>(word, shift, t.x + k + c, t.ldx, part);
      }
      if (k < end) {
#pragma GCC unroll 8
        for (int w = 0; w < kWords; ++w) word[w] = V::load_words(codes + 4 * V::width * w);
        for (; k < end; ++k) add_column<V, Bits, R, kWords, N, Shift>(word, shift, t.x + k, t.ldx, part);
        codes += kStep;
      }
#pragma GCC unroll 16
      for (int n = 0; n < N; ++n) {
        const typename V::type scale = V::load(t.scale + group * 64 + first + n * V::width);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          float* to = t.sum + r * 64 + first + n * V::width;
          V::store(to, V::multiply_add(part[r][n], scale, group ? V::load(to) : V::set(0.0f)));
        }
      }
    }
  }
}

template <class V, int Bits>
void scaled(const uint8_t* codes, int64_t columns, const float* shift, const float* scale, float* to) {
  constexpr int kPart = 8 / Bits;
  for (int64_t k = 0; k < columns; ++k, to += 64) {
    const uint8_t* step = codes + k / 4 * 32 * Bits;
    for (int at = 0; at < 64; at += V::width) {
      const int field = at / 16;
      const uint8_t* words = step + field / kPart * 64 + 4 * (at % 16);
      typename V::type code = V::template code<Bits>(words, int(8 * (k % 4)) + field % kPart * Bits);
      if (shift) code = V::subtract(code, V::load(shift + at));
      V::store(to + at, V::multiply(code, V::load(scale + at)));
    }
  }
}

}  // namespace
}  // namespace robustq
