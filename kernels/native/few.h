// Few rows of digits by codes as they are stored: what a matrix unit offers to few.cpp, and that to others.
// Declarations only.
#pragma once
#include "exact.h"
#include "integer.h"

namespace robustq {

// As in exact.h: x is [row][digit][pitch], sums are those of x [group][row][digit].
struct FewRows {
  const int8_t* x;
  int64_t pitch;
  const int32_t* sums;
  const float* scale;  // for each row: what gives its sums their size again
  int64_t rows;
  int digits;          // 1, 2 or kDigits
};

struct FewUnit {
  // x (rows, columns) -> five digits, and their sums over groups of so many columns; the scale of each row. All of x is
  // finite.
  void (*split)(const float* x, int64_t rows, int64_t columns, int64_t group, int64_t pitch, int8_t* digits,
                int32_t* sums, float* scale);
  ExactFn tile[3][kExactCodes];  // of 1, 2 and kDigits digits; not of words
};

extern const FewUnit amx_few;
const FewUnit* few_current();  // dispatch.cpp: null without one

// few.cpp
bool few_fit(const Weights& w, int64_t in, int64_t planes);  // rows times digits
int64_t few_pitch(int64_t in);                               // bytes from one plane to the next
// y (rows, out) = act(x W^T + bias), where `few_fit`
void few_by_unit(const Weights& w, int64_t in, const FewRows& x, bool relu, float* y, int threads);
// The same of float32; false, and nothing done, where that is not finite.
bool few_floats(const Weights& w, const float* x, int64_t rows, int64_t in, bool relu, float* y, int threads);

}  // namespace robustq
