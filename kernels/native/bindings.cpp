// Python bindings. Addresses arrive as integers (`tensor.data_ptr()`): a DLPack argument costs 4 us, an integer 0.1 us.
// The caller (../ops.py) has checked dtypes, sizes and contiguity; what can be checked again from numbers alone is.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "kernel.h"

namespace nb = nanobind;
using robustq::Matrix;

namespace {

void need(bool ok, const char* what, int64_t value) {
  if (!ok) throw std::invalid_argument(std::string("robustq native kernel: ") + what + " = " + std::to_string(value));
}

Matrix matrix(uintptr_t words, uintptr_t scale, int64_t scale_rows, int64_t groups, int64_t out, int64_t in) {
  need(out > 0, "out_features must be positive; out_features", out);
  need(in > 0, "in_features must be positive; in_features", in);
  need(scale_rows == 1 || scale_rows == out, "the scale must have 1 row or one per output; rows", scale_rows);
  need(groups > 0 && groups <= in, "groups must be in 1 ... in_features; groups", groups);
  need(words % alignof(uint32_t) == 0 && words != 0, "bad address of the packed codes", int64_t(words));
  need(scale % alignof(float) == 0 && scale != 0, "bad address of the scale", int64_t(scale));
  return {reinterpret_cast<const uint32_t*>(words), reinterpret_cast<const float*>(scale), scale_rows, groups, out, in};
}

// x (rows, in) f32, words int32, scale (scale_rows, groups) f32, bias (out,) f32 or 0 -> y (rows, out) f32
void linear(uintptr_t x, int64_t rows, uintptr_t words, uintptr_t scale, int64_t scale_rows, int64_t groups,
            uintptr_t bias, uintptr_t y, int64_t out, int64_t in, int threads) {
  const Matrix w = matrix(words, scale, scale_rows, groups, out, in);
  need(rows > 0, "rows must be positive; rows", rows);
  need(threads > 0, "threads must be positive; threads", threads);
  need(x != 0 && x % alignof(float) == 0, "bad address of x", int64_t(x));
  need(y != 0 && y % alignof(float) == 0, "bad address of y", int64_t(y));
  need(bias % alignof(float) == 0, "bad address of the bias", int64_t(bias));
  robustq::linear(w, reinterpret_cast<const float*>(x), rows, reinterpret_cast<const float*>(bias),
                  reinterpret_cast<float*>(y), threads);
}

// words, scale as above -> weight (out, in) f32
void dense(uintptr_t words, uintptr_t scale, int64_t scale_rows, int64_t groups, uintptr_t weight, int64_t out,
           int64_t in) {
  const Matrix w = matrix(words, scale, scale_rows, groups, out, in);
  need(weight != 0 && weight % alignof(float) == 0, "bad address of the weight", int64_t(weight));
  robustq::dense(w, reinterpret_cast<float*>(weight));
}

nb::list available() {
  nb::list names;
  for (int i = 0; i < robustq::isa_count(); ++i) names.append(robustq::isa_at(i).name);
  return names;
}

}  // namespace

NB_MODULE(_native, m) {
  m.def("available", &available);
  m.def("isa", [] { return robustq::isa_current().name; });
  m.def("use", [](const std::string& name) {
    if (!robustq::isa_use(name.c_str())) throw std::invalid_argument("this processor or build has no '" + name + "'");
  });
  m.def("linear", &linear, nb::call_guard<nb::gil_scoped_release>());
  m.def("dense", &dense, nb::call_guard<nb::gil_scoped_release>());
}
