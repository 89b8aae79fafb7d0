// The functions of kernels/cuda/device.cuh on a CPU, so that the kernels' own text runs without a GPU.
//
// fibers.h has the threads, background.h what goes on beside them. Shared memory holds garbage at first. A copy in the
// background arrives when it is waited for, not before. The operands of the tensor cores are taken apart as the PTX ISA
// describes them.
#pragma once

#include <cmath>

#include "background.h"
#include "fibers.h"

#define __device__
#define __global__
#define __forceinline__ inline
#define __launch_bounds__(...)

struct alignas(16) Quad {
  u32 word[4];
};

namespace emulator {

static float bf16(u16 bits) {
  u32 wide = (u32)bits << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

static int byte_of(u32 word, int j) { return (int)(signed char)(word >> (8 * j)); }

}  // namespace emulator

static u8* shared_memory() { return emulator::shared_start(); }

static Quad load_cached(const void* pointer) {
  if ((uintptr_t)pointer % 16) emulator::fail("a load of 16 bytes is not aligned");
  emulator::check_global(pointer, 16, "a load of 16 bytes");
  Quad q;
  std::memcpy(&q, pointer, 16);
  return q;
}
static Quad load_streaming(const void* pointer) { return load_cached(pointer); }
static Quad load_shared(const void* pointer) {
  if ((uintptr_t)pointer % 16) emulator::fail("a load of 16 bytes is not aligned");
  emulator::check_shared(pointer, 16, "a load of 16 bytes");
  emulator::check_come((const u8*)pointer, (const u8*)pointer + 16, threadIdx.x);
  Quad q;
  std::memcpy(&q, pointer, 16);
  return q;
}

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
static void opaque(i64&) {}
static int count_bits(u32 word) { return __builtin_popcount(word); }
static void add_to(int* place, int value) { *place += value; }
static void raise_to(u32* place, u32 value) { *place = value > *place ? value : *place; }

static u32 shuffle(u32 value, const std::function<int(int)>& partner) {
  u32 given = value;
  int lane = threadIdx.x % 32;
  u32* slot = &given;
  std::vector<u32> seen(32);
  struct Call {
    u32 value;
    std::vector<u32>* seen;
  } call{*slot, &seen};
  emulator::meet(emulator::own_warp(), 32, lane, &call, [](std::vector<void*>& all) {
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

static void synchronize_warp() {
  emulator::meet(emulator::own_warp(), 32, threadIdx.x % 32, nullptr, [](std::vector<void*>&) {});
}

struct BytesCall {
  int (*d)[4];
  const u32* a;
  u32 b[2];
};

static void mma_s8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  BytesCall call{&d, a, {b0, b1}};
  emulator::meet(emulator::own_warp(), 32, threadIdx.x % 32, &call, [](std::vector<void*>& all) FAST {
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
  emulator::meet(emulator::own_warp(), 32, threadIdx.x % 32, &call, [](std::vector<void*>& all) {
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
  emulator::check_shared(to, 16, "a copy");
  if (present) emulator::check_global(from, 16, "a copy");
  emulator::fibers[threadIdx.x].copies.back().push_back({to, from, present});
}

static void commit_copies() { emulator::fibers[threadIdx.x].copies.emplace_back(); }

template <int Pending>
static void wait_copies() {
  auto& copies = emulator::fibers[threadIdx.x].copies;
  while (copies.size() > Pending + 1) {
    for (auto& copy : copies.front()) {
      copy.present ? std::memcpy(copy.to, copy.from, 16) : std::memset(copy.to, 0, 16);
      emulator::unpublished[(const u8*)copy.to] = threadIdx.x;
    }
    copies.erase(copies.begin());
  }
}
