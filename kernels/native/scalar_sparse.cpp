// Plain C++: any processor.
#include "sparse_plain.h"

namespace robustq {
namespace {

struct Four {
  static constexpr int kWidth = 4;
  float v[4];
  static Four load(const float* at) { return {{at[0], at[1], at[2], at[3]}}; }
  static Four plus(Four a, Four b) { return {{a.v[0] + b.v[0], a.v[1] + b.v[1], a.v[2] + b.v[2], a.v[3] + b.v[3]}}; }
  static Four minus(Four a, Four b) { return {{a.v[0] - b.v[0], a.v[1] - b.v[1], a.v[2] - b.v[2], a.v[3] - b.v[3]}}; }
  void store(float* at) const {
    for (int i = 0; i < 4; ++i) at[i] = v[i];
  }
};

}  // namespace

const Sparse scalar_sparse = {
    load_plain, combine_plain, {add_records<Four, 1>, add_records<Four, 2>, add_records<Four, 4>}, store_plain};

}  // namespace robustq
