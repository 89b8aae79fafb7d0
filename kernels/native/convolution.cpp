// Sizes of a convolution, and the choice of the kernel.
#include "convolution.h"

#include <algorithm>
#include <initializer_list>
#include <stdexcept>
#include <string>

namespace robustq {
namespace {

constexpr int64_t kLargest = int64_t(1) << 31;    // one more than the largest size
constexpr int64_t kMostSteps = int64_t(1) << 16;  // of a sum in int32: 4 * 2^16 columns * 8 * 255 < 2^31

void need(bool ok, const char* what, int64_t value) {
  if (!ok) throw std::invalid_argument(std::string("robustq native kernel: ") + what + " = " + std::to_string(value));
}

void need_product(const char* what, std::initializer_list<int64_t> sizes, int bits) {
  double product = 1;
  for (int64_t size : sizes) product *= double(size);
  need(product < double(int64_t(1) << bits), what, int64_t(std::min(product, 9e18)));
}

}  // namespace

void check(const Layer& layer) {
  const Convolution& c = layer.shape;
  for (int64_t size : {c.batch, c.height, c.width, c.channels})
    need(size > 0 && size < kLargest, "a size of x is out of range", size);
  for (int64_t size : {c.kernel_h, c.kernel_w, c.stride_h, c.stride_w, c.dilation_h, c.dilation_w})
    need(size > 0 && size < kLargest, "a size of the window is out of range", size);
  for (int64_t size : {c.pad_h, c.pad_w}) need(size >= 0 && size < kLargest, "a padding is out of range", size);
  need(layer.bits == 2 || layer.bits == 4, "bits must be 2 or 4; bits", layer.bits);
  need(layer.out > 0 && layer.out < kLargest, "out must be positive; out", layer.out);
  need(layer.groups > 0 && c.channels % layer.groups == 0 && layer.out % layer.groups == 0,
       "groups must divide the channels of x and y; groups", layer.groups);
  need(c.height + 2 * c.pad_h > c.dilation_h * (c.kernel_h - 1), "the kernel is higher than x; height", c.height);
  need(c.width + 2 * c.pad_w > c.dilation_w * (c.kernel_w - 1), "the kernel is wider than x; width", c.width);
  need_product("x is too large; values", {c.batch, c.height + 2 * c.pad_h, c.width + 2 * c.pad_w, c.channels + 3}, 46);
  need_product("the kernel is too large; values", {layer.out, c.kernel_h, c.kernel_w, c.channels + 3}, 46);
  need_product("y has too many positions", {c.batch, c.out_height(), c.out_width()}, 31);
  need_product("y is too large; values", {c.batch, c.out_height(), c.out_width(), layer.out}, 46);
  need(layer.columns() / 4 <= kMostSteps, "too many columns for 32-bit sums; columns", layer.columns());
}

std::unique_ptr<Convolver> convolver(const Layer& layer, int planes, int64_t images) {
  if (std::unique_ptr<Convolver> made = by_lanes(layer, planes)) return made;
  if (planes == 0) {
    std::unique_ptr<Convolver> made = gathered(layer, images);
    if (!made) made = in_halves(layer, images);
    return made ? std::move(made) : in_floats(layer);
  }
  return by_products(layer, planes, images);
}

}  // namespace robustq
