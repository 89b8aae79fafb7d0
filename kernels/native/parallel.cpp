#include "parallel.h"

#include <algorithm>
#include <exception>
#include <system_error>
#include <thread>
#include <vector>

namespace robustq {

int64_t parts_for(int64_t work, int64_t work_of_a_thread, int64_t threads) {
  return std::max<int64_t>(1, std::min<int64_t>(threads, work / work_of_a_thread));
}

void in_parts(int64_t parts, int64_t total, const std::function<void(Range)>& run) {
  parts = std::max<int64_t>(1, std::min(parts, total));
  if (parts == 1) return run({0, total});
  std::vector<std::exception_ptr> failed(static_cast<size_t>(parts));
  auto part = [&](int64_t index) {
    try {
      run({total * index / parts, total * (index + 1) / parts});
    } catch (...) {
      failed[size_t(index)] = std::current_exception();
    }
  };
  std::vector<std::thread> workers;
  workers.reserve(size_t(parts));
  int64_t started = 1;
  try {
    for (; started < parts; ++started) workers.emplace_back(part, started);
  } catch (const std::system_error&) {
    // No more threads to be had: this one does the rest.
  }
  part(0);
  for (int64_t index = started; index < parts; ++index) part(index);
  for (std::thread& worker : workers) worker.join();
  for (const std::exception_ptr& error : failed)
    if (error) std::rethrow_exception(error);
}

}  // namespace robustq
