// Python bindings. Addresses arrive as integers (`tensor.data_ptr()`): a DLPack argument costs 4 us, an integer 0.1 us.
// The caller (../ops.py) has checked dtypes, sizes and contiguity; what can be checked again from numbers alone is.
#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <initializer_list>
#include <stdexcept>
#include <string>
#include <vector>

#include "convolution.h"
#include "exact.h"
#include "integer.h"
#include "kernel.h"
#include "lists.h"
#include "matrix.h"
#include "network.h"
#include "triples.h"

namespace nb = nanobind;
using robustq::Matrix;

namespace robustq {
void bind_storage(nb::module_& m);  // storage_bindings.cpp
}

namespace {

void need(bool ok, const char* what, int64_t value) {
  if (!ok) throw std::invalid_argument(std::string("robustq native kernel: ") + what + " = " + std::to_string(value));
}

// A product of sizes that 64 bits hold with room for padding; each size is below 2^31.
void need_product(const char* what, std::initializer_list<int64_t> sizes) {
  double product = 1;
  for (int64_t size : sizes) {
    need(size < (int64_t(1) << 31), what, size);
    product *= double(size);
  }
  need(product < double(int64_t(1) << 46), what, int64_t(product < 9e18 ? product : 9e18));
}

Matrix matrix(uintptr_t words, uintptr_t scale, int64_t scale_rows, int64_t groups, int64_t out, int64_t in) {
  need(out > 0, "out_features must be positive; out_features", out);
  need(in > 0, "in_features must be positive; in_features", in);
  need_product("in_features x out_features is too large", {out, in});
  need(scale_rows == 1 || scale_rows == out, "the scale must have 1 row or one per output; rows", scale_rows);
  need(groups > 0 && groups <= in, "groups must be in 1 ... in_features; groups", groups);
  need(words % alignof(uint32_t) == 0 && words != 0, "bad address of the packed codes", int64_t(words));
  need(scale % alignof(float) == 0 && scale != 0, "bad address of the scale", int64_t(scale));
  return {reinterpret_cast<const uint32_t*>(words), reinterpret_cast<const float*>(scale), scale_rows, groups, out, in};
}

// x (rows, in) f32, words int32, scale (scale_rows, groups) f32, bias (out,) f32 or 0 -> y (rows, out) f32
void linear(uintptr_t x, int64_t rows, uintptr_t words, uintptr_t scale, int64_t scale_rows, int64_t groups,
            uintptr_t bias, int64_t out, int64_t in, uintptr_t y, int threads) {
  const Matrix w = matrix(words, scale, scale_rows, groups, out, in);
  need(rows > 0, "rows must be positive; rows", rows);
  need_product("rows x in_features is too large", {rows, in});
  need_product("rows x out_features is too large", {rows, out});
  need(threads > 0, "threads must be positive; threads", threads);
  need(x != 0 && x % alignof(float) == 0, "bad address of x", int64_t(x));
  need(y != 0 && y % alignof(float) == 0, "bad address of y", int64_t(y));
  need(bias % alignof(float) == 0, "bad address of the bias", int64_t(bias));
  robustq::linear(w, reinterpret_cast<const float*>(x), rows, reinterpret_cast<const float*>(bias),
                  reinterpret_cast<float*>(y), threads);
}

robustq::Triples make_triples(uintptr_t words, int64_t out, int64_t in) {
  need(out > 0, "out_features must be positive; out_features", out);
  need(in > 0, "in_features must be positive; in_features", in);
  need_product("in_features x out_features is too large", {out, in});
  need(words % alignof(uint32_t) == 0 && words != 0, "bad address of the packed codes", int64_t(words));
  return robustq::make_triples(reinterpret_cast<const uint32_t*>(words), out, in);
}

// x (in,) f32, scale (scale_rows,) f32, bias (out,) f32 or 0 -> y (out,) f32
void triples_linear(const robustq::Triples& w, uintptr_t x, uintptr_t scale, int64_t scale_rows, uintptr_t bias,
                    uintptr_t y, int threads) {
  need(scale_rows == 1 || scale_rows == w.out, "the scale must have 1 row or one per output; rows", scale_rows);
  need(scale % alignof(float) == 0 && scale != 0, "bad address of the scale", int64_t(scale));
  need(bias % alignof(float) == 0, "bad address of the bias", int64_t(bias));
  need(x != 0 && x % alignof(float) == 0, "bad address of x", int64_t(x));
  need(y != 0 && y % alignof(float) == 0, "bad address of y", int64_t(y));
  need(threads > 0, "threads must be positive; threads", threads);
  robustq::triples_linear(w, reinterpret_cast<const float*>(x), reinterpret_cast<const float*>(scale), scale_rows,
                          reinterpret_cast<const float*>(bias), reinterpret_cast<float*>(y), threads);
}

// words, scale as above -> weight (out, in) f32
void dense(uintptr_t words, uintptr_t scale, int64_t scale_rows, int64_t groups, uintptr_t weight, int64_t out,
           int64_t in) {
  const Matrix w = matrix(words, scale, scale_rows, groups, out, in);
  need(weight != 0 && weight % alignof(float) == 0, "bad address of the weight", int64_t(weight));
  robustq::dense(w, reinterpret_cast<float*>(weight));
}

robustq::Weights weights(uintptr_t codes, uintptr_t scale, uintptr_t bias, int bits, int64_t groups, int64_t out) {
  need(bits == 2 || bits == 4, "bits must be 2 or 4; bits", bits);
  need(out > 0, "out_features must be positive; out_features", out);
  need(codes != 0, "bad address of the packed codes", int64_t(codes));
  need(scale % alignof(float) == 0 && scale != 0, "bad address of the scale", int64_t(scale));
  need(bias % alignof(float) == 0, "bad address of the bias", int64_t(bias));
  return {reinterpret_cast<const uint8_t*>(codes), reinterpret_cast<const float*>(scale),
          reinterpret_cast<const float*>(bias), bits, groups, out};
}

robustq::Weights with_zero(robustq::Weights w, uintptr_t zero) {
  if (zero == 0) return w;
  w.zero = reinterpret_cast<const uint8_t*>(zero);
  uint8_t all = 0;
  for (int64_t i = 0; i < w.groups * w.out; ++i) all |= w.zero[i];
  need(all >> w.bits == 0, "a zero point has more bits than the codes; bits", w.bits);
  return w;
}

robustq::Activation activation(int planes, bool relu, uintptr_t x, uintptr_t y, int threads) {
  need(planes == 1 || planes == 2, "planes must be 1 or 2; planes", planes);
  need(x != 0 && x % alignof(float) == 0, "bad address of x", int64_t(x));
  need(y != 0 && y % alignof(float) == 0, "bad address of y", int64_t(y));
  need(threads > 0, "threads must be positive; threads", threads);
  return {planes, relu};
}

void need_sizes(int64_t rows, int64_t out, int64_t in, int64_t groups) {
  need(rows > 0, "rows must be positive; rows", rows);
  need(in > 0, "in_features must be positive; in_features", in);
  need(groups > 0 && groups <= in, "groups must be in 1 ... in_features; groups", groups);
  need_product("in_features x out_features is too large", {out, in});
  need_product("rows x in_features is too large", {rows, in});
  need_product("rows x out_features is too large", {rows, out});
}

// x (rows, in) f32, codes u8 (ceil(out / 64), steps, 32 bits), scale (groups, out) f32, bias (out,) f32 or 0,
// zero (groups, out) u8 or 0 -> y (rows, out) f32
void integer_linear(uintptr_t x, int64_t rows, uintptr_t codes, uintptr_t scale, uintptr_t bias, uintptr_t zero,
                    int bits, int64_t groups, int64_t out, int64_t in, int planes, bool relu, uintptr_t y,
                    int threads) {
  need_sizes(rows, out, in, groups);
  const robustq::Weights w = with_zero(weights(codes, scale, bias, bits, groups, out), zero);
  const robustq::Activation mode = activation(planes, relu, x, y, threads);
  robustq::integer_linear(w, reinterpret_cast<const float*>(x), rows, in, mode, reinterpret_cast<float*>(y), threads);
}

// The same in float32
void float_linear(uintptr_t x, int64_t rows, uintptr_t codes, uintptr_t scale, uintptr_t bias, uintptr_t zero, int bits,
                  int64_t groups, int64_t out, int64_t in, bool relu, uintptr_t y, int threads) {
  need_sizes(rows, out, in, groups);
  const robustq::Weights w = with_zero(weights(codes, scale, bias, bits, groups, out), zero);
  activation(1, relu, x, y, threads);
  robustq::float_linear(w, reinterpret_cast<const float*>(x), rows, in, relu, reinterpret_cast<float*>(y), threads);
}

// codes, scale and zero as above -> weight (in, out) f32
void integer_dense(uintptr_t codes, uintptr_t scale, int bits, int64_t groups, int64_t out, int64_t in,
                   uintptr_t weight, int threads, uintptr_t zero) {
  need(in > 0, "in_features must be positive; in_features", in);
  need(groups > 0 && groups <= in, "groups must be in 1 ... in_features; groups", groups);
  need_product("in_features x out_features is too large", {out, in});
  need(weight != 0 && weight % alignof(float) == 0, "bad address of the weight", int64_t(weight));
  need(threads > 0, "threads must be positive; threads", threads);
  const robustq::Weights w = with_zero(weights(codes, scale, 0, bits, groups, out), zero);
  robustq::integer_dense(w, in, reinterpret_cast<float*>(weight), threads);
}

// The activations of convolutions may be left as they are: planes 0
void check_planes(int planes) { need(planes >= 0 && planes <= 2, "planes must be 0, 1 or 2; planes", planes); }

// x (batch, height, width, channels) f32, codes of columns (kernel_h, kernel_w, channels / groups rounded up to four),
// scale (1, out) f32 -> y (batch, out_h, out_w, out) f32
void integer_convolution(uintptr_t x, std::vector<int64_t> shape, std::vector<int64_t> window, int64_t groups,
                         uintptr_t codes, uintptr_t scale, uintptr_t bias, int bits, int64_t out, int planes, bool relu,
                         uintptr_t y, int threads) {
  need(shape.size() == 4, "shape must be (batch, height, width, channels); entries", int64_t(shape.size()));
  need(window.size() == 8, "window must be kernel, stride, padding, dilation; entries", int64_t(window.size()));
  const robustq::Weights w = weights(codes, scale, bias, bits, 1, out);
  check_planes(planes);
  activation(1, relu, x, y, threads);
  const robustq::Convolution c = {shape[0],  shape[1],  shape[2],  shape[3],  window[0], window[1],
                                  window[2], window[3], window[4], window[5], window[6], window[7]};
  const robustq::Layer layer = {c, out, groups, bits, relu, w.codes, w.scale, w.bias};
  robustq::check(layer);
  robustq::convolver(layer, planes, c.batch)
      ->run(reinterpret_cast<const float*>(x), nullptr, reinterpret_cast<float*>(y), c.batch, threads);
}

// inputs: (address of (batch, height, width, channels) f32, height, width, channels) each; codes u8, factors f32
// -> y (batch, y_size) f32; see network.h
void integer_network(const std::string& program, const std::vector<std::vector<int64_t>>& inputs, int64_t batch,
                     uintptr_t codes, int64_t code_bytes, uintptr_t factors, int64_t factor_count, int planes,
                     uintptr_t y, int64_t y_size, int threads) {
  std::vector<robustq::Input> images;
  for (const std::vector<int64_t>& input : inputs) {
    need(input.size() == 4, "an input is (address, height, width, channels); entries", int64_t(input.size()));
    activation(1, false, uintptr_t(input[0]), y, threads);
    for (size_t i = 1; i < 4; ++i) need(input[i] > 0 && input[i] < (int64_t(1) << 31), "a size is out of range", input[i]);
    need_product("x is too large; values", {batch, input[1], input[2], input[3]});
    images.push_back({reinterpret_cast<const float*>(uintptr_t(input[0])), {input[1], input[2], input[3]}});
  }
  need(batch > 0, "batch must be positive; batch", batch);
  need(codes != 0, "bad address of the packed codes", int64_t(codes));
  need(factors % alignof(float) == 0 && factors != 0, "bad address of the factors", int64_t(factors));
  check_planes(planes);
  need(code_bytes >= 0, "code_bytes must not be negative; code_bytes", code_bytes);
  need(factor_count >= 0, "factor_count must not be negative; factor_count", factor_count);
  robustq::run_network({program, reinterpret_cast<const uint8_t*>(codes), code_bytes,
                        reinterpret_cast<const float*>(factors), factor_count, planes},
                       images, batch, reinterpret_cast<float*>(y), y_size, threads);
}

// Lists of the weights that are not zero, of codes in the format of kernel.h (`words`) or, at two bits and one group,
// of integer.h; `together` columns make an entry.
robustq::Codes ternary_codes(uintptr_t codes, bool words, int64_t out, int64_t in) {
  need(out > 0, "out_features must be positive; out_features", out);
  need(in > 0, "in_features must be positive; in_features", in);
  need_product("in_features x out_features is too large", {out, in});
  need(codes != 0 && (!words || codes % alignof(uint32_t) == 0), "bad address of the packed codes", int64_t(codes));
  return {words ? reinterpret_cast<const uint32_t*>(codes) : nullptr,
          words ? nullptr : reinterpret_cast<const uint8_t*>(codes), out, in};
}

int64_t count_nonzero(uintptr_t codes, bool words, int64_t out, int64_t in) {
  return robustq::count_nonzero(ternary_codes(codes, words, out, in));
}

robustq::Lists make_lists(uintptr_t codes, bool words, int64_t out, int64_t in, int together) {
  need(together >= 1 && together <= 3, "together must be 1, 2 or 3; together", together);
  return robustq::make_lists(ternary_codes(codes, words, out, in), together);
}

// x (rows, in) f32, scale (scale_rows,) f32, bias (out,) f32 or 0 -> y (rows, out) f32; x is rounded to `levels` a row
// unless that is 0. False, and y is left as it is, where x has NaN or infinity.
bool sparse_linear(const robustq::Lists& lists, uintptr_t x, int64_t rows, uintptr_t scale, int64_t scale_rows,
                   uintptr_t bias, float levels, bool relu, uintptr_t y, int threads) {
  need(rows > 0, "rows must be positive; rows", rows);
  need_product("rows x in_features is too large", {rows, lists.in});
  need_product("rows x out_features is too large", {rows, lists.out});
  need(scale_rows == 1 || scale_rows == lists.out, "the scale must have 1 row or one per output; rows", scale_rows);
  need(scale % alignof(float) == 0 && scale != 0, "bad address of the scale", int64_t(scale));
  need(bias % alignof(float) == 0, "bad address of the bias", int64_t(bias));
  need(levels >= 0.0f && levels <= 32767.0f, "levels must be in 0 ... 32767; levels", int64_t(levels));
  activation(1, relu, x, y, threads);
  return robustq::sparse_linear(lists, {reinterpret_cast<const float*>(x), rows, reinterpret_cast<const float*>(scale),
                                        scale_rows, reinterpret_cast<const float*>(bias), levels, relu,
                                        reinterpret_cast<float*>(y), threads});
}

// Multiply-adds that `rounds` rounds of the fastest instructions did: of float32 by one another ("floats"), of float32 by
// codes ("codes"), of bytes ("bytes")
int64_t peak(const std::string& of, int64_t rounds) {
  need(rounds >= 0 && rounds < (int64_t(1) << 31), "rounds must be in 0 ... 2^31 - 1; rounds", rounds);
  if (of == "codes" && robustq::exact_current()) return robustq::exact_current()->peak(rounds);
  if (of == "codes" || of == "floats") return robustq::isa_current().peak(rounds);
  if (of != "bytes") throw std::invalid_argument("robustq native kernel: there is no peak of '" + of + "'");
  const robustq::Unit* unit = robustq::unit_current();
  return unit ? unit->peak(rounds) : robustq::integer_current().peak(rounds);
}

uint32_t read_memory(uintptr_t x, int64_t bytes) {
  need(x != 0, "bad address", int64_t(x));
  need(bytes >= 0, "bytes must not be negative; bytes", bytes);
  return robustq::integer_current().read(reinterpret_cast<const uint8_t*>(x), bytes);
}

nb::list available() {
  nb::list names;
  for (int i = 0; i < robustq::isa_count(); ++i) names.append(robustq::isa_name(i));
  return names;
}

}  // namespace

