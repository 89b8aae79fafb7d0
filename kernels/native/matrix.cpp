// Layers on a matrix unit: what is summed where.
//
// The activations of a panel are copied to tiles once and stay in the second-level cache, as do the codes of a block of
// 64 outputs, which are decoded again for every two tiles.
#include "matrix.h"

#include <cstring>

#include "panel.h"

namespace robustq {
namespace {

int64_t chunks_of(int64_t steps) { return (steps + kChunk - 1) / kChunk; }

// Activations as tiles [tile][chunk][row][64]; zero after the columns of each piece. Missing rows are left as they are.
void copy_tiles(const Plan& plan, const Panel& panel, int64_t tile_planes, int64_t chunks, int8_t* to) {
  for (size_t plane = 0; plane < panel.plane.size(); ++plane) {
    const int64_t tile = int64_t(plane) / tile_planes, row = int64_t(plane) % tile_planes;
    int8_t* at = to + tile * chunks * kTileBytes + row * 4 * kChunk;
    for (const Piece& piece : plan.pieces) {
      int64_t filled = 0;  // bytes of the chunk
      for (int64_t s = piece.first; s < piece.first + piece.count; ++s) {
        const int8_t* from = panel.plane[plane] + plan.segments[size_t(s)].offset;
        for (int64_t left = 4 * plan.segments[size_t(s)].steps; left > 0;) {
          const int64_t count = std::min(left, 4 * kChunk - filled);
          if (count == 4 * kChunk) std::memcpy(at, from, 4 * kChunk);
          else std::memcpy(at + filled, from, size_t(count));
          from += count;
          left -= count;
          filled += count;
          if (filled == 4 * kChunk) {
            at += kTileBytes;
            filled = 0;
          }
        }
      }
      if (filled) {
        std::memset(at + filled, 0, size_t(4 * kChunk - filled));
        at += kTileBytes;
      }
    }
  }
}

}  // namespace

void multiply_by_unit(const Weights& w, const Plan& plan, const Panel& panel, int64_t first_block, int64_t last_block,
                      bool relu) {
  const Unit& unit = *unit_current();
  const int64_t rows = int64_t(panel.scale.size()), tile_rows = kTileRows / panel.planes;
  const int64_t tiles = (rows + tile_rows - 1) / tile_rows;
  int64_t chunks = 0;
  for (const Piece& piece : plan.pieces) chunks += chunks_of(piece.steps);
  const Buffer<int8_t> x = buffer<int8_t>(tiles * chunks * kTileBytes);
  copy_tiles(plan, panel, tile_rows * panel.planes, chunks, x.get());
  alignas(64) int32_t sum[2 * kTileRows * kOutputs];
  alignas(64) float total[2 * kTileRows * kOutputs];
  int64_t configured = 0;
  for (int64_t block = first_block; block < last_block; ++block) {
    const int64_t output = block * kOutputs;
    const int outputs = int(std::min<int64_t>(kOutputs, w.out - output));
    for (int64_t tile = 0; tile < tiles; tile += 2) {
      const int64_t row = tile * tile_rows, left = std::min(2 * tile_rows, rows - row);
      const int64_t count = std::min(tile_rows, left), second = left - count;
      if (left != configured) unit.configure(count * panel.planes, (second ? second : count) * panel.planes);
      configured = left;
      const int8_t* at = x.get() + tile * chunks * kTileBytes;
      for (size_t p = 0; p < plan.pieces.size(); ++p) {
        const Piece& piece = plan.pieces[p];
        unit.multiply[w.bits / 4]({{at, second ? at + chunks * kTileBytes : nullptr},
                                   w.codes + (block * plan.steps + piece.step) * 32 * w.bits, piece.steps,
                                   (outputs + 15) / 16, sum});
        at += chunks_of(piece.steps) * kTileBytes;
        const int64_t scale = piece.group * w.out + output, here = int64_t(p) * rows + row;
        unit.add({sum, w.scale + scale, w.zero ? w.zero + scale : nullptr,
                  w.zero ? &panel.total[size_t(here * panel.planes)] : nullptr, total, w.bits, panel.planes, int(left),
                  outputs, p == 0});
      }
      for (int64_t r = 0; r < left; ++r)
        unit.put(total + r * kOutputs, panel.scale[size_t(row + r)], w.bias ? w.bias + output : nullptr, outputs, relu,
                 panel.y[size_t(row + r)] + output);
    }
  }
  unit.release();
}

}  // namespace robustq
