// The scales and, with ZEROS, the zero points of a weight, (outputs, groups): the weight is (code - zero) * scale.
#pragma once

#include "device.cuh"

#ifndef ZEROS
#define ZEROS 0
#endif

// sums (rows, groups): of the integers of quantize.cu. fold: the inverse of what unpacking multiplies the codes with.
struct Scales {
  const float* scale;
  const float* zero;
  const int* sums;
  int groups, outputs;
  i64 rows;
  float fold;

  __device__ __forceinline__ float operator()(int output, int index) const {
    return output < outputs ? scale[(i64)output * groups + index] * fold : 0.0f;
  }

  __device__ __forceinline__ float zero_of(int output, int index) const {
    return ZEROS && output < outputs ? zero[(i64)output * groups + index] / fold : 0.0f;
  }

  __device__ __forceinline__ float sum_of(i64 row, int index) const {
    return ZEROS && row < rows ? (float)sums[row * groups + index] : 0.0f;
  }
};
