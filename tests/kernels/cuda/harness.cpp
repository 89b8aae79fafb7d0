// Runs one kernel of the file it is compiled with on the emulated machine; its arguments as cuLaunchKernel takes them.
#include <utility>

#include "kernel.cu"

template <class... Arguments, size_t... Place>
static void apply(void (*kernel)(Arguments...), void** arguments, std::index_sequence<Place...>) {
  kernel(*(Arguments*)arguments[Place]...);
}

template <class... Arguments>
static void run(void (*kernel)(Arguments...), unsigned x, unsigned y, unsigned threads, size_t shared, void** all) {
  grid(x, y, threads, shared, [=] { apply(kernel, all, std::index_sequence_for<Arguments...>()); });
}

extern "C" void emulate(unsigned x, unsigned y, unsigned threads, size_t shared, void** arguments) {
  run(KERNEL, x, y, threads, shared, arguments);
}
