// AVX2: eight rows a register.
#include <immintrin.h>

#include "sparse_plain.h"

namespace robustq {
namespace {

struct Eight {
  static constexpr int kWidth = 8;
  __m256 v;
  static Eight load(const float* at) { return {_mm256_load_ps(at)}; }
  static Eight plus(Eight a, Eight b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Eight minus(Eight a, Eight b) { return {_mm256_sub_ps(a.v, b.v)}; }
  void store(float* at) const { _mm256_store_ps(at, v); }
};

}  // namespace

const Sparse avx2_sparse = {
    load_plain, combine_plain, {add_records<Eight, 1>, add_records<Eight, 2>, add_records<Eight, 4>}, store_plain};

}  // namespace robustq
