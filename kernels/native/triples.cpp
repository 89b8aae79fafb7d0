// Layers by triples of columns: their codes, pieces of columns whose tables fit the first-level cache, threads.
#include "triples.h"

#include <algorithm>
#include <vector>

#include "kernel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kPieceWords = 40;  // 40 * 6 tables are 31 kB

// Three codes of two bits each -> their number, or 27 where one is the pattern 10.
struct Numbers {
  uint8_t of[64];
  Numbers() {
    const int digit[4] = {0, 1, -1, 2};
    for (int i = 0; i < 64; ++i) {
      const int d0 = digit[i & 3], d1 = digit[i >> 2 & 3], d2 = digit[i >> 4];
      of[i] = uint8_t(std::min({d0, d1, d2}) < 0 ? 27 : d0 + 3 * d1 + 9 * d2);
    }
  }
};

void add_blocks(const Triples& w, const Isa& isa, Range blocks, Range words, const float* tables, float* sums) {
  for (int64_t block = blocks.first; block < blocks.last;) {
    const bool several = block + kPairBlocks <= blocks.last;
    const int64_t count = several ? kPairBlocks : 1;
    alignas(64) float sum[kPairBlocks * kLanes];
    isa.triple_tile[several](
        {tables, w.codes.get() + (block * w.words + words.first) * kLanes, w.words * kLanes, words.size(), sum});
    float* at = sums + (block - blocks.first) * kLanes;
    for (int64_t i = 0; i < count * kLanes; ++i) at[i] = words.first ? at[i] + sum[i] : sum[i];
    block += count;
  }
}

}  // namespace

Triples make_triples(const uint32_t* words, int64_t out, int64_t in) {
  static const Numbers numbers;
  const int64_t blocks = (out + kLanes - 1) / kLanes, from = (in + kLanes - 1) / kLanes;
  const int64_t count = (in + kTripleColumns - 1) / kTripleColumns;
  Triples made = {out, in, count, buffer<uint32_t>(blocks * count * kLanes)};
  uint32_t* to = made.codes.get();
  for (int64_t block = 0; block < blocks; ++block)
    for (int64_t w = 0; w < count; ++w)
      for (int lane = 0; lane < kLanes; ++lane) {
        const int64_t column = w * kTripleColumns, first = column / kLanes, skip = column % kLanes;
        const uint32_t* at = words + (block * from + first) * kLanes + lane;
        const uint64_t two = at[0] | (first + 1 < from ? uint64_t(at[kLanes]) << 32 : 0);
        const int64_t columns = std::min<int64_t>(kTripleColumns, in - column);
        // 18 columns that begin at an even one of 16 end before the 32nd or in it
        uint64_t codes = (two >> (2 * skip)) & ((uint64_t(1) << (2 * columns)) - 1);
        uint32_t word = 0;
        for (int i = 0; i < kTriples; ++i, codes >>= 6) word |= uint32_t(numbers.of[codes & 63]) << (5 * i);
        *to++ = word;
      }
  return made;
}

void triples_linear(const Triples& w, const float* x, const float* scale, int64_t scale_rows, const float* bias,
                    float* y, int threads) {
  const Isa& isa = isa_current();
  const int64_t padded = w.words * kTripleColumns;
  const Buffer<float> tail = buffer<float>(kTripleColumns);  // the columns of the last word, and zeros
  const int64_t last = padded - kTripleColumns;
  for (int64_t k = 0; k < kTripleColumns; ++k) tail[size_t(k)] = last + k < w.in ? x[last + k] : 0.0f;
  in_parts(parts_for(w.out * w.in, kThreadWork, threads), (w.out + kLanes - 1) / kLanes, [&](Range blocks) {
    const Buffer<float> tables = buffer<float>(kPieceWords * kTriples * kTripleTable);
    const Buffer<float> sums = buffer<float>(blocks.size() * kLanes);
    for (int64_t first = 0; first < w.words; first += kPieceWords) {
      const int64_t end = std::min(w.words, first + kPieceWords), whole = std::min(end, w.words - 1) - first;
      isa.triples(x + first * kTripleColumns, whole * kTriples, tables.get());
      if (end == w.words) isa.triples(tail.get(), kTriples, tables.get() + whole * kTriples * kTripleTable);
      add_blocks(w, isa, blocks, {first, end}, tables.get(), sums.get());
    }
    const int64_t from = blocks.first * kLanes, count = std::min(w.out, blocks.last * kLanes) - from;
    for (int64_t i = 0; i < count; ++i)
      y[from + i] = (bias ? bias[from + i] : 0.0f) + scale[scale_rows == 1 ? 0 : from + i] * sums[size_t(i)];
  });
}

}  // namespace robustq
