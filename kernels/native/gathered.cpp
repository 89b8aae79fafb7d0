// A convolution in float32 of few output positions: as a linear layer on the windows that they see, gathered side by
// side.
//
// The other kernels decode a block of weights once for many positions; a linear layer takes few rows as they come.
#include <cstring>

#include "convolution.h"
#include "exact.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

// Up to which that is faster, with a matrix unit and without
constexpr int64_t kPositions = 8, kUnitPositions = 32;

class Gathered : public Convolver {
 public:
  explicit Gathered(const Layer& layer) : layer_(layer) {}

  void run(const float* x, const float* residual, float* y, int64_t images, int threads) const override {
    const Convolution& c = layer_.shape;
    const int64_t rows = images * c.out_height() * c.out_width(), columns = layer_.columns();
    const Buffer<float> windows = buffer<float>(rows * columns);
    float* to = windows.get();
    for (int64_t n = 0; n < images; ++n)
      for (int64_t h = 0; h < c.out_height(); ++h)
        for (int64_t w = 0; w < c.out_width(); ++w, to += columns)
          gather(x + n * c.height * c.width * c.channels, h * c.stride_h - c.pad_h, w * c.stride_w - c.pad_w, to);
    const bool relu = layer_.relu && !residual;
    const Weights weights = {layer_.codes, layer_.scale, layer_.bias, layer_.bits, 1, layer_.out};
    float_linear(weights, windows.get(), rows, columns, relu, y, threads);
    for (int64_t i = 0; residual && i < rows * layer_.out; ++i) {
      const float sum = y[i] + residual[i];
      y[i] = layer_.relu && sum < 0.0f ? 0.0f : sum;
    }
  }

 private:
  // The window whose first pixel is (top, left): [line][pixel][channels rounded up to four], zeros outside of the
  // image.
  void gather(const float* image, int64_t top, int64_t left, float* to) const {
    const Convolution& c = layer_.shape;
    const int64_t padded = layer_.columns() / (c.kernel_h * c.kernel_w);
    for (int64_t i = 0; i < c.kernel_h; ++i)
      for (int64_t j = 0; j < c.kernel_w; ++j, to += padded) {
        const int64_t h = top + i * c.dilation_h, w = left + j * c.dilation_w;
        const bool inside = h >= 0 && h < c.height && w >= 0 && w < c.width;
        const int64_t copied = inside ? c.channels : 0;
        if (inside) std::memcpy(to, image + (h * c.width + w) * c.channels, size_t(copied) * sizeof(float));
        std::memset(to + copied, 0, size_t(padded - copied) * sizeof(float));
      }
  }

  Layer layer_;
};

}  // namespace

std::unique_ptr<Convolver> gathered(const Layer& layer, int64_t images) {
  const int64_t positions = images * layer.shape.out_height() * layer.shape.out_width();
  if (layer.groups > 1 || positions > (exact_current() ? kUnitPositions : kPositions)) return nullptr;
  return std::make_unique<Gathered>(layer);
}

}  // namespace robustq
