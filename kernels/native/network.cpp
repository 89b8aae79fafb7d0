// Reading a program, and running it: which steps share a segment, how many images go through a segment at once.
#include "network.h"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "convolution.h"
#include "kernel.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kSegmentBytes = 1024 * 1024;  // of activations that a segment's images may take, in the second level
constexpr int64_t kHeavyBytes = 256 * 1024;     // of decoded weights, from which on they are used for many images
constexpr int64_t kHeavyPositions = 512;        // so many positions at least share weights that are heavy
constexpr int64_t kMostSlots = 1 << 16;

void need(bool ok, const char* what, int64_t value) {
  if (!ok) throw std::invalid_argument(std::string("robustq native network: ") + what + " = " + std::to_string(value));
}

enum class Kind { kConvolve, kAdd, kRelu, kPool, kPick };

struct Step {
  Kind kind;
  int64_t source, other = -1, target;  // values; other: the residual or the second summand
  Image in, out;
  Layer layer = {};                    // kConvolve
  int64_t window[6] = {};              // kPool: kernel, stride, padding. kPick: stride, channels before and after
  bool relu = false;
};

// What an input holds or a step makes.
struct Value {
  int64_t slot;
  Image image;
};

struct Stretch {
  size_t first, last;  // steps
  bool heavy;
  int64_t images;      // at once
};

class Numbers {
 public:
  explicit Numbers(const std::string& text) : at_(text.data()), end_(text.data() + text.size()) {}
  bool done() {
    while (at_ < end_ && *at_ == ' ') ++at_;
    return at_ == end_;
  }
  int64_t next() {
    need(!done(), "the program ends inside a step; characters left", 0);
    int64_t value = 0;
    const auto [rest, error] = std::from_chars(at_, end_, value);
    need(error == std::errc() && (rest == end_ || *rest == ' '), "not a number in the program; character", *at_);
    at_ = rest;
    return value;
  }
  int64_t within(int64_t low, int64_t high, const char* what) {
    const int64_t value = next();
    need(value >= low && value <= high, what, value);
    return value;
  }

 private:
  const char* at_;
  const char* end_;
};

// Output positions of a pooling along one axis; a window begins inside of the image or its padding before.
int64_t pooled(int64_t size, int64_t kernel, int64_t stride, int64_t padding, bool ceil) {
  const int64_t rest = size + 2 * padding - kernel;
  need(rest >= 0, "a pooling does not fit; size", size);
  const int64_t count = (ceil ? rest + stride - 1 : rest) / stride + 1;
  return ceil && (count - 1) * stride >= size + padding ? count - 1 : count;
}

class Reading {
 public:
  Reading(const Network& network, const std::vector<Input>& given, int64_t batch) : network_(network), batch_(batch) {
    Numbers numbers(network.program);
    inputs = numbers.within(1, int64_t(given.size()), "inputs of the program that are not given; inputs");
    held_.assign(size_t(numbers.within(inputs + 1, kMostSlots, "slots out of range; slots")), -1);
    for (int64_t i = 0; i < inputs; ++i) hold(i, given[size_t(i)].image);
    while (!numbers.done()) read(numbers);
    need(!steps.empty(), "the program has no step; steps", 0);
    divide();
  }

  int64_t inputs;
  std::vector<Value> values;  // inputs, then one for each step
  std::vector<Step> steps;
  std::vector<Stretch> segments;
  int64_t slots() const { return int64_t(held_.size()); }

 private:
  int64_t hold(int64_t slot, const Image& image) {
    held_[size_t(slot)] = int64_t(values.size());
    values.push_back({slot, image});
    return held_[size_t(slot)];
  }

  int64_t filled(Numbers& numbers) {
    const int64_t slot = numbers.within(0, slots() - 1, "slot out of range; slot");
    need(held_[size_t(slot)] >= 0, "a slot is read before it is written; slot", slot);
    return held_[size_t(slot)];
  }

