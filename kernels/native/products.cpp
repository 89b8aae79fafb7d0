// A convolution as a product of matrices of integers, fused with bias, residual and ReLU.
//
// Activations are rounded image by image into padded lines, channels last: [plane][image][line][pixel][channel]. The
// padding on the right of a line is that on the left of the next one, and so for images. So the first activations of
// output positions in a row lie at equal distances, and a matrix unit reads its tiles where they are: nothing is copied.
#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "convolution.h"
#include "grid.h"
#include "kernel.h"
#include "matrix.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kGroupTiles = 32;               // whose sums wait while the columns go by in sweeps
constexpr int kFinest = 16;                       // outputs of a block of grouped channels

struct Activations {
  Buffer<int8_t> values;
  Buffer<float> scale;
};

class Products : public Convolver {
 public:
  Products(const Layer& layer, int planes, int64_t images);
  void run(const float* x, const float* residual, float* y, int64_t images, int threads) const override;

 private:
  struct Block {
    int64_t first, outputs;  // of the layer
    int64_t channel;         // the first that is read
    int64_t run, runs;       // steps that lie together in x, and how often
    int64_t parts, steps;    // of a run: equal parts, the last one filled up with zeros, for a matrix unit's tiles
  };

  Grid grid(int64_t images) const {
    return grid_of(layer_.shape, images, line_, sample_, channels_, unit_ != nullptr);
  }
  void round(const float* x, int64_t images, int threads, Activations& to) const;
  void decode(const Block& block, int64_t first, int64_t count, uint8_t* to, int32_t* excess) const;
  void spread(const Block& block, uint8_t* to, int32_t* excess) const;
  void by_rows(const Block& block, const Activations& from, const Grid& grid, int64_t first, int64_t last,
               const float* residual, float* y) const;
  void by_unit(const Block& block, const Activations& from, const Grid& grid, int64_t first, int64_t last,
               const float* residual, float* y) const;
  int64_t run_offset(const Block& block, int64_t run) const;

  Layer layer_;
  int planes_;
  const Integer& isa_;
  const Unit* unit_;  // null: none
  int64_t images_;
  int64_t channels_;       // rounded up to four
  int64_t line_, sample_;  // bytes of a padded line and of a padded image
  int64_t plane_;          // bytes of a plane of `images_` images
  std::vector<Block> blocks_;
  Grid grid_;
};

Products::Products(const Layer& layer, int planes, int64_t images)
    : layer_(layer), planes_(planes), isa_(integer_current()), unit_(unit_current()), images_(images) {
  const Convolution& c = layer.shape;
  const Lines lines = lines_of(c, images);
  channels_ = lines.channels;
  line_ = lines.line;
  sample_ = lines.sample;
  plane_ = lines.all;
  const int64_t in = c.channels / layer.groups, out = layer.out / layer.groups;
  const int64_t taps = c.kernel_h * c.kernel_w;
  for (int64_t o = 0; o < layer.out;) {
    const int64_t outputs = std::min<int64_t>(layer.groups == 1 ? kOutputs : kFinest, layer.out - o);
    const int64_t first = o / out * in / 4 * 4, last = ((o + outputs - 1) / out + 1) * in;
    const bool whole = layer.groups == 1 && c.dilation_w == 1;
    const int64_t steps = (last - first + 3) / 4;
    const int64_t run = whole ? c.kernel_w * steps : steps;
    const int64_t parts = unit_ ? (run + kChunk - 1) / kChunk : 1;
    blocks_.push_back({o, outputs, first, run, whole ? c.kernel_h : taps, parts, (run + parts - 1) / parts});
    o += outputs;
  }
  grid_ = grid(images);
}

void Products::round(const float* x, int64_t images, int threads, Activations& to) const {
  const Convolution& c = layer_.shape;
  const int zero = unit_ ? 0 : -128;  // 0, plus 128 where activations are the unsigned operand
  const int64_t size = c.height * c.width * c.channels;
  to.values = buffer<int8_t>(planes_ * plane_);
  to.scale = buffer<float>(images);
  std::memset(to.values.get(), zero, size_t(planes_ * plane_));
  in_parts(parts_for(images * size, kRoundWork, threads), images, [&](Range range) {
    for (int64_t n = range.first; n < range.last; ++n) {
      const RowScale s = row_scale(isa_, x + n * size, size, planes_);
      to.scale[size_t(n)] = s.scale;
      if (s.factor == 0.0f) continue;
      for (int64_t h = 0; h < c.height; ++h) {
        const float* from = x + n * size + h * c.width * c.channels;
        int8_t* high = to.values.get() + n * sample_ + (h + c.pad_h) * line_ + c.pad_w * channels_;
        const bool dense = channels_ == c.channels;
        const int64_t count = dense ? c.width * channels_ : c.channels;
        for (int64_t v = 0; v < (dense ? 1 : c.width); ++v, from += count, high += channels_)
          isa_.quantize(from, count, s.factor, -zero, high, planes_ == 2 ? high + plane_ : nullptr);
      }
    }
  });
}

