// y = act(x W^T + bias) for packed codes on a matrix unit: panels of rows, blocks of outputs, threads.
//
// The activations of a panel are split into limbs once and stay in the second-level cache; the codes of a block of
// outputs are read again for each tile of rows, from that cache too.
#include "exact.h"

#include <algorithm>

#include "integer.h"
#include "kernel.h"
#include "matrix.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kPanelBytes = int64_t(1) << 20;  // activations of a panel, two tiles of rows at least

// What of a word counts, where `columns` (or more) columns are left from its first on.
uint32_t counted(int64_t columns) {
  return columns >= kLanes ? ~uint32_t(0) : columns <= 0 ? 0 : (uint32_t(1) << (2 * columns)) - 1;
}

class Layer {
 public:
  Layer(const ExactLayer& w, float* y)
      : w_(w), y_(y), unit_(*unit_current()), exact_(*exact_current()),
        tiles_(exact_.tile[w.words ? kWords : codes_in_bytes(w.bits, w.zero)]), words_((w.in + kLanes - 1) / kLanes),
        blocks_((w.out + kLanes - 1) / kLanes), width_((w.in + w.groups - 1) / w.groups),
        groups_((w.in + width_ - 1) / width_), parts_((w.in + 3) / 4),
        x_step_(exact_.limbs * kExactBytes), tile_size_((w.in + kExactStep - 1) / kExactStep * x_step_) {}

  int64_t blocks() const { return blocks_; }

  void run(const float* x, Range rows, Range blocks) const {
    const int64_t most = std::max<int64_t>(2, kPanelBytes / tile_size_ / 2 * 2) * kExactRows;
    const int64_t panel = std::min(most, rows.size());
    const Buffer<uint8_t> tiles = buffer<uint8_t>((panel + kExactRows - 1) / kExactRows * tile_size_);
    const Buffer<float> row_scale = buffer<float>(panel), scale = buffer<float>(w_.words ? groups_ * kExactOutputs : 1);
    for (int64_t first = rows.first; first < rows.last; first += most) {
      const int64_t count = std::min(most, rows.last - first);
      for (int64_t r = 0; r < count; r += kExactRows)
        exact_.split(x + (first + r) * w_.in, std::min<int64_t>(kExactRows, count - r), w_.in, !w_.words,
                     tiles.get() + r / kExactRows * tile_size_, row_scale.get() + r);
      multiply({tiles.get(), row_scale.get(), scale.get()}, {first, first + count}, blocks);
    }
    unit_.release();
  }

 private:
  struct Buffers {
    const uint8_t* tiles;
    const float* row_scale;
    float* scale;
  };

  // Tiles of rows two by two, and one alone, which takes twice as many outputs at a time.
  void multiply(const Buffers& at, Range rows, Range blocks) const {
    const int64_t tile = kExactRows;
    const int64_t pairs = rows.size() / (2 * tile) + (rows.size() % (2 * tile) > tile), paired = 2 * tile * pairs;
    int64_t configured = 0;
    for (int64_t block = blocks.first; pairs && block < blocks.last; block += 2) {
      ExactTile t = of_outputs(block, std::min(block + 2, blocks.last), at.scale);
      for (int64_t r = 0; r < paired; r += 2 * tile) {
        const int64_t second = std::min(tile, rows.size() - r - tile);
        if (second != configured) unit_.configure(tile, configured = second);
        t.x[0] = at.tiles + r / tile * tile_size_;
        t.x[1] = t.x[0] + tile_size_;
        of_rows(t, block, {rows.first + r, rows.first + r + tile + second}, at.row_scale + r);
        tiles_[kSquare](t);
      }
    }
    const int64_t alone = rows.size() - paired;
    if (alone <= 0) return;
    unit_.configure(alone, alone);
    for (int64_t block = blocks.first; block < blocks.last; block += 4) {
      ExactTile t = of_outputs(block, std::min(block + 4, blocks.last), at.scale);
      t.x[0] = at.tiles + paired / tile * tile_size_;
      of_rows(t, block, {rows.first + paired, rows.last}, at.row_scale + paired);
      tiles_[kNarrow](t);
    }
  }

  void of_rows(ExactTile& t, int64_t block, Range rows, const float* row_scale) const {
    t.row_scale = row_scale;
    t.y = y_ + rows.first * w_.out + block * kLanes;
    t.rows = rows.size();
  }

  // What a tile has of the layer: blocks of 16 outputs.
  ExactTile of_outputs(int64_t first, int64_t last, float* gathered) const {
    const int64_t output = first * kLanes;
    ExactTile t = {};
    t.outputs = std::min(w_.out, last * kLanes) - output;
    t.x_step = x_step_;
    t.steps = (w_.in + kExactStep - 1) / kExactStep;
    t.group_steps = (width_ + kExactStep - 1) / kExactStep;
    t.bias = w_.bias ? w_.bias + output : nullptr;
    t.ldy = w_.out;
    t.relu = w_.relu;
    if (w_.words) of_words(t, first, last, gathered);
    else of_bytes(t, first);
    return t;
  }

  void of_words(ExactTile& t, int64_t first, int64_t last, float* gathered) const {
    const int64_t rest = w_.in - (t.steps - 1) * kExactStep;
    t.last[0] = counted(rest);
    t.last[1] = counted(rest - kLanes);
    for (int b = 0; b < 4; ++b)  // a block that is not there is one that is, and goes nowhere
      t.words[b] = w_.words + std::min(first + b, last - 1) * words_ * kLanes;
    for (int64_t group = 0; group < groups_; ++group)
      for (int o = 0; o < t.outputs; ++o)
        gathered[group * kExactOutputs + o] = w_.scale[(first * kLanes + o) * w_.scale_output + group * w_.scale_group];
    t.scale = gathered;
    t.scale_group = kExactOutputs;
  }

  void of_bytes(ExactTile& t, int64_t first) const {
    t.codes = w_.codes + first / kFields * parts_ * 32 * w_.bits;
    t.parts = parts_;
    t.field = int(first % kFields);
    t.zero = w_.zero ? w_.zero + first * kLanes : nullptr;
    t.scale = w_.scale + first * kLanes * w_.scale_output;
    t.zero_group = t.scale_group = w_.scale_group;
  }

  const ExactLayer& w_;
  float* y_;
  const Unit& unit_;
  const ExactUnit& exact_;
  const ExactFn* tiles_;
  const int64_t words_, blocks_, width_, groups_;
  const int64_t parts_;  // steps of bytes of codes
  const int64_t x_step_, tile_size_;  // bytes of a tile of rows
};

}  // namespace

ExactCodes codes_in_bytes(int bits, bool zero) {
  if (bits == 2) return zero ? kTwoBitsZero : kTwoBits;
  return zero ? kFourBitsZero : kFourBits;
}

bool exact_by_unit(const ExactLayer& w, const float* x, int64_t rows, float* y, int threads) {
  const int64_t width = (w.in + w.groups - 1) / w.groups;
  if (!exact_current() || (w.groups > 1 && width % kExactStep != 0)) return false;
  if (integer_current().magnitude(x, rows * w.in) >= kNotFinite) return false;
  const Layer layer(w, y);
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
