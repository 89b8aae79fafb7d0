// Intel AMX, tiles of float16 or bfloat16: sums of pairs of products in float32.
//
// Registers 0 ... 3 are sums, 4 and 5 activations, 6 and 7 weights. Codes are decoded while the unit works: four bits of
// a word are two columns of an output, and a table in a register has the pair of halves they stand for. Two steps ahead,
// as a load of a tile waits for the stores before it, and these for the products before them.
#include <immintrin.h>

#include <cstring>

#include "amx.h"
#include "exact.h"

namespace robustq {
namespace {

template <Product P>
inline __m512i values() {
  constexpr uint32_t one = P == Product::kFp16 ? 0x3c00 : 0x3f80, nan = 0x7fc0, minus = one | 0x8000;
  alignas(64) uint32_t pairs[16];
  const uint32_t value[4] = {0, one, P == Product::kFp16 ? 0x7e00 : nan, minus};
  for (int i = 0; i < 16; ++i) pairs[i] = value[i & 3] | value[i >> 2] << 16;
  return _mm512_load_si512(pairs);
}

// Two words of 16 outputs -> a tile: its row j has columns 2 j and 2 j + 1 of each output.
inline void decode(__m512i table, __m512i first, __m512i second, uint16_t* to) {
#pragma GCC unroll 8
  for (int i = 0; i < 8; ++i, first = _mm512_srli_epi32(first, 4))
    _mm512_store_si512(to + 32 * i, _mm512_permutexvar_epi32(first, table));
#pragma GCC unroll 8
  for (int i = 8; i < 16; ++i, second = _mm512_srli_epi32(second, 4))
    _mm512_store_si512(to + 32 * i, _mm512_permutexvar_epi32(second, table));
}

constexpr int64_t kAhead = 2;      // steps
constexpr int64_t kDecoded = 4;    // held

// The weights of each block for one step after the other, in buffers that take turns.
template <Product P, int Blocks>
class Decoder {
 public:
  explicit Decoder(const ExactTile& t) : t_(t), table_(values<P>()) {}

  // Blocks `from` ... `to` - 1 of a step; nothing beyond the last step.
  inline void operator()(int64_t step, int from, int to) {
    if (step >= t_.steps) return;
    const bool last = step + 1 == t_.steps;
    for (int b = from; b < to; ++b) {
      const uint32_t* words = t_.words[b] + 32 * step;
      __m512i first = _mm512_loadu_si512(words), second = _mm512_setzero_si512();
      if (!last) {
        second = _mm512_loadu_si512(words + 16);
      } else {  // there may be no second word
        first = _mm512_and_si512(first, _mm512_set1_epi32(int(t_.last[0])));
        if (t_.last[1]) second = _mm512_and_si512(_mm512_loadu_si512(words + 16), _mm512_set1_epi32(int(t_.last[1])));
      }
      decode(table_, first, second, weights_[step % kDecoded][b]);
    }
  }
  inline const uint16_t* tile(int64_t step, int block) const { return weights_[step % kDecoded][block]; }

 private:
  const ExactTile& t_;
  const __m512i table_;
  alignas(64) uint16_t weights_[kDecoded][Blocks][kExactLimb];
};

// A step of one tile of rows, read into register X, by two blocks of outputs.
template <Product P, int Limbs, int Block, int X>
inline void two_blocks(Decoder<P, 4>& weights, int64_t step, const uint16_t* x) {
  weights(step + kAhead, Block, Block + 2);
  load<6>(weights.tile(step, Block));
  load<7>(weights.tile(step, Block + 1));
#pragma GCC unroll 3
  for (int limb = 0; limb < Limbs; ++limb) {
    load<X>(x + limb * kExactLimb);
    multiply_add<P, Block, X, 6>();
    multiply_add<P, Block + 1, X, 7>();
  }
}

// One tile of rows by four blocks of outputs. Between two products for the same sum others are under way.
template <Product P, int Limbs>
void narrow(const ExactTile& t) {
  Decoder<P, 4> weights(t);
  clear_sums();
  for (int64_t step = 0; step < kAhead; ++step) weights(step, 0, 4);
  const uint16_t* x = t.x[0];
  for (int64_t step = 0; step < t.steps; ++step, x += Limbs * kExactLimb) {
    two_blocks<P, Limbs, 0, 4>(weights, step, x);
    two_blocks<P, Limbs, 2, 5>(weights, step, x);
  }
  store<0>(t.sum, 256);
  store<1>(t.sum + 16, 256);
  store<2>(t.sum + 32, 256);
  store<3>(t.sum + 48, 256);
}

// Two tiles of rows by two blocks of outputs.
template <Product P, int Limbs>
void square(const ExactTile& t) {
  Decoder<P, 2> weights(t);
  clear_sums();
  for (int64_t step = 0; step < kAhead; ++step) weights(step, 0, 2);
  const uint16_t *x = t.x[0], *second = t.x[1];
  for (int64_t step = 0; step < t.steps; ++step, x += Limbs * kExactLimb, second += Limbs * kExactLimb) {
    load<6>(weights.tile(step, 0));
    load<7>(weights.tile(step, 1));
#pragma GCC unroll 3
    for (int limb = 0; limb < Limbs; ++limb) {
      load<4>(x + limb * kExactLimb);
      multiply_add<P, 0, 4, 6>();
      multiply_add<P, 1, 4, 7>();
      load<5>(second + limb * kExactLimb);
      multiply_add<P, 2, 5, 6>();
      multiply_add<P, 3, 5, 7>();
      if (limb == 0) weights(step + kAhead, 0, 2);
    }
  }
  store<0>(t.sum, 128);
  store<1>(t.sum + 16, 128);
  store<2>(t.sum + 32 * kExactRows, 128);
  store<3>(t.sum + 32 * kExactRows + 16, 128);
}

inline __m512 columns(const float* x, int64_t count) {
  if (count >= 16) return _mm512_loadu_ps(x);
  return count > 0 ? _mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), x) : _mm512_setzero_ps();
}

