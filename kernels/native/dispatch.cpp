// Which instruction sets were compiled in and can run here, and the one in use.
#include <atomic>
#include <cstring>

#include "kernel.h"

namespace robustq {
namespace {

struct Available {
  const Isa* sets[3] = {&scalar_isa, nullptr, nullptr};
  int count = 1;
  Available() {
#if ROBUSTQ_HAVE_AVX2 || ROBUSTQ_HAVE_AVX512
    __builtin_cpu_init();
#endif
#if ROBUSTQ_HAVE_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) sets[count++] = &avx2_isa;
#endif
#if ROBUSTQ_HAVE_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
      sets[count++] = &avx512_isa;
#endif
  }
};

const Available& available() {
  static const Available found;
  return found;
}

std::atomic<const Isa*> chosen{nullptr};

}  // namespace

int isa_count() { return available().count; }
const Isa& isa_at(int index) { return *available().sets[index]; }

const Isa& isa_current() {
  const Isa* isa = chosen.load(std::memory_order_relaxed);
  return isa ? *isa : isa_at(isa_count() - 1);
}

bool isa_use(const char* name) {
  for (int i = 0; i < isa_count(); ++i)
    if (std::strcmp(isa_at(i).name, name) == 0) {
      chosen.store(&isa_at(i), std::memory_order_relaxed);
      return true;
    }
  return false;
}

}  // namespace robustq
