// Where the outputs of a convolution are, for a matrix unit or without.
#pragma once
#include <cstdint>
#include <vector>

#include "integer.h"

namespace robustq {

// Where the outputs are: entry i is an output position, or none (target < 0) where it only fills up a tile of 16.
struct Grid {
  std::vector<int64_t> offset;  // of its first activation, in values
  std::vector<int32_t> target;  // among the positions of all images
  std::vector<int32_t> image;
  int64_t size() const { return int64_t(offset.size()); }
};

// Of images in padded lines, `line` and `sample` values from one to the next; filled: in tiles of 16 positions whose
// first activations lie at equal distances.
Grid grid_of(const Convolution& c, int64_t images, int64_t line, int64_t sample, int64_t channels, bool filled);

}  // namespace robustq
