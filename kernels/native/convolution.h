// A convolution of a network (network.h): weights of one layer, prepared once, applied to some images at a time.
#pragma once
#include <cstdint>
#include <memory>

#include "integer.h"

namespace robustq {

struct Layer {
  Convolution shape;    // batch is not used
  int64_t out, groups;  // output channels; groups of channels, each packed on its own columns
  int bits;
  bool relu;
  const uint8_t* codes;  // columns (kernel_h, kernel_w, channels / groups rounded up to four)
  const float* scale;    // for each output
  const float* bias;     // for each output, or null
  int64_t columns() const { return shape.kernel_h * shape.kernel_w * ((shape.channels / groups + 3) / 4 * 4); }
};

// Throws std::invalid_argument unless all sizes make sense and 63 bits hold what is computed from them.
void check(const Layer& layer);

class Convolver {
 public:
  virtual ~Convolver() = default;
  // x, residual, y: channels last; residual may be null. y = act(W x + bias + residual), x rounded image by image
  // (unless planes is 0).
  virtual void run(const float* x, const float* residual, float* y, int64_t images, int threads) const = 0;
};

// For a layer that has been checked, and up to `images` at a time: whichever kernel suits it.
std::unique_ptr<Convolver> convolver(const Layer& layer, int planes, int64_t images);

// products.cpp: a matrix product whose rows are where the activations are
std::unique_ptr<Convolver> by_products(const Layer& layer, int planes, int64_t images);

// floats.cpp: the same in float32, on activations as they are
std::unique_ptr<Convolver> in_floats(const Layer& layer);

// gathered.cpp: the same of few positions. Null for more, or for groups.
std::unique_ptr<Convolver> gathered(const Layer& layer, int64_t images);

// halves.cpp: the same on a matrix unit. Null without one, or for groups.
std::unique_ptr<Convolver> in_halves(const Layer& layer, int64_t images);

// depthwise.cpp: few channels a group. Null where it gains nothing, or sums in float32 would not be exact.
std::unique_ptr<Convolver> by_lanes(const Layer& layer, int planes);

}  // namespace robustq
