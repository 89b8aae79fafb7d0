// Sums of a matrix unit on their way to y. All of it static: see CMakeLists.txt.
#pragma once
#include <immintrin.h>

#include "amx.h"
#include "exact.h"

namespace robustq {
namespace {

// A group of columns of 64 outputs, `block` such before them.
struct Part {
  int64_t block, group;
  bool last;  // of the groups
};

// The sums of 16 outputs from `o` on: added to those of the groups before; of the last, y.
inline void put(const ExactTile& t, const Part& part, int64_t row, int64_t o, __m512 sum, float* total) {
  const __mmask16 mask = lanes(t.outputs - o);
  sum = _mm512_mul_ps(_mm512_mul_ps(sum, _mm512_set1_ps(t.row_scale[row])),
                      _mm512_maskz_loadu_ps(mask, t.scale + part.group * t.scale_group + o));
  if (part.group > 0) sum = _mm512_add_ps(sum, _mm512_load_ps(total));
  if (!part.last) return _mm512_store_ps(total, sum);
  if (t.bias) sum = _mm512_add_ps(sum, _mm512_maskz_loadu_ps(mask, t.bias + o));
  // NaN stays: the second operand is given where one is NaN
  if (t.relu) sum = _mm512_max_ps(_mm512_setzero_ps(), sum);
  _mm512_mask_storeu_ps(t.y + row * t.ldy + o, mask, sum);
}

// Part by part: what the unit has summed goes to memory, and sums begin anew. A sum is stored when the next step needs
// it: a store that waits for products holds up the loads behind it.
template <class Sums>
class Parts {
 public:
  explicit Parts(const ExactTile& t) : t_(t), next_(t.group_steps) { clear_sums(); }

  // Before the first product of a step for a sum.
  template <int Sum>
  inline void begin() {
    if (!due_) return;
    constexpr int64_t kWidth = Sums::kOutputs, kSecond = kWidth == 64 ? 32 : 32 * kExactRows;
    store<Sum>(sum_ + Sum / 2 * kSecond + Sum % 2 * 16, 4 * kWidth);
    asm volatile("tilezero %%tmm%c0" ::"i"(Sum));
  }

  inline void end_step() {
    if (due_) put();
    ++step_;
    part_.last = step_ == t_.steps;
    due_ = part_.last || step_ == next_;
    if (!due_) return;
    next_ = part_.last ? t_.group_steps : next_ + t_.group_steps;
    if (part_.last) step_ = 0;
  }

  void end() {
    begin<0>();
    begin<1>();
    begin<2>();
    begin<3>();
    put();
  }

 private:
  inline void put() {
    Sums::put(t_, part_, sum_, total_);
    part_ = part_.last ? Part{part_.block + 1, 0, false} : Part{part_.block, part_.group + 1, false};
  }

  const ExactTile& t_;
  Part part_ = {};
  int64_t step_ = 0, next_;
  bool due_ = false;
  alignas(64) float sum_[kExactRows * 64], total_[kExactRows * 64];
};

}  // namespace
}  // namespace robustq
