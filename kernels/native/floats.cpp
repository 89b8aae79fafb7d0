// A convolution in float32 from packed codes: codes are decoded some columns at a time, for many output positions.
//
// x is copied into lines with its padding around, unless there is none. Columns go in pieces, whose decoded weights stay
// in the second-level cache while the positions go by; short sums, added up, also bound the rounding.
#include <algorithm>
#include <cstring>
#include <vector>

#include "convolution.h"
#include "floats.h"
#include "kernel.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kPieceColumns = 512;
constexpr int64_t kGroupPositions = 1024;  // whose sums wait while the pieces go by

struct Block {
  int64_t first, outputs;  // within a block of 64 of the codes
  int64_t channel;         // the first that is read
};

struct Part {
  std::vector<Columns> columns;
  std::vector<int64_t> steps;  // of the codes, where each begins
  int64_t count = 0;           // columns
};

class Exact : public Convolver {
 public:
  explicit Exact(const Layer& layer)
      : layer_(layer), isa_(floats_current()), in_(layer.shape.channels / layer.groups) {
    const Convolution& c = layer.shape;
    line_ = (c.width + 2 * c.pad_w) * c.channels;
    sample_ = (c.height + 2 * c.pad_h) * line_;
    const int64_t out = layer.out / layer.groups;
    for (int64_t o = 0; o < layer.out;) {
      const int64_t end = std::min(o / kOutputs * kOutputs + kOutputs, (o / out + 1) * out);
      blocks_.push_back({o, std::min(end, layer.out) - o, o / out * in_});
      o = end;
    }
    const bool whole = layer.groups == 1 && c.dilation_w == 1 && in_ % 4 == 0;  // a line of the kernel lies together
    for (int64_t i = 0; i < c.kernel_h; ++i)
      for (int64_t j = 0; j < (whole ? 1 : c.kernel_w); ++j)
        add(i * c.dilation_h * line_ + j * c.dilation_w * c.channels, whole ? c.kernel_w * in_ : in_,
            (i * c.kernel_w + j) * ((in_ + 3) / 4));
  }

  void run(const float* x, const float* residual, float* y, int64_t images, int threads) const override {
    const Convolution& c = layer_.shape;
    const int64_t positions = images * c.out_height() * c.out_width(), blocks = int64_t(blocks_.size());
    Buffer<float> padded;
    if (c.pad_h || c.pad_w) {
      padded = pad(x, images, threads);
      x = padded.get();
    }
    const int64_t parts = parts_for(positions * layer_.out * layer_.columns(), kThreadWork, threads);
    const bool by_output = blocks >= 2 * parts;
    in_parts(parts, by_output ? blocks : positions, [&](Range range) {
      const Range own = by_output ? range : Range{0, blocks}, all = by_output ? Range{0, positions} : range;
      for (int64_t first = all.first; first < all.last; first += kGroupPositions) {
        const Range group = {first, std::min(all.last, first + kGroupPositions)};
        const std::vector<const float*> starts = windows(x, group);
        for (int64_t block = own.first; block < own.last; ++block)
          multiply(blocks_[size_t(block)], starts.data(), group, residual, y);
      }
    });
  }

 private:
  // Columns of activations that lie together, cut where a piece is full, at a whole step.
  void add(int64_t offset, int64_t count, int64_t step) {
    while (count > 0) {
      if (pieces_.empty() || pieces_.back().count + 4 > kPieceColumns) pieces_.emplace_back();
      Part& piece = pieces_.back();
      const int64_t most = std::min(count, (kPieceColumns - piece.count) / 4 * 4);
      piece.columns.push_back({offset, most});
      piece.steps.push_back(step);
      piece.count += most;
      offset += most;
      step += most / 4;
      count -= most;
    }
  }

  Buffer<float> pad(const float* x, int64_t images, int threads) const {
    const Convolution& c = layer_.shape;
    const int64_t width = c.width * c.channels, side = c.pad_w * c.channels, lines = c.height + 2 * c.pad_h;
    Buffer<float> padded = buffer<float>(images * sample_);
    in_parts(parts_for(images * sample_, kRoundWork, threads), images * lines, [&](Range range) {
      for (int64_t line = range.first; line < range.last; ++line) {
        float* to = padded.get() + line * line_;
        const int64_t h = line % lines - c.pad_h;
        if (h < 0 || h >= c.height) {
          std::memset(to, 0, size_t(line_) * sizeof(float));
          continue;
        }
        std::memset(to, 0, size_t(side) * sizeof(float));
        std::memcpy(to + side, x + (line / lines * c.height + h) * width, size_t(width) * sizeof(float));
        std::memset(to + side + width, 0, size_t(side) * sizeof(float));
      }
    });
    return padded;
  }