  void read(Numbers& numbers) {
    Step step = {};
    step.kind = Kind(numbers.within(0, 4, "no such kind of step; kind"));
    step.source = filled(numbers);
    step.in = values[size_t(step.source)].image;
    step.out = step.in;
    step.other = -1;
    if (step.kind == Kind::kAdd) step.other = filled(numbers);
    if (step.kind == Kind::kConvolve) {
      const int64_t slot = numbers.within(-1, slots() - 1, "slot out of range; slot");
      need(slot < 0 || held_[size_t(slot)] >= 0, "a slot is read before it is written; slot", slot);
      step.other = slot < 0 ? -1 : held_[size_t(slot)];
    }
    const int64_t target = numbers.within(inputs, slots() - 1, "a step writes into an input or beyond the slots; slot");
    if (step.kind == Kind::kConvolve) read_convolution(numbers, step);
    if (step.kind == Kind::kAdd) step.relu = numbers.within(0, 1, "relu must be 0 or 1; relu");
    if (step.kind == Kind::kPool) {
      for (int i = 0; i < 6; ++i) step.window[i] = numbers.within(i < 4, 1 << 20, "a pooling is out of range; size");
      const bool ceil = numbers.within(0, 1, "ceil must be 0 or 1; ceil");
      for (int i = 0; i < 2; ++i)
        need(2 * step.window[4 + i] <= step.window[i], "padding of more than half the pooling; padding", step.window[4 + i]);
      step.out.height = pooled(step.in.height, step.window[0], step.window[2], step.window[4], ceil);
      step.out.width = pooled(step.in.width, step.window[1], step.window[3], step.window[5], ceil);
    }
    if (step.kind == Kind::kPick) {
      for (int i = 0; i < 4; ++i) step.window[i] = numbers.within(i < 2, 1 << 20, "a shortcut is out of range; size");
      step.out.height = (step.in.height - 1) / step.window[0] + 1;
      step.out.width = (step.in.width - 1) / step.window[1] + 1;
      step.out.channels += step.window[2] + step.window[3];
    }
    if (step.other >= 0)
      need(values[size_t(step.other)].image == step.out, "what is added has another size; step", int64_t(steps.size()));
    // Only what is done value by value may overwrite what it reads.
    need(held_[size_t(target)] != step.source || step.kind == Kind::kAdd || step.kind == Kind::kRelu,
         "a step overwrites what it reads; slot", target);
    need(double(batch_) * double(step.out.size()) < double(int64_t(1) << 46), "images are too large; values",
         step.out.size());
    step.target = hold(target, step.out);
    steps.push_back(step);
  }

  void read_convolution(Numbers& numbers, Step& step) {
    Layer& layer = step.layer;
    layer.bits = int(numbers.within(2, 4, "bits must be 2 or 4; bits"));
    const int64_t most = (int64_t(1) << 31) - 1;
    layer.out = numbers.within(1, most, "outputs out of range; outputs");
    int64_t window[8];
    for (int64_t& size : window) size = numbers.within(0, most, "a window is out of range; size");
    layer.groups = numbers.within(1, most, "groups out of range; groups");
    layer.relu = numbers.within(0, 1, "relu must be 0 or 1; relu");
    layer.shape = {batch_,    step.in.height, step.in.width, step.in.channels, window[0], window[1],
                   window[2], window[3],      window[4],     window[5],        window[6], window[7]};
    check(layer);
    const int64_t bytes = (layer.out + kOutputs - 1) / kOutputs * (layer.columns() / 4) * 32 * layer.bits;
    layer.codes = network_.codes + numbers.within(0, network_.code_bytes - bytes, "codes beyond their end; from");
    layer.scale = network_.factors + numbers.within(0, network_.factor_count - 2 * layer.out, "factors beyond their end; from");
    layer.bias = layer.scale + layer.out;
    step.out = {layer.shape.out_height(), layer.shape.out_width(), layer.out};
  }