NB_MODULE(_native, m) {
  robustq::bind_storage(m);
  m.def("available", &available);
  m.def("isa", [] { return robustq::isa_name(); });
  m.def("use", [](const std::string& name) {
    if (!robustq::isa_use(name.c_str())) throw std::invalid_argument("this processor or build has no '" + name + "'");
  });
  m.def("peak", &peak, nb::call_guard<nb::gil_scoped_release>());
  m.def("read", &read_memory, nb::call_guard<nb::gil_scoped_release>());
  m.def("linear", &linear, nb::call_guard<nb::gil_scoped_release>());
  m.def("dense", &dense, nb::call_guard<nb::gil_scoped_release>());
  m.def("integer_dense", &integer_dense, nb::call_guard<nb::gil_scoped_release>());
  nb::class_<robustq::Lists>(m, "Lists")
      .def_ro("out_features", &robustq::Lists::out)
      .def_ro("in_features", &robustq::Lists::in)
      .def_ro("together", &robustq::Lists::together)
      .def_ro("nonzero", &robustq::Lists::nonzero)
      .def_ro("entries", &robustq::Lists::entries)
      .def_prop_ro("nbytes", &robustq::Lists::bytes);
  nb::class_<robustq::Triples>(m, "Triples")
      .def_ro("out_features", &robustq::Triples::out)
      .def_ro("in_features", &robustq::Triples::in)
      .def_prop_ro("nbytes", &robustq::Triples::bytes);
  m.def("make_triples", &make_triples, nb::call_guard<nb::gil_scoped_release>());
  m.def("triples_linear", &triples_linear, nb::call_guard<nb::gil_scoped_release>());
  m.def("count_nonzero", &count_nonzero, nb::call_guard<nb::gil_scoped_release>());
  m.def("make_lists", &make_lists, nb::call_guard<nb::gil_scoped_release>());
  m.def("sparse_linear", &sparse_linear, nb::call_guard<nb::gil_scoped_release>());
  m.def("float_linear", &float_linear, nb::call_guard<nb::gil_scoped_release>());
  m.def("integer_linear", &integer_linear, nb::call_guard<nb::gil_scoped_release>());
  m.def("integer_convolution", &integer_convolution, nb::call_guard<nb::gil_scoped_release>());
  m.def("integer_network", &integer_network, nb::call_guard<nb::gil_scoped_release>());
}
