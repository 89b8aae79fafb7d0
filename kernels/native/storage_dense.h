// Encodings eight codes at a time in a 64-bit word, compiled for each instruction set; all of it static (see CMakeLists).
// The first of eight codes is the lowest byte, as memory has it: little-endian processors only.
#pragma once
#include <cstring>

#if __BMI2__
#include <immintrin.h>
#endif

#include "storage.h"

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the encodings are written for little-endian processors");

namespace robustq {
namespace {

constexpr uint64_t kOnes = 0x0101010101010101u, kHigh = 0x8080808080808080u;
constexpr int64_t kPiece = 40 * 128;  // codes of a buffer: whole bytes in every encoding

inline uint64_t load(const void* at, int64_t bytes = 8) {
  uint64_t word = 0;
  if (bytes >= 8) std::memcpy(&word, at, 8);
  else std::memcpy(&word, at, size_t(bytes));
  return word;
}
inline void put(void* at, uint64_t word, int64_t bytes = 8) {
  if (bytes >= 8) std::memcpy(at, &word, 8);
  else std::memcpy(at, &word, size_t(bytes));
}

// Bytewise sums, without carries between bytes.
inline uint64_t add_bytes(uint64_t x, uint64_t y) { return ((x & ~kHigh) + (y & ~kHigh)) ^ ((x ^ y) & kHigh); }
inline uint64_t not_zero(uint64_t x) { return ((x & ~kHigh) + ~kHigh) | x; }  // in the highest bit of each byte

#if __BMI2__
inline uint8_t top_bits(uint64_t x) { return uint8_t(_pext_u64(x, kHigh)); }
inline uint64_t as_bytes(uint8_t bits) { return _pdep_u64(bits, kOnes); }
inline uint64_t three_bits(uint64_t x) { return _pext_u64(x, 7 * kOnes); }
inline uint64_t eight_codes(uint64_t x) { return _pdep_u64(x, 7 * kOnes); }
inline uint64_t gather(uint64_t x, uint64_t mask) { return _pext_u64(x, mask); }
inline uint64_t scatter(uint64_t x, uint64_t mask) { return _pdep_u64(x, mask); }
#else
// The highest bits of the bytes, as eight bits, and back, as bytes 0 or 1.
inline uint8_t top_bits(uint64_t x) { return uint8_t(((x >> 7 & kOnes) * 0x0102040810204080u) >> 56); }
inline uint64_t as_bytes(uint8_t bits) { return ((bits * kOnes & 0x8040201008040201u) + ~kHigh) >> 7 & kOnes; }
// The lowest three bits of the bytes, as 24 bits, and back.
inline uint64_t three_bits(uint64_t x) {
  x = (x | x >> 5) & 0x003f003f003f003fu;
  x = (x | x >> 10) & 0x00000fff00000fffu;
  return (x | x >> 20) & 0xffffffu;
}
inline uint64_t eight_codes(uint64_t x) {
  x = (x | x << 20) & 0x00000fff00000fffu;
  x = (x | x << 10) & 0x003f003f003f003fu;
  return (x | x << 5) & 0x0707070707070707u;
}
// The bytes of x where mask is 255, one after the other, and back.
inline uint64_t gather(uint64_t x, uint64_t mask) {
  uint64_t out = 0;
  for (int i = 0, at = 0; i < 64; i += 8) {
    out |= (x & mask & uint64_t(255) << i) >> i << (at & 63);
    at += mask >> i & 8;
  }
  return out;
}
inline uint64_t scatter(uint64_t x, uint64_t mask) {
  uint64_t out = 0;
  for (int i = 0, at = 0; i < 64; i += 8) {
    out |= (x >> (at & 63) & 255) << i;
    at += mask >> i & 8;
  }
  return out & mask;
}
#endif

// n codes -> bytes. Each of these may be handed part of a row that begins at a whole byte.
inline void store_bits(const int8_t* codes, int64_t n, uint8_t* out) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) *out++ = top_bits(~load(codes + i));
  if (i < n) *out = uint8_t(top_bits(~load(codes + i, n - i)) & ((1 << (n - i)) - 1));
}