// The first activation of a run, in bytes from that of the output position.
int64_t Products::run_offset(const Block& block, int64_t run) const {
  const Convolution& c = layer_.shape;
  if (block.runs == c.kernel_h) return run * c.dilation_h * line_ + block.channel;  // whole, or a kernel of width 1
  return run / c.kernel_w * c.dilation_h * line_ + run % c.kernel_w * c.dilation_w * channels_ + block.channel;
}

// Parts [first, first + count) of a block's runs as signed codes [part][steps][256].
void Products::decode(const Block& block, int64_t first, int64_t count, uint8_t* to, int32_t* excess) const {
  const int64_t step_bytes = 32 * layer_.bits;
  const uint8_t* codes = layer_.codes + block.first / kOutputs * (layer_.columns() / 4) * step_bytes;
  if (block.parts * block.steps == block.run) {
    isa_.decode[layer_.bits / 4](codes + first * block.steps * step_bytes, count * block.steps, to, excess);
    return;
  }
  for (int64_t part = first; part < first + count; ++part, to += block.steps * kDecodedStep) {
    const int64_t from = part % block.parts * block.steps, steps = std::min(block.steps, block.run - from);
    isa_.decode[layer_.bits / 4](codes + (part / block.parts * block.run + from) * step_bytes, steps, to, excess);
    std::memset(to + steps * kDecodedStep, 0, size_t((block.steps - steps) * kDecodedStep));
  }
}

// The same, all of it, for grouped channels: what an output reads of its own group, among the channels of the block.
void Products::spread(const Block& block, uint8_t* to, int32_t* excess) const {
  const Convolution& c = layer_.shape;
  const int64_t in = c.channels / layer_.groups, out = layer_.out / layer_.groups, steps = layer_.columns() / 4;
  const int64_t taps = c.kernel_h * c.kernel_w, wide = (in + 3) / 4 * 4, pad = block.parts * block.steps;
  const Buffer<uint8_t> own = buffer<uint8_t>(steps * kDecodedStep);
  int32_t sums[kOutputs];
  isa_.decode[layer_.bits / 4](layer_.codes + block.first / kOutputs * steps * 32 * layer_.bits, steps, own.get(),
                               sums);
  std::memset(to, 0, size_t(block.runs * pad * kDecodedStep));
  for (int64_t i = 0; i < block.outputs; ++i) {
    const int64_t o = block.first + i, lane = o % kOutputs / 16 * 64 + 4 * (o % 16);
    excess[i] = 0;
    for (int64_t tap = 0; tap < taps; ++tap)
      for (int64_t channel = 0; channel < in; ++channel) {
        const int64_t column = tap * wide + channel, place = o / out * in + channel - block.channel;
        const uint8_t code = own[size_t(column / 4 * kDecodedStep + lane + column % 4)];
        to[(tap * pad + place / 4) * kDecodedStep + 4 * i + place % 4] = code;
        excess[i] += 128 * int8_t(code);
      }
  }
}

// Positions [first, last) of the grid, row by row.
void Products::by_rows(const Block& block, const Activations& from, const Grid& grid, int64_t first, int64_t last,
                        const float* residual, float* y) const {
  const int width = block.outputs > 32 ? 2 : block.outputs > 16 ? 1 : 0;
  const auto& tile = isa_.tile[2][width];
  const int64_t most = most_planes(tile) / planes_;
  const Buffer<uint8_t> codes = buffer<uint8_t>(block.run * block.runs * kDecodedStep);
  int32_t excess[kOutputs], sum[kMaxPlanes * kOutputs];
  if (layer_.groups == 1) decode(block, 0, block.runs, codes.get(), excess);
  else spread(block, codes.get(), excess);
  std::vector<Segment> segments;
  for (int64_t run = 0; run < block.runs; ++run) segments.push_back({run_offset(block, run), block.run});
  const int64_t tiles = (last - first + most - 1) / most;
  for (int64_t t = 0; t < tiles; ++t) {  // even tiles: 16 rows are 6 + 5 + 5, not 6 + 6 + 4
    const int64_t row = first + (last - first) * t / tiles, rows = first + (last - first) * (t + 1) / tiles - row;
    const int8_t* x[kMaxPlanes];
    for (int64_t r = 0; r < rows; ++r)
      for (int plane = 0; plane < planes_; ++plane)
        x[r * planes_ + plane] = from.values.get() + plane * plane_ + grid.offset[size_t(row + r)];
    tile[rows * planes_]({x, segments.data(), block.runs, codes.get(), sum});
    isa_.settle({sum, kOutputs, excess, layer_.scale + block.first,
                 layer_.bias ? layer_.bias + block.first : nullptr, from.scale.get(), &grid.target[size_t(row)],
                 &grid.image[size_t(row)], residual ? residual + block.first : nullptr, y + block.first, layer_.out,
                 planes_, int(rows), int(block.outputs), layer_.relu});
  }
}

