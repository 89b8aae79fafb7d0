// y = x W^T + bias for a packed ternary W: blocking, scales, edges and threads; the arithmetic is in the tiles.
//
// Columns go in pieces of at most kDepth. A piece of x is copied to a padded buffer when several rows share it (rows a
// power of two apart would fall into the same cache sets) and stays in the second-level cache while all outputs are
// computed; a piece of W is decoded in registers and never written out. Short sums added to y also bound the rounding.
// Where the instruction set can, and there are enough outputs, tables of two columns take the place of decoding.
#include <algorithm>
#include <cstring>
#include <vector>

#include "exact.h"
#include "kernel.h"
#include "panel.h"
#include "parallel.h"

namespace robustq {
namespace {

constexpr int64_t kDepth = 512;                 // columns of a piece
constexpr int64_t kStride = kDepth + kLanes;    // of the padded copy
constexpr int64_t kPanel = 240;                 // rows of x in the padded copy: 240 * 528 * 4 B = 507 kB
constexpr int64_t kPairDepth = 256;             // columns of a piece by pairs: six tables are 48 kB
constexpr int64_t kPairPanel = 48;              // rows by pairs, whose outputs stay in the second-level cache
constexpr int64_t kPairOutputs = 256;           // that pay for making the tables
constexpr int64_t kUnitRows = 4;                // from which a matrix unit is faster

// y += scale * sum for the outputs of a tile, in one group of columns.
void add_sums(const Matrix& w, const float* sum, int rows, int lanes, int64_t output, int64_t group, float* y) {
  float gathered[kLanes * kMaxBlocks];
  const float* scale = w.scale + output;  // where a row has one group
  const int valid = int(std::min<int64_t>(lanes, w.out - output));
  if (w.scale_rows == 1) {
    std::fill(gathered, gathered + valid, w.scale[group]);
    scale = gathered;
  } else if (w.groups > 1) {
    for (int lane = 0; lane < valid; ++lane) gathered[lane] = w.scale[(output + lane) * w.groups + group];
    scale = gathered;
  }
  for (int r = 0; r < rows; ++r) {
    float* at = y + r * w.out + output;
    for (int lane = 0; lane < valid; ++lane) at[lane] += scale[lane] * sum[r * lanes + lane];
  }
}

// Adds one tile's sums over the piece `columns`, scaled, to y, group by group. x[0] is column columns.first, which is a
// multiple of 16.
void add_tile(const Matrix& w, const Isa& isa, const float* x, int64_t ldx, int rows, int64_t block, int log_blocks,
              Range columns, float* y) {
  const int64_t words = (w.in + kLanes - 1) / kLanes;
  const int64_t width = (w.in + w.groups - 1) / w.groups;
  const int lanes = kLanes << log_blocks;
  float sum[kMaxSums];
  const uint32_t* first = w.words + block * words * kLanes + columns.first;
  for (int64_t k = columns.first; k < columns.last;) {
    const int64_t group = k / width;
    const int64_t end = std::min(columns.last, (group + 1) * width);
    isa.tile[rows][log_blocks]({x, ldx, first, words * kLanes, k - columns.first, end - columns.first, sum});
    add_sums(w, sum, rows, lanes, block * kLanes, group, y);
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

// The bias, or zeros, into y.
void begin(const Matrix& w, Range rows, Range blocks, const float* bias, float* y) {
  const int64_t first = blocks.first * kLanes;
  const int64_t count = std::min(w.out, blocks.last * kLanes) - first;
  for (int64_t r = rows.first; r < rows.last; ++r) {
    float* at = y + r * w.out + first;
    if (bias) std::memcpy(at, bias + first, size_t(count) * sizeof(float));
    else std::fill(at, at + count, 0.0f);
  }
}

void run(const Matrix& w, const Isa& isa, const float* x, Range rows, Range blocks, const float* bias, float* y) {
  std::vector<float> copy(rows.last - rows.first > 1 ? std::min(kPanel, rows.last - rows.first) * kStride : 0);
  for (int64_t r0 = rows.first; r0 < rows.last; r0 += kPanel) {
    const int64_t panel = std::min(kPanel, rows.last - r0);
    begin(w, {r0, r0 + panel}, blocks, bias, y);
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

// Whether tables of two columns are used: it must not depend on the rows or on the share of a thread, which change no bit.
bool by_pairs(const Matrix& w, const Isa& isa) {
  const int64_t width = (w.in + w.groups - 1) / w.groups;
  return isa.pairs && w.out >= kPairOutputs && w.in >= 4 * kLanes && (w.groups == 1 || width % kLanes == 0);
}

// One piece of columns, of one group, for up to kPairRows rows; columns beyond the last whole word go by tiles.
void add_pairs(const Matrix& w, const Isa& isa, const float* x, int rows, Range blocks, Range columns, float* tables,
               float* y) {
  const int64_t words = (w.in + kLanes - 1) / kLanes, group = columns.first / ((w.in + w.groups - 1) / w.groups);
  const int64_t whole = columns.size() / kLanes, stride = kPairDepth / 2 * kPairTable + kLanes;
  for (int r = 0; r < rows; ++r) isa.pairs(x + r * w.in + columns.first, whole * kLanes, tables + r * stride);
  alignas(64) float sum[kPairRows * kPairBlocks * kLanes];
  for (int64_t block = blocks.first; block < blocks.last;) {
    const bool several = block + kPairBlocks <= blocks.last;
    const int count = several ? kPairBlocks : 1;
    const uint32_t* first = w.words + (block * words + columns.first / kLanes) * kLanes;
    isa.pair_tile[rows][several]({tables, stride, first, words * kLanes, whole, sum});
    add_sums(w, sum, rows, count * kLanes, block * kLanes, group, y);
    block += count;
  }
  const Range rest = {columns.first + whole * kLanes, columns.last};
  if (rest.size())
    for (int64_t block = blocks.first; block < blocks.last; ++block)
      add_tile(w, isa, x + rest.first, w.in, rows, block, 0, rest, y);
}

void run_pairs(const Matrix& w, const Isa& isa, const float* x, Range rows, Range blocks, const float* bias, float* y) {
  const int64_t width = (w.in + w.groups - 1) / w.groups;
  const Buffer<float> tables = buffer<float>(kPairRows * (kPairDepth / 2 * kPairTable + kLanes));
  for (int64_t r0 = rows.first; r0 < rows.last; r0 += kPairPanel) {
    const int64_t last = std::min(rows.last, r0 + kPairPanel), tiles = (last - r0 + kPairRows - 1) / kPairRows;
    begin(w, {r0, last}, blocks, bias, y);
    for (int64_t k = 0; k < w.in;) {
      const int64_t end = std::min({w.in, k + kPairDepth, (k / width + 1) * width});
      for (int64_t t = 0; t < tiles; ++t) {
        const int64_t row = r0 + (last - r0) * t / tiles, count = r0 + (last - r0) * (t + 1) / tiles - row;
        add_pairs(w, isa, x + row * w.in, int(count), blocks, {k, end}, tables.get(), y + row * w.out);
      }
      k = end;
    }
  }
}

}  // namespace

void linear(const Matrix& w, const float* x, int64_t rows, const float* bias, float* y, int threads) {
  const int64_t scale_output = w.scale_rows == 1 ? 0 : w.groups;
  const ExactLayer layer = {w.words, nullptr, 2, nullptr, w.scale, scale_output, 1, bias, false, w.groups, w.out, w.in};
  if (rows >= kUnitRows && exact_by_unit(layer, x, rows, y, threads)) return;
  const Isa& isa = isa_current();
  const int64_t blocks = (w.out + kLanes - 1) / kLanes;
  const int64_t work = rows * w.out * w.in;
  const int64_t parts = parts_for(work, kThreadWork, threads);
  const bool by_output = blocks >= 8 * parts || blocks >= rows;
  in_parts(parts, by_output ? blocks : rows, [&](Range range) {
    const Range mine = by_output ? Range{0, rows} : range, columns = by_output ? range : Range{0, blocks};
    if (by_pairs(w, isa)) run_pairs(w, isa, x, mine, columns, bias, y);
    else run(w, isa, x, mine, columns, bias, y);
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
