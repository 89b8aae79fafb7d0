// Layers on a matrix unit: which weights are decoded when, and what is summed where.
//
// The activations of a panel are copied to tiles once. For a block of 64 outputs the columns go by in sweeps, parts of
// one piece or of several. A sweep is decoded into the first-level cache and used for all rows of the panel, whose
// integer sums (of unfinished pieces) and float totals wait in the second-level cache.
#include "matrix.h"

#include <cstring>

#include "panel.h"

namespace robustq {
namespace {

struct Part {
  const Piece* piece;
  int64_t from, steps;      // of the piece's codes
  int64_t chunk, decoded;   // where its activations and its weights are, in chunks of the tile and of the sweep
  bool begins, ends;        // the piece
};
using Sweep = std::vector<Part>;

int64_t chunks_of(int64_t steps) { return (steps + kChunk - 1) / kChunk; }

std::vector<Sweep> sweeps_of(const Plan& plan) {
  std::vector<Sweep> sweeps(1);
  int64_t filled = 0, chunk = 0;
  for (const Piece& piece : plan.pieces)
    for (int64_t from = 0; from < piece.steps;) {
      if (filled == kSweepChunks) {
        sweeps.emplace_back();
        filled = 0;
      }
      const int64_t steps = std::min(piece.steps - from, (kSweepChunks - filled) * kChunk);
      sweeps.back().push_back({&piece, from, steps, chunk, filled, from == 0, from + steps == piece.steps});
      filled += chunks_of(steps);
      chunk += chunks_of(steps);
      from += steps;
    }
  return sweeps;
}

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
  const std::vector<Sweep> sweeps = sweeps_of(plan);
  const int64_t chunks = sweeps.back().back().chunk + chunks_of(sweeps.back().back().steps);
  const Buffer<int8_t> x = buffer<int8_t>(tiles * chunks * kTileBytes);
  const Buffer<uint8_t> decoded = buffer<uint8_t>(kSweepChunks * kChunkBytes);
  const Buffer<int32_t> sums = buffer<int32_t>(rows * panel.planes * kOutputs);
  const Buffer<float> totals = buffer<float>(rows * kOutputs);
  copy_tiles(plan, panel, tile_rows * panel.planes, chunks, x.get());
  // While a sweep is in use the next one is fetched: a share in each tile.
  const int64_t chunk_codes = kChunk * 32 * w.bits, ahead = (chunk_codes / 64 + tiles - 1) / tiles;
  int configured = 0;
  for (int64_t block = first_block; block < last_block; ++block) {
    const int64_t output = block * kOutputs;
    const int outputs = int(std::min<int64_t>(kOutputs, w.out - output)), fields = (outputs + 15) / 16;
    for (const Sweep& sweep : sweeps) {
      const auto codes = [&](const Part& part) {
        return w.codes + (block * plan.steps + part.piece->step + part.from) * 32 * w.bits;
      };
      if (tiles > 1)
        for (const Part& part : sweep)
          unit.decode[w.bits / 4](codes(part), part.steps, decoded.get() + part.decoded * kChunkBytes);
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t row = tile * tile_rows;
        const int count = int(std::min(tile_rows, rows - row)), planes = count * panel.planes;
        if (planes != configured) unit.configure(configured = planes);
        int32_t* sum = sums.get() + row * panel.planes * kOutputs;
        for (const Part& part : sweep) {
          UnitTile t = {};
          t.x = x.get() + (tile * chunks + part.chunk) * kTileBytes;
          t.weights = tiles > 1 ? decoded.get() + part.decoded * kChunkBytes : codes(part);
          t.chunks = chunks_of(part.steps);
          t.ahead = codes(part) + kSweepChunks * chunk_codes + tile * t.chunks * ahead * 64;
          t.ahead_lines = ahead;
          t.fields = fields;
          t.add = !part.begins;
          t.sum = sum;
          if (tiles > 1) unit.multiply(t);
          else unit.multiply_codes[w.bits / 4](t, part.steps);
          if (part.ends) {
            const int64_t at = part.piece->group * w.out + output;
            const int64_t here = (part.piece - plan.pieces.data()) * rows + row;
            unit.add({sum, w.scale + at, w.zero ? w.zero + at : nullptr,
                      w.zero ? &panel.total[size_t(here * panel.planes)] : nullptr, totals.get() + row * kOutputs,
                      w.bits, panel.planes, count, outputs, part.piece == plan.pieces.data()});
          }
        }
      }
    }
    for (int64_t row = 0; row < rows; ++row)
      unit.put(totals.get() + row * kOutputs, panel.scale[size_t(row)], w.bias ? w.bias + output : nullptr, outputs,
               relu, panel.y[size_t(row)] + output);
  }
  unit.release();
}

}  // namespace robustq
