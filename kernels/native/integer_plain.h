// The parts of an integer kernel that a compiler vectorises by itself, compiled once for each instruction set. All is
// static: no copy of it can end up as the one that another instruction set's file uses.
#pragma once
#include <cstring>
#include <limits>

#include "integer.h"

namespace robustq {
namespace {

// The bits of a float without its sign are ordered like its magnitude, and integers have a maximum that vectorises.
uint32_t magnitude(const float* x, int64_t n) {
  int32_t most = 0;
  for (int64_t i = 0; i < n; ++i) {
    int32_t bits;
    std::memcpy(&bits, x + i, sizeof bits);
    bits &= 0x7fffffff;
    most = bits > most ? bits : most;
  }
  return uint32_t(most);
}

// Adding 1.5 * 2^23 leaves the nearest integer (ties to even) in the low bits.
inline int32_t nearest(float value) {
  const float shifted = value + 12582912.0f;
  int32_t bits;
  std::memcpy(&bits, &shifted, sizeof bits);
  return bits - 0x4b400000;
}

void quantize(const float* x, int64_t n, float factor, int offset, int8_t* high, int8_t* low) {
  if (!low) {
    for (int64_t i = 0; i < n; ++i) high[i] = int8_t(nearest(x[i] * factor) + offset);
    return;
  }
  for (int64_t i = 0; i < n; ++i) {
    const int32_t q = nearest(x[i] * factor);
    const int32_t h = (q + 128) >> 8;
    high[i] = int8_t(h + offset);
    low[i] = int8_t(q - 256 * h + offset);
  }
}

void larger(const float* x, int64_t n, float* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = y[i] > x[i] || y[i] != y[i] ? y[i] : x[i];
}

int32_t total(const int8_t* x, int64_t n, int offset) {
  int32_t sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += int8_t(x[i] - offset);
  return sum;
}

uint32_t read(const uint8_t* x, int64_t n) {
  constexpr int kStreams = 4;
  const int64_t part = n / kStreams;
  uint32_t seen[16] = {};
  for (int64_t at = 0; at + 64 <= part; at += 64)
    for (int stream = 0; stream < kStreams; ++stream) {
      __builtin_prefetch(x + stream * part + at + 2048, 0, 2);
      for (int i = 0; i < 16; ++i) {
        uint32_t word;
        std::memcpy(&word, x + stream * part + at + 4 * i, sizeof word);
        seen[i] |= word;
      }
    }
  uint32_t all = 0;
  for (int i = 0; i < 16; ++i) all |= seen[i];
  return all;
}

template <int Bits>
void expand(const uint8_t* codes, int64_t columns, const float* zero, const float* scale, int outputs, float* out,
            int64_t line) {
  constexpr int kHalves = Bits / 2, kPart = 8 / Bits;
  for (int64_t k = 0; k < columns; ++k, out += line) {
    float row[kOutputs];
    const uint8_t* step = codes + k / 4 * 32 * Bits;
    for (int h = 0; h < kHalves; ++h) {
      uint32_t word[16];  // four columns of an output's byte
      std::memcpy(word, step + 64 * h, sizeof word);
      for (int b = 0; b < kPart; ++b) {
        const int first = 16 * (kPart * h + b), shift = int(8 * (k % 4)) + Bits * b;
        for (int lane = 0; lane < 16; ++lane) {
          const float stored = float(int32_t(word[lane] >> shift & ((1u << Bits) - 1)));
          row[first + lane] = (stored - zero[first + lane]) * scale[first + lane];
        }
      }
    }
    std::memcpy(out, row, size_t(outputs) * sizeof(float));
  }
}

// Excess: of output i, or of the row.
template <bool PerOutput, bool Zero>
inline void finish_row(const Finish& f, int row) {
  float* y = f.y[row];
  const float scale = f.row_scale[row];
  const int32_t* sum = f.sum + row * f.planes * kOutputs;
  const int32_t* excess = PerOutput ? f.excess : f.row_excess + row * f.planes;
  const int32_t* total = Zero ? f.total + row * f.planes : nullptr;
  const auto whole = [&](int plane, int i) {
    const int32_t value = sum[plane * kOutputs + i] - excess[PerOutput ? i : plane];
    return float(Zero ? value - (int32_t(f.zero[i]) - f.usual) * total[plane] : value);
  };
  if (f.first && f.bias)
    std::memcpy(y, f.bias, size_t(f.outputs) * sizeof(float));
  else if (f.first)
    std::memset(y, 0, size_t(f.outputs) * sizeof(float));
  if (f.planes == 1) {
    for (int i = 0; i < f.outputs; ++i) y[i] += f.weight_scale[i] * scale * whole(0, i);
  } else {
    for (int i = 0; i < f.outputs; ++i) y[i] += f.weight_scale[i] * scale * (256.0f * whole(0, i) + whole(1, i));
  }
  if (f.relu)
    for (int i = 0; i < f.outputs; ++i) y[i] = y[i] < 0.0f ? 0.0f : y[i];  // NaN stays
}

void finish(const Finish& f) {
  for (int row = 0; row < f.rows; ++row) {
    if (f.zero) f.excess ? finish_row<true, true>(f, row) : finish_row<false, true>(f, row);
    else f.excess ? finish_row<true, false>(f, row) : finish_row<false, false>(f, row);
  }
}

// Sixteen outputs as a number that the compiler knows, or `some`: it vectorises only the former.
template <bool Two, bool Excess, bool Residual, int Count>
inline void settle_lanes(const Settle& s, const int32_t* sum, float scale, int64_t at, int first, int some = 0) {
  const int count = Count ? Count : some;
  const float least = s.relu ? 0.0f : -std::numeric_limits<float>::infinity();
  const int32_t* high = sum + first;
  const int32_t* low = high + s.stride;
  float value[16];
  for (int i = 0; i < count; ++i) {
    const int32_t excess = Excess ? s.excess[first + i] : 0;
    value[i] = float(high[i] - excess);
    if (Two) value[i] = 256.0f * value[i] + float(low[i] - excess);
    value[i] *= s.weight_scale[first + i] * scale;
  }
  if (s.bias)
    for (int i = 0; i < count; ++i) value[i] += s.bias[first + i];
  if (Residual)
    for (int i = 0; i < count; ++i) value[i] += s.residual[at + first + i];
  float* y = s.y + at + first;
  for (int i = 0; i < count; ++i) y[i] = value[i] < least ? least : value[i];  // NaN stays
}

template <bool Two, bool Excess, bool Residual>
void settle_rows(const Settle& s) {
  for (int row = 0; row < s.rows; ++row) {
    if (s.target[row] < 0) continue;
    const int32_t* sum = s.sum + row * s.planes * s.stride;
    const float scale = s.scale[s.image[row]];
    const int64_t at = s.target[row] * s.pitch;
    int first = 0;
    for (; first + 16 <= s.outputs; first += 16) settle_lanes<Two, Excess, Residual, 16>(s, sum, scale, at, first);
    if (first < s.outputs)
      settle_lanes<Two, Excess, Residual, 0>(s, sum, scale, at, first, s.outputs - first);
  }
}

void settle(const Settle& s) {
  static constexpr void (*kSettle[])(const Settle&) = {
      settle_rows<false, false, false>, settle_rows<false, false, true>, settle_rows<false, true, false>,
      settle_rows<false, true, true>,   settle_rows<true, false, false>, settle_rows<true, false, true>,
      settle_rows<true, true, false>,   settle_rows<true, true, true>};
  kSettle[4 * (s.planes == 2) + 2 * (s.excess != nullptr) + (s.residual != nullptr)](s);
}

}  // namespace
}  // namespace robustq
