// Layers on integer activations: rounding of the activations, the columns in pieces, tiles, threads.
//
// y = act(sum over pieces of columns of weight scale * row scale * (integer sum) + bias). A piece ends where a group
// ends, and after kMaxSteps, so that sums fit 32 bits and a decoded block (256 kB) the second-level cache.
#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "few.h"
#include "kernel.h"
#include "matrix.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kPanelBytes = 512 * 1024;  // activations of a panel of rows, in the second-level cache
constexpr int64_t kUnitPanelBytes = 320 * 1024;  // the same for a matrix unit, beside a block's codes
constexpr int64_t kUnitPlanes = 4;  // from so many planes of rows on, where they are not `few`, the matrix unit is used

// One or two planes of rows and whole blocks, several at once; what is left of `blocks`.
Range multiply_few(const Weights& w, const Plan& plan, const Panel& panel, Range blocks, bool relu) {
  const Integer& isa = integer_current();
  const int planes = int(panel.plane.size()), rows = int(panel.scale.size());
  if (panel.decoded || planes > kFewPlanes || !isa.few[w.bits / 4][planes]) return blocks;
  const int64_t together = kFewSums / planes, block_bytes = plan.steps * 32 * w.bits;
  int32_t sum[kFewSums * kOutputs];
  float* y[kFewPlanes];
  for (; blocks.size() >= together && (blocks.first + together) * kOutputs <= w.out; blocks.first += together)
    for (size_t p = 0; p < plan.pieces.size(); ++p) {
      const Piece& piece = plan.pieces[p];
      const uint8_t* codes = w.codes + blocks.first * block_bytes + piece.step * 32 * w.bits;
      isa.few[w.bits / 4][planes]({panel.plane.data(), &plan.segments[size_t(piece.first)], piece.count, codes, sum,
                                   block_bytes});
      for (int64_t b = 0; b < together; ++b) {
        const int64_t output = (blocks.first + b) * kOutputs;
        for (int r = 0; r < rows; ++r) y[r] = panel.y[size_t(r)] + output;
        const int64_t at = piece.group * w.out + output;
        isa.finish({sum + b * planes * kOutputs, &panel.excess[p * size_t(planes)], nullptr, panel.scale.data(),
                    w.scale + at, w.bias ? w.bias + output : nullptr, w.zero ? w.zero + at : nullptr,
                    w.zero ? &panel.total[p * size_t(planes)] : nullptr, w.usual(), y, panel.planes, rows, kOutputs,
                    p == 0, relu && p + 1 == plan.pieces.size()});
      }
    }
  return blocks;
}

void multiply(const Weights& w, const Plan& plan, const Panel& panel, Range blocks, bool relu, uint8_t* decoded) {
  const Integer& isa = integer_current();
  const int64_t rows = int64_t(panel.scale.size());
  const int kind = panel.decoded ? 2 : w.bits == 2 ? 0 : 1;
  int32_t sum[kMaxPlanes * kOutputs];
  int32_t excess[kOutputs];
  float* y[kMaxPlanes];
  blocks = multiply_few(w, plan, panel, blocks, relu);
  for (int64_t block = blocks.first; block < blocks.last; ++block) {
    const int64_t output = block * kOutputs;
    const int outputs = int(std::min<int64_t>(kOutputs, w.out - output));
    const int width = outputs > 32 ? 2 : outputs > 16 ? 1 : 0;
    const auto& tile = isa.tile[kind][width];
    const int64_t most = most_planes(tile) / panel.planes;
    const int64_t tiles = (rows + most - 1) / most;
    for (size_t p = 0; p < plan.pieces.size(); ++p) {
      const Piece& piece = plan.pieces[p];
      const uint8_t* codes = w.codes + (block * plan.steps + piece.step) * 32 * w.bits;
      if (panel.decoded) {
        isa.decode[w.bits / 4](codes, piece.steps, decoded, excess);
        codes = decoded;
      }
      for (int64_t t = 0; t < tiles; ++t) {  // even tiles: 16 rows are 6 + 5 + 5, not 6 + 6 + 4
        const int64_t row = rows * t / tiles;
        const int count = int(rows * (t + 1) / tiles - row);
        const int64_t first = row * panel.planes;
        tile[count * panel.planes](
            {&panel.plane[size_t(first)], &plan.segments[size_t(piece.first)], piece.count, codes, sum});
        for (int r = 0; r < count; ++r) y[r] = panel.y[size_t(row + r)] + output;
        const int64_t at = piece.group * w.out + output;
        const size_t here = p * panel.plane.size() + size_t(first);
        isa.finish({sum, panel.decoded ? nullptr : &panel.excess[here], panel.decoded ? excess : nullptr,
                    &panel.scale[size_t(row)], w.scale + at, w.bias ? w.bias + output : nullptr,
                    w.zero ? w.zero + at : nullptr, w.zero ? &panel.total[here] : nullptr, w.usual(), y, panel.planes,
                    count, outputs, p == 0, relu && p + 1 == plan.pieces.size()});
      }
    }
  }
}

