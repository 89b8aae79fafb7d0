// Codes to the bytes of a file and back (../../docs/format.md). Declarations only; every number has been checked.
#pragma once
#include <cstdint>

namespace robustq {

enum class Coding { bits = 1, u3 = 3, u4 = 4, base3 = 5, u8 = 8 };

struct Gaps {
  int64_t kept;
  int64_t last;   // the last place that is kept, or -1
  int r;          // the parameter that takes the fewest bits; -1: the gaps take `enough` bytes or more
  int64_t unary;  // bits of the unary part
};

// A bitmap of n codes has ceil(n / 8) bytes; bits beyond n are 0.
struct Storage {
  // bitmap of the codes that are not 0
  void (*keep)(const int8_t* codes, int64_t n, uint8_t* bitmap);
  // k codes in [-levels, levels] -> bytes; those of n that the bitmap keeps, if it is not null
  void (*store)(Coding coding, const int8_t* codes, const uint8_t* bitmap, int64_t n, int levels, uint8_t* out);
  // The other way; false for bytes that `store` does not write. With a bitmap: that keeps `kept`, none of them 0.
  bool (*restore)(Coding coding, const uint8_t* data, const uint8_t* bitmap, int64_t kept, int64_t n, int levels,
                  int8_t* codes);
  // Gaps between what a bitmap keeps, Golomb-Rice coded.
  Gaps (*survey)(const uint8_t* bitmap, int64_t n, int64_t enough);
  // false if the unary part takes another number of bytes
  bool (*store_gaps)(const uint8_t* bitmap, int64_t n, int r, uint8_t* low, uint8_t* unary, int64_t unary_bytes);
  // bitmap must be 0; false for bytes that `store_gaps` does not write
  bool (*restore_gaps)(const uint8_t* low, const uint8_t* unary, int64_t unary_bytes, int64_t kept, int r, int64_t n,
                       uint8_t* bitmap);
};

extern const Storage scalar_storage;
extern const Storage avx2_storage;
const Storage& storage_current();  // dispatch.cpp

// Bytes that n codes take.
inline int64_t stored_bytes(Coding coding, int64_t n) {
  return coding == Coding::base3 ? (n + 4) / 5 : (n * int(coding) + 7) / 8;
}

}  // namespace robustq
