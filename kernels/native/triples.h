// A packed ternary matrix with five bits for three columns, for calls on one row (kernel.h): two thirds of the look-ups
// that pairs of columns take. Its own memory, 16/18 of the packed codes'.
#pragma once
#include <cstdint>

#include "panel.h"

namespace robustq {

struct Triples {
  int64_t out, in, words;        // of 18 columns, for each output
  Buffer<uint32_t> codes;        // [block of 16 outputs][words][16]
  int64_t bytes() const { return (out + 15) / 16 * words * 64; }
};

// From words in the format of kernel.h; the pattern that stands for nothing stays NaN.
Triples make_triples(const uint32_t* words, int64_t out, int64_t in);
// y (out,) = x (in,) W^T * scale + bias; scale of 1 or out rows, bias may be null
void triples_linear(const Triples& w, const float* x, const float* scale, int64_t scale_rows, const float* bias,
                    float* y, int threads);

}  // namespace robustq
