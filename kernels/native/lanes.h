// Convolutions of few channels a group: outputs in the lanes, nothing multiplied but what is wanted. Declarations only.
//
// Rounded activations and codes are whole numbers in float32. Sums of them below 2^24 in magnitude are exact, whatever
// the order and the instruction set; who calls sees to that. In mode "exact" activations are not rounded.
#pragma once
#include <cstdint>

namespace robustq {

constexpr int kLaneBlock = 16;  // lanes of a block of outputs

// The outputs of a line: y = act(sum over taps of codes * x, times scale, + bias + residual).
struct LaneLine {
  const float* const* x;  // for each tap: what the first position of the first block multiplies, a value for each lane
  int64_t step, block;    // values from a position's, or a block's, to the next one's
  const float* codes;     // [block][tap][lane]
  int64_t taps, positions, outputs;
  const float* scale;     // for each lane of each block, weight and activations
  const float* bias;      // the same, or null
  const float* residual;  // [position][outputs], or null
  float* y;               // [position][outputs]
  bool relu;
};

// to[block][pixel][lane] = rint(x[pixel][16 block + lane] * factor), or x as it is where factor is 0; `count` values a
// pixel
struct LaneRounding {
  const float* x;
  int64_t x_step, pixels, count;  // x_step: values from a pixel to the next
  float factor;
  float* to;
  int64_t step, block;            // of `to`
};

}  // namespace robustq
