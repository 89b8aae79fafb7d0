// y = x W^T + bias for a packed ternary W: blocking, scales, edges and threads; the arithmetic is in the tiles.
//
// Columns go in pieces of at most kDepth. A piece of x is copied to a padded buffer when several rows share it (rows a
// power of two apart would fall into the same cache sets) and stays in the second-level cache while all outputs are
// computed; a piece of W is decoded in registers and never written out. Short sums added to y also bound the rounding.
#include <algorithm>
#include <cstring>
#include <vector>

#include "kernel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kDepth = 512;                 // columns of a piece
constexpr int64_t kStride = kDepth + kLanes;    // of the padded copy
constexpr int64_t kPanel = 240;                 // rows of x in the padded copy: 240 * 528 * 4 B = 507 kB

// Adds one tile's sums over the piece `columns`, scaled, to y, group by group. x[0] is column columns.first, which is a
// multiple of 16.
void add_tile(const Matrix& w, const Isa& isa, const float* x, int64_t ldx, int rows, int64_t block, int log_blocks,
              Range columns, float* y) {
  const int64_t words = (w.in + kLanes - 1) / kLanes;
  const int64_t width = (w.in + w.groups - 1) / w.groups;
  const int lanes = kLanes << log_blocks;
  const int64_t output = block * kLanes;
  const int valid = int(std::min<int64_t>(lanes, w.out - output));
  float sum[kMaxSums];
  float scale[kLanes * kMaxBlocks];
  const uint32_t* first = w.words + block * words * kLanes + columns.first;
  for (int64_t k = columns.first; k < columns.last;) {
    const int64_t group = k / width;
    const int64_t end = std::min(columns.last, (group + 1) * width);
    isa.tile[rows][log_blocks]({x, ldx, first, words * kLanes, k - columns.first, end - columns.first, sum});
    for (int lane = 0; lane < valid; ++lane)
      scale[lane] = w.scale[(w.scale_rows == 1 ? 0 : (output + lane) * w.groups) + group];
    for (int r = 0; r < rows; ++r) {
      float* at = y + r * w.out + output;
      for (int lane = 0; lane < valid; ++lane) at[lane] += scale[lane] * sum[r * lanes + lane];
    }
    k = end;
  }
}

// All outputs of `blocks` for one piece of columns and up to kPanel rows.
void add_piece(const Matrix& w, const Isa& isa, const float* x, int64_t ldx, int64_t rows, Range blocks, Range columns,
               float* y) {
  const int64_t tiles = (rows + isa.max_rows - 1) / isa.max_rows;
  const int most = int((rows + tiles - 1) / tiles);  // even tiles: 16 rows are 8 + 8, not 12 + 4
  int log_widest = 3;
  while (!isa.tile[most][log_widest]) --log_widest;
  for (int64_t block = blocks.first; block < blocks.last;) {
    int log_blocks = log_widest;
    while (block + (int64_t(1) << log_blocks) > blocks.last) --log_blocks;
    for (int64_t r = 0; r < rows; r += most) {
      const int count = int(std::min<int64_t>(most, rows - r));
      add_tile(w, isa, x + r * ldx, ldx, count, block, log_blocks, columns, y + r * w.out);
    }
    block += int64_t(1) << log_blocks;
  }
}

void run(const Matrix& w, const Isa& isa, const float* x, Range rows, Range blocks, const float* bias, float* y) {
  const int64_t first = blocks.first * kLanes;
  const int64_t count = std::min(w.out, blocks.last * kLanes) - first;
  std::vector<float> copy(rows.last - rows.first > 1 ? std::min(kPanel, rows.last - rows.first) * kStride : 0);
  for (int64_t r0 = rows.first; r0 < rows.last; r0 += kPanel) {
    const int64_t panel = std::min(kPanel, rows.last - r0);
    for (int64_t r = r0; r < r0 + panel; ++r) {
      float* at = y + r * w.out + first;
      if (bias) std::memcpy(at, bias + first, size_t(count) * sizeof(float));
      else std::fill(at, at + count, 0.0f);
    }
    for (int64_t k = 0; k < w.in; k += kDepth) {
      const Range columns = {k, std::min(w.in, k + kDepth)};
      const float* source = x + r0 * w.in + k;
      int64_t ldx = w.in;
      if (!copy.empty()) {
        for (int64_t r = 0; r < panel; ++r)
          std::memcpy(&copy[size_t(r * kStride)], source + r * w.in, size_t(columns.last - k) * sizeof(float));
        source = copy.data();
        ldx = kStride;
      }
      add_piece(w, isa, source, ldx, panel, blocks, columns, y + r0 * w.out);
    }
  }
}

}  // namespace

void linear(const Matrix& w, const float* x, int64_t rows, const float* bias, float* y, int threads) {
  const Isa& isa = isa_current();
  const int64_t blocks = (w.out + kLanes - 1) / kLanes;
  const int64_t work = rows * w.out * w.in;
  const int64_t parts = parts_for(work, kThreadWork, threads);
  const bool by_output = blocks >= 8 * parts || blocks >= rows;
  in_parts(parts, by_output ? blocks : rows, [&](Range range) {
    if (by_output) run(w, isa, x, {0, rows}, range, bias, y);
    else run(w, isa, x, range, {0, blocks}, bias, y);
  });
}

void dense(const Matrix& w, float* out) {
  const Isa& isa = isa_current();
  const int64_t words = (w.in + kLanes - 1) / kLanes;
  const int64_t width = (w.in + w.groups - 1) / w.groups;
  for (int64_t row = 0; row < w.out; ++row) {
    const uint32_t* first = w.words + row / kLanes * words * kLanes + row % kLanes;
    for (int64_t k = 0; k < w.in;) {
      const int64_t group = k / width;
      const int64_t end = std::min(w.in, (group + 1) * width);
      const float scale = w.scale[(w.scale_rows == 1 ? 0 : row * w.groups) + group];
      isa.dense(first, k, end, scale, out + row * w.in + k);
      k = end;
    }
  }
}

}  // namespace robustq
