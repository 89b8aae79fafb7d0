// Linear layers of codes of two or four bits in float32: groups, panels of rows, threads; the arithmetic is in floats.h.
//
// For few rows the codes are decoded in registers and used at once. For more a block of 64 outputs is decoded a piece of
// columns at a time, scaled, and used for all rows of a panel, whose copy stays in the second-level cache: rows a power of
// two apart would fall into the same sets of the first.
#include <algorithm>
#include <cstring>
#include <vector>

#include "exact.h"
#include "few.h"
#include "floats.h"
#include "integer.h"
#include "kernel.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kPieceColumns = 256;             // decoded: 64 kB
constexpr int64_t kPanelValues = int64_t(1) << 18;  // of x: 1 MB

class Codes {
 public:
  Codes(const Weights& w, int64_t in, bool relu, int64_t rows)
      : w_(w), isa_(floats_current()), in_(in), width_((in + w.groups - 1) / w.groups),
        groups_((in + width_ - 1) / width_), steps_(in / width_ * ((width_ + 3) / 4) + (in % width_ + 3) / 4), relu_(relu),
        few_(rows <= kFewRows ? isa_.few[w.bits / 4][w.zero != nullptr][rows] : nullptr) {}

  void run(const float* x, Range rows, Range blocks, float* y) const {
    const int64_t stride = few_ ? in_ : in_ + (-in_ & 15) + 16;
    const int64_t most = std::max<int64_t>(kMostRows, kPanelValues / stride / kMostRows * kMostRows);
    const int64_t panel = std::min(most, rows.size());
    const Buffer<float> copy = buffer<float>(few_ ? 1 : panel * stride), sums = buffer<float>(panel * kOutputs);
    const Buffer<float> weights = buffer<float>(few_ ? 1 : kPieceColumns * kOutputs);
    std::vector<float> scale(size_t(groups_ * kOutputs)), shift(w_.zero ? scale.size() : 0);
    for (int64_t first = rows.first; first < rows.last; first += most) {
      const int64_t count = std::min(most, rows.last - first);
      const float* from = x + first * in_;
      if (!few_) {
        for (int64_t r = 0; r < count; ++r)
          std::memcpy(copy.get() + r * stride, from + r * in_, size_t(in_) * sizeof(float));
        from = copy.get();
      }
      for (int64_t block = blocks.first; block < blocks.last; ++block) {
        factors(block, scale.data(), shift.data());
        const uint8_t* codes = w_.codes + block * steps_ * 32 * w_.bits;
        const float* shifts = w_.zero ? shift.data() : nullptr;
        if (few_) few_({from, stride, in_, width_, codes, scale.data(), shifts, sums.get()});
        else multiply({from, stride, in_, width_, codes, scale.data(), shifts, sums.get()}, count, weights.get());
        finish(block, sums.get(), count, y + first * w_.out);
      }
    }
  }

 private:
  // Of a block, [group][64]; what is not an output has zeros.
  void factors(int64_t block, float* scale, float* shift) const {
    const int64_t output = block * kOutputs, outputs = std::min<int64_t>(kOutputs, w_.out - output);
    for (int64_t group = 0; group < groups_; ++group) {
      const int64_t at = group * w_.out + output;
      std::copy_n(w_.scale + at, outputs, scale + group * kOutputs);
      for (int64_t i = 0; w_.zero && i < outputs; ++i) shift[group * kOutputs + i] = float(w_.zero[at + i] - w_.usual());
    }
  }

  void multiply(const CodeTile& t, int64_t rows, float* weights) const {
    int64_t most = kMostRows;
    while (!isa_.tile[0][most]) --most;
    const int64_t tiles = (rows + most - 1) / most;
    const uint8_t* codes = t.codes;
    for (int64_t k0 = 0; k0 < in_;) {
      const int64_t group = k0 / width_, end = std::min({in_, (group + 1) * width_, k0 + kPieceColumns});
      int64_t last = end, k = k0;  // whole groups that are short go together
      for (int64_t g = group;; ++g) {
        const float* shift = t.shift ? t.shift + g * kOutputs : nullptr;
        isa_.scaled[w_.bits / 4](codes, last - k, shift, t.scale + g * kOutputs, weights + (k - k0) * kOutputs);
        codes += (last - k + 3) / 4 * 32 * w_.bits;
        k = last;
        last = std::min(in_, k + width_);
        if (k == in_ || k % width_ != 0 || last - k0 > kPieceColumns) break;
      }
      const Columns columns = {k0, k - k0};
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t first = rows * tile / tiles, count = rows * (tile + 1) / tiles - first;
        const float* row[kMostRows];
        for (int64_t r = 0; r < count; ++r) row[r] = t.x + (first + r) * t.ldx;
        const int wide = isa_.tile[1][count] != nullptr;
        for (int64_t lane = 0; lane < kOutputs; lane += wide ? 32 : 16)
          isa_.tile[wide][count]({row, &columns, 1, weights + lane, t.sum + first * kOutputs + lane, kOutputs, k0 > 0});
      }
      k0 = k;
    }
  }

  void finish(int64_t block, const float* sums, int64_t rows, float* y) const {
    static constexpr auto ones = [] {
      struct { float of[kOutputs]; } all = {};
      for (float& one : all.of) one = 1.0f;
      return all;
    }();
    const int64_t output = block * kOutputs, outputs = std::min<int64_t>(kOutputs, w_.out - output);
    isa_.settle({sums, kOutputs, ones.of, w_.bias ? w_.bias + output : nullptr, nullptr, y + output, w_.out, rows, outputs,
                 relu_});
  }

  const Weights& w_;
  const Floats& isa_;
  const int64_t in_, width_, groups_, steps_;
  const bool relu_;
  const CodeTileFn few_;
};

}  // namespace

void float_linear(const Weights& w, const float* x, int64_t rows, int64_t in, bool relu, float* y, int threads) {
  if (few_fit(w, in, rows * kDigits) && few_floats(w, x, rows, in, relu, y, threads)) return;
  if (exact_by_unit({nullptr, w.codes, w.bits, w.zero, w.scale, 1, w.out, w.bias, relu, w.groups, w.out, in}, x, rows, y,
                    threads))
    return;
  const Codes layer(w, in, relu, rows);
  const int64_t blocks = (w.out + kOutputs - 1) / kOutputs, parts = parts_for(rows * w.out * in, kThreadWork, threads);
  const bool by_output = blocks >= 4 * parts || blocks >= rows;
  in_parts(parts, by_output ? blocks : rows, [&](Range range) {
    layer.run(x, by_output ? Range{0, rows} : range, by_output ? range : Range{0, blocks}, y);
  });
}

}  // namespace robustq
