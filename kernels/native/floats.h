// Layers in float32: what an instruction set offers to the drivers in floats.cpp, depthwise.cpp and codes.cpp.
// Declarations only.
//
// Codes are those of integer.h, decoded to whole numbers in float32; scales come last.
#pragma once
#include <cstdint>

#include "lanes.h"

namespace robustq {

constexpr int kMostRows = 12;  // of activations in a tile

struct Columns {
  int64_t offset;  // of the first activation, in values from that of the output position
  int64_t count;
};

// sum[row][line] = (add ? sum : 0) + the products of a row's activations and weights
struct FloatTile {
  const float* const* x;   // for each row
  const Columns* columns;  // to sum over, `parts` of them
  int64_t parts;
  const float* weights;    // [column][line]
  float* sum;              // [row][line]
  int64_t line;
  bool add;
};
using FloatTileFn = void (*)(const FloatTile&);

// y = act(factor * scale * sum + bias + residual) of some positions in a row.
struct FloatSettle {
  const float* sum;       // [row][line]
  int64_t line;
  const float* scale;     // for each output
  const float* bias;      // for each output, or null
  const float* residual;  // [row][pitch], or null
  float* y;               // [row][pitch]
  int64_t pitch, rows, outputs;
  bool relu;
  float factor = 1.0f;
};

// sum[row][64] = x (codes - shift)^T * scale of a block of 64 outputs, group by group; codes are decoded in registers.
constexpr int kFewRows = 4;
struct CodeTile {
  const float* x;        // rows x columns, x[r * ldx + k]
  int64_t ldx, columns;
  int64_t width;         // of a group
  const uint8_t* codes;
  const float* scale;    // [group][64]
  const float* shift;    // [group][64], or null: zeros
  float* sum;
};
using CodeTileFn = void (*)(const CodeTile&);

struct Floats {
  // tile[i][n]: n rows, 16 << i outputs; null where registers do not suffice
  FloatTileFn tile[2][kMostRows + 1];
  void (*settle)(const FloatSettle&);
  // codes of a block of 64 outputs -> [column][line], the first `fields` groups of 16 outputs
  void (*decode[2])(const uint8_t* codes, int64_t columns, int fields, float* to, int64_t line);
  // few[bits / 4][shift is not null][n]: n rows; null where registers do not suffice
  CodeTileFn few[2][2][kFewRows + 1];
  // codes of a block -> (code - shift) * scale of one group, [column][64]; shift may be null
  void (*scaled[2])(const uint8_t* codes, int64_t columns, const float* shift, const float* scale, float* to);
  void (*lane_line)(const LaneLine&);
  void (*lane_round)(const LaneRounding&);
};

extern const Floats scalar_floats;
extern const Floats avx2_floats;
extern const Floats avx512_floats;

const Floats& floats_current();  // dispatch.cpp

}  // namespace robustq
