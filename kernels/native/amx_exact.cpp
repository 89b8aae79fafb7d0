// Intel AMX, tiles of float16 or bfloat16: sums of pairs of products in float32.
//
// Registers 0 ... 3 are sums, 4 and 5 activations, 6 and 7 weights. Codes are decoded while the unit works, two steps
// ahead, as a load of a tile waits for the stores before it, and these for the products before them.
#include <immintrin.h>

#include "amx.h"
#include "amx_codes.h"
#include "amx_parts.h"
#include "exact.h"

namespace robustq {
namespace {

// The weights of each block for one step after the other, in buffers that take turns.
template <class Codes, int Blocks>
class Decoder {
 public:
  explicit Decoder(const ExactTile& t) : t_(t), codes_(t) {
    for (int64_t step = 0; step < kAhead; ++step)
      for (int block = 0; block < Blocks; block += 2) (*this)(step, block);
  }

  // Two blocks of a step; nothing beyond the last step.
  inline void operator()(int64_t step, int block) {
    if (step >= t_.steps) return;
    if (block == 0 && step == next_) {
      codes_.group(group_++);
      next_ += t_.group_steps;
    }
    codes_(step, block, weights_[step % kDecoded][block], weights_[step % kDecoded][block + 1]);
  }
  inline const uint8_t* tile(int64_t step, int block) const { return weights_[step % kDecoded][block]; }

 private:
  const ExactTile& t_;
  Codes codes_;
  int64_t group_ = 0, next_ = 0;
  alignas(64) uint8_t weights_[kDecoded][Blocks][kExactBytes];
};

// Sums of halves are as they are.
template <int Outputs>
struct Floats {
  static constexpr int kOutputs = Outputs;

  static void put(const ExactTile& t, const Part& part, const float* sum, float* total) {
    for (int o = 0; o < t.outputs; o += 16)
      for (int64_t r = 0; r < t.rows; ++r) {
        const int64_t at = r * Outputs + o;
        robustq::put(t, part, r, o, _mm512_load_ps(sum + at), total + at);
      }
  }
};

// A step of one tile of rows, read into register X, by two blocks of outputs.
template <Product P, int Limbs, int Block, int X, class Codes>
inline void two_blocks(Decoder<Codes, 4>& weights, Parts<Floats<64>>& parts, int64_t step, const uint8_t* x) {
  weights(step + kAhead, Block);
  load<6>(weights.tile(step, Block));
  load<7>(weights.tile(step, Block + 1));
#pragma GCC unroll 3
  for (int limb = 0; limb < Limbs; ++limb) {
    load<X>(x + limb * kExactBytes);
    if (limb == 0) parts.template begin<Block>();
    multiply_add<P, Block, X, 6>();
    if (limb == 0) parts.template begin<Block + 1>();
    multiply_add<P, Block + 1, X, 7>();
  }
}

// One tile of rows by four blocks of outputs. Between two products for the same sum others are under way.
template <Product P, int Limbs, class Codes>
void narrow(const ExactTile& t) {
  Decoder<Codes, 4> weights(t);
  Parts<Floats<64>> parts(t);
  const uint8_t* x = t.x[0];
  for (int64_t step = 0; step < t.steps; ++step, x += t.x_step) {
    two_blocks<P, Limbs, 0, 4>(weights, parts, step, x);
    two_blocks<P, Limbs, 2, 5>(weights, parts, step, x);
    parts.end_step();
  }
  parts.end();
}

// Two tiles of rows by two blocks of outputs.
template <Product P, int Limbs, class Codes>
void square(const ExactTile& t) {
  Decoder<Codes, 2> weights(t);
  Parts<Floats<32>> parts(t);
  const uint8_t *x = t.x[0], *second = t.x[1];
  for (int64_t step = 0; step < t.steps; ++step, x += t.x_step, second += t.x_step) {
    load<6>(weights.tile(step, 0));
    load<7>(weights.tile(step, 1));
#pragma GCC unroll 3
    for (int limb = 0; limb < Limbs; ++limb) {
      load<4>(x + limb * kExactBytes);
      if (limb == 0) parts.template begin<0>();
      multiply_add<P, 0, 4, 6>();
      if (limb == 0) parts.template begin<1>();
      multiply_add<P, 1, 4, 7>();
      load<5>(second + limb * kExactBytes);
      if (limb == 0) parts.template begin<2>();
      multiply_add<P, 2, 5, 6>();
      if (limb == 0) parts.template begin<3>();
      multiply_add<P, 3, 5, 7>();
      if (limb == 0) weights(step + kAhead, 0);
    }
    parts.end_step();
  }
  parts.end();
}

template <Product P, int Limbs>
void split_rows(const float* x, int64_t rows, int64_t count, bool bytes, uint8_t* tile, float* row_scale) {
  const __m512i exchanged = _mm512_set_epi32(15, 13, 14, 12, 11, 9, 10, 8, 7, 5, 6, 4, 3, 1, 2, 0);
  for (int64_t r = 0; r < rows; ++r, x += count) {
    const float power = P == Product::kFp16 ? power_for(x, count, 14) : 1.0f;
    row_scale[r] = 1.0f / power;
    uint16_t* to = reinterpret_cast<uint16_t*>(tile + 64 * r);
    for (int64_t k = 0; k < count; k += kExactStep, to += Limbs * kExactBytes / 2)
      for (int half = 0; half < 2; ++half) {
        __m512 value = columns(x + k + 16 * half, count - k - 16 * half);
        if (bytes) value = _mm512_permutexvar_ps(exchanged, value);
        split<P>(_mm512_mul_ps(value, _mm512_set1_ps(power)), 0xffff, to + 16 * half, kExactBytes / 2);
      }
  }
}

template <Product P, int Limbs>
int64_t peak(int64_t rounds) {
  multiply_registers<P>(rounds);
  return rounds * 4 * kExactRows * 16 * kExactStep / Limbs;
}

template <Product P, int Limbs>
constexpr ExactUnit kUnit = {
    Limbs,
    peak<P, Limbs>,
    split_rows<P, Limbs>,
    {{narrow<P, Limbs, Words<P>>, square<P, Limbs, Words<P>>},
     {narrow<P, Limbs, Bytes<P, 2, false>>, square<P, Limbs, Bytes<P, 2, false>>},
     {narrow<P, Limbs, Bytes<P, 2, true>>, square<P, Limbs, Bytes<P, 2, true>>},
     {narrow<P, Limbs, Bytes<P, 4, false>>, square<P, Limbs, Bytes<P, 4, false>>},
     {narrow<P, Limbs, Bytes<P, 4, true>>, square<P, Limbs, Bytes<P, 4, true>>}},
};

}  // namespace

const ExactUnit amx_exact_bf16 = kUnit<Product::kBf16, 3>;
const ExactUnit amx_exact_fp16 = kUnit<Product::kFp16, 2>;

}  // namespace robustq
