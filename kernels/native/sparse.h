// Ternary layers with many zeros: sums over lists of the weights that are not zero, rows of x in the lanes.
//
// Columns go in blocks, and outputs in panels. For a block of columns and up to 64 rows of x a table is made in the
// first-level cache: table[entry][row]. Columns are taken one by one, in pairs or in triples; the entries of a pair a, b
// are a, b, a + b, a - b, those of a triple the same, c, those of the pair plus c, those of the pair minus c. What a
// triple of weights contributes to an output is then one entry, or its negative. An output's list for a block is a
// record of bytes: the output's place in the panel (two, low byte first), how many entries are added, how many are
// taken off, the entries. Records of a block are sorted by those numbers, so that a processor foresees where they end.
//
// Declarations only: see CMakeLists.txt.
#pragma once
#include <cstdint>

namespace robustq {

constexpr int kMaxTogether = 3;                          // columns
constexpr int kEntries[kMaxTogether + 1] = {0, 1, 4, 13};  // of so many columns
constexpr int64_t kBlockColumns[kMaxTogether + 1] = {0, 192, 128, 57};
constexpr int64_t kMaxEntries = 256;                     // of a block: an entry is a byte
constexpr int64_t kPanelOutputs = 2048;                  // with 64 rows, their sums are 512 kB
constexpr int kHeader = 4;                               // bytes of a record before its entries
constexpr int kUnit = 16;                                // rows
constexpr int kMaxUnits = 4;                             // of a table

// y[row * ldy + output] = act(row_scale * scale * sums[output][row] + bias)
struct SparseStore {
  const float* sums;       // [output][16 units]
  const float* scale;      // a value for each output, or one where `scale_step` is 0
  int64_t scale_step;
  const float* row_scale;  // for each row, or null
  const float* bias;       // for each output, or null
  float* y;
  int64_t ldy, rows, outputs;
  int units;
  bool relu;
};

struct Sparse {
  // columns[column][16 units] = x[row * ldx + column], zero for the rows that are not there
  void (*load)(const float* x, int64_t ldx, int64_t rows, int64_t count, int units, float* columns);
  // the table of `groups` groups of `together` columns
  void (*combine)(const float* columns, int64_t groups, int together, int units, float* table);
  // sums[output][16 units] += the entries of each record; add[i]: 2^i units
  void (*add[3])(const uint8_t* at, const uint8_t* end, const float* table, float* sums);
  void (*store)(const SparseStore&);
};

extern const Sparse scalar_sparse;
extern const Sparse avx2_sparse;
extern const Sparse avx512_sparse;
const Sparse& sparse_current();  // dispatch.cpp

}  // namespace robustq
