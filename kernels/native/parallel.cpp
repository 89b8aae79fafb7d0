// The pool: calls that want help stand in a list, workers take parts of them. A caller never waits for a worker to come:
// it takes parts itself until none is left, and then waits only for those that workers are in the middle of.
#include "parallel.h"

#ifndef _WIN32
#include <pthread.h>
#endif

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <new>
#include <thread>

namespace robustq {
namespace {

constexpr std::chrono::microseconds kSpin{50};  // about what falling asleep and being woken cost

void relax() {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Whether `done` came true while it was worth waiting awake.
template <class Done>
bool spin(Done done) {
  const auto end = std::chrono::steady_clock::now() + kSpin;
  do {
    for (int i = 0; i < 32; ++i) {
      if (done()) return true;
      relax();
    }
  } while (std::chrono::steady_clock::now() < end);
  return false;
}

// A call, on the stack of its caller.
struct Call {
  const Work run;
  const int64_t parts, total;
  std::atomic<int64_t> next{0};    // the first part that nobody has taken
  std::atomic<int> helpers{0};     // workers that may take parts; rises only while the call is in the list
  Call* following = nullptr;
  std::mutex failing{};
  int64_t failed_part = parts;
  std::exception_ptr failed{};

  void take_parts() {
    for (int64_t part; (part = next.fetch_add(1, std::memory_order_relaxed)) < parts;) try {
        run({total * part / parts, total * (part + 1) / parts});
      } catch (...) {
        const std::lock_guard<std::mutex> lock(failing);
        if (part < failed_part) {
          failed_part = part;
          failed = std::current_exception();
        }
      }
  }
};

class Pool {
 public:
  void run(Call& call) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      hire(call.parts - 1);
      call.following = calls_;
      calls_ = &call;
      posted_.fetch_add(1, std::memory_order_release);
      for (int64_t i = std::min<int64_t>(sleeping_, call.parts - 1); i > 0; --i) posting_.notify_one();
    }
    call.take_parts();
    std::unique_lock<std::mutex> lock(mutex_);
    Call** at = &calls_;
    while (*at != &call) at = &(*at)->following;
    *at = call.following;
    lock.unlock();
    const auto alone = [&] { return call.helpers.load(std::memory_order_acquire) == 0; };
    if (spin(alone)) return;
    lock.lock();
    leaving_.wait(lock, alone);
  }

 private:
  // With mutex_ held. No more threads to be had: those there are, or the caller alone, do it.
  void hire(int64_t wanted) try {
    for (; workers_ < wanted; ++workers_) std::thread([this] { work(); }).detach();
  } catch (const std::exception&) {
  }

  void work() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Call* call = calls_;
      while (call && call->next.load(std::memory_order_relaxed) >= call->parts) call = call->following;
      if (call) {
        call->helpers.fetch_add(1, std::memory_order_relaxed);
        lock.unlock();
        call->take_parts();
        lock.lock();
        if (call->helpers.fetch_sub(1, std::memory_order_release) == 1) leaving_.notify_all();  // `call` may be gone
        continue;
      }
      const uint64_t seen = posted_.load(std::memory_order_relaxed);
      const auto news = [&] { return posted_.load(std::memory_order_acquire) != seen; };
      lock.unlock();
      const bool awake = spin(news);
      lock.lock();
      if (awake) continue;
      ++sleeping_;
      posting_.wait(lock, news);
      --sleeping_;
    }
  }

  std::mutex mutex_;
  std::condition_variable posting_, leaving_;
  Call* calls_ = nullptr;
  int64_t workers_ = 0, sleeping_ = 0;
  std::atomic<uint64_t> posted_{0};
};

// Never destroyed: its threads sleep in it until the process ends.
Pool* const pool = new Pool;

// In a forked child there are neither the workers nor the callers, and the mutex may be held by one that is gone.
#ifndef _WIN32
const int watching = pthread_atfork(nullptr, nullptr, [] { ::new (pool) Pool; });
#endif

}  // namespace

int64_t parts_for(int64_t work, int64_t work_of_a_thread, int64_t threads) {
  return std::max<int64_t>(1, std::min<int64_t>(threads, work / work_of_a_thread));
}

void in_parts(int64_t parts, int64_t total, Work run) {
  parts = std::max<int64_t>(1, std::min(parts, total));
  if (parts == 1) return run({0, total});
  Call call{run, parts, total};
  pool->run(call);
  if (call.failed) std::rethrow_exception(call.failed);
}

}  // namespace robustq
