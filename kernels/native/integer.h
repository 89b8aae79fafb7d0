// Layers on integer activations: what an instruction set offers to the driver in integer.cpp. Declarations only.
//
// Weights, `bits` 2 or 4 (../lowbit.py is the specification): bytes [out/64][steps][32 * bits], a step being four
// columns; byte (block, step, 64 h + 4 lane + c) holds in its field b (bits b * bits ...) code + zero of the output
// 64 block + 16 (8 / bits * h + b) + lane and column c of the step, zero = 1 at 2 bits, 8 at 4 bits. So one 64-byte
// load and one AND give the unsigned operand of vpdpbusd for 16 outputs, and a block of outputs is one stream.
//
// Few rows: the stored codes are the unsigned operand; the sum is too large by zero times the sum of the activations.
// Many rows: a block is decoded once, to signed codes, and the activations, plus 128, are the unsigned operand; the sum
// is too large by 128 times the sum of the codes, whatever the row. `finish` takes either off, and with zero points of
// the weights' own, (zero point - zero) times the sum of the activations, which each row has for each group.
#pragma once
#include <cstdint>

namespace robustq {

constexpr int kOutputs = 64;                  // of a block
constexpr int kFields = 4;                    // groups of 16 outputs in a block
constexpr int kMaxPlanes = 12;                // rows of activations (planes of rows, if there are two) in a tile
constexpr int kFewPlanes = 2;
constexpr int kFewSums = 4;                   // planes x blocks of a `few`
constexpr int64_t kMaxSteps = 1024;           // summed in int32: 4 * 1024 columns * 240 * 128 < 2^31
constexpr int kDecodedStep = 64 * kFields;    // bytes of a step of decoded weights
constexpr uint32_t kNotFinite = 0x7f800000;   // infinity's bits: `magnitude` is that or more where a value is not finite

struct Segment {
  int64_t offset;  // of its first activation in a row, bytes
  int64_t steps;
};

struct IntegerTile {
  const int8_t* const* rows;  // one address for each plane of each row
  const Segment* segments;    // the columns to sum over
  int64_t count;
  const uint8_t* codes;       // the first step of the first segment
  int32_t* sum;               // sum[plane * 64 + output], overwritten
  int64_t block_bytes = 0;    // `few` only: from a block of codes to the next; sum[(block * planes + plane) * 64 + ...]
};
using IntegerTileFn = void (*)(const IntegerTile&);

// y = (first ? bias : y) + weight_scale * row scale * (sum - excess - (zero - usual) * total); two planes are
// 256 * high + low.
struct Finish {
  const int32_t* sum;           // as the tile left them
  const int32_t* row_excess;    // for each plane of each row, or
  const int32_t* excess;        // for each output, if that is not null
  const float* row_scale;       // for each row
  const float* weight_scale;    // for each output
  const float* bias;            // for each output, or null
  const uint8_t* zero;          // for each output, or null: no more is to be taken off
  const int32_t* total;         // for each plane of each row, if zero is not null
  int usual;                    // the zero of the codes
  float* const* y;              // for each row
  int planes, rows, outputs;    // planes of a row: 1 or 2
  bool first, relu;             // relu: the last piece of columns, max(y, 0)
};

// y = act(weight_scale * scale * (sum - excess) + bias + residual) at the output position of each row; two planes are
// 256 * high + low. sum[(row * planes + plane) * stride + output].
struct Settle {
  const int32_t* sum;
  int64_t stride;
  const int32_t* excess;  // for each output, or null
  const float* weight_scale;
  const float* bias;       // for each output, or null
  const float* scale;      // for each image
  const int32_t* target;   // for each row: its output position, or negative: the row is of no use
  const int32_t* image;    // for each row
  const float* residual;   // [position][pitch], or null
  float* y;                // [position][pitch]
  int64_t pitch;
  int planes, rows, outputs;
  bool relu;
};

struct Integer {
  int decode_planes;  // from so many planes of rows on, blocks are decoded first
  // tile[w][i][n]: w 0: 2 bits, 1: 4 bits, 2: decoded; 16 << i outputs; n planes; null where registers do not suffice
  IntegerTileFn tile[3][3][kMaxPlanes + 1];
  // few[w][n]: n planes, kFewSums / n whole blocks of stored codes at once, or null: memory answers faster to several
  // streams than to one
  IntegerTileFn few[2][kFewPlanes + 1];
  // codes of `steps` steps -> signed codes [steps][256], and 128 times their sum for each of the 64 outputs
  void (*decode[2])(const uint8_t* codes, int64_t steps, uint8_t* out, int32_t* excess);
  void (*finish)(const Finish&);
  void (*settle)(const Settle&);
  void (*larger)(const float* x, int64_t n, float* y);  // y = max(x, y), NaN if one is
  // the largest magnitude of n values, as the bits of a float; NaN and infinities come out above all numbers
  uint32_t (*magnitude)(const float* x, int64_t n);
  // q = rint(x * factor), |q| <= 127, or 32512 = 256 * high + low if low is not null; written plus `offset`
  void (*quantize)(const float* x, int64_t n, float factor, int offset, int8_t* high, int8_t* low);
  // the sum of n int8 that were written plus `offset`
  int32_t (*total)(const int8_t* x, int64_t n, int offset);
  // Does nothing but products of bytes, from registers, for `rounds` rounds; how many. For rooflines.
  int64_t (*peak)(int64_t rounds);
  // Does nothing but read n bytes (a multiple of 256) in four streams
  uint32_t (*read)(const uint8_t* x, int64_t n);
  // codes of a block -> weights, `columns` lines of `outputs`, `line` apart: (stored - zero) * scale, of each output
  void (*expand[2])(const uint8_t* codes, int64_t columns, const float* zero, const float* scale, int outputs,
                    float* out, int64_t line);
  // Channels of a group, for one and two planes, up to which a grouped convolution is faster in lanes (lanes.h); at most four
  int lane_channels[2];
};

extern const Integer scalar_integer;
extern const Integer avx2_integer;
extern const Integer avx512vnni_integer;

// integer.cpp
struct Weights {
  const uint8_t* codes;
  const float* scale;  // (groups, out)
  const float* bias;   // (out,) or null
  int bits;
  int64_t groups, out;
  const uint8_t* zero = nullptr;  // (groups, out), below 2^bits: the stored codes that stand for 0; null: `usual`
  int usual() const { return bits == 2 ? 1 : 8; }
};
struct Activation {
  int planes;  // 1: int8; 2: int16 in two planes of int8
  bool relu;
};
// weight (in, out) = (codes - zero points) * scale
void integer_dense(const Weights& w, int64_t in, float* weight, int threads);
// codes.cpp: y (rows, out) = act(x (rows, in) W^T + bias) in float32; a group is ceil(in / groups) columns
void float_linear(const Weights& w, const float* x, int64_t rows, int64_t in, bool relu, float* y, int threads);
// y (rows, out) = act(x (rows, in) W^T + bias), x rounded row by row; a group is ceil(in / groups) columns
void integer_linear(const Weights& w, const float* x, int64_t rows, int64_t in, Activation mode, float* y, int threads);

struct Convolution {
  int64_t batch, height, width, channels;  // of x, channels last
  int64_t kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w;
  int64_t out_height() const { return (height + 2 * pad_h - dilation_h * (kernel_h - 1) - 1) / stride_h + 1; }
  int64_t out_width() const { return (width + 2 * pad_w - dilation_w * (kernel_w - 1) - 1) / stride_w + 1; }
};

}  // namespace robustq
