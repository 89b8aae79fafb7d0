// Work in parts, a thread each. Threads live only as long as the call: nothing is left behind that a fork could lose.
#pragma once
#include <cstdint>
#include <functional>

namespace robustq {

constexpr int64_t kThreadWork = int64_t(1) << 24;  // multiply-adds that pay for starting a thread (about 50 us)

// How many of `threads` the work pays for, at least 1.
int64_t parts_for(int64_t work, int64_t work_of_a_thread, int64_t threads);

struct Range {
  int64_t first, last;
  int64_t size() const { return last - first; }
};
// run(range) for [0, total) cut into at most `parts` ranges; the first exception is thrown again here.
void in_parts(int64_t parts, int64_t total, const std::function<void(Range)>& run);

}  // namespace robustq
