// Which instruction sets were compiled in and can run here, and the one in use.
#if ROBUSTQ_HAVE_AMX
#include <cpuid.h>
#endif

#include <atomic>
#include <cstring>

#include "exact.h"
#include "few.h"
#include "floats.h"
#include "integer.h"
#include "kernel.h"
#include "matrix.h"
#include "sparse.h"
#include "storage.h"

namespace robustq {
namespace {

struct Choice {
  const char* name;
  const Isa* isa;
  const Integer* integer;
  const Sparse* sparse;
  const Storage* storage;
  const Floats* floats;
  const Unit* unit = nullptr;
  const ExactUnit* exact = nullptr;
};

#if ROBUSTQ_HAVE_AMX
// amx-bf16, amx-tile and amx-int8, which come together; g++ 12 has no names for them.
bool has_amx() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d >> 22 & 1) && (d >> 24 & 1) && (d >> 25 & 1);
}
bool has_amx_fp16() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 21 & 1);
}
#endif

struct Available {
  Choice sets[6] = {{"scalar", &scalar_isa, &scalar_integer, &scalar_sparse, &scalar_storage, &scalar_floats}};
  int count = 1;
  Available() {
#if ROBUSTQ_HAVE_AVX2
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) return;
    const Storage* storage = __builtin_cpu_supports("bmi2") ? &avx2_storage : &scalar_storage;
    sets[count++] = {"avx2", &avx2_isa, &avx2_integer, &avx2_sparse, storage, &avx2_floats};
#if ROBUSTQ_HAVE_AVX512
    if (!__builtin_cpu_supports("avx512f") || !__builtin_cpu_supports("avx512bw") ||
        !__builtin_cpu_supports("avx512vl"))
      return;
    // For integers without VNNI, twice the width gains little.
    sets[count++] = {"avx512", &avx512_isa, &avx2_integer, &avx512_sparse, storage, &avx512_floats};
#if ROBUSTQ_HAVE_AVX512VNNI
    if (!__builtin_cpu_supports("avx512vnni")) return;
    sets[count++] = {"avx512vnni", &avx512_isa, &avx512vnni_integer, &avx512_sparse, storage, &avx512_floats};
#if ROBUSTQ_HAVE_AMX
    if (!has_amx() || !amx_permitted()) return;
    sets[count++] = {"amx",   &avx512_isa,    &avx512vnni_integer, &avx512_sparse,
                     storage, &avx512_floats, &amx_unit,           &amx_exact_bf16};
    if (!has_amx_fp16()) return;
    sets[count++] = {"amxfp16", &avx512_isa,    &avx512vnni_integer, &avx512_sparse,
                     storage,   &avx512_floats, &amx_unit,           &amx_exact_fp16};
#endif
#endif
#endif
#endif
  }
};

const Available& available() {
  static const Available found;
  return found;
}

std::atomic<const Choice*> chosen{nullptr};

const Choice& current() {
  const Choice* choice = chosen.load(std::memory_order_relaxed);
  return choice ? *choice : available().sets[available().count - 1];
}

}  // namespace

int isa_count() { return available().count; }
const char* isa_name(int index) { return available().sets[index].name; }
const char* isa_name() { return current().name; }
const Isa& isa_current() { return *current().isa; }
const Integer& integer_current() { return *current().integer; }
const Storage& storage_current() { return *current().storage; }
const Sparse& sparse_current() { return *current().sparse; }
const Floats& floats_current() { return *current().floats; }
const Unit* unit_current() { return current().unit; }
const UnitHalves* halves_current() {
#if ROBUSTQ_HAVE_AMX
  if (current().unit) return &amx_halves;
#endif
  return nullptr;
}
const ExactUnit* exact_current() { return current().exact; }
const FewUnit* few_current() {
#if ROBUSTQ_HAVE_AMX
  if (current().unit) return &amx_few;
#endif
  return nullptr;
}

bool isa_use(const char* name) {
  for (int i = 0; i < isa_count(); ++i)
    if (std::strcmp(isa_name(i), name) == 0) {
      chosen.store(&available().sets[i], std::memory_order_relaxed);
      return true;
    }
  return false;
}

}  // namespace robustq
