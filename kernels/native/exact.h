// Linear layers in float32 on a matrix unit that multiplies halves or bytes: what it offers to exact.cpp. Declarations
// only.
//
// Halves: an activation is the sum of limbs, numbers of 16 bits; a code, less its zero point, is one such number
// exactly, so that products are exact and sums are those of float32. Two limbs of float16 hold 24 bits of a value
// beside which the row's largest is less than 2^17 times as large, and what is smaller to 2^-40 of the largest: rows
// are scaled by powers of two. Three limbs of bfloat16 hold every float32 that is not below 2^-110. Digits, for few
// rows by codes in bytes (few.cpp): an activation is one or two signed bytes, as modes "int8" and "accurate" round it,
// or five, which hold a float32 to 2^-37 of the row's largest; sums are integers until they are put together.
//
// A step is 32 columns of halves: two words of codes for each output (kernel.h), or eight steps of bytes (integer.h),
// of whose four columns the second and third change places; activations are tiles [step][limb][16 rows][64 bytes]. Of
// digits it is 64 columns, and activations are [row][digit][pitch], zeros after the last column.
#pragma once
#include <cstdint>

namespace robustq {

constexpr int kExactRows = 16;         // of a tile
constexpr int64_t kExactStep = 32;     // columns
constexpr int64_t kExactBytes = 1024;  // of a tile
constexpr int kExactOutputs = 64;      // of a narrow tile; a square one has half as many and two tiles of rows
constexpr int kDigits = 5;             // of float32
constexpr int64_t kDigitStep = 64;     // columns
constexpr int64_t kUnitWork = int64_t(1) << 26;      // multiply-adds that pay for waking a thread
constexpr int64_t kDigitColumns = int64_t(1) << 16;  // of a group at most: 128 * 255 * 2^16 < 2^31

enum ExactCodes { kWords, kTwoBits, kTwoBitsZero, kFourBits, kFourBitsZero, kExactCodes };
enum ExactShape { kNarrow, kSquare, kExactShapes };

// y[r * ldy + o] = act(bias + sum over the groups of scale * (codes - zero) x) of up to 16 or 32 rows
struct ExactTile {
  const uint8_t* x[2];          // of the first step; the second is null: one tile of rows
  int64_t x_step;               // bytes to the next step; of digits, to the next row of the tile
  const int32_t* digit_sums;    // of digits: [group][row][digit]
  int64_t steps, group_steps;   // in all, and of a group
  const uint32_t* words[4];     // kWords: of the first step, for each block of 16 outputs: four, or two where x has two
  uint32_t last[2];             // kWords: what of a code's word counts in the last step
  const uint8_t* codes;         // else: the first step of a block of 64 outputs
  int64_t parts;                // steps of four columns that there are
  int field;                    // the first group of 16 outputs: 0, or 2 of a square tile
  const uint8_t* zero;          // of ...Zero: stored codes that stand for 0 of each output
  int64_t zero_group;           // from a group's to the next
  const float* scale;           // for each output
  int64_t scale_group;
  const float* row_scale;       // for each row: what gives its sums their size again
  const float* bias;            // for each output, or null
  float* y;
  int64_t ldy, rows;
  int64_t outputs;              // up to 64, or 32 of a square tile; of digits any
  bool relu;
};
using ExactFn = void (*)(const ExactTile&);

struct ExactUnit {
  int limbs;
  int64_t (*peak)(int64_t rounds);  // as in kernel.h, of float32 by codes
  // x (rows, columns) -> a tile, steps rounded up; row_scale as above. All of x is finite. `bytes`: columns are in the
  // order of codes in bytes.
  void (*split)(const float* x, int64_t rows, int64_t columns, bool bytes, uint8_t* tile, float* row_scale);
  ExactFn tile[kExactCodes][kExactShapes];
};

extern const ExactUnit amx_exact_bf16;
extern const ExactUnit amx_exact_fp16;
const ExactUnit* exact_current();  // dispatch.cpp: null without one

struct ExactLayer {
  const uint32_t* words;  // kernel.h, or null
  const uint8_t* codes;   // integer.h, if so
  int bits;
  const uint8_t* zero;    // (groups, out), or null
  const float* scale;     // of output o and group g: scale[o * scale_output + g * scale_group]
  int64_t scale_output, scale_group;
  const float* bias;      // (out,) or null
  bool relu;
  int64_t groups, out, in;  // a group is ceil(in / groups) columns
};
// exact.cpp
ExactCodes codes_in_bytes(int bits, bool zero);
// y (rows, out) = act(x (rows, in) W^T + bias). False, and nothing done, where the unit does not take the
// call: groups of columns that are not whole steps, or values of x that are not finite, which zeros must meet too.
bool exact_by_unit(const ExactLayer& w, const float* x, int64_t rows, float* y, int threads);

}  // namespace robustq
