// Makes the lists: once to count, which gives the order of the records and their places, once to write.
#include "lists.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "integer.h"
#include "kernel.h"
#include "sparse.h"

namespace robustq {
namespace {

constexpr int64_t kRows = 64;  // decoded at a time

// Codes of 64 rows, two bits each in two's complement, a row contiguous, with zeros behind it.
class Rows {
 public:
  explicit Rows(const Codes& codes)
      : codes_(codes), stride_((codes.in + kLanes - 1) / kLanes * 4 + 16), bits_(size_t(kRows * stride_)) {}

  int64_t decode(int64_t first) {  // how many rows
    const int64_t count = std::min(kRows, codes_.out - first);
    if (codes_.words) from_words(first, count);
    else from_bytes(first / kOutputs);
    return count;
  }

  // `fields` codes from column k on, in the lowest bits; at most 28
  uint64_t at(int64_t row, int64_t k, int fields) const {
    uint64_t word;
    std::memcpy(&word, &bits_[size_t(row * stride_ + k / 4)], sizeof word);
    return word >> (2 * (k % 4)) & ((uint64_t(1) << (2 * fields)) - 1);
  }

 private:
  void from_words(int64_t first, int64_t count) {
    const int64_t words = (codes_.in + kLanes - 1) / kLanes;
    const uint32_t last = codes_.in % kLanes ? (uint32_t(1) << (2 * (codes_.in % kLanes))) - 1 : ~uint32_t(0);
    for (int64_t r = 0; r < count; ++r) {
      const uint32_t* from = codes_.words + (first + r) / kLanes * words * kLanes + (first + r) % kLanes;
      for (int64_t w = 0; w < words; ++w) {
        const uint32_t word = from[w * kLanes] & (w + 1 == words ? last : ~uint32_t(0));
        std::memcpy(&bits_[size_t(r * stride_ + 4 * w)], &word, sizeof word);
      }
    }
  }

  // A byte holds a code, plus one, of four rows 16 apart.
  void from_bytes(int64_t block) {
    const int64_t steps = (codes_.in + 3) / 4;
    const int64_t over = 4 * steps - codes_.in;
    for (int64_t s = 0; s < steps; ++s)
      for (int lane = 0; lane < kLanes; ++lane) {
        const uint8_t* from = codes_.bytes + (block * steps + s) * 64 + 4 * lane;
        const uint32_t four = from[0] | from[1] << 8 | from[2] << 16 | uint32_t(from[3]) << 24;
        for (int b = 0; b < kFields; ++b) {
          const uint32_t field = ((four >> (2 * b) & 0x03030303u) + 0x03030303u) & 0x03030303u;
          uint32_t codes = (field | field >> 6 | field >> 12 | field >> 18) & 0xffu;
          if (s + 1 == steps) codes &= 0xffu >> (2 * over);
          bits_[size_t((16 * b + lane) * stride_ + s)] = uint8_t(codes);
        }
      }
  }

