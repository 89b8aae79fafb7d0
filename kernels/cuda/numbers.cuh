// Activations in memory: ELEMENT 0 float32, 1 float16, 2 bfloat16. Everything is computed in float32.
#pragma once

#if ELEMENT == 0
typedef float Element;
__device__ __forceinline__ float widen(Element x) { return x; }
__device__ __forceinline__ Element narrow(float x) { return x; }
#else
typedef u16 Element;
#endif

// Round to nearest, ties to even; NaN stays NaN.
__device__ __forceinline__ u16 to_bf16(float x) {
  u32 bits = float_bits(x);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return (u16)(bits >> 16 | 0x40);
  return (u16)((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

#if ELEMENT == 1
__device__ __forceinline__ float widen(Element x) { return half_to_float(x); }
__device__ __forceinline__ Element narrow(float x) { return float_to_half(x); }
#elif ELEMENT == 2
__device__ __forceinline__ float widen(Element x) { return bits_float((u32)x << 16); }
__device__ __forceinline__ Element narrow(float x) { return to_bf16(x); }
#endif
