// What the drivers of integer layers share: buffers, the columns of a weight in pieces, the rows of a panel. Holds code:
// not for files with instruction-set flags.
#pragma once
#include <algorithm>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <vector>

#include "integer.h"

namespace robustq {

struct Free {
  void operator()(void* at) const { ::operator delete(at, std::align_val_t(64)); }
};
template <class T>
using Buffer = std::unique_ptr<T[], Free>;

template <class T>
Buffer<T> buffer(int64_t count) {  // not initialised
  return Buffer<T>(static_cast<T*>(::operator new(size_t(count) * sizeof(T), std::align_val_t(64))));
}

struct Piece {
  int64_t first, count;  // segments
  int64_t step, steps;   // of the codes
  int64_t group;
};

// A piece ends where a group ends, and after `most` steps, so that sums fit 32 bits.
struct Plan {
  int64_t most = kMaxSteps;
  std::vector<Segment> segments;
  std::vector<Piece> pieces;
  int64_t steps = 0;

  void add(int64_t offset, int64_t count, int64_t group) {
    while (count > 0) {
      if (pieces.empty() || pieces.back().group != group || pieces.back().steps == most)
        pieces.push_back({int64_t(segments.size()), 0, steps, 0, group});
      Piece& piece = pieces.back();
      const int64_t part = std::min(count, most - piece.steps);
      segments.push_back({offset, part});
      piece.count += 1;
      piece.steps += part;
      steps += part;
      offset += 4 * part;
      count -= part;
    }
  }
};

// Some rows of the layer's input, each one or two planes of int8, and where their outputs go.
struct Panel {
  int planes = 1;
  bool decoded = false;              // activations are stored plus 128, for decoded weights
  std::vector<const int8_t*> plane;  // [row][plane]
  std::vector<int32_t> excess;       // [piece][row][plane], unless decoded or for a matrix unit
  std::vector<int32_t> total;        // the same, if the weights have zero points
  std::vector<float> scale;          // [row]
  std::vector<float*> y;             // [row]
};

constexpr int64_t kRoundWork = int64_t(1) << 19;  // activations whose rounding pays for starting a thread

inline int most_planes(const IntegerTileFn (&tile)[kMaxPlanes + 1]) {
  int most = kMaxPlanes;
  while (!tile[most]) --most;
  return most;
}

// The scale of n activations and its inverse; NaN where one of them is NaN or infinite.
struct RowScale {
  float scale, factor;
};
inline RowScale row_scale(const Integer& isa, const float* x, int64_t n, int planes) {
  const float levels = planes == 2 ? 32512.0f : 127.0f;
  const uint32_t bits = isa.magnitude(x, n);
  float most;
  std::memcpy(&most, &bits, sizeof most);
  if (bits >= kNotFinite) return {std::numeric_limits<float>::quiet_NaN(), 0.0f};
  // Below that the inverse would overflow: such a row is zero as far as float32 sums go.
  if (most < 1e-30f) return {0.0f, 0.0f};
  return {most / levels, levels / most};
}

// matrix.cpp: the outputs of `blocks` for a panel, by a matrix unit; activations are stored as they are.
void multiply_by_unit(const Weights& w, const Plan& plan, const Panel& panel, int64_t first_block, int64_t last_block,
                      bool relu);

}  // namespace robustq
