// Any processor: two rows and 16 outputs in 8 registers of four values.
#include "codes_plain.h"

namespace robustq {
namespace {

// Four values, which SSE and NEON have registers for; no fused multiply-add.
struct Vector {
  using type = float __attribute__((vector_size(16)));
  static constexpr int width = 4;
  static type set(float value) { return type{value, value, value, value}; }
  static type load(const float* at) {
    type x;
    std::memcpy(&x, at, sizeof x);
    return x;
  }
  static void store(float* at, type x) { std::memcpy(at, &x, sizeof x); }
  static type add(type x, type y) { return x + y; }
  static type subtract(type x, type y) { return x - y; }
  static type multiply(type x, type y) { return x * y; }
  static type multiply_add(type x, type y, type sum) { return sum + x * y; }
  static type larger(type x, type y) { return y < x ? x : y; }  // y if that is NaN
  template <int Bits>
  static type code(const uint8_t* words, int shift) {
    uint32_t word[4];
    std::memcpy(word, words, sizeof word);
    type x;
    for (int i = 0; i < 4; ++i) x[i] = float(int(word[i] >> shift & ((1u << Bits) - 1)) - (Bits == 2 ? 1 : 8));
    return x;
  }
};

}  // namespace

#define TILES(B) nullptr, float_tile<Vector, 1, B>, float_tile<Vector, 2, B>
const Floats scalar_floats = {{{TILES(4)}, {}},
                              float_settle<Vector>,
                              {float_decode<Vector, 2>, float_decode<Vector, 4>},
                              {},
                              {scaled<Vector, 2>, scaled<Vector, 4>},
                              lane_line<Vector>,
                              lane_round<Vector>};

}  // namespace robustq
