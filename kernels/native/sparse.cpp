// y = act(x W^T + bias) from lists: tables, panels, rows and threads; the arithmetic is in sparse_*.cpp.
#include <algorithm>
#include <cstring>
#include <vector>

#include "integer.h"
#include "kernel.h"
#include "lists.h"
#include "panel.h"
#include "parallel.h"
#include "sparse.h"

namespace robustq {
namespace {

constexpr int64_t kWholeBits = 0x7f800000;  // of infinity; NaN is above
constexpr float kSmallest = 1e-30f;         // a row below that is zero, as in integer.cpp
constexpr int64_t kTail = 48;               // rows from which four units are faster than two and one

struct Band {
  int64_t first, rows;
  int units;
};

std::vector<Band> bands(int64_t rows) {
  std::vector<Band> found;
  for (int64_t at = 0; at < rows;) {
    const int64_t left = rows - at;
    const int units = left > kTail ? 4 : left > kUnit ? 2 : 1;
    found.push_back({at, std::min<int64_t>(left, units * kUnit), units});
    at += units * kUnit;
  }
  return found;
}

float from_bits(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

// Integers that stand for the rows, as floats: x is never below -levels or above them. False where one is not finite.
bool round_rows(const SparseCall& call, int64_t in, float* to, float* row_scale) {
  for (int64_t r = 0; r < call.rows; ++r) {
    const float* x = call.x + r * in;
    const uint32_t bits = integer_current().magnitude(x, in);
    if (bits >= kWholeBits) return false;
    const float most = from_bits(bits);
    row_scale[r] = most < kSmallest ? 0.0f : most / call.levels;
    const float factor = most < kSmallest ? 0.0f : call.levels / most;
    // Adding 1.5 * 2^23 leaves the nearest integer in the last bits, ties to even.
    for (int64_t k = 0; k < in; ++k) to[r * in + k] = (x[k] * factor + 12582912.0f) - 12582912.0f;
  }
  return true;
}

void panel(const Lists& lists, const SparseCall& call, const float* x, const float* row_scale, const Band& band,
           int64_t index, float* columns, float* table, float* sums) {
  const Sparse& isa = sparse_current();
  const int64_t width = kBlockColumns[lists.together], blocks = (lists.in + width - 1) / width;
  const int64_t output = index * kPanelOutputs, outputs = std::min(kPanelOutputs, lists.out - output);
  const int64_t lanes = band.units * kUnit;
  std::memset(sums, 0, size_t(outputs * lanes) * sizeof(float));
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t first = b * width, count = std::min(width, lists.in - first);
    float* made = lists.together == 1 ? table : columns;
    isa.load(x + band.first * lists.in + first, lists.in, band.rows, count, band.units, made);
    if (lists.together > 1) {
      const int64_t groups = (count + lists.together - 1) / lists.together;
      std::memset(made + count * lanes, 0, size_t((groups * lists.together - count) * lanes) * sizeof(float));
      isa.combine(columns, groups, lists.together, band.units, table);
    }
    const int64_t* at = &lists.blocks[size_t(index * blocks + b)];
    isa.add[band.units / 2](lists.records.data() + at[0], lists.records.data() + at[1], table, sums);
  }
  const int64_t step = call.scale_rows == 1 ? 0 : 1;
  isa.store({sums, call.scale + step * output, step, row_scale ? row_scale + band.first : nullptr,
             call.bias ? call.bias + output : nullptr, call.y + band.first * lists.out + output, lists.out, band.rows,
             outputs, band.units, call.relu});
}

}  // namespace

bool sparse_linear(const Lists& lists, const SparseCall& call) {
  Buffer<float> rounded, row_scale;
  const float* x = call.x;
  if (call.levels != 0.0f) {
    rounded = buffer<float>(call.rows * lists.in);
    row_scale = buffer<float>(call.rows);
    if (!round_rows(call, lists.in, rounded.get(), row_scale.get())) return false;
    x = rounded.get();
  } else if (integer_current().magnitude(x, call.rows * lists.in) >= kWholeBits) {
    return false;
  }
  const std::vector<Band> all = bands(call.rows);
  const int64_t panels = (lists.out + kPanelOutputs - 1) / kPanelOutputs;
  const int64_t parts = parts_for(call.rows * lists.nonzero, kThreadWork, call.threads);
  in_parts(parts, int64_t(all.size()) * panels, [&](Range range) {
    const int64_t lanes = all[0].units * kUnit;
    const Buffer<float> columns = buffer<float>((kBlockColumns[lists.together] + kMaxTogether) * lanes);
    const Buffer<float> table = buffer<float>(kMaxEntries * lanes);
    const Buffer<float> sums = buffer<float>(std::min(kPanelOutputs, lists.out) * lanes);
    for (int64_t i = range.first; i < range.last; ++i)
      panel(lists, call, x, row_scale.get(), all[size_t(i / panels)], i % panels, columns.get(), table.get(),
            sums.get());
  });
  return true;
}

}  // namespace robustq
