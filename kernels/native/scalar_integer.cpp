// Plain C++ on bytes: any processor.
#include "integer_plain.h"

namespace robustq {
namespace {

// As stored; decoded codes are signed.
template <int Bits>
inline int32_t code(const uint8_t* codes, int output, int column) {
  const int b = output / 16, at = 4 * (output % 16) + column;
  if (Bits == 8) return int8_t(codes[64 * b + at]);
  if (Bits == 2) return codes[at] >> 2 * b & 3;
  return codes[64 * (b / 2) + at] >> 4 * (b % 2) & 15;
}

template <int N, int B, int Bits>
void tile(const IntegerTile& t) {
  int32_t acc[N][16 * B] = {};
  const uint8_t* codes = t.codes;
  for (int64_t s = 0; s < t.count; ++s)
    for (int64_t k = 0; k < t.segments[s].steps; ++k, codes += 32 * Bits)
      for (int column = 0; column < 4; ++column) {
        int32_t decoded[16 * B];
        for (int i = 0; i < 16 * B; ++i) decoded[i] = code<Bits>(codes, i, column);
        for (int n = 0; n < N; ++n) {
          const int8_t stored = t.rows[n][t.segments[s].offset + 4 * k + column];
          const int32_t x = Bits == 8 ? int32_t(uint8_t(stored)) : int32_t(stored);
          for (int i = 0; i < 16 * B; ++i) acc[n][i] += decoded[i] * x;
        }
      }
  for (int n = 0; n < N; ++n)
    for (int i = 0; i < 16 * B; ++i) t.sum[n * kOutputs + i] = acc[n][i];
}

template <int Bits>
void decode(const uint8_t* codes, int64_t steps, uint8_t* out, int32_t* excess) {
  std::memset(excess, 0, kOutputs * sizeof(int32_t));
  for (int64_t s = 0; s < steps; ++s, codes += 32 * Bits, out += kDecodedStep)
    for (int i = 0; i < kOutputs; ++i)
      for (int column = 0; column < 4; ++column) {
        const int32_t value = code<Bits>(codes, i, column) - (Bits == 2 ? 1 : 8);
        out[64 * (i / 16) + 4 * (i % 16) + column] = uint8_t(value);
        excess[i] += 128 * value;
      }
}

int64_t peak(int64_t rounds) {
  volatile int32_t value = 3;
  const int32_t x = value;
  int32_t sum[16] = {};
  for (int64_t r = 0; r < rounds; ++r)
    for (int i = 0; i < 16; ++i) sum[i] = int32_t(uint32_t(sum[i]) * uint32_t(x) + 1u);
  for (int i = 0; i < 16; ++i) value = sum[i];
  return 16 * rounds;
}

}  // namespace

#define TILES4(B, W) {nullptr, tile<1, B, W>, tile<2, B, W>, tile<3, B, W>, tile<4, B, W>}
#define TILES(W) {TILES4(1, W), TILES4(2, W), TILES4(4, W)}
const Integer scalar_integer = {
    24, {TILES(2), TILES(4), TILES(8)}, {}, {decode<2>, decode<4>}, finish, settle, larger, magnitude, quantize, total, peak, read,
    {expand<2>, expand<4>}, {4, 4}};

}  // namespace robustq
