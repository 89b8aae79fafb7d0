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

// Images in padded lines, channels rounded up to four: [image][line][pixel][channel]. Counts of values. The padding on the
// right of a line is that on the left of the next one; a line has whole strides, and behind the last image there is room
// for all that a tile of 16 positions reads.
struct Lines {
  int64_t channels, line, sample;
  int64_t all;  // of the images that it is for
};
Lines lines_of(const Convolution& c, int64_t images);

// Of images in padded lines, `line` and `sample` values from one to the next; filled: in tiles of 16 positions whose
// first activations lie at equal distances.
Grid grid_of(const Convolution& c, int64_t images, int64_t line, int64_t sample, int64_t channels, bool filled);

}  // namespace robustq