  const Codes& codes_;
  int64_t stride_;
  std::vector<uint8_t> bits_;
};

// Entry and sign of every pattern of codes of a group.
struct Pattern {
  uint8_t entry;
  int8_t sign;     // 0: all zero
  uint8_t nonzero;
  bool wrong;      // one of them is 10
};

std::vector<Pattern> patterns(int together) {
  std::vector<Pattern> found(size_t(1) << (2 * together));
  for (size_t bits = 0; bits < found.size(); ++bits) {
    Pattern p = {};
    for (int i = 0; i < together; ++i) {
      const int code = int(bits >> (2 * i) & 3), before = kEntries[i];
      if (code == 2) p.wrong = true;
      if (code == 0 || code == 2) continue;
      const int sign = code == 1 ? 1 : -1;
      p.nonzero += 1;
      if (p.sign == 0) {
        p.sign = int8_t(sign);
        p.entry = uint8_t(before);
      } else {
        p.entry = uint8_t(before + 1 + p.entry + (sign == p.sign ? 0 : before));
      }
    }
    found[bits] = p;
  }
  return found;
}

// Calls at(entry, sign) for what is not zero in one row of a block of columns.
template <class F>
void each(const Rows& rows, int64_t row, int64_t first, int64_t last, int together, const std::vector<Pattern>& pattern,
          const F& at) {
  if (together == 1) {
    for (int64_t k = first; k < last; k += 28) {
      const uint64_t word = rows.at(row, k, int(std::min<int64_t>(28, last - k)));
      for (uint64_t left = (word | word >> 1) & 0x5555555555555555u; left; left &= left - 1) {
        const int bit = __builtin_ctzll(left);
        at(int(k - first) + bit / 2, word >> (bit + 1) & 1 ? -1 : 1);
      }
    }
    return;
  }
  const int entries = kEntries[together];
  int base = 0;
  for (int64_t k = first; k < last; k += together, base += entries) {
    const Pattern& p = pattern[rows.at(row, k, together)];  // beyond the last column there are zeros
    if (p.sign) at(base + p.entry, p.sign);
  }
}

}  // namespace

int64_t count_nonzero(const Codes& codes) {
  Rows rows(codes);
  int64_t nonzero = 0;
  uint64_t wrong = 0;
  for (int64_t first = 0; first < codes.out; first += kRows) {
    const int64_t count = rows.decode(first);
    for (int64_t r = 0; r < count; ++r)
      for (int64_t k = 0; k < codes.in; k += 28) {
        const uint64_t word = rows.at(r, k, 28);
        nonzero += __builtin_popcountll(word & 0x5555555555555555u);
        wrong |= word >> 1 & ~word & 0x5555555555555555u;
      }
  }
  return wrong ? -1 : nonzero;
}

Lists make_lists(const Codes& codes, int together) {
  Lists lists;
  lists.out = codes.out;
  lists.in = codes.in;
  lists.together = together;
  lists.nonzero = count_nonzero(codes);
  if (lists.nonzero < 0) throw std::invalid_argument("robustq native kernel: packed codes hold the bit pattern 10");
  const std::vector<Pattern> pattern = patterns(together);
  const int64_t width = kBlockColumns[together];
  const int64_t blocks = (codes.in + width - 1) / width;
  Rows rows(codes);
  struct Size {
    uint8_t plus, minus;
  };
  std::vector<Size> size(size_t(std::min(kPanelOutputs, codes.out) * blocks));  // [block][output]
  std::vector<int64_t> place(size.size());
  std::vector<int64_t> next;  // record of each pair of sizes
  for (int64_t panel = 0; panel < codes.out; panel += kPanelOutputs) {
    const int64_t outputs = std::min(kPanelOutputs, codes.out - panel);
    const auto visit = [&](const auto& row) {
      for (int64_t first = panel; first < panel + outputs; first += kRows) {
        const int64_t count = rows.decode(first);
        for (int64_t r = 0; r < count; ++r)
          for (int64_t b = 0; b < blocks; ++b) row(r, b, size_t(b * outputs + first - panel + r));
      }
    };
    visit([&](int64_t r, int64_t b, size_t index) {
      Size found = {0, 0};
      each(rows, r, b * width, std::min(codes.in, (b + 1) * width), together, pattern,
           [&](int, int sign) { ++(sign > 0 ? found.plus : found.minus); });
      size[index] = found;
      lists.entries += found.plus + found.minus;
    });
    int64_t end = int64_t(lists.records.size());
    for (int64_t b = 0; b < blocks; ++b) {
      lists.blocks.push_back(end);
      // Where the records of each pair of sizes begin; every other row of pairs backwards, so that one size changes.
      const Size* of = &size[size_t(b * outputs)];
      Size most = {0, 0};
      for (int64_t o = 0; o < outputs; ++o)
        most = {std::max(most.plus, of[o].plus), std::max(most.minus, of[o].minus)};
      const auto key = [&](Size s) {
        return size_t((most.minus + 1) * s.plus + (s.plus % 2 ? most.minus - s.minus : s.minus));
      };
      next.assign(size_t((most.plus + 1) * (most.minus + 1)), 0);
      for (int64_t o = 0; o < outputs; ++o)
        if (of[o].plus + of[o].minus) next[key(of[o])] += kHeader + of[o].plus + of[o].minus;
      for (int64_t& bytes : next) {
        const int64_t count = bytes;
        bytes = end;
        end += count;
      }
      for (int64_t o = 0; o < outputs; ++o) {
        if (!(of[o].plus + of[o].minus)) continue;
        place[size_t(b * outputs + o)] = next[key(of[o])];
        next[key(of[o])] += kHeader + of[o].plus + of[o].minus;
      }
    }
    lists.records.resize(size_t(end));
    visit([&](int64_t r, int64_t b, size_t index) {
      const Size found = size[index];
      if (!(found.plus + found.minus)) return;
      const int64_t output = int64_t(index) - b * outputs;
      uint8_t* at = &lists.records[size_t(place[index])];
      at[0] = uint8_t(output & 255);
      at[1] = uint8_t(output >> 8);
      at[2] = found.plus;
      at[3] = found.minus;
      uint8_t* plus = at + kHeader;
      uint8_t* minus = plus + found.plus;
      each(rows, r, b * width, std::min(codes.in, (b + 1) * width), together, pattern,
           [&](int entry, int sign) { *(sign > 0 ? plus : minus)++ = uint8_t(entry); });
    });
  }
  lists.blocks.push_back(int64_t(lists.records.size()));
  return lists;
}

}  // namespace robustq
