// The functions of kernels/cuda/device.cuh on a CPU, so that the kernels' own text runs without a GPU.
//
// Every thread of a block is a fiber; whatever a warp, a warp group or a block does together is a meeting at which the
// last one to come does the work for all. Shared memory holds garbage at first. A copy in the background arrives when
// it is waited for, not before. The operands of the tensor cores are taken apart as the PTX ISA describes them.
#pragma once

#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) Quad {
  u32 word[4];
};

struct Index {
  unsigned x, y, z;
};
static Index threadIdx, blockIdx;

namespace emulator {

struct Copy {
  void* to;
  const void* from;
  bool present;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;
  bool done = false;
  std::vector<std::vector<Copy>> copies;  // groups that are under way, the last one still open
};

struct Meeting {
  std::vector<void*> arguments;
  int arrived = 0;
  u64 round = 0;
};

static const size_t STACK = 256 << 10;
static ucontext_t scheduler;
static std::vector<Fiber> fibers;
static std::vector<Meeting> warps, groups;
static Meeting block;
static std::vector<u8> shared;
static unsigned current;
static u64 steps;  // meetings that came about
static std::function<void()> body;

static void fail(const char* what) {
  std::fprintf(stderr, "emulator: %s\n", what);
  std::abort();
}

static void yield() { swapcontext(&fibers[current].context, &scheduler); }

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
  while (meeting.round == round) yield();
}

static void enter() {
  body();
  fibers[current].done = true;
  yield();
}

// Runs one block: all its threads, in turns, until every one has ended.
static void run_block(unsigned threads, Index index, size_t shared_bytes) {
  fibers = std::vector<Fiber>(threads);
  warps = std::vector<Meeting>((threads + 31) / 32);
  groups = std::vector<Meeting>((threads + 127) / 128);
  block = Meeting();
  shared.assign(shared_bytes + 128, 0xA5);
  blockIdx = index;
  for (auto& fiber : fibers) {
    fiber.stack.reset(new char[STACK]);
    fiber.copies.resize(1);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = STACK;
    fiber.context.uc_link = &scheduler;
    makecontext(&fiber.context, enter, 0);
  }
  for (;;) {
    u64 before = steps;
    unsigned left = 0, ended = 0;
    for (current = 0; current < threads; ++current) {
      if (fibers[current].done) continue;
      threadIdx = {current, 0, 0};
      swapcontext(&scheduler, &fibers[current].context);
      fibers[current].done ? ++ended : ++left;
    }
    if (!left) return;
    if (!ended && steps == before) fail("threads wait for others that never come");
  }
}

static float bf16(u16 bits) {
  u32 wide = (u32)bits << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

static int byte_of(u32 word, int j) { return (int)(signed char)(word >> (8 * j)); }

}  // namespace emulator

static void grid(unsigned x, unsigned y, unsigned threads, size_t shared_bytes, std::function<void()> kernel) {
  emulator::body = kernel;
  for (unsigned j = 0; j < y; ++j)
    for (unsigned i = 0; i < x; ++i) emulator::run_block(threads, {i, j, 0}, shared_bytes);
}

static u8* shared_memory() {
  uintptr_t start = (uintptr_t)emulator::shared.data();
  return (u8*)((start + 127) / 128 * 128);
}

static Quad load_cached(const void* pointer) {
  if ((uintptr_t)pointer % 16) emulator::fail("a load of 16 bytes is not aligned");
  Quad q;
  std::memcpy(&q, pointer, 16);
  return q;
}
static Quad load_streaming(const void* pointer) { return load_cached(pointer); }

static float half_to_float(u16 bits) {
  _Float16 value;
  std::memcpy(&value, &bits, 2);
  return (float)value;
}
static u16 float_to_half(float value) {
  _Float16 half = (_Float16)value;
  u16 bits;
  std::memcpy(&bits, &half, 2);
  return bits;
}
static u32 float_bits(float value) {
  u32 bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}
static float bits_float(u32 bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}
static int round_to_int(float value) { return (int)std::nearbyint(value); }
static int count_bits(u32 word) { return __builtin_popcount(word); }
static void raise_to(u32* place, u32 value) { *place = value > *place ? value : *place; }

static emulator::Meeting& own_warp() { return emulator::warps[threadIdx.x / 32]; }

static u32 shuffle(u32 value, const std::function<int(int)>& partner) {
  u32 given = value;
  int lane = threadIdx.x % 32;
  u32* slot = &given;
  std::vector<u32> seen(32);
  struct Call {
    u32 value;
    std::vector<u32>* seen;
  } call{*slot, &seen};
  emulator::meet(own_warp(), 32, lane, &call, [](std::vector<void*>& all) {
    std::vector<u32> values;
    for (void* one : all) values.push_back(((Call*)one)->value);
    for (void* one : all) *((Call*)one)->seen = values;
  });
  return seen[partner(lane)];
}
static u32 shuffle_up(u32 value, int by) {
  return shuffle(value, [by](int lane) { return lane >= by ? lane - by : lane; });
}
static u32 shuffle_xor(u32 value, int mask) {
  return shuffle(value, [mask](int lane) { return lane ^ mask; });
}

static void synchronize() {
  emulator::meet(emulator::block, (int)emulator::fibers.size(), threadIdx.x, nullptr, [](std::vector<void*>&) {});
}

struct BytesCall {
  int (*d)[4];
  const u32* a;
  u32 b[2];
};

