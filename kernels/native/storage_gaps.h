// Which codes are kept, as Golomb-Rice coded gaps; all of it static, like storage_dense.h.
#pragma once
#include <vector>

#include "storage_dense.h"

namespace robustq {
namespace {

// gap(g) for each gap, in order; the number of gaps and the last place.
template <class F>
inline Gaps each_gap(const uint8_t* bitmap, int64_t n, F gap) {
  const int64_t bytes = (n + 7) / 8;
  int64_t last = -1, kept = 0;
  for (int64_t at = 0; at < bytes; at += 8)
    for (uint64_t word = load(bitmap + at, bytes - at); word; word &= word - 1, ++kept) {
      const int64_t place = 8 * at + __builtin_ctzll(word);
      gap(place - last - 1);
      last = place;
    }
  return {kept, last, 0, 0};
}

// Least bytes that the gaps take, over all r: a gap is at most 2^r - 1 more than 2^r times its unary part.
inline int64_t least_bytes(int64_t kept, int64_t gaps) {
  int64_t least = gaps + kept;
  for (int r = 1; r < 32; ++r) {
    const int64_t rest = gaps - kept * ((int64_t(1) << r) - 1);
    const int64_t bits = kept * (r + 1) + (rest > 0 ? rest >> r : 0);
    least = bits < least ? bits : least;
  }
  return 5 + least / 8;
}

Gaps survey(const uint8_t* bitmap, int64_t n, int64_t enough) {
  const int64_t bytes = (n + 7) / 8;
  int64_t kept = 0, end = bytes;
  for (int64_t at = 0; at < bytes; at += 8) kept += __builtin_popcountll(load(bitmap + at, bytes - at));
  while (end > 0 && bitmap[end - 1] == 0) --end;
  const int64_t last = end ? 8 * end - 1 - (__builtin_clz(bitmap[end - 1]) - 24) : -1;
  if (least_bytes(kept, last + 1 - kept) >= enough) return {kept, last, -1, 0};
  constexpr int64_t kShort = 4096;
  std::vector<int64_t> count(kShort), longer;
  each_gap(bitmap, n, [&](int64_t gap) {
    if (gap < kShort) ++count[size_t(gap)];
    else longer.push_back(gap);
  });
  const auto unary = [&](int r) {
    int64_t sum = kept;
    for (int64_t gap = int64_t(1) << (r < 12 ? r : 12); gap < kShort; ++gap) sum += count[size_t(gap)] * (gap >> r);
    for (int64_t gap : longer) sum += gap >> r;
    return sum;
  };
  int64_t now = unary(0);
  for (int r = 0; r < 31; ++r) {
    const int64_t next = unary(r + 1);
    if (now - next <= kept) return {kept, last, r, now};  // it saves no more than the bit it costs each gap
    now = next;
  }
  return {kept, last, 31, now};
}

bool store_gaps(const uint8_t* bitmap, int64_t n, int r, uint8_t* low, uint8_t* unary, int64_t unary_bytes) {
  const int64_t mask = (int64_t(1) << r) - 1;
  uint64_t bits = 0, ends = 0;
  int filled = 0;
  bool right = true;
  int64_t end = -1, word = 0;
  std::memset(unary, 0, size_t(unary_bytes));
  each_gap(bitmap, n, [&](int64_t gap) {
    bits |= uint64_t(gap & mask) << filled;
    filled += r;
    if (filled >= 32) {
      put(low, bits, 4);
      low += 4;
      bits >>= 32;
      filled -= 32;
    }
    end += (gap >> r) + 1;
    right &= end < 8 * unary_bytes;
    if (right && end / 64 != word) {
      put(unary + 8 * word, ends);
      word = end / 64;
      ends = 0;
    }
    ends |= uint64_t(1) << end % 64;
  });
  if (!right || end / 8 != unary_bytes - 1) return false;
  if (filled) put(low, bits, (filled + 7) / 8);
  put(unary + 8 * word, ends, unary_bytes - 8 * word);
  return true;
}

bool restore_gaps(const uint8_t* low, const uint8_t* unary, int64_t unary_bytes, int64_t kept, int r, int64_t n,
                  uint8_t* bitmap) {
  const int64_t low_bytes = (kept * r + 7) / 8;
  const uint64_t mask = (uint64_t(1) << r) - 1;
  if (kept * r % 8 && low[low_bytes - 1] >> kept * r % 8) return false;
  if (unary_bytes && unary[unary_bytes - 1] == 0) return false;
  int64_t found = 0, before = -1, place = -1;
  for (int64_t at = 0; at < unary_bytes; at += 8)
    for (uint64_t word = load(unary + at, unary_bytes - at); word; word &= word - 1, ++found) {
      if (found == kept) return false;
      const int64_t end = 8 * at + __builtin_ctzll(word), high = end - before - 1, bit = found * r;
      if (high > n >> r) return false;  // before the shift leaves 64 bits
      const uint64_t rest = r ? load(low + bit / 8, low_bytes - bit / 8) >> bit % 8 & mask : 0;
      place += 1 + (high << r) + int64_t(rest);
      if (place >= n) return false;
      bitmap[place / 8] = uint8_t(bitmap[place / 8] | 1 << place % 8);
      before = end;
    }
  return found == kept;
}

}  // namespace
}  // namespace robustq
