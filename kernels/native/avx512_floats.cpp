// AVX-512: 12 rows and 32 outputs in 24 registers.
#include <immintrin.h>

#include "codes_plain.h"

namespace robustq {
namespace {

struct Vector {
  using type = __m512;
  using words = __m512i;
  static constexpr int width = 16;
  static type set(float value) { return _mm512_set1_ps(value); }
  static type load(const float* at) { return _mm512_loadu_ps(at); }
  static void store(float* at, type x) { _mm512_storeu_ps(at, x); }
  static type add(type x, type y) { return _mm512_add_ps(x, y); }
  static type subtract(type x, type y) { return _mm512_sub_ps(x, y); }
  static type multiply(type x, type y) { return _mm512_mul_ps(x, y); }
  static type multiply_add(type x, type y, type sum) { return _mm512_fmadd_ps(x, y, sum); }
  static type larger(type x, type y) { return _mm512_max_ps(x, y); }  // y if that is NaN
  static words load_words(const uint8_t* at) { return _mm512_loadu_si512(at); }
  template <int Bits>
  static words down(words x) { return _mm512_srli_epi32(x, Bits); }
  template <int Bits>
  static type number(words x) {  // of the lowest bits
    if (Bits == 2) return _mm512_permutevar_ps(_mm512_broadcast_f32x4(_mm_setr_ps(-1, 0, 1, 2)), x);
    return _mm512_permutexvar_ps(x, _mm512_setr_ps(-8, -7, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 7));
  }
  template <int Bits>
  static type code(const uint8_t* words, int shift) {
    return number<Bits>(_mm512_srl_epi32(_mm512_loadu_si512(words), _mm_cvtsi32_si128(shift)));
  }
};

}  // namespace

#define TILES(B) nullptr, float_tile<Vector, 1, B>, float_tile<Vector, 2, B>, float_tile<Vector, 3, B>, \
                 float_tile<Vector, 4, B>, float_tile<Vector, 5, B>, float_tile<Vector, 6, B>, float_tile<Vector, 7, B>, \
                 float_tile<Vector, 8, B>, float_tile<Vector, 9, B>, float_tile<Vector, 10, B>, float_tile<Vector, 11, B>, \
                 float_tile<Vector, 12, B>
#define FEW(W, H, S) {nullptr, code_tile<Vector, W, 1, H, S>, code_tile<Vector, W, 2, H, S>, \
                      code_tile<Vector, W, 3, H, S>, code_tile<Vector, W, 4, H, S>}
const Floats avx512_floats = {{{TILES(1)}, {TILES(2)}},
                              float_settle<Vector>,
                              {float_decode<Vector, 2>, float_decode<Vector, 4>},
                              {{FEW(2, 1, false), FEW(2, 1, true)}, {FEW(4, 2, false), FEW(4, 2, true)}},
                              {scaled<Vector, 2>, scaled<Vector, 4>},
                              lane_line<Vector>,
                              lane_round<Vector>};

}  // namespace robustq
