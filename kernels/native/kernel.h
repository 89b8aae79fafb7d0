// What an instruction set offers to the driver in linear.cpp. Declarations only: see CMakeLists.txt.
//
// Packed ternary matrix, out x in (../reference.py is the specification): 32-bit words [out/16][in/16][16], both counts
// rounded up; word (b, w, lane) holds the codes of row 16 b + lane, columns 16 w ... 16 w + 15, two bits each, the first
// column in the lowest bits; two's complement: 00 = 0, 01 = +1, 11 = -1; 10 is never written and reads as NaN.
#pragma once
#include <cstdint>

namespace robustq {

constexpr int kLanes = 16;      // rows of a block and columns of a word
constexpr int kMaxRows = 12;    // rows of x in a tile
constexpr int kMaxBlocks = 8;   // blocks of 16 outputs in a tile
constexpr int kMaxSums = 24 * kLanes;  // rows x blocks is at most 24: the registers of AVX-512 less eight

struct Tile {
  const float* x;           // rows x columns, x[r * ldx + k]; only columns first ... last - 1 are read
  int64_t ldx;
  const uint32_t* words;    // the tile's first block, at the word that holds column 0 of x
  int64_t block_stride;     // words from one block to the next
  int64_t first, last;      // columns to sum over, counted from column 0 of x
  float* sum;               // rows x (16 blocks), overwritten: sum[r * 16 * blocks + 16 * b + lane]
};
using TileFn = void (*)(const Tile&);

// Columns two at a time: four bits of a word choose one of the 16 sums that two columns of x can give, from a table in a
// register. A table is made once for all outputs; where it can be looked up by one instruction, that and an addition do
// the work of two multiply-adds and two decodings.
constexpr int kPairRows = 6;    // rows of x in a tile
constexpr int kPairBlocks = 4;  // or 1
constexpr int kPairTable = 16;  // floats

struct PairTile {
  const float* tables;   // [row][pair of columns][16]
  int64_t row_stride;    // floats
  const uint32_t* words;
  int64_t block_stride;  // words
  int64_t count;         // words of 16 columns to sum over
  float* sum;            // as in Tile
};
using PairTileFn = void (*)(const PairTile&);

// Columns three at a time, for one row: five bits of a word choose one of 27 sums. The codes are written anew for it
// (triples.h): a word has six times five bits, 18 columns of an output.
constexpr int kTriples = 6;
constexpr int kTripleColumns = 3 * kTriples;
constexpr int kTripleTable = 32;  // floats: number d0 + 3 d1 + 9 d2, d = 0, 1, 2 for the codes 0, 1, -1; NaN from 27 on

struct TripleTile {
  const float* tables;   // [triple of columns][32]
  const uint32_t* words;
  int64_t block_stride;  // words
  int64_t count;         // words of 18 columns to sum over
  float* sum;            // [block][16], overwritten
};
using TripleTileFn = void (*)(const TripleTile&);

struct Isa {
  int max_rows;   // <= kMaxRows
  // tile[r][i]: the kernel for r rows and 2^i blocks, null where the registers do not suffice (never for one block)
  TileFn tile[kMaxRows + 1][4];
  // The tables of one row's columns, an even number; null, and the next too, where looking up is no gain
  void (*pairs)(const float* x, int64_t columns, float* tables);
  // pair_tile[r][0] for r rows and one block, pair_tile[r][1] for kPairBlocks
  PairTileFn pair_tile[kPairRows + 1][2];
  // out[k - first] = scale * code of one row, for columns first ... last - 1; word w of the row is words[16 * w]
  void (*dense)(const uint32_t* words, int64_t first, int64_t last, float scale, float* out);
  // Does nothing but fused multiply-adds of float32, from registers, for `rounds` rounds; how many. For rooflines.
  int64_t (*peak)(int64_t rounds);
  void (*triples)(const float* x, int64_t count, float* tables);  // of `count` triples of columns
  TripleTileFn triple_tile[2];                                    // one block, and kPairBlocks
};

extern const Isa scalar_isa;
extern const Isa avx2_isa;
extern const Isa avx512_isa;

// dispatch.cpp
struct Integer;                       // integer.h
int isa_count();                      // how many this processor can run
const char* isa_name(int index);      // slowest first
const char* isa_name();               // the one in use, as are the next two
const Isa& isa_current();
const Integer& integer_current();
bool isa_use(const char* name);       // false: not compiled in, or not offered by this processor

// linear.cpp
struct Matrix {
  const uint32_t* words;
  const float* scale;       // (scale_rows, groups); scale_rows is 1 or out; a group is ceil(in / groups) columns
  int64_t scale_rows, groups, out, in;
};
// y (rows, out) = x (rows, in) W^T + bias; bias may be null
void linear(const Matrix& w, const float* x, int64_t rows, const float* bias, float* y, int threads);
// dense (out, in) = codes * scale
void dense(const Matrix& w, float* out);

}  // namespace robustq
