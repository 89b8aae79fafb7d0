// AVX2: 6 rows and 16 outputs in 12 registers.
#include <immintrin.h>

#include "codes_plain.h"

namespace robustq {
namespace {

struct Vector {
  using type = __m256;
  using words = __m256i;
  static constexpr int width = 8;
  static type set(float value) { return _mm256_set1_ps(value); }
  static type load(const float* at) { return _mm256_loadu_ps(at); }
  static void store(float* at, type x) { _mm256_storeu_ps(at, x); }
  static type add(type x, type y) { return _mm256_add_ps(x, y); }
  static type subtract(type x, type y) { return _mm256_sub_ps(x, y); }
  static type multiply(type x, type y) { return _mm256_mul_ps(x, y); }
  static type multiply_add(type x, type y, type sum) { return _mm256_fmadd_ps(x, y, sum); }
  static type larger(type x, type y) { return _mm256_max_ps(x, y); }  // y if that is NaN
  static words load_words(const uint8_t* at) { return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(at)); }
  template <int Bits>
  static words down(words x) { return _mm256_srli_epi32(x, Bits); }
  template <int Bits>
  static type number(words x) {  // of the lowest bits
    if (Bits == 2) return _mm256_permutevar_ps(_mm256_setr_ps(-1, 0, 1, 2, -1, 0, 1, 2), x);
    const __m256i stored = _mm256_and_si256(x, _mm256_set1_epi32(15));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(stored, _mm256_set1_epi32(8)));
  }
  template <int Bits>
  static type code(const uint8_t* words, int shift) {
    return number<Bits>(_mm256_srl_epi32(load_words(words), _mm_cvtsi32_si128(shift)));
  }
};

}  // namespace

#define TILES(B) nullptr, float_tile<Vector, 1, B>, float_tile<Vector, 2, B>, float_tile<Vector, 3, B>, \
                 float_tile<Vector, 4, B>, float_tile<Vector, 5, B>, float_tile<Vector, 6, B>
const Floats avx2_floats = {{{TILES(2)}, {}},
                              float_settle<Vector>,
                              {float_decode<Vector, 2>, float_decode<Vector, 4>},
                              {{}, {{nullptr, code_tile<Vector, 4, 1, 1, false>}, {nullptr, code_tile<Vector, 4, 1, 1, true>}}},
                              {scaled<Vector, 2>, scaled<Vector, 4>},
                              lane_line<Vector>,
                              lane_round<Vector>};

}  // namespace robustq
