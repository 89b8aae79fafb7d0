// A convolution in float32 on a matrix unit of halves: activations are sums of two or three numbers of 16 bits
// (exact.h), codes are one, products are exact, and sums are those of float32.
//
// Activations lie in padded lines as in products.cpp, [limb][image][line][pixel][channel]; limbs are more columns, with
// the same weights. Of float16, images are scaled by powers of two. An image that is not finite, or tiny throughout,
// goes to floats.cpp.
#include <algorithm>
#include <cstring>
#include <vector>

#include "convolution.h"
#include "exact.h"
#include "floats.h"
#include "grid.h"
#include "kernel.h"
#include "matrix.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kGroupTiles = 32;  // whose sums wait while the columns go by in sweeps
constexpr uint32_t kSmallest = uint32_t(127 - 60) << 23;  // 2^-60 as bits: below, limbs are too small for the unit

struct Images {
  Buffer<uint16_t> values;
  Buffer<float> factor;  // what gives sums their size again
};

class Halves : public Convolver {
 public:
  Halves(const Layer& layer, int64_t images)
      : layer_(layer), unit_(*halves_current()), isa_(floats_current()), limbs_(exact_current()->limbs),
        images_(images), plain_(in_floats(layer)) {
    const Convolution& c = layer.shape;
    const Lines lines = lines_of(c, images);
    channels_ = lines.channels;
    line_ = lines.line;
    sample_ = lines.sample;
    plane_ = lines.all;
    const bool whole = c.dilation_w == 1;  // a line of the kernel lies together
    run_ = (whole ? c.kernel_w : 1) * channels_ / 2;
    runs_ = whole ? c.kernel_h : c.kernel_h * c.kernel_w;
    parts_ = (run_ + kChunk - 1) / kChunk;
    steps_ = ((run_ + parts_ - 1) / parts_ + 1) / 2 * 2;
    for (int64_t run = 0; run < runs_; ++run) {
      const int64_t row = whole ? run : run / c.kernel_w, column = whole ? 0 : run % c.kernel_w;
      for (int64_t part = 0; part < parts_; ++part)
        for (int limb = 0; limb < limbs_; ++limb)
          offset_.push_back(2 * (row * c.dilation_h * line_ + column * c.dilation_w * channels_ + 2 * part * steps_ +
                                 limb * plane_));
    }
    grid_ = grid(images);
  }

  void run(const float* x, const float* residual, float* y, int64_t images, int threads) const override {
    const Convolution& c = layer_.shape;
    const int64_t size = c.height * c.width * c.channels, made = c.out_height() * c.out_width() * layer_.out;
    std::vector<uint32_t> most(size_t(images), 0);
    in_parts(parts_for(images * size, kRoundWork, threads), images, [&](Range range) {
      for (int64_t n = range.first; n < range.last; ++n)
        most[size_t(n)] = integer_current().magnitude(x + n * size, size);
    });
    const auto fits = [&](int64_t n) { return most[size_t(n)] >= kSmallest && most[size_t(n)] < kNotFinite; };
    for (int64_t first = 0, last; first < images; first = last) {
      for (last = first + 1; last < images && fits(last) == fits(first);) ++last;
      const float* added = residual ? residual + first * made : nullptr;
      if (fits(first))
        by_unit(x + first * size, &most[size_t(first)], added, y + first * made, last - first, threads);
      else
        plain_->run(x + first * size, added, y + first * made, last - first, threads);
    }
  }

 private:
  Grid grid(int64_t images) const { return grid_of(layer_.shape, images, line_, sample_, channels_, true); }
  bool bf16() const { return limbs_ == 3; }

  // The power of two that brings this magnitude to 2^14 ... 2^15, as far as float32 has it; 1 for bfloat16.
  float power(uint32_t magnitude) const {
    const int exponent = int(magnitude >> 23) - 127;
    const uint32_t bits = uint32_t((bf16() ? 0 : std::min(14 - exponent, 126)) + 127) << 23;
    float made;
    std::memcpy(&made, &bits, sizeof made);
    return made;
  }

  void split(const float* x, const uint32_t* most, int64_t images, int threads, Images& to) const {
    const Convolution& c = layer_.shape;
    to.values = buffer<uint16_t>(limbs_ * plane_);
    to.factor = buffer<float>(images);
    std::memset(to.values.get(), 0, size_t(limbs_ * plane_) * sizeof(uint16_t));
    in_parts(parts_for(images * sample_, kRoundWork, threads), images, [&](Range range) {
      for (int64_t n = range.first; n < range.last; ++n) {
        const float factor = power(most[n]);
        to.factor[size_t(n)] = 1.0f / factor;
        const bool dense = channels_ == c.channels;
        const int64_t count = dense ? c.width * channels_ : c.channels;
        for (int64_t h = 0; h < c.height; ++h) {
          const float* from = x + (n * c.height + h) * c.width * c.channels;
          uint16_t* at = to.values.get() + n * sample_ + (h + c.pad_h) * line_ + c.pad_w * channels_;
          for (int64_t v = 0; v < (dense ? 1 : c.width); ++v, from += count, at += channels_)
            unit_.split(from, count, factor, bf16(), at, plane_);
        }
      }
    });
  }