int64_t blocks_of(const Weights& w) { return (w.out + kOutputs - 1) / kOutputs; }

}  // namespace

void integer_dense(const Weights& w, int64_t in, float* weight, int threads) {
  const Integer& isa = integer_current();
  const int64_t width = (in + w.groups - 1) / w.groups;
  const int64_t steps = in / width * ((width + 3) / 4) + (in % width + 3) / 4;
  in_parts(parts_for(in * w.out, kRoundWork, threads), blocks_of(w), [&](Range blocks) {
    float zero[kOutputs], scale[kOutputs] = {};
    std::fill(zero, zero + kOutputs, float(w.usual()));
    for (int64_t block = blocks.first; block < blocks.last; ++block) {
      const int64_t output = block * kOutputs;
      const int outputs = int(std::min<int64_t>(kOutputs, w.out - output));
      const uint8_t* codes = w.codes + block * steps * 32 * w.bits;
      for (int64_t group = 0; group * width < in; ++group) {
        const int64_t columns = std::min(width, in - group * width), at = group * w.out + output;
        std::copy_n(w.scale + at, outputs, scale);
        if (w.zero) std::copy_n(w.zero + at, outputs, zero);
        isa.expand[w.bits / 4](codes, columns, zero, scale, outputs, weight + group * width * w.out + output, w.out);
        codes += (columns + 3) / 4 * 32 * w.bits;
      }
    }
  });
}