// Positions [first, last), multiples of 16, on the matrix unit. Columns that the first-level cache cannot hold go by in
// sweeps, while the sums of some tiles wait.
void Products::by_unit(const Block& block, const Activations& from, const Grid& grid, int64_t first, int64_t last,
                        const float* residual, float* y) const {
  const int fields = block.outputs > 32 ? 4 : block.outputs > 16 ? 2 : 1;
  const int64_t at_once = std::max(1, 4 / fields / planes_);  // tiles
  const int64_t parts = block.runs * block.parts, sweep = layer_.groups == 1 ? std::min(parts, kSweepChunks) : parts;
  const int64_t tiles = (last - first) / kTileRows, together = sweep < parts ? kGroupTiles : tiles;
  const int64_t tile_sums = kTileRows * planes_ * 16 * fields;
  const Buffer<uint8_t> codes = buffer<uint8_t>(sweep * block.steps * kDecodedStep);
  const Buffer<int32_t> sums = buffer<int32_t>(tile_sums * (sweep < parts ? kGroupTiles : at_once));
  std::vector<int64_t> offset;
  for (int64_t part = 0; part < parts; ++part)
    offset.push_back(run_offset(block, part / block.parts) + 4 * block.steps * (part % block.parts));
  int32_t excess[kOutputs];
  unit_->configure_window(int(block.steps));
  for (int64_t group = 0; group < tiles; group += together)
    for (int64_t part = 0; part < parts; part += sweep) {
      const int64_t count = std::min(sweep, parts - part);
      if (layer_.groups > 1) spread(block, codes.get(), excess);
      else decode(block, part, count, codes.get(), excess);
      for (int64_t t = group; t < std::min(tiles, group + together); t += at_once) {
        const int64_t used = std::min(at_once, tiles - t), row = first + t * kTileRows;
        UnitWindow window = {};
        for (int64_t i = 0; i < at_once; ++i)  // a missing tile is the last one again
          for (int plane = 0; plane < planes_; ++plane)
            window.x[i * planes_ + plane] = from.values.get() + plane * plane_ +
                                            grid.offset[size_t(row + std::min(i, used - 1) * kTileRows)];
        window.pitch = layer_.shape.stride_w * channels_;
        window.weights = codes.get();
        window.offset = &offset[size_t(part)];
        window.parts = count;
        window.limbs = 1;
        window.part_bytes = block.steps * kDecodedStep;
        window.sum = sums.get() + (sweep < parts ? (t - group) * tile_sums : 0);
        window.add = part > 0;
        unit_->window(window, planes_, fields);
        if (part + count < parts) continue;
        isa_.settle({window.sum, 16 * fields, nullptr, layer_.scale + block.first,
                     layer_.bias ? layer_.bias + block.first : nullptr, from.scale.get(), &grid.target[size_t(row)],
                     &grid.image[size_t(row)], residual ? residual + block.first : nullptr, y + block.first, layer_.out,
                     planes_, int(used * kTileRows), int(block.outputs), layer_.relu});
      }
    }
  unit_->release();
}

void Products::run(const float* x, const float* residual, float* y, int64_t images, int threads) const {
  Grid fewer;
  if (images != images_) fewer = grid(images);
  const Grid& places = images == images_ ? grid_ : fewer;
  Activations from;
  round(x, images, threads, from);
  const int64_t unit_rows = unit_ ? kTileRows : 1, rows = places.size() / unit_rows;
  const int64_t blocks = int64_t(blocks_.size());
  const int64_t parts = parts_for(places.size() * layer_.out * layer_.columns(), 4 * kThreadWork, threads);
  const bool by_output = blocks >= 2 * parts;
  in_parts(parts, by_output ? blocks : rows, [&](Range range) {
    const Range own = by_output ? range : Range{0, blocks};
    const Range some = {range.first * unit_rows, range.last * unit_rows};
    const Range positions = by_output ? Range{0, places.size()} : some;
    for (int64_t block = own.first; block < own.last; ++block)
      (this->*(unit_ ? &Products::by_unit : &Products::by_rows))(blocks_[size_t(block)], from, places,
                                                                    positions.first, positions.last, residual, y);
  });
}

}  // namespace

std::unique_ptr<Convolver> by_products(const Layer& layer, int planes, int64_t images) {
  return std::make_unique<Products>(layer, planes, images);
}

}  // namespace robustq
