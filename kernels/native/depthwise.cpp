// Convolutions of few channels a group (depthwise above all): each lane multiplies what its output reads, no more.
//
// Lines are rounded into a ring of as many as a line of outputs reads, in blocks of 16 lanes, so that what a block reads
// is in the first-level cache: x is read once for its scale and once more here, and no rounded image is written out.
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

// Sums of float32 are exact up to 2^24.
bool exact(const Layer& layer, int planes) {
  const Convolution& c = layer.shape;
  const double most = double(c.kernel_h) * double(c.kernel_w) * double(c.channels / layer.groups);
  return most * (layer.bits == 2 ? 2 : 8) * (planes == 2 ? 32512 : 127) < double(1 << 24);
}

class Lanes : public Convolver {
 public:
  Lanes(const Layer& layer, int planes)
      : layer_(layer), planes_(planes), isa_(integer_current()), floats_(floats_current()),
        in_(layer.shape.channels / layer.groups) {
    const Convolution& c = layer.shape;
    reach_ = (c.kernel_h - 1) * c.dilation_h + 1;
    lines_ = std::min(reach_, c.height);
    pixels_ = (c.out_width() - 1) * c.stride_w + (c.kernel_w - 1) * c.dilation_w + 1;
    taps_ = c.kernel_h * c.kernel_w * in_;
    lanes_ = (layer.out + kLaneBlock - 1) / kLaneBlock * kLaneBlock;
    decode();
    if (!layer.bias) return;
    bias_ = zeros(lanes_);
    std::copy_n(layer.bias, layer.out, bias_.get());
  }

  void run(const float* x, const float* residual, float* y, int64_t images, int threads) const override {
    const Convolution& c = layer_.shape;
    const int64_t size = c.height * c.width * c.channels, out_h = c.out_height(), line = c.out_width() * layer_.out;
    const Buffer<RowScale> scale = buffer<RowScale>(images);
    std::fill_n(scale.get(), images, RowScale{1.0f, 0.0f});
    if (planes_)
      in_parts(parts_for(images * size, kRoundWork, threads), images, [&](Range range) {
        for (int64_t n = range.first; n < range.last; ++n)
          scale[size_t(n)] = row_scale(isa_, x + n * size, size, planes_);
      });
    const int64_t parts = parts_for(images * out_h * line * taps_, kThreadWork, threads);
    const int64_t cuts = images < parts ? std::min(out_h, parts) : 1;  // shares of an image, some lines each
    in_parts(parts, images * cuts, [&](Range range) {
      Ring ring(*this);
      for (int64_t share = range.first; share < range.last; ++share) {
        const int64_t n = share / cuts, cut = share % cuts, at = n * out_h * line;
        stretch(x + n * size, scale[size_t(n)], {out_h * cut / cuts, out_h * (cut + 1) / cuts}, ring,
                residual ? residual + at : nullptr, y + at);
      }
    });
  }

 private:
  struct Ring {
    explicit Ring(const Lanes& of)
        : block(of.pixels_ * of.in_ * kLaneBlock), line(block * of.lanes_ / kLaneBlock),
          values(zeros((of.lines_ + 1) * line)), scale(zeros(of.lanes_)), tap(size_t(of.taps_)) {
      if (!of.plain()) rounded = buffer<float>(of.layer_.shape.width * of.layer_.shape.channels);
    }
    float* at(int64_t index) const { return values.get() + index * line; }
    int64_t block, line;
    Buffer<float> values;   // the lines, and one of zeros: [block][pixel][channel of the group][lane]; padding stays 0
    Buffer<float> scale;
    std::vector<const float*> tap;
    Buffer<float> rounded;  // unless lanes are channels: a line of the image
  };

  static Buffer<float> zeros(int64_t count) {
    Buffer<float> made = buffer<float>(count);
    std::fill_n(made.get(), count, 0.0f);
    return made;
  }

  bool plain() const { return in_ == 1 && layer_.out == layer_.groups; }  // lanes are channels

