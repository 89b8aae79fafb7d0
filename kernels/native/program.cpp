// Reading a program: which steps share a segment, how many images go through a segment at once.
#include "program.h"

#include <algorithm>
#include <charconv>
#include <stdexcept>
#include <string>

namespace robustq {
namespace {

constexpr int64_t kSegmentBytes = 1024 * 1024;  // of activations that a segment's images may take, in the second level
constexpr int64_t kHeavyBytes = 256 * 1024;     // of decoded weights, from which on they are used for many images
constexpr int64_t kHeavyPositions = 512;        // so many positions at least share weights that are heavy
constexpr int64_t kMostSlots = 1 << 16;

void need(bool ok, const char* what, int64_t value) {
  if (!ok) throw std::invalid_argument(std::string("robustq native network: ") + what + " = " + std::to_string(value));
}

// Output positions of a pooling along one axis; a window begins inside of the image or its padding before.
int64_t pooled(int64_t size, int64_t kernel, int64_t stride, int64_t padding, bool ceil) {
  const int64_t rest = size + 2 * padding - kernel;
  need(rest >= 0, "a pooling does not fit; size", size);
  const int64_t count = (ceil ? rest + stride - 1 : rest) / stride + 1;
  return ceil && (count - 1) * stride >= size + padding ? count - 1 : count;
}

}  // namespace

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

Reading::Reading(const Network& network, const std::vector<Input>& given, int64_t batch)
    : network_(network), batch_(batch) {
  Numbers numbers(network.program);
  inputs = numbers.within(1, int64_t(given.size()), "inputs of the program that are not given; inputs");
  held_.assign(size_t(numbers.within(inputs + 1, kMostSlots, "slots out of range; slots")), -1);
  for (int64_t i = 0; i < inputs; ++i) hold(i, given[size_t(i)].image);
  while (!numbers.done()) read(numbers);
  need(!steps.empty(), "the program has no step; steps", 0);
  divide();
}

int64_t Reading::hold(int64_t slot, const Image& image) {
  held_[size_t(slot)] = int64_t(values.size());
  values.push_back({slot, image});
  return held_[size_t(slot)];
}

int64_t Reading::filled(Numbers& numbers) const {
  const int64_t slot = numbers.within(0, slots() - 1, "slot out of range; slot");
  need(held_[size_t(slot)] >= 0, "a slot is read before it is written; slot", slot);
  return held_[size_t(slot)];
}

void Reading::read(Numbers& numbers) {
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
      need(2 * step.window[4 + i] <= step.window[i], "padding of more than half the pooling; padding",
           step.window[4 + i]);
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

void Reading::read_convolution(Numbers& numbers, Step& step) const {
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
  layer.scale = network_.factors;
  layer.scale += numbers.within(0, network_.factor_count - 2 * layer.out, "factors beyond their end; from");
  layer.bias = layer.scale + layer.out;
  step.out = {layer.shape.out_height(), layer.shape.out_width(), layer.out};
}

bool Reading::heavy(const Step& step) const {
  return step.kind == Kind::kConvolve && step.layer.out * step.layer.columns() > kHeavyBytes;
}

// Steps in a row whose weights are all light, or all heavy; what is no convolution goes with the one before.
void Reading::divide() {
  for (size_t i = 0; i < steps.size(); ++i) {
    const bool convolves = steps[i].kind == Kind::kConvolve;
    if (segments.empty() || (convolves && segments.back().heavy != heavy(steps[i])))
      segments.push_back({i, i, heavy(steps[i]), 1});
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

}  // namespace robustq
