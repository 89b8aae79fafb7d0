// y = act(x W^T + bias) for few rows, whose digits are one tile of a matrix unit: blocks of outputs, threads.
#include "few.h"

#include <algorithm>

#include "kernel.h"
#include "matrix.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

int64_t width_of(const Weights& w, int64_t in) { return (in + w.groups - 1) / w.groups; }

}  // namespace

bool few_fit(const Weights& w, int64_t in, int64_t planes) {
  const int64_t width = width_of(w, in);
  return few_current() && planes <= kExactRows && (w.groups == 1 || width % kDigitStep == 0) && width <= kDigitColumns;
}

// Never a power of two: planes would share the sets of the first-level cache.
int64_t few_pitch(int64_t in) { return (in + 2 * kDigitStep - 1) / kDigitStep * kDigitStep; }

void few_by_unit(const Weights& w, int64_t in, const FewRows& x, bool relu, float* y, int threads) {
  const Unit& unit = *unit_current();
  const int64_t width = width_of(w, in), blocks = (w.out + kOutputs - 1) / kOutputs;
  ExactTile all = {};
  all.x[0] = reinterpret_cast<const uint8_t*>(x.x);
  all.x_step = x.pitch;
  all.steps = (in + kDigitStep - 1) / kDigitStep;
  all.group_steps = (width + kDigitStep - 1) / kDigitStep;
  all.digit_sums = x.sums;
  all.parts = (in + 3) / 4;
  all.scale_group = all.zero_group = all.ldy = w.out;
  all.row_scale = x.scale;
  all.rows = x.rows;
  all.relu = relu;
  const ExactFn multiply = few_current()->tile[x.digits == kDigits ? 2 : x.digits - 1][codes_in_bytes(w.bits, w.zero)];
  in_parts(parts_for(x.rows * w.out * in, kUnitWork, threads), blocks, [&](Range range) {
    const int64_t first = range.first * kOutputs;
    ExactTile t = all;
    t.codes = w.codes + range.first * all.parts * 32 * w.bits;
    t.scale = w.scale + first;
    t.zero = w.zero ? w.zero + first : nullptr;
    t.bias = w.bias ? w.bias + first : nullptr;
    t.y = y + first;
    t.outputs = std::min(w.out, range.last * kOutputs) - first;
    unit.configure(x.rows * x.digits, x.rows * x.digits);
    multiply(t);
    unit.release();
  });
}

bool few_floats(const Weights& w, const float* x, int64_t rows, int64_t in, bool relu, float* y, int threads) {
  if (integer_current().magnitude(x, rows * in) >= kNotFinite) return false;
  const int64_t pitch = few_pitch(in);
  const Buffer<int8_t> digits = buffer<int8_t>(rows * kDigits * pitch);
  const Buffer<int32_t> sums = buffer<int32_t>(w.groups * rows * kDigits);
  const Buffer<float> scale = buffer<float>(rows);
  few_current()->split(x, rows, in, width_of(w, in), pitch, digits.get(), sums.get(), scale.get());
  few_by_unit(w, in, {digits.get(), pitch, sums.get(), scale.get(), rows, kDigits}, relu, y, threads);
  return true;
}

}  // namespace robustq
