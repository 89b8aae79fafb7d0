// Ternary layers in float32 on a matrix unit that multiplies halves: what it offers to exact.cpp. Declarations only.
//
// An activation is the sum of limbs, numbers of 16 bits; a code is one such number exactly, so that products are exact
// and sums are those of float32. Two limbs of float16 hold 24 bits of a value beside which the row's largest is less than
// 2^17 times as large, and what is smaller to 2^-40 of the largest: rows are scaled by powers of two. Three limbs of
// bfloat16 hold every float32 that is not below 2^-110.
//
// A step is 32 columns, two words of codes for each output. Activations are tiles [step][limb][16 rows][32].
#pragma once
#include <cstdint>

namespace robustq {

constexpr int kExactRows = 16;         // of a tile
constexpr int64_t kExactStep = 32;     // columns
constexpr int kExactLimb = 16 * 32;    // numbers of a limb of a step
constexpr int kExactOutputs = 64;      // of a narrow tile; a square one has half as many and two tiles of rows

struct ExactTile {
  const uint16_t* x[2];          // of the first step; the second is null: one tile of rows
  const uint32_t* words[4];      // of the first step, for each block of 16 outputs: four, or two where x has two
  int64_t steps;
  uint32_t last[2];              // what of a code's word counts in the last step
  float* sum;                    // [row][64], or [row of both tiles][32]
};

// y[r * ldy + o] = act, for the rows of a tile's sums: (first ? bias : y) + scale * row_scale * sum
struct ExactPut {
  const float* sum;
  int64_t pitch;           // of the sums
  const float* scale;      // for each output
  const float* row_scale;  // for each row
  const float* bias;       // for each output, or null
  float* y;
  int64_t ldy, rows;
  int outputs;
  bool first;
};

struct ExactUnit {
  int limbs;
  int64_t (*peak)(int64_t rounds);  // as in kernel.h, of float32 by codes
  // x (rows, columns) -> a tile, steps rounded up; what gives each row's sums their size again. All of x is finite.
  void (*split)(const float* x, int64_t ldx, int64_t rows, int64_t columns, uint16_t* tile, float* row_scale);
  void (*configure)(int64_t rows, int64_t second);  // of the one tile and of the other
  void (*release)();
  void (*narrow)(const ExactTile&);
  void (*square)(const ExactTile&);
  void (*put)(const ExactPut&);
};

extern const ExactUnit amx_exact_bf16;
extern const ExactUnit amx_exact_fp16;
const ExactUnit* exact_current();  // dispatch.cpp: null without one

struct Matrix;
// exact.cpp: as `linear` in kernel.h. False, and nothing done, where the unit does not take the call: groups of columns
// that are not whole steps, or values of x that are not finite, which zeros must meet too.
bool exact_by_unit(const Matrix& w, const float* x, int64_t rows, const float* bias, float* y, int threads);

}  // namespace robustq
