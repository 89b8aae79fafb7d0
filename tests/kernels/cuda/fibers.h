// The emulated machine's threads: each is a fiber; what a warp, a warp group or a block does together is a meeting, at
// which the last one to come does the work for all. What a kernel does wrong ends the launch with a message.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define FAST __attribute__((optimize("O3")))  // where time goes; compiling all of it so would take longer

struct Index {
  unsigned x, y, z;
};
static Index threadIdx, blockIdx, gridDim;

namespace emulator {

struct Copy {
  void* to;
  const void* from;
  bool present;
};

struct Fiber {
  ucontext_t context;  // to begin with; from then on
  jmp_buf place;       // where it goes on, without a call of the system
  bool begun = false;
  std::unique_ptr<char[]> stack;
  bool done = false;
  std::vector<std::vector<Copy>> copies;  // groups that are under way, the last one still open
  std::map<const void*, u64> seen;        // of each barrier, the phases that this thread knows to be complete
  bool fenced = false;                    // its registers are ready for products
  const char* waiting = "";               // what for, with a number
  i64 number = 0;
};

struct Meeting {
  std::vector<void*> arguments;
  int arrived = 0;
  u64 round = 0;
};

struct Extent {
  const u8 *begin, *end;
};

struct Failure {
  std::string what;
};

static const size_t STACK = 256 << 10;
static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static std::vector<Meeting> warps, groups;
static Meeting block;
static std::vector<u8> shared;
static std::vector<Extent> memory;  // what kernels may read by copies and wide loads
static unsigned current;
static u64 steps;  // meetings that came about, and arrivals
static u32 schedule;
static std::string failure;
static std::function<void()> body;

[[noreturn]] static void fail(const std::string& what) { throw Failure{what}; }

static Fiber& own() { return fibers[current]; }

static void yield() {
  if (!_setjmp(own().place)) _longjmp(scheduler, 1);
}

// Runs the current thread until it yields.
static void resume() {
  if (_setjmp(scheduler)) return;
  if (own().begun) _longjmp(own().place, 1);
  own().begun = true;
  setcontext(&own().context);
}

// Waits until `ready`.
template <class Ready>
static void wait_until(const char* what, i64 number, Ready ready) {
  while (!ready()) {
    own().waiting = what;
    own().number = number;
    yield();
  }
}

// Waits for `size` threads; the last one runs `work` on everybody's arguments.
template <class Work>
static void meet(Meeting& meeting, int size, int place, void* argument, Work work) {
  meeting.arguments.resize(size);
  meeting.arguments[place] = argument;
  u64 round = meeting.round;
  if (++meeting.arrived == size) {
    work(meeting.arguments);
    meeting.arrived = 0;
    ++meeting.round;
    ++steps;
    return;
  }
  wait_until("a meeting of", size, [&] { return meeting.round != round; });
}

static void enter() {
  try {
    body();
  } catch (const Failure& found) {
    failure = "thread " + std::to_string(current) + ": " + found.what;
  }
  own().done = true;
  yield();
}

static Meeting& own_warp() { return warps[threadIdx.x / 32]; }
static Meeting& own_group() { return groups[threadIdx.x / 128]; }

static u8* shared_start() { return (u8*)(((uintptr_t)shared.data() + 127) / 128 * 128); }

static void check_shared(const void* place, size_t bytes, const char* who) {
  const u8 *at = (const u8*)place, *end = shared.data() + shared.size();
  if (at < shared_start() || at + bytes > end) fail(std::string(who) + " leaves the shared memory");
}

static void check_global(const void* place, size_t bytes, const char* who) {
  for (const Extent& one : memory)
    if ((const u8*)place >= one.begin && (const u8*)place + bytes <= one.end) return;
  fail(std::string(who) + " leaves the tensors");
}

static void start_of_block(unsigned threads);
static void end_of_block();

// Which warps run in a round: all of them, or with a schedule other than 0 some, others being left behind for a while.
struct Order {
  u32 state;
  std::vector<unsigned> asleep;

  u32 draw() { return (state = state * 1664525 + 1013904223) >> 8; }
  bool runs(unsigned warp, bool all) {
    if (!schedule || all) return true;
    if (asleep[warp]) return --asleep[warp], false;
    if (draw() % 8 == 0) asleep[warp] = draw() % 64;
    return true;
  }
};

// Runs one block: its threads, in turns, until every one has ended.
static void run_block(unsigned threads, Index index, size_t shared_bytes) {
  fibers = std::vector<Fiber>(threads);
  warps = std::vector<Meeting>((threads + 31) / 32);
  groups = std::vector<Meeting>((threads + 127) / 128);
  block = Meeting();
  shared.assign(shared_bytes + 128, 0xA5);
  shared.resize(shared_start() - shared.data() + shared_bytes);
  blockIdx = index;
  start_of_block(threads);
  for (auto& fiber : fibers) {
    fiber.stack.reset(new char[STACK]);
    fiber.copies.resize(1);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, enter, 0);
  }
  Order order{schedule, std::vector<unsigned>(warps.size())};
  for (bool all = true;;) {
    u64 before = steps;
    unsigned left = 0, ended = 0;
    for (unsigned warp = 0; warp < warps.size(); ++warp) {
      bool runs = order.runs(warp, all);
      for (current = 32 * warp; current < 32 * warp + 32 && current < threads; ++current) {
        if (own().done) continue;
        if (runs) {
          threadIdx = {current, 0, 0};
          resume();
          if (!failure.empty()) return;
        }
        own().done ? ++ended : ++left;
      }
    }
    if (!left) return end_of_block();
    bool moved = ended || steps != before;
    if (!moved && all) {
      for (current = 0; own().done;) ++current;
      failure = "thread " + std::to_string(current) + " and others wait for what never comes: " + own().waiting + " " +
                std::to_string(own().number);
      return;
    }
    all = !moved;
  }
}

}  // namespace emulator

// Runs a grid; the message of what went wrong, or null.
static const char* run_grid(unsigned x, unsigned y, unsigned threads, size_t shared_bytes,
                            std::function<void()> kernel) {
  emulator::body = kernel;
  emulator::failure.clear();
  gridDim = {x, y, 1};
  for (unsigned j = 0; j < y; ++j)
    for (unsigned i = 0; i < x && emulator::failure.empty(); ++i)
      emulator::run_block(threads, {i, j, 0}, shared_bytes);
  return emulator::failure.empty() ? nullptr : emulator::failure.c_str();
}
