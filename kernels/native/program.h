// A program that has been read: its steps, and which of them share some images (network.cpp runs them).
#pragma once
#include <cstdint>
#include <vector>

#include "convolution.h"
#include "network.h"

namespace robustq {

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

class Numbers;  // of a text

class Reading {
 public:
  // std::invalid_argument where anything does not fit together.
  Reading(const Network& network, const std::vector<Input>& given, int64_t batch);

  int64_t inputs;
  std::vector<Value> values;  // inputs, then one for each step
  std::vector<Step> steps;
  std::vector<Stretch> segments;
  int64_t slots() const { return int64_t(held_.size()); }

 private:
  int64_t hold(int64_t slot, const Image& image);
  int64_t filled(Numbers& numbers) const;
  void read(Numbers& numbers);
  void read_convolution(Numbers& numbers, Step& step) const;
  bool heavy(const Step& step) const;
  void divide();

  const Network& network_;
  int64_t batch_;
  std::vector<int64_t> held_;  // the value in each slot, while reading; -1: none yet
};

}  // namespace robustq
