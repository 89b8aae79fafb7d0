// Encodings: any processor.
#include "storage_gaps.h"

namespace robustq {

const Storage scalar_storage = {keep, store, restore, survey, store_gaps, restore_gaps};

}  // namespace robustq