  bool heavy(const Step& step) const {
    return step.kind == Kind::kConvolve && step.layer.out * step.layer.columns() > kHeavyBytes;
  }

  // Steps in a row whose weights are all light, or all heavy; what is no convolution goes with the one before.
  void divide() {
    for (size_t i = 0; i < steps.size(); ++i) {
      const bool other = segments.empty() || (steps[i].kind == Kind::kConvolve && segments.back().heavy != heavy(steps[i]));
      if (other) segments.push_back({i, i, heavy(steps[i]), 1});
      segments.back().last = i + 1;
    }
    for (Stretch& segment : segments) {
      int64_t bytes = 1, images = 1;
      for (size_t i = segment.first; i < segment.last; ++i) {
        const Step& step = steps[i];
        bytes = std::max(bytes, 4 * (step.in.size() + (step.other >= 0 ? 2 : 1) * step.out.size()) +
                                    (network_.planes ? network_.planes : 4) * step.in.size());
        if (heavy(step)) images = std::max(images, kHeavyPositions / (step.out.height * step.out.width));
      }
      images = std::min(batch_, std::max(images, kSegmentBytes / bytes));
      segment.images = (batch_ + (batch_ + images - 1) / images - 1) / ((batch_ + images - 1) / images);  // even shares
    }
  }

  const Network& network_;
  int64_t batch_;
  std::vector<int64_t> held_;  // the value in each slot, while reading; -1: none yet
};

void pool(const Step& s, const float* x, float* y) {
  const Integer& isa = integer_current();
  const int64_t channels = s.in.channels;
  for (int64_t h = 0; h < s.out.height; ++h)
    for (int64_t v = 0; v < s.out.width; ++v, y += channels) {
      const int64_t top = h * s.window[2] - s.window[4], left = v * s.window[3] - s.window[5];
      bool first = true;
      for (int64_t i = std::max<int64_t>(0, top); i < std::min(s.in.height, top + s.window[0]); ++i)
        for (int64_t j = std::max<int64_t>(0, left); j < std::min(s.in.width, left + s.window[1]); ++j, first = false) {
          const float* from = x + (i * s.in.width + j) * channels;
          if (first) std::memcpy(y, from, size_t(channels) * sizeof(float));
          else isa.larger(from, channels, y);
        }
    }
}

void pick(const Step& s, const float* x, float* y) {
  for (int64_t h = 0; h < s.out.height; ++h)
    for (int64_t v = 0; v < s.out.width; ++v) {
      const float* from = x + (h * s.window[0] * s.in.width + v * s.window[1]) * s.in.channels;
      y = std::fill_n(y, s.window[2], 0.0f);
      y = std::copy_n(from, s.in.channels, y);
      y = std::fill_n(y, s.window[3], 0.0f);
    }
}

class Run {
 public:
  Run(const Network& network, const std::vector<Input>& inputs, int64_t batch, float* y, int64_t y_size)
      : plan_(network, inputs, batch), batch_(batch), planes_(network.planes) {
    need(plan_.steps.back().out.size() == y_size, "y has another size; values of an image", y_size);
    values_.resize(plan_.values.size());
    for (int64_t i = 0; i < plan_.inputs; ++i) values_[size_t(i)].whole = const_cast<float*>(inputs[size_t(i)].at);
    values_[size_t(plan_.steps.back().target)].whole = y;
    for (size_t k = 0; k < plan_.segments.size(); ++k)
      for (size_t i = plan_.segments[k].first; i < plan_.segments[k].last; ++i) {
        const Step& step = plan_.steps[i];
        values_[size_t(step.target)].segment = k;
        for (int64_t read : {step.source, step.other})
          if (read >= 0 && values_[size_t(read)].segment != k) keep(read);
      }
  }

