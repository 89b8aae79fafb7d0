// y = x W^T + bias for a packed ternary W on a matrix unit: panels of rows, blocks of outputs, groups, threads.
//
// The activations of a panel are split into limbs once and stay in the second-level cache; the codes of a block of
// outputs are read again for each tile of rows, from that cache too.
#include "exact.h"

#include <algorithm>

#include "integer.h"
#include "kernel.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kPanelBytes = int64_t(1) << 20;  // activations of a panel, two tiles of rows at least
constexpr int64_t kUnitWork = int64_t(1) << 26;    // multiply-adds that pay for waking a thread
constexpr uint32_t kNotFinite = 0x7f800000;

// What of a word counts, where `columns` (or more) columns are left from its first on.
uint32_t counted(int64_t columns) {
  return columns >= kLanes ? ~uint32_t(0) : columns <= 0 ? 0 : (uint32_t(1) << (2 * columns)) - 1;
}

class Layer {
 public:
  Layer(const Matrix& w, const float* bias, float* y)
      : w_(w), bias_(bias), y_(y), unit_(*exact_current()), words_((w.in + kLanes - 1) / kLanes),
        blocks_((w.out + kLanes - 1) / kLanes), width_((w.in + w.groups - 1) / w.groups),
        step_size_(unit_.limbs * kExactLimb), tile_size_((w.in + kExactStep - 1) / kExactStep * step_size_) {}

  int64_t blocks() const { return blocks_; }

  void run(const float* x, Range rows, Range blocks) const {
    const int64_t fitting = kPanelBytes / (tile_size_ * int64_t(sizeof(uint16_t)));
    const int64_t most = std::max<int64_t>(2, fitting / 2 * 2) * kExactRows;
    const int64_t panel = std::min(most, rows.size());
    const Buffer<uint16_t> tiles = buffer<uint16_t>((panel + kExactRows - 1) / kExactRows * tile_size_);
    const Buffer<float> row_scale = buffer<float>(panel);
    for (int64_t first = rows.first; first < rows.last; first += most) {
      const int64_t count = std::min(most, rows.last - first);
      for (int64_t r = 0; r < count; r += kExactRows)
        unit_.split(x + (first + r) * w_.in, w_.in, std::min<int64_t>(kExactRows, count - r), w_.in,
                    tiles.get() + r / kExactRows * tile_size_, row_scale.get() + r);
      multiply(tiles.get(), row_scale.get(), {first, first + count}, blocks);
    }
    unit_.release();
  }

 private:
  // Tiles of rows two by two, and one alone, which takes twice as many outputs at a time.
  void multiply(const uint16_t* tiles, const float* row_scale, Range rows, Range blocks) const {
    const int64_t pairs = rows.size() / (2 * kExactRows) + (rows.size() % (2 * kExactRows) > kExactRows);
    const int64_t alone = rows.size() - 2 * kExactRows * pairs;
    int64_t configured = 0;
    for (int64_t block = blocks.first; block < blocks.last; block += 2)
      for (int64_t p = 0; p < pairs; ++p) {
        const int64_t at = 2 * kExactRows * p, second = std::min<int64_t>(kExactRows, rows.size() - at - kExactRows);
        const uint16_t* x = tiles + 2 * p * tile_size_;
        if (second != configured) unit_.configure(kExactRows, configured = second);
        tile({x, x + tile_size_}, row_scale + at, {rows.first + at, rows.first + at + kExactRows + second},
             {block, std::min(block + 2, blocks.last)});
      }
    if (alone > 0) {
      unit_.configure(alone, alone);
      for (int64_t block = blocks.first; block < blocks.last; block += 4)
        tile({tiles + 2 * pairs * tile_size_, nullptr}, row_scale + 2 * kExactRows * pairs,
             {rows.last - alone, rows.last}, {block, std::min(block + 4, blocks.last)});
    }
  }

  struct Activations {
    const uint16_t *first, *second;
  };

  void tile(Activations x, const float* row_scale, Range rows, Range blocks) const {
    const int at_once = x.second ? 2 : 4, pitch = kLanes * at_once;
    const int64_t output = blocks.first * kLanes;
    const int outputs = int(std::min(w_.out, blocks.last * kLanes) - output);
    alignas(64) float sum[2 * kExactRows * 32];
    alignas(64) float scale[kExactOutputs];
    for (int64_t group = 0; group * width_ < w_.in; ++group) {
      const int64_t column = group * width_, columns = std::min(width_, w_.in - column);
      ExactTile t = {};
      t.steps = (columns + kExactStep - 1) / kExactStep;
      const int64_t rest = columns - (t.steps - 1) * kExactStep;
      t.last[0] = counted(rest);
      t.last[1] = counted(rest - kLanes);
      t.x[0] = x.first + column / kExactStep * step_size_;
      t.x[1] = x.second ? x.second + column / kExactStep * step_size_ : nullptr;
      for (int b = 0; b < at_once; ++b)  // a block that is not there is one that is, and goes nowhere
        t.words[b] = w_.words + (std::min(blocks.first + b, blocks.last - 1) * words_ + column / kLanes) * kLanes;
      t.sum = sum;
      (x.second ? unit_.square : unit_.narrow)(t);
      for (int o = 0; o < outputs; ++o)
        scale[o] = w_.scale[(w_.scale_rows == 1 ? 0 : (output + o) * w_.groups) + group];
      unit_.put({sum, pitch, scale, row_scale, bias_ ? bias_ + output : nullptr, y_ + rows.first * w_.out + output,
                 w_.out, rows.size(), outputs, group == 0});
    }
  }

  const Matrix& w_;
  const float* bias_;
  float* y_;
  const ExactUnit& unit_;
  const int64_t words_, blocks_, width_, step_size_, tile_size_;
};

}  // namespace

bool exact_by_unit(const Matrix& w, const float* x, int64_t rows, const float* bias, float* y, int threads) {
  const int64_t width = (w.in + w.groups - 1) / w.groups;
  if (!exact_current() || (w.groups > 1 && width % kExactStep != 0)) return false;
  if (integer_current().magnitude(x, rows * w.in) >= kNotFinite) return false;
  const Layer layer(w, bias, y);
  const int64_t parts = parts_for(rows * w.out * w.in, kUnitWork, threads);
  const bool by_output = layer.blocks() >= 8 * parts || layer.blocks() >= rows;
  const int64_t fours = (layer.blocks() + 3) / 4;
  in_parts(parts, by_output ? fours : rows, [&](Range range) {
    if (by_output) layer.run(x, {0, rows}, {4 * range.first, std::min(layer.blocks(), 4 * range.last)});
    else layer.run(x, range, {0, layer.blocks()});
  });
  return true;
}

}  // namespace robustq