  // Parts [first, first + count) of a block's weights.
  void decode(int64_t block, int64_t first, int64_t count, uint8_t* to) const {
    const int64_t step_bytes = 32 * layer_.bits;
    const uint8_t* codes = layer_.codes + block * (layer_.columns() / 4) * step_bytes;
    for (int64_t part = first; part < first + count; ++part, to += steps_ * kDecodedStep) {
      const int64_t from = part % parts_ * steps_, steps = std::min(steps_, run_ - from);
      unit_.decode(codes + (part / parts_ * run_ + from) / 2 * step_bytes, layer_.bits, steps / 2, bf16(), to);
      std::memset(to + steps * kDecodedStep, 0, size_t((steps_ - steps) * kDecodedStep));
    }
  }

  void by_unit(const float* x, const uint32_t* most, const float* residual, float* y, int64_t images,
               int threads) const {
    Grid fewer;
    if (images != images_) fewer = grid(images);
    const Grid& places = images == images_ ? grid_ : fewer;
    Images from;
    split(x, most, images, threads, from);
    const int64_t tiles = places.size() / kTileRows, blocks = (layer_.out + kOutputs - 1) / kOutputs;
    const int64_t parts = parts_for(places.size() * layer_.out * layer_.columns(), 2 * kThreadWork, threads);
    const bool by_output = blocks >= 2 * parts;
    in_parts(parts, by_output ? blocks : tiles, [&](Range range) {
      const Range own = by_output ? range : Range{0, blocks}, all = by_output ? Range{0, tiles} : range;
      for (int64_t block = own.first; block < own.last; ++block) multiply(block, from, places, all, residual, y);
    });
  }

  // Tiles of positions. Columns that the first-level cache cannot hold go by in sweeps, while the sums wait.
  void multiply(int64_t block, const Images& from, const Grid& grid, Range tiles, const float* residual,
                float* y) const {
    const int64_t outputs = std::min<int64_t>(kOutputs, layer_.out - block * kOutputs), all = runs_ * parts_;
    const int fields = outputs > 32 ? 4 : outputs > 16 ? 2 : 1;
    const int64_t at_once = 4 / fields, sweep = std::min(all, kSweepChunks);
    const int64_t together = sweep < all ? kGroupTiles : tiles.size(), tile_sums = kTileRows * 16 * fields;
    const Buffer<uint8_t> weights = buffer<uint8_t>(sweep * steps_ * kDecodedStep);
    const Buffer<float> sums = buffer<float>(tile_sums * (sweep < all ? kGroupTiles + at_once : at_once));
    unit_current()->configure_window(int(steps_));
    for (int64_t group = tiles.first; group < tiles.last; group += together)
      for (int64_t part = 0; part < all; part += sweep) {
        const int64_t count = std::min(sweep, all - part), end = std::min(tiles.last, group + together);
        if (sweep < all || group == tiles.first) decode(block, part, count, weights.get());
        for (int64_t t = group; t < end; t += at_once) {
          const int64_t used = std::min(at_once, end - t);
          float* sum = sums.get() + (sweep < all ? (t - group) * tile_sums : 0);
          UnitWindow window = {};
          for (int64_t i = 0; i < at_once; ++i)  // a missing tile is the last one again
            window.x[i] = reinterpret_cast<const int8_t*>(
                from.values.get() + grid.offset[size_t((t + std::min(i, used - 1)) * kTileRows)]);
          window.pitch = 2 * layer_.shape.stride_w * channels_;
          window.weights = weights.get();
          window.offset = &offset_[size_t(part * limbs_)];
          window.parts = count * limbs_;
          window.part_bytes = steps_ * kDecodedStep;
          window.limbs = limbs_;
          window.sum = reinterpret_cast<int32_t*>(sum);
          window.add = part > 0;
          unit_.window(window, fields, bf16());
          if (part + count == all)
            settle(block, sum, 16 * fields, from, grid, {t * kTileRows, (t + used) * kTileRows}, residual, y);
        }
      }
    unit_current()->release();
  }

  // Rows of the grid, as many at a time as lie together in y and are of one image.
  void settle(int64_t block, const float* sum, int64_t line, const Images& from, const Grid& grid, Range rows,
              const float* residual, float* y) const {
    const int64_t output = block * kOutputs, outputs = std::min<int64_t>(kOutputs, layer_.out - output);
    for (int64_t r = rows.first, next; r < rows.last; r = next) {
      next = r + 1;
      const int64_t target = grid.target[size_t(r)], image = grid.image[size_t(r)];
      if (target < 0) continue;
      while (next < rows.last && grid.target[size_t(next)] == target + next - r &&
             grid.image[size_t(next)] == image)
        ++next;
      const int64_t at = target * layer_.out + output;
      isa_.settle({sum + (r - rows.first) * line, line, layer_.scale + output,
                   layer_.bias ? layer_.bias + output : nullptr, residual ? residual + at : nullptr, y + at, layer_.out,
                   next - r, outputs, layer_.relu, from.factor[size_t(image)]});
    }
  }

  Layer layer_;
  const UnitHalves& unit_;
  const Floats& isa_;
  int limbs_;
  int64_t images_;
  std::unique_ptr<Convolver> plain_;
  int64_t channels_;       // rounded up to four
  int64_t line_, sample_;  // values of a padded line and of a padded image
  int64_t plane_;          // values of a limb of `images_` images
  int64_t run_, runs_;     // steps of two columns that lie together in x, and how often
  int64_t parts_, steps_;  // of a run: equal parts of an even number of steps, the last one filled up with zeros
  std::vector<int64_t> offset_;  // of each part and limb, in bytes
  Grid grid_;
};

}  // namespace

std::unique_ptr<Convolver> in_halves(const Layer& layer, int64_t images) {
  if (layer.groups > 1 || !exact_current() || !halves_current()) return nullptr;
  return std::make_unique<Halves>(layer, images);
}

}  // namespace robustq