  void run(int threads) {
    for (size_t k = 0; k < plan_.segments.size(); ++k) {
      const Stretch& segment = plan_.segments[k];
      std::vector<std::unique_ptr<Convolver>> convolvers;
      int64_t work = 0;
      for (size_t i = segment.first; i < segment.last; ++i) {
        const Step& step = plan_.steps[i];
        const bool convolves = step.kind == Kind::kConvolve;
        convolvers.push_back(convolves ? convolver(step.layer, planes_, segment.images) : nullptr);
        if (convolves) work += batch_ * step.out.size() * step.layer.columns();
      }
      const int64_t shares = (batch_ + segment.images - 1) / segment.images;
      const int64_t parts = shares < threads ? 1 : parts_for(work, 4 * kThreadWork, threads);
      in_parts(parts, shares, [&](Range range) {
        const std::vector<Buffer<float>> own = slots(segment);
        for (int64_t share = range.first; share < range.last; ++share) {
          const int64_t first = share * segment.images, images = std::min(segment.images, batch_ - first);
          for (size_t i = segment.first; i < segment.last; ++i)
            apply(plan_.steps[i], convolvers[i - segment.first].get(), own, first, images, parts == 1 ? threads : 1);
        }
      });
    }
  }

 private:
  struct Place {
    float* whole = nullptr;  // of all images: inputs, the result, and what another segment reads; else null
    Buffer<float> own;
    size_t segment = 0;      // that makes it
  };

  void keep(int64_t value) {
    Place& place = values_[size_t(value)];
    if (place.whole) return;
    place.own = buffer<float>(batch_ * plan_.values[size_t(value)].image.size());
    place.whole = place.own.get();
  }

  // The slots of a segment, for its own values.
  std::vector<Buffer<float>> slots(const Stretch& segment) const {
    std::vector<int64_t> size(size_t(plan_.slots()), 0);
    for (size_t i = segment.first; i < segment.last; ++i) {
      const int64_t target = plan_.steps[i].target;
      int64_t& most = size[size_t(plan_.values[size_t(target)].slot)];
      if (!values_[size_t(target)].whole) most = std::max(most, plan_.steps[i].out.size());
    }
    std::vector<Buffer<float>> made(size.size());
    for (size_t i = 0; i < size.size(); ++i)
      if (size[i]) made[i] = buffer<float>(segment.images * size[i]);
    return made;
  }

  void apply(const Step& step, const Convolver* convolver, const std::vector<Buffer<float>>& slots, int64_t first,
             int64_t images, int threads) const {
    const auto at = [&](int64_t index) {
      const Value& value = plan_.values[size_t(index)];
      float* whole = values_[size_t(index)].whole;
      return whole ? whole + first * value.image.size() : slots[size_t(value.slot)].get();
    };
    const float* x = at(step.source);
    const float* other = step.other >= 0 ? at(step.other) : nullptr;
    float* y = at(step.target);
    const int64_t count = images * step.out.size();
    switch (step.kind) {
      case Kind::kConvolve:
        convolver->run(x, other, y, images, threads);
        break;
      case Kind::kAdd:
        for (int64_t i = 0; i < count; ++i) y[i] = x[i] + other[i];
        if (step.relu) rectify(y, count, y);
        break;
      case Kind::kRelu:
        rectify(x, count, y);
        break;
      case Kind::kPool:
      case Kind::kPick:
        for (int64_t n = 0; n < images; ++n)
          (step.kind == Kind::kPool ? pool : pick)(step, x + n * step.in.size(), y + n * step.out.size());
        break;
    }
  }

  static void rectify(const float* x, int64_t count, float* y) {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i] < 0.0f ? 0.0f : x[i];  // NaN stays
  }

  Reading plan_;
  int64_t batch_;
  int planes_;
  std::vector<Place> values_;
};

}  // namespace

void run_network(const Network& network, const std::vector<Input>& inputs, int64_t batch, float* y, int64_t y_size,
                 int threads) {
  Run(network, inputs, batch, y, y_size).run(threads);
}

}  // namespace robustq
