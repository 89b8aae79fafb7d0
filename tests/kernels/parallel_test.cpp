// Exercises kernels/native/parallel.cpp: parallel_test NAME; says what is wrong and exits with 1.
#include <unistd.h>
#include <sys/wait.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

#include "parallel.h"

using robustq::in_parts;
using robustq::Range;

namespace {

void need(bool ok, const char* what) {
  if (ok) return;
  std::printf("%s\n", what);
  std::exit(1);
}

// Every number of [0, total) in one range only, and no more ranges than parts.
void cover(int64_t parts, int64_t total) {
  std::vector<std::atomic<int>> seen(static_cast<size_t>(total));
  std::atomic<int64_t> ranges{0};
  in_parts(parts, total, [&](Range range) {
    ++ranges;
    for (int64_t i = range.first; i < range.last; ++i) ++seen[size_t(i)];
  });
  for (auto& times : seen) need(times == 1, "a number was not seen once");
  need(ranges <= parts, "more ranges than parts");
}

void ranges() {
  for (int64_t parts = 1; parts < 10; ++parts)
    for (int64_t total : {1, 2, 7, 100}) cover(parts, total);
  for (int64_t parts : {8, 1, 3, 2, 5}) cover(parts, 1000);
}

// Only the thread that called is at work when there is one part; several are when each part waits for all.
void threads() {
  const auto caller = std::this_thread::get_id();
  in_parts(1, 50, [&](Range) { need(std::this_thread::get_id() == caller, "one part ran on another thread"); });
  std::atomic<int> inside{0};
  in_parts(4, 4, [&](Range) {
    for (++inside; inside < 4;) std::this_thread::yield();
  });
}

void exceptions() {
  for (int round = 0; round < 200; ++round) {
    std::atomic<int> ended{0};
    try {
      in_parts(6, 6, [&](Range range) {
        ++ended;
        if (range.first % 2) throw std::runtime_error(std::to_string(range.first));
      });
      need(false, "an exception was lost");
    } catch (const std::runtime_error& error) {
      need(std::strcmp(error.what(), "1") == 0, "not the exception of the first range");
    }
    need(ended == 6, "it returned before all parts had ended");
    cover(6, 60);
  }
}

void callers() {
  std::vector<std::thread> all;
  for (int caller = 0; caller < 6; ++caller)
    all.emplace_back([caller] {
      for (int round = 0; round < 300; ++round) cover(1 + (caller + round) % 5, 64);
    });
  for (std::thread& one : all) one.join();
}

void nested() {
  std::atomic<int> inner{0};
  for (int round = 0; round < 100; ++round)
    in_parts(3, 3, [&](Range) { in_parts(4, 8, [&](Range range) { inner += int(range.size()); }); });
  need(inner == 2400, "nested calls lost a part");
}

// Children forked while the pool is idle and while another thread calls.
void forks() {
  cover(4, 100);
  std::atomic<bool> stop{false};
  std::thread busy([&] {
    while (!stop) cover(4, 64);
  });
  for (int round = 0; round < 40; ++round) {
    const pid_t child = fork();
    if (child == 0) {
      alarm(20);
      threads();
      cover(3, 100);
      const pid_t grandchild = fork();
      if (grandchild == 0) {
        alarm(10);
        threads();
        _exit(0);
      }
      int status = 1;
      waitpid(grandchild, &status, 0);
      _exit(status ? 2 : 0);
    }
    int status = 1;
    waitpid(child, &status, 0);
    need(status == 0, "a forked child failed");
    cover(4, 100);
  }
  stop = true;
  busy.join();
}

struct Case {
  const char* name;
  void (*run)();
};
constexpr Case kCases[] = {{"ranges", ranges},   {"threads", threads}, {"exceptions", exceptions},
                           {"callers", callers}, {"nested", nested},   {"forks", forks}};

}  // namespace

int main(int count, char** arguments) {
  for (const Case& one : kCases)
    if (count == 2 && std::strcmp(one.name, arguments[1]) == 0) {
      one.run();
      return 0;
    }
  std::printf("no such case\n");
  return 1;
}
