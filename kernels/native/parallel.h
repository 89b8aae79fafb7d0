// Work in parts, a thread each. The threads stand by: they spin a moment for the next call, then sleep.
#pragma once
#include <cstdint>

namespace robustq {

constexpr int64_t kThreadWork = int64_t(1) << 24;  // multiply-adds that pay for waking a thread

// How many of `threads` the work pays for, at least 1.
int64_t parts_for(int64_t work, int64_t work_of_a_thread, int64_t threads);

struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};

// A callable (Range) by reference: unlike std::function it allocates nothing.
class Work {
 public:
  template <class F>
  Work(const F& run) : at_(&run), call_([](const void* at, Range range) { (*static_cast<const F*>(at))(range); }) {}
  void operator()(Range range) const { call_(at_, range); }

 private:
  const void* at_;
  void (*call_)(const void*, Range);
};

// run(range) for [0, total) cut into at most `parts` ranges, by this thread and up to parts - 1 others; all have ended
// when it returns. The exception of the first range that threw is thrown again here. Any number of threads may call at
// once, a part may call too, and a forked child starts threads of its own.
void in_parts(int64_t parts, int64_t total, Work run);

}  // namespace robustq