// Two bits of a code do for code + 1. Byte 4 of the product is d0 + 3 d1 + 9 d2 + 27 d3 + 81 d4; the bytes below stay
// under 256, so that nothing is carried.
inline uint8_t five_digits(uint64_t codes, uint64_t ones) {
  return uint8_t((((codes & 3 * ones) + ones) & 3 * ones) * 0x0103091b51u >> 32);
}
inline void store_base3(const int8_t* codes, int64_t n, uint8_t* out) {
  int64_t i = 0;
  for (; i + 48 <= n; i += 40, out += 8) {
    uint64_t eight = 0;
#pragma GCC unroll 8
    for (int j = 0; j < 8; ++j) eight |= uint64_t(five_digits(load(codes + i + 5 * j), kOnes >> 24)) << 8 * j;
    put(out, eight);
  }
  for (; i < n; i += 5) {
    const int64_t left = n - i < 5 ? n - i : 5;
    *out++ = five_digits(load(codes + i, left), kOnes >> (64 - 8 * left));
  }
}

inline void store_u3(const int8_t* codes, int64_t n, int levels, uint8_t* out) {
  const uint64_t shift = uint64_t(levels) * kOnes;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8, out += 3) put(out, three_bits(add_bytes(load(codes + i), shift)), 3);
  if (i < n) {
    const int64_t left = n - i;
    put(out, three_bits(add_bytes(load(codes + i, left), shift >> (64 - 8 * left))), (3 * left + 7) / 8);
  }
}

inline void store_u4(const int8_t* codes, int64_t n, int levels, uint8_t* out) {
  for (int64_t i = 0; i < n / 2; ++i)
    out[i] = uint8_t((codes[2 * i] + levels) | (codes[2 * i + 1] + levels) * 16);
  if (n % 2) out[n / 2] = uint8_t(codes[n - 1] + levels);
}

inline void store_part(Coding coding, const int8_t* codes, int64_t n, int levels, uint8_t* out) {
  switch (coding) {
    case Coding::bits: return store_bits(codes, n, out);
    case Coding::base3: return store_base3(codes, n, out);
    case Coding::u3: return store_u3(codes, n, levels, out);
    case Coding::u4: return store_u4(codes, n, levels, out);
    case Coding::u8:
      for (int64_t i = 0; i < n; ++i) out[i] = uint8_t(codes[i] + levels);
  }
}

inline bool restore_bits(const uint8_t* data, int64_t n, int8_t* codes) {
  for (int64_t i = 0; i < n; i += 8) {
    const uint64_t ones = as_bytes(*data++);
    put(codes + i, ones | (ones ^ kOnes) * 255, n - i);
  }
  return n % 8 == 0 || data[-1] >> n % 8 == 0;
}

struct Digits {
  uint64_t codes[256];  // five codes, and 0
  constexpr Digits() : codes() {
    for (int byte = 0; byte < 256; ++byte)
      for (int i = 0, rest = byte; i < 5; ++i, rest /= 3) codes[byte] |= uint64_t(uint8_t(rest % 3 - 1)) << 8 * i;
  }
};
constexpr Digits kDigits;

inline bool restore_base3(const uint8_t* data, int64_t n, int8_t* codes) {
  uint8_t most = 0;
  uint64_t beyond = 0;
  int64_t i = 0;
  for (; i + 8 <= n; i += 5, ++data) {
    most = *data > most ? *data : most;
    put(codes + i, kDigits.codes[*data]);
  }
  for (; i < n; i += 5, ++data) {
    const int64_t left = n - i < 5 ? n - i : 5;
    const uint64_t five = kDigits.codes[*data];
    most = *data > most ? *data : most;
    put(codes + i, five, left);
    beyond = (add_bytes(five, kOnes) & 0xffffffffffu) >> 8 * left;
  }
  return most < 243 && beyond == 0;
}

inline bool restore_u3(const uint8_t* data, int64_t n, int levels, int8_t* codes) {
  const uint64_t shift = uint64_t(256 - levels) * kOnes, room = uint64_t(127 - 2 * levels) * kOnes;
  uint64_t over = 0;
  int64_t i = 0;
  for (; i + 8 <= n; i += 8, data += 3) {
    uint64_t bits;  // eight bytes at once, while there are so many
    if (i + 24 <= n) bits = load(data) & 0xffffffu;
    else bits = load(data, 3);
    const uint64_t stored = eight_codes(bits);
    over |= stored + room;  // the highest bit of a byte: above 2 * levels
    put(codes + i, add_bytes(stored, shift));
  }
  if (i == n) return (over & kHigh) == 0;
  const uint64_t bits = load(data, (3 * (n - i) + 7) / 8), stored = eight_codes(bits);
  over |= stored + room;
  put(codes + i, add_bytes(stored, shift), n - i);
  return (over & kHigh) == 0 && bits >> 3 * (n - i) == 0;
}

