// A convolution of a network (network.h): weights of one layer, prepared once, applied to some images at a time.
#pragma once
#include <cstdint>
#include <vector>

#include "integer.h"
#include "matrix.h"

namespace robustq {

struct Layer {
  Convolution shape;    // batch is not used
  int64_t out, groups;  // output channels; groups of channels, each packed on its own columns
  int bits;
  bool relu;
  const uint8_t* codes;  // columns (kernel_h, kernel_w, channels / groups rounded up to four)
  const float* scale;    // for each output
  const float* bias;     // for each output, or null
  int64_t columns() const { return shape.kernel_h * shape.kernel_w * ((shape.channels / groups + 3) / 4 * 4); }
};

// Throws std::invalid_argument unless all sizes make sense and 63 bits hold what is computed from them.
void check(const Layer& layer);

// Where the outputs are: entry i is an output position, or none (target < 0) where it only fills up a tile of 16.
struct Grid {
  std::vector<int64_t> offset;  // of its first activation, bytes
  std::vector<int32_t> target;  // among the positions of all images
  std::vector<int32_t> image;
  int64_t size() const { return int64_t(offset.size()); }
};

class Convolver {
 public:
  // For a layer that has been checked, and up to `images` at a time.
  Convolver(const Layer& layer, int planes, int64_t images);
  // x, residual, y: channels last; residual may be null. y = act(W x + bias + residual), x rounded image by image.
  void run(const float* x, const float* residual, float* y, int64_t images, int threads) const;

 private:
  struct Block {
    int64_t first, outputs;  // of the layer
    int64_t channel;         // the first that is read
    int64_t run, runs;       // steps that lie together in x, and how often
    int64_t parts, steps;    // of a run: equal parts, the last one filled up with zeros, for a matrix unit's tiles
  };
  struct Activations;

  Grid grid(int64_t images) const;
  void round(const float* x, int64_t images, int threads, Activations& to) const;
  void decode(const Block& block, int64_t first, int64_t count, uint8_t* to, int32_t* excess) const;
  void spread(const Block& block, uint8_t* to, int32_t* excess) const;
  void by_rows(const Block& block, const Activations& from, const Grid& grid, int64_t first, int64_t last,
               const float* residual, float* y) const;
  void by_unit(const Block& block, const Activations& from, const Grid& grid, int64_t first, int64_t last,
               const float* residual, float* y) const;
  int64_t run_offset(const Block& block, int64_t run) const;

  Layer layer_;
  int planes_;
  const Integer& isa_;
  const Unit* unit_;  // null: none
  int64_t images_;
  int64_t channels_;       // rounded up to four
  int64_t line_, sample_;  // bytes of a padded line and of a padded image
  int64_t plane_;          // bytes of a plane of `images_` images
  std::vector<Block> blocks_;
  Grid grid_;
};

}  // namespace robustq