  // A piece of a block's weights, [column][lanes].
  void decode(const Block& block, const Part& piece, int64_t lanes, float* to) const {
    const int64_t step_bytes = 32 * layer_.bits, skip = block.first % kOutputs;
    const uint8_t* codes = layer_.codes + block.first / kOutputs * (layer_.columns() / 4) * step_bytes;
    Buffer<float> every;  // output of the block of codes, where it is shared by groups of channels
    if (skip || layer_.groups > 1) every = buffer<float>(piece.count * kOutputs);
    for (size_t i = 0; i < piece.columns.size(); ++i, to += piece.columns[i - 1].count * lanes) {
      const uint8_t* from = codes + piece.steps[i] * step_bytes;
      const int64_t count = piece.columns[i].count;
      if (!every) {
        isa_.decode[layer_.bits / 4](from, count, int(lanes / 16), to, lanes);
        continue;
      }
      isa_.decode[layer_.bits / 4](from, count, kFields, every.get(), kOutputs);
      for (int64_t k = 0; k < count; ++k)
        std::memcpy(to + k * lanes, every.get() + k * kOutputs + skip, size_t(block.outputs) * sizeof(float));
    }
  }

  // The first activation of each output position.
  std::vector<const float*> windows(const float* x, Range positions) const {
    const Convolution& c = layer_.shape;
    const int64_t out_w = c.out_width(), out_h = c.out_height(), step = c.stride_w * c.channels;
    std::vector<const float*> starts;
    starts.reserve(size_t(positions.size()));
    int64_t row = positions.first / out_w, v = positions.first % out_w;
    while (int64_t(starts.size()) < positions.size()) {
      const float* line = x + row / out_h * sample_ + row % out_h * c.stride_h * line_;
      for (; v < out_w && int64_t(starts.size()) < positions.size(); ++v) starts.push_back(line + v * step);
      v = 0;
      ++row;
    }
    return starts;
  }

  void multiply(const Block& block, const float* const* starts, Range positions, const float* residual, float* y) const {
    const int64_t lanes = (block.outputs + 15) / 16 * 16;
    int64_t most = kMostRows;
    while (!isa_.tile[0][most]) --most;
    const int64_t tiles = (positions.size() + most - 1) / most;
    const bool several = pieces_.size() > 1;
    const Buffer<float> weights = buffer<float>(std::min(kPieceColumns, layer_.columns()) * lanes);
    const Buffer<float> sums = buffer<float>((several ? positions.size() : most) * lanes);
    if (layer_.groups > 1) std::fill_n(weights.get(), std::min(kPieceColumns, layer_.columns()) * lanes, 0.0f);
    for (size_t p = 0; p < pieces_.size(); ++p) {
      const Part& piece = pieces_[p];
      decode(block, piece, lanes, weights.get());
      for (int64_t t = 0; t < tiles; ++t) {  // even tiles: 16 rows are 8 + 8, not 12 + 4
        const int64_t first = positions.size() * t / tiles, rows = positions.size() * (t + 1) / tiles - first;
        const int64_t at = (positions.first + first) * layer_.out + block.first;
        const float* row[kMostRows];
        for (int64_t r = 0; r < rows; ++r) row[r] = starts[first + r] + block.channel;
        float* sum = sums.get() + (several ? first * lanes : 0);
        for (int64_t lane = 0; lane < lanes;) {
          const bool wide = lane + 32 <= lanes && isa_.tile[1][rows];
          isa_.tile[wide][rows]({row, piece.columns.data(), int64_t(piece.columns.size()), weights.get() + lane,
                                 sum + lane, lanes, p > 0});
          lane += wide ? 32 : 16;
        }
        if (p + 1 < pieces_.size()) continue;
        isa_.settle({sum, lanes, layer_.scale + block.first, layer_.bias ? layer_.bias + block.first : nullptr,
                     residual ? residual + at : nullptr, y + at, layer_.out, rows, block.outputs, layer_.relu});
      }
    }
  }

  Layer layer_;
  const Floats& isa_;
  int64_t in_;             // channels of a group
  int64_t line_, sample_;  // values of a padded line and of a padded image
  std::vector<Block> blocks_;
  std::vector<Part> pieces_;
};

}  // namespace

std::unique_ptr<Convolver> in_floats(const Layer& layer) { return std::make_unique<Exact>(layer); }

}  // namespace robustq
