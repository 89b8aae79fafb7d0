// Intel AMX: convolutions. Tiles of activations are read where they lie; see matrix.h. Products of bytes, or of halves:
// numbers of 16 bits, two to a step of four bytes, whose sums are float32.
#include <immintrin.h>

#include "amx.h"
#include "matrix.h"

namespace robustq {
namespace {

// Four sums: `Tiles` tiles of activations by 4 / Tiles groups of 16 outputs.
template <Product P, int Tiles>
void window_four(const UnitWindow& w, const int8_t* const* x, int32_t* const* sum, int64_t pitch) {
  if (w.add) {
    load<0>(sum[0], pitch);
    load<1>(sum[1], pitch);
    load<2>(sum[2], pitch);
    load<3>(sum[3], pitch);
  } else {
    clear_sums();
  }
  const uint8_t* weights = w.weights;
  int64_t limb = 0;
  for (int64_t part = 0; part < w.parts; ++part) {
    const int64_t at = w.offset[part];
    load<6>(weights, kDecodedStep);
    load<4>(x[0] + at, w.pitch);
    multiply_add<P, 0, 4, 6>();
    if (Tiles == 4) {
      load<5>(x[1] + at, w.pitch);
      multiply_add<P, 1, 5, 6>();
      load<4>(x[2] + at, w.pitch);
      multiply_add<P, 2, 4, 6>();
      load<5>(x[3] + at, w.pitch);
      multiply_add<P, 3, 5, 6>();
    } else {
      load<7>(weights + 64, kDecodedStep);
      multiply_add<P, 1, 4, 7>();
      if (Tiles == 2) {
        load<5>(x[1] + at, w.pitch);
        multiply_add<P, 2, 5, 6>();
        multiply_add<P, 3, 5, 7>();
      } else {
        load<6>(weights + 128, kDecodedStep);
        multiply_add<P, 2, 4, 6>();
        load<7>(weights + 192, kDecodedStep);
        multiply_add<P, 3, 4, 7>();
      }
    }
    if (++limb == w.limbs) {
      limb = 0;
      weights += w.part_bytes;
    }
  }
  store<0>(sum[0], pitch);
  store<1>(sum[1], pitch);
  store<2>(sum[2], pitch);
  store<3>(sum[3], pitch);
}

template <Product P>
void window_of(const UnitWindow& w, int planes, int fields) {
  const int64_t row = int64_t(planes) * 16 * fields, pitch = row * int64_t(sizeof(int32_t));
  int32_t* sum[4];
  if (fields == 4) {
    for (int plane = 0; plane < planes; ++plane) {
      for (int f = 0; f < 4; ++f) sum[f] = w.sum + plane * 64 + 16 * f;
      window_four<P, 1>(w, w.x + plane, sum, pitch);
    }
    return;
  }
  const int tiles = 4 / fields;
  for (int i = 0; i < tiles; ++i)
    for (int f = 0; f < fields; ++f)
      sum[i * fields + f] = w.sum + i / planes * kTileRows * row + i % planes * 16 * fields + 16 * f;
  if (fields == 2) window_four<P, 2>(w, w.x, sum, pitch);
  else window_four<P, 4>(w, w.x, sum, pitch);
}

void window_halves(const UnitWindow& w, int fields, bool bf16) {
  bf16 ? window_of<Product::kBf16>(w, 1, fields) : window_of<Product::kFp16>(w, 1, fields);
}

// What the two columns of a step stand for: the lowest four bits of a lane choose, at two bits a code the lowest two.
template <int Bits>
void decode_pairs(const uint8_t* codes, int64_t steps, bool bf16, uint8_t* out) {
  alignas(64) float code[16];
  for (int i = 0; i < 16; ++i) code[i] = float(Bits == 2 ? i % 4 - 1 : i - 8);
  const __m512 value = _mm512_load_ps(code);
  const __m256i fp16 = _mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512i first = bf16 ? _mm512_srli_epi32(_mm512_castps_si512(value), 16) : _mm512_cvtepu16_epi32(fp16);
  const __m512i second = _mm512_slli_epi32(first, 16);
  constexpr int kPart = 8 / Bits;
  for (int64_t step = 0; step < steps; ++step, codes += 32 * Bits, out += 2 * kDecodedStep)
#pragma GCC unroll 4
    for (int b = 0; b < kFields; ++b) {
      __m512i word = _mm512_srli_epi32(_mm512_loadu_si512(codes + 64 * (b / kPart)), unsigned(b % kPart * Bits));
#pragma GCC unroll 2
      for (int half = 0; half < 2; ++half, word = _mm512_srli_epi32(word, 16)) {
        const __m512i pair = _mm512_or_si512(_mm512_permutexvar_epi32(word, first),
                                             _mm512_permutexvar_epi32(_mm512_srli_epi32(word, 8), second));
        _mm512_storeu_si512(out + half * kDecodedStep + 64 * b, pair);
      }
    }
}

void decode_halves(const uint8_t* codes, int bits, int64_t steps, bool bf16, uint8_t* out) {
  bits == 2 ? decode_pairs<2>(codes, steps, bf16, out) : decode_pairs<4>(codes, steps, bf16, out);
}

void split_halves(const float* x, int64_t n, float factor, bool bf16, uint16_t* to, int64_t plane) {
  for (int64_t i = 0; i < n; i += 16) {
    const __mmask16 mask = lanes(n - i);
    const __m512 value = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, x + i), _mm512_set1_ps(factor));
    bf16 ? split<Product::kBf16>(value, mask, to + i, plane) : split<Product::kFp16>(value, mask, to + i, plane);
  }
}

}  // namespace

void amx_configure_window(int steps) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) config.set(i, i < 6 ? kTileRows : steps, i == 4 || i == 5 ? 4 * steps : 64);
  config.use();
}

void amx_window(const UnitWindow& w, int planes, int fields) { window_of<Product::kInt8>(w, planes, fields); }

const UnitHalves amx_halves = {window_halves, decode_halves, split_halves};

}  // namespace robustq