static void mma_s8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  BytesCall call{&d, a, {b0, b1}};
  emulator::meet(own_warp(), 32, threadIdx.x % 32, &call, [](std::vector<void*>& all) {
    static int left[16][32], right[32][8];
    for (int lane = 0; lane < 32; ++lane) {
      auto* c = (BytesCall*)all[lane];
      int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j) left[g + i % 2 * 8][16 * (i / 2) + 4 * t + j] = emulator::byte_of(c->a[i], j);
      for (int r = 0; r < 2; ++r)
        for (int j = 0; j < 4; ++j) right[16 * r + 4 * t + j][g] = emulator::byte_of(c->b[r], j);
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2, sum = 0;
        for (int k = 0; k < 32; ++k) sum += left[row][k] * right[k][column];
        (*((BytesCall*)all[lane])->d)[i] += sum;
      }
  });
}

struct HalvesCall {
  float (*d)[4];
  const u32* a;
  u32 b[2];
};

static void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  HalvesCall call{&d, a, {b0, b1}};
  emulator::meet(own_warp(), 32, threadIdx.x % 32, &call, [](std::vector<void*>& all) {
    static float left[16][16], right[16][8];
    for (int lane = 0; lane < 32; ++lane) {
      auto* c = (HalvesCall*)all[lane];
      int g = lane / 4, t = lane % 4;
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 2; ++j)
          left[g + i % 2 * 8][8 * (i / 2) + 2 * t + j] = emulator::bf16((u16)(c->a[i] >> (16 * j)));
      for (int r = 0; r < 2; ++r)
        for (int j = 0; j < 2; ++j) right[8 * r + 2 * t + j][g] = emulator::bf16((u16)(c->b[r] >> (16 * j)));
    }
    for (int lane = 0; lane < 32; ++lane)
      for (int i = 0; i < 4; ++i) {
        int row = lane / 4 + i / 2 * 8, column = 2 * (lane % 4) + i % 2;
        float sum = 0;
        for (int k = 0; k < 16; ++k) sum += left[row][k] * right[k][column];
        (*((HalvesCall*)all[lane])->d)[i] += sum;
      }
  });
}

static void copy_async(void* to, const void* from, bool present) {
  if ((uintptr_t)to % 16 || (present && (uintptr_t)from % 16)) emulator::fail("a copy of 16 bytes is not aligned");
  u8* base = shared_memory();
  if ((u8*)to < base || (u8*)to + 16 > emulator::shared.data() + emulator::shared.size())
    emulator::fail("a copy leaves the shared memory");
  emulator::fibers[threadIdx.x].copies.back().push_back({to, from, present});
}

static void commit_copies() { emulator::fibers[threadIdx.x].copies.emplace_back(); }

template <int Pending>
static void wait_copies() {
  auto& copies = emulator::fibers[threadIdx.x].copies;
  while (copies.size() > Pending + 1) {
    for (auto& copy : copies.front())
      copy.present ? std::memcpy(copy.to, copy.from, 16) : std::memset(copy.to, 0, 16);
    copies.erase(copies.begin());
  }
}

#if WGMMA
static void publish_shared() {}
static void ready(u32 (&)[4]) {}
static void begin_products() {}
static void finish_products() {}
template <int N>
static void settle(int (&)[N][4]) {}

static u64 describe(const void* start, u32 along, u32 down) {
  u32 offset = (u32)((const u8*)start - shared_memory());
  if (offset % 16 || along % 16 || down % 16) emulator::fail("a matrix in shared memory is not aligned");
  return (u64)((offset & 0x3FFFF) >> 4) | (u64)(along >> 4) << 16 | (u64)(down >> 4) << 32;
}

struct GroupCall {
  int (*d)[4];
  const u32* a;
  u64 b;
};

template <int N>
static void wgmma_s8(int (&d)[N][4], const u32 (&a)[4], u64 b) {
  GroupCall call{d, a, b};
  emulator::meet(emulator::groups[threadIdx.x / 128], 128, threadIdx.x % 128, &call, [](std::vector<void*>& all) {
    static int left[64][32], right[8 * N][32];
    u64 b = ((GroupCall*)all[0])->b;
    u32 start = (u32)(b & 0x3FFF) << 4, along = (u32)(b >> 16 & 0x3FFF) << 4, down = (u32)(b >> 32 & 0x3FFF) << 4;
    for (int row = 0; row < 8 * N; ++row)
      for (int k = 0; k < 32; ++k)
        right[row][k] = (signed char)shared_memory()[start + k / 16 * along + row / 8 * down + row % 8 * 16 + k % 16];
    for (int thread = 0; thread < 128; ++thread) {
      auto* c = (GroupCall*)all[thread];
      if (c->b != b) emulator::fail("the threads of a group name different matrices");
      int g = thread % 32 / 4, t = thread % 4;
      for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 4; ++j)
          left[thread / 32 * 16 + g + i % 2 * 8][16 * (i / 2) + 4 * t + j] = emulator::byte_of(c->a[i], j);
    }
    for (int thread = 0; thread < 128; ++thread)
      for (int set = 0; set < N; ++set)
        for (int i = 0; i < 4; ++i) {
          int row = thread / 32 * 16 + thread % 32 / 4 + i / 2 * 8, column = 8 * set + 2 * (thread % 4) + i % 2, sum = 0;
          for (int k = 0; k < 32; ++k) sum += left[row][k] * right[column][k];
          ((GroupCall*)all[thread])->d[set][i] += sum;
        }
  });
}
#endif