void integer_linear(const Weights& w, const float* x, int64_t rows, int64_t in, Activation mode, float* y,
                    int threads) {
  const Integer& isa = integer_current();
  const int64_t width = (in + w.groups - 1) / w.groups;
  const bool few = rows * mode.planes > kFewPlanes && few_fit(w, in, rows * mode.planes);
  Plan plan;
  if (few) plan.most = kDigitColumns / 4;  // no group has more
  for (int64_t group = 0; group * width < in; ++group)
    plan.add(4 * plan.steps, (std::min(width, in - group * width) + 3) / 4, group);
  const int64_t pieces = int64_t(plan.pieces.size());
  const bool unit = !few && unit_current() && rows * mode.planes >= kUnitPlanes;
  const bool decoded = !few && !unit && rows * mode.planes >= isa.decode_planes;
  const bool excess = !unit && !decoded;  // the sum of a row's activations is taken off
  const bool summed = excess || w.zero;
  const int64_t plane_bytes = few_pitch(4 * plan.steps);
  const int64_t row_bytes = mode.planes * plane_bytes;
  Buffer<int8_t> q = buffer<int8_t>(rows * row_bytes);
  Buffer<float> scale = buffer<float>(rows);
  Buffer<int32_t> sums = buffer<int32_t>(!summed ? 1 : rows * mode.planes * pieces);

  in_parts(parts_for(rows * in, kRoundWork, threads), rows, [&](Range range) {
    for (int64_t r = range.first; r < range.last; ++r) {
      const RowScale s = row_scale(isa, x + r * in, in, mode.planes);
      scale[size_t(r)] = s.scale;
      int8_t* high = q.get() + r * row_bytes;
      int8_t* low = mode.planes == 2 ? high + plane_bytes : nullptr;
      int64_t at = 0;
      for (int64_t k = 0; k < in; k += width) {
        const int64_t count = std::min(width, in - k), padding = -count & 3;
        if (s.factor != 0.0f) {
          isa.quantize(x + r * in + k, count, s.factor, decoded ? 128 : 0, high + at, low ? low + at : nullptr);
        } else {
          std::memset(high + at, decoded ? -128 : 0, size_t(count));
          if (low) std::memset(low + at, decoded ? -128 : 0, size_t(count));
        }
        std::memset(high + at + count, decoded ? -128 : 0, size_t(padding));
        if (low) std::memset(low + at + count, decoded ? -128 : 0, size_t(padding));
        at += count + padding;
      }
      for (int plane = 0; few && plane < mode.planes; ++plane)  // up to the end of a step
        std::memset(high + plane * plane_bytes + at, 0, size_t(-at & (kDigitStep - 1)));
      if (!summed) continue;
      for (int64_t p = 0; p < pieces; ++p)
        for (int plane = 0; plane < mode.planes; ++plane) {
          const Piece& piece = plan.pieces[size_t(p)];
          sums[size_t((p * rows + r) * mode.planes + plane)] =
              isa.total(high + plane * plane_bytes + 4 * piece.step, 4 * piece.steps, decoded ? 128 : 0);
        }
    }
  });

  const FewRows own = {q.get(), plane_bytes, sums.get(), scale.get(), rows, mode.planes};
  if (few) return few_by_unit(w, in, own, mode.relu, y, threads);
  const int64_t blocks = blocks_of(w);
  const int64_t parts = parts_for(rows * w.out * in, 4 * kThreadWork, threads);
  const bool by_output = blocks >= 4 * parts || blocks >= rows;
  const int64_t tiles = 2 * kTileRows / mode.planes;  // rows of two tiles, which the unit takes at once
  const int64_t most = unit ? std::max(tiles, kUnitPanelBytes / row_bytes / tiles * tiles)
                            : std::max<int64_t>(kMaxPlanes, kPanelBytes / row_bytes);
  in_parts(parts, by_output ? blocks : rows, [&](Range range) {
    const Range mine = by_output ? Range{0, rows} : range;
    Buffer<uint8_t> block = buffer<uint8_t>(decoded ? std::min(kMaxSteps, plan.steps) * kDecodedStep : 1);
    for (int64_t first = mine.first; first < mine.last; first += most) {
      const int64_t last = std::min(mine.last, first + most);
      Panel panel;
      panel.planes = mode.planes;
      panel.decoded = decoded;
      for (int64_t r = first; r < last; ++r) {
        for (int plane = 0; plane < mode.planes; ++plane)
          panel.plane.push_back(q.get() + r * row_bytes + plane * plane_bytes);
        panel.scale.push_back(scale[size_t(r)]);
        panel.y.push_back(y + r * w.out);
      }
      if (summed)
        for (int64_t p = 0; p < pieces; ++p)
          panel.total.insert(panel.total.end(), &sums[size_t((p * rows + first) * mode.planes)],
                             &sums[size_t((p * rows + last - 1) * mode.planes)] + mode.planes);
      if (excess)
        for (int32_t total : panel.total) panel.excess.push_back(w.usual() * total);
      const Range columns = by_output ? range : Range{0, blocks};
      if (unit) multiply_by_unit(w, plan, panel, columns.first, columns.last, mode.relu);
      else multiply(w, plan, panel, columns, mode.relu, block.get());
    }
  });
}

}  // namespace robustq