inline bool restore_u4(const uint8_t* data, int64_t n, int levels, int8_t* codes) {
  uint8_t most = 0;
  for (int64_t i = 0; i < n / 2; ++i) {
    const uint8_t low = data[i] & 15, high = data[i] >> 4;
    most = low > most ? low : most;
    most = high > most ? high : most;
    codes[2 * i] = int8_t(low - levels);
    codes[2 * i + 1] = int8_t(high - levels);
  }
  if (n % 2 == 0) return most <= 2 * levels;
  codes[n - 1] = int8_t((data[n / 2] & 15) - levels);
  return most <= 2 * levels && data[n / 2] <= 2 * levels;  // also where the upper half is not 0
}

inline bool restore_u8(const uint8_t* data, int64_t n, int levels, int8_t* codes) {
  uint8_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    most = data[i] > most ? data[i] : most;
    codes[i] = int8_t(data[i] - levels);
  }
  return most <= 2 * levels;
}

inline bool restore_part(Coding coding, const uint8_t* data, int64_t n, int levels, int8_t* codes) {
  switch (coding) {
    case Coding::bits: return restore_bits(data, n, codes);
    case Coding::base3: return restore_base3(data, n, codes);
    case Coding::u3: return restore_u3(data, n, levels, codes);
    case Coding::u4: return restore_u4(data, n, levels, codes);
    case Coding::u8: return restore_u8(data, n, levels, codes);
  }
  return false;
}

void keep(const int8_t* codes, int64_t n, uint8_t* bitmap) {
  int64_t i = 0;
  for (; i + 8 <= n; i += 8) *bitmap++ = top_bits(not_zero(load(codes + i)));
  if (i < n) *bitmap = top_bits(not_zero(load(codes + i, n - i)));
}

void store(Coding coding, const int8_t* codes, const uint8_t* bitmap, int64_t n, int levels, uint8_t* out) {
  if (!bitmap) return store_part(coding, codes, n, levels, out);
  int8_t kept[kPiece + 8];
  int64_t count = 0;
  for (int64_t i = 0; i < n; i += 8) {
    const uint8_t bits = bitmap[i / 8];
    put(kept + count, gather(load(codes + i, n - i), as_bytes(bits) * 255));
    count += __builtin_popcount(bits);
    if (count < kPiece) continue;
    store_part(coding, kept, kPiece, levels, out);
    out += stored_bytes(coding, kPiece);
    count -= kPiece;
    put(kept, load(kept + kPiece));
  }
  store_part(coding, kept, count, levels, out);
}

bool restore(Coding coding, const uint8_t* data, const uint8_t* bitmap, int64_t kept, int64_t n, int levels,
             int8_t* codes) {
  if (!bitmap) return restore_part(coding, data, n, levels, codes);
  int8_t values[8 + kPiece + 8] = {};
  int64_t at = 8, end = 8;  // of the values not yet used; those before `at` are done with
  bool right = n % 8 == 0 || bitmap[n / 8] >> n % 8 == 0;
  for (int64_t i = 0; i < n; i += 8) {
    const uint8_t bits = bitmap[i / 8];
    const int count = __builtin_popcount(bits);
    if (end - at < count) {
      const int64_t more = kept < kPiece ? kept : kPiece, left = end - at;
      if (left + more < count) return false;  // the bitmap keeps more than there is
      std::memcpy(values + 8 - left, values + at, size_t(left));
      right &= restore_part(coding, data, more, levels, values + 8);
      data += stored_bytes(coding, more);
      kept -= more;
      at = 8 - left;
      end = 8 + more;
    }
    const uint64_t mask = as_bytes(bits) * 255, eight = scatter(load(values + at), mask);
    right &= (not_zero(eight) & mask & kHigh) == (mask & kHigh);
    put(codes + i, eight, n - i);
    at += count;
  }
  return right && at == end && kept == 0;
}

}  // namespace
}  // namespace robustq