// The power of two that brings the largest magnitude of a row to 2^14 ... 2^15, as far as float32 has it.
float power_for(const float* x, int64_t n) {
  __m512 most = _mm512_setzero_ps();
  for (int64_t k = 0; k < n; k += 16) most = _mm512_max_ps(most, _mm512_abs_ps(columns(x + k, n - k)));
  const float largest = _mm512_reduce_max_ps(most);
  uint32_t bits;
  std::memcpy(&bits, &largest, sizeof bits);
  const int exponent = int(bits >> 23) - 127;  // of a subnormal: -127
  const int wanted = 14 - exponent < 126 ? 14 - exponent : 126;
  bits = uint32_t(wanted + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

template <Product P, int Limbs>
void split_rows(const float* x, int64_t ldx, int64_t rows, int64_t count, uint16_t* tile, float* row_scale) {
  for (int64_t r = 0; r < rows; ++r, x += ldx) {
    const float power = P == Product::kFp16 ? power_for(x, count) : 1.0f;
    row_scale[r] = 1.0f / power;
    uint16_t* to = tile + 32 * r;
    for (int64_t k = 0; k < count; k += kExactStep, to += Limbs * kExactLimb)
      for (int half = 0; half < 2; ++half) {
        const __m512 value = columns(x + k + 16 * half, count - k - 16 * half);
        split<P>(_mm512_mul_ps(value, _mm512_set1_ps(power)), 0xffff, to + 16 * half, kExactLimb);
      }
  }
}

void put(const ExactPut& p) {
  for (int o = 0; o < p.outputs; o += 16) {
    const __mmask16 mask = p.outputs - o < 16 ? __mmask16((1u << (p.outputs - o)) - 1) : __mmask16(0xffff);
    const __m512 scale = _mm512_maskz_loadu_ps(mask, p.scale + o);
    const __m512 bias = p.bias ? _mm512_maskz_loadu_ps(mask, p.bias + o) : _mm512_setzero_ps();
    for (int64_t r = 0; r < p.rows; ++r) {
      float* y = p.y + r * p.ldy + o;
      const __m512 sum = _mm512_mul_ps(_mm512_load_ps(p.sum + r * p.pitch + o), _mm512_set1_ps(p.row_scale[r]));
      const __m512 before = p.first ? bias : _mm512_maskz_loadu_ps(mask, y);
      _mm512_mask_storeu_ps(y, mask, _mm512_add_ps(before, _mm512_mul_ps(sum, scale)));
    }
  }
}

template <Product P, int Limbs>
int64_t peak(int64_t rounds) {
  multiply_registers<P>(rounds);
  return rounds * 4 * kExactRows * 16 * kExactStep / Limbs;
}

template <Product P, int Limbs>
constexpr ExactUnit kUnit = {Limbs,   peak<P, Limbs>,   split_rows<P, Limbs>, configure_rows,
                             release, narrow<P, Limbs>, square<P, Limbs>,     put};

}  // namespace

const ExactUnit amx_exact_bf16 = kUnit<Product::kBf16, 3>;
const ExactUnit amx_exact_fp16 = kUnit<Product::kFp16, 2>;

}  // namespace robustq
