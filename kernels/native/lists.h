// Lists of the weights that are not zero (sparse.h says what is in them), and the layer that runs from them.
#pragma once
#include <cstdint>
#include <vector>

namespace robustq {

// Where ternary codes are: `words` in the format of kernel.h, or `bytes` in that of integer.h at two bits, one group.
struct Codes {
  const uint32_t* words;
  const uint8_t* bytes;
  int64_t out, in;
};

struct Lists {
  int64_t out = 0, in = 0;
  int together = 1;                // columns
  int64_t nonzero = 0;             // weights
  int64_t entries = 0;             // of all lists
  std::vector<uint8_t> records;
  std::vector<int64_t> blocks;     // [panel][block of columns]: where its records begin; and where the last one ends
  int64_t bytes() const { return int64_t(records.size() + blocks.size() * sizeof(int64_t)); }
};

// How many codes are not zero; -1 where one is the pattern that stands for nothing.
int64_t count_nonzero(const Codes& codes);
// std::invalid_argument where a code stands for nothing.
Lists make_lists(const Codes& codes, int together);

struct SparseCall {
  const float* x;      // (rows, in)
  int64_t rows;
  const float* scale;  // (scale_rows,): 1 or out
  int64_t scale_rows;
  const float* bias;   // (out,) or null
  float levels;        // 0: x as it is; else x is rounded to integers up to this, times a scale a row
  bool relu;
  float* y;            // (rows, out)
  int threads;
};
// y = act(x W^T + bias). False, and nothing done, where x has a value that is NaN or infinite: zeros must meet it too.
bool sparse_linear(const Lists& lists, const SparseCall& call);

}  // namespace robustq