  // Codes as float32, [block][tap][lane]; the channels of a tap are a step.
  void decode() {
    const int64_t steps = layer_.columns() / 4;
    codes_ = zeros(taps_ * lanes_);
    const Buffer<uint8_t> own = buffer<uint8_t>(steps * kDecodedStep);
    int32_t excess[kOutputs];
    for (int64_t first = 0; first < layer_.out; first += kOutputs) {
      const uint8_t* from_codes = layer_.codes + first / kOutputs * steps * 32 * layer_.bits;
      isa_.decode[layer_.bits / 4](from_codes, steps, own.get(), excess);
      for (int64_t from = first; from < std::min(first + kOutputs, layer_.out); from += kLaneBlock) {
        float* to = codes_.get() + from * taps_;
        for (int64_t step = 0; step < steps; ++step) {
          uint32_t word[kLaneBlock];  // four channels of an output
          std::memcpy(word, own.get() + step * kDecodedStep + 4 * (from - first), sizeof word);
          for (int64_t channel = 0; channel < in_; ++channel, to += kLaneBlock)
            for (int i = 0; i < kLaneBlock; ++i) to[i] = float(int32_t(word[i] << (24 - 8 * channel)) >> 24);
        }
      }
    }
  }

  // A line of x, as the lanes read it.
  void round(const float* x, float factor, Ring& ring, float* to) const {
    const Convolution& c = layer_.shape;
    const int64_t pixel = in_ * kLaneBlock, each = layer_.out / layer_.groups;
    const int64_t wanted = std::min(c.width, pixels_ - c.pad_w);  // beyond, no output reads
    to += c.pad_w * pixel;
    if (plain()) {
      floats_.lane_round({x, c.channels, wanted, c.channels, factor, to, pixel, ring.block});
      return;
    }
    floats_.lane_round({x, c.channels, wanted, c.channels, factor, ring.rounded.get(), c.channels, kLaneBlock});
    for (int64_t first = 0; first < layer_.out; first += kLaneBlock, to += ring.block) {
      int64_t source[kLaneBlock];
      const int64_t count = std::min<int64_t>(kLaneBlock, layer_.out - first);
      for (int64_t i = 0; i < count; ++i) source[i] = (first + i) / each * in_;
      for (int64_t v = 0; v < wanted; ++v)
        for (int64_t channel = 0; channel < in_; ++channel) {
          const float* from = ring.rounded.get() + v * c.channels + channel;
          for (int64_t i = 0; i < count; ++i) to[v * pixel + channel * kLaneBlock + i] = from[source[i]];
        }
    }
  }

  // Lines `rows` of the outputs of an image.
  void stretch(const float* x, RowScale scale, Range rows, Ring& ring, const float* residual, float* y) const {
    const Convolution& c = layer_.shape;
    const int64_t count = c.out_width() * layer_.out;
    const bool some = scale.factor != 0.0f || !planes_;  // values other than zero
    for (int64_t i = 0; i < layer_.out; ++i) ring.scale[size_t(i)] = layer_.scale[i] * scale.scale;
    int64_t next = 0;  // the first line that the ring does not hold
    for (int64_t h = rows.first; h < rows.last; ++h) {
      const int64_t top = h * c.stride_h - c.pad_h;
      for (next = std::max(next, top); some && next < std::min(c.height, top + reach_); ++next)
        round(x + next * c.width * c.channels, scale.factor, ring, ring.at(next % lines_));
      int64_t tap = 0;
      for (int64_t i = 0; i < c.kernel_h; ++i) {
        const int64_t at = top + i * c.dilation_h;
        const float* from = ring.at(some && at >= 0 && at < c.height ? at % lines_ : lines_);
        for (int64_t j = 0; j < c.kernel_w; ++j)
          for (int64_t channel = 0; channel < in_; ++channel)
            ring.tap[size_t(tap++)] = from + (j * c.dilation_w * in_ + channel) * kLaneBlock;
      }
      floats_.lane_line({ring.tap.data(), c.stride_w * in_ * kLaneBlock, ring.block, codes_.get(), taps_, c.out_width(),
                      layer_.out, ring.scale.get(), bias_.get(), residual ? residual + h * count : nullptr,
                      y + h * count, layer_.relu});
    }
  }

  Layer layer_;
  int planes_;
  const Integer& isa_;
  const Floats& floats_;
  int64_t in_;             // channels of a group
  int64_t reach_, lines_;  // that a line of outputs reads: from the first to the last, and at most in an image
  int64_t pixels_;         // of a padded line that are read
  int64_t taps_;           // of an output
  int64_t lanes_;          // outputs in whole blocks
  Buffer<float> codes_, bias_;
};

}  // namespace

std::unique_ptr<Convolver> by_lanes(const Layer& layer, int planes) {
  const int64_t channels = layer.shape.channels / layer.groups;
  const int64_t most = planes ? integer_current().lane_channels[planes - 1] : 4;
  if (layer.groups == 1 || channels > most || (planes && !exact(layer, planes))) return nullptr;
  return std::make_unique<Lanes>(layer, planes);
}

}  // namespace robustq
