// Encodings where pext and pdep gather and scatter bits in one instruction (BMI2), which all processors with AVX2 have.
#include "storage_gaps.h"

namespace robustq {

const Storage avx2_storage = {keep, store, restore, survey, store_gaps, restore_gaps};

}  // namespace robustq
