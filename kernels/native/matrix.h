// A matrix unit: what it offers to the driver in matrix.cpp. Declarations only.
//
// Columns go in chunks of 16 steps (64 columns). Activations of a chunk are a tile of 16 rows of 64 bytes. Weights are
// decoded to signed bytes, a power of two times the codes, as masking leaves it; `add` shifts the sums. Beyond the last
// step activations are zero and weights are anything.
#pragma once
#include "integer.h"

namespace robustq {

constexpr int kTileRows = 16;  // planes of rows in a tile
constexpr int64_t kChunk = 16;  // steps
constexpr int64_t kTileBytes = kTileRows * 4 * kChunk;
constexpr int64_t kSweepChunks = 8;  // decoded at a time: 32 kB, for the first-level cache

struct UnitTile {
  const int8_t* x[2];    // chunks of activations; the second is null: one tile of rows
  const uint8_t* codes;  // of a block
  int64_t steps;
  int fields;            // groups of 16 outputs that are wanted
  int32_t* sum;          // [plane of both tiles][64]
};

// total = (first ? 0 : total) + weight_scale * (sum - (zero - usual) * activations); two planes are 256 * high + low.
struct UnitAdd {
  const int32_t* sum;
  const float* weight_scale;  // for each output
  const uint8_t* zero;        // for each output, or null
  const int32_t* activations; // for each plane of each row, if zero is not null
  float* total;               // [row][64]
  int bits, planes, rows, outputs;
  bool first;
};

// Sums of tiles of 16 positions in a row whose activations lie `pitch` bytes apart, as they are in memory. Columns are
// parts of equal length; weights are [part][step][256 bytes], plain signed codes.
struct UnitWindow {
  const int8_t* x[4];      // [tile][plane]: the first activation of each tile's first position
  int64_t pitch;
  const uint8_t* weights;
  const int64_t* offset;   // of each part, in bytes from the first activation
  int64_t parts, part_bytes;
  int64_t limbs;           // parts one after the other that share weights
  int32_t* sum;            // [position][plane][16 * fields]
  bool add;                // to what `sum` holds
};

struct Unit {
  int64_t (*peak)(int64_t rounds);  // as in integer.h
  void (*configure)(int64_t planes, int64_t second);  // rows of the one tile and of the other
  void (*release)();
  void (*multiply[2])(const UnitTile&);        // of two bits, of four
  void (*add)(const UnitAdd&);
  // For windows whose parts have so many steps
  void (*configure_window)(int steps);
  // max(1, 4 / fields / planes) tiles, fields 1, 2 or 4
  void (*window)(const UnitWindow&, int planes, int fields);
  // y = act(total * scale + bias) of one row
  void (*put)(const float* total, float scale, const float* bias, int outputs, bool relu, float* y);
};

// Convolutions of float16 or bfloat16, two columns a step.
struct UnitHalves {
  // 4 / fields tiles, fields 1, 2 or 4; planes are 1, and `sum` holds float32
  void (*window)(const UnitWindow&, int fields, bool bf16);
  // `steps` steps of codes -> twice as many of halves
  void (*decode)(const uint8_t* codes, int bits, int64_t steps, bool bf16, uint8_t* out);
  // n activations times a power of two -> two limbs of float16, or three of bfloat16, `plane` apart (exact.h)
  void (*split)(const float* x, int64_t n, float factor, bool bf16, uint16_t* to, int64_t plane);
};

extern const Unit amx_unit;
extern const UnitHalves amx_halves;
bool amx_permitted();  // asks the operating system for the tile registers

const Unit* unit_current();  // dispatch.cpp: null without one
const UnitHalves* halves_current();  // the same

}  // namespace robustq
