// Runs one kernel of the file it is compiled with on the emulated machine; its arguments as cuLaunchKernel takes them.
#include "emulator.h"  // first: it is compiled beforehand
#include <utility>

#include "kernel.cu"

template <class... Arguments, size_t... Place>
static void apply(void (*kernel)(Arguments...), void** arguments, std::index_sequence<Place...>) {
  kernel(*(Arguments*)arguments[Place]...);
}

template <class... Arguments>
static const char* run(void (*kernel)(Arguments...), unsigned x, unsigned y, unsigned threads, size_t shared, void** all) {
  return run_grid(x, y, threads, shared, [=] { apply(kernel, all, std::index_sequence_for<Arguments...>()); });
}

// extents: begin and end of each tensor. Null, or what the kernel did wrong.
extern "C" const char* emulate(unsigned x, unsigned y, unsigned threads, size_t shared, void** arguments,
                               const emulator::Extent* extents, size_t count, unsigned schedule) {
  emulator::memory.assign(extents, extents + count);
  emulator::schedule = schedule;
  return run(KERNEL, x, y, threads, shared, arguments);
}
