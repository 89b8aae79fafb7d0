// What goes on beside the emulated threads: barriers in shared memory, copies in bulk, products of warp groups.
//
// Everything comes as late as it may. A copy in bulk writes its bytes when a thread waits for the phase that counts
// them; until then what it writes is garbage that nobody may read, and afterwards only a thread that has waited may. A
// product reads its operands and adds to the sums when it is waited for; until then nobody may write over what it
// reads.
#pragma once

#include "fibers.h"

namespace emulator {

struct Barrier {
  int count, pending;
  i64 missing = 0;  // bytes
  u64 phase = 0, made;
  bool published = false;
  unsigned maker;
};

struct Flight {
  u8* to;
  const u8* from;
  size_t bytes;
  const void* barrier;
  bool landed;
  u64 phase;  // that counted it, once it has landed
};

struct Operands {
  int (*d)[4];
  const u32* a;
  u64 b;
  bool alone;                       // no other product under way adds to these sums
  std::vector<int> before;          // the sums
  u32 left[4];                      // what a held
};

struct Product {
  int columns;
  u32 start, along, down;
  std::vector<Operands> of;  // of 128 threads
  bool done = false;
  std::vector<int> sums;  // (64, columns)

  bool reads(const u8* begin, const u8* end) const {
    for (int piece = 0; piece < 2; ++piece)
      for (int rows = 0; rows < columns / 8; ++rows) {
        const u8* at = shared_start() + start + piece * along + rows * down;
        if (at < end && begin < at + 128) return true;
      }
    return false;
  }
};

struct Warp {
  std::vector<std::shared_ptr<Product>> open;
  std::vector<std::vector<std::shared_ptr<Product>>> committed;
};

static std::map<const void*, Barrier> barriers;
static std::map<const u8*, unsigned> unpublished;  // 16 bytes that a thread's copies wrote and products may not see yet
static std::vector<Flight> flights;
static std::vector<Warp> under_way;  // of each warp
static i64 free_registers;
static int own_registers;

static void start_of_block(unsigned threads) {
  barriers.clear();
  unpublished.clear();
  flights.clear();
  under_way = std::vector<Warp>(warps.size());
  own_registers = 65536 / (int)threads / 8 * 8;
  free_registers = 65536 - (i64)threads * own_registers;
}

static void end_of_block() {
  for (const Flight& one : flights)
    if (!one.landed) failure = "a block ended before its copies had come";
  for (const Warp& warp : under_way)
    if (!warp.open.empty() || !warp.committed.empty()) failure = "a block ended before its products were done";
}

static Barrier& barrier_at(const void* place) {
  auto found = barriers.find(place);
  if (found == barriers.end()) fail("there is no barrier at this place");
  Barrier& barrier = found->second;
  if (barrier.maker != threadIdx.x && block.round <= barrier.made) fail("a barrier is used before all know of it");
  return barrier;
}

static void turn(Barrier& barrier) {
  if (barrier.pending || barrier.missing) return;
  ++barrier.phase;
  barrier.pending = barrier.count;
}

static void arrive(Barrier& barrier, u32 bytes) {
  if (!barrier.pending) fail("more arrivals at a barrier than it counts");
  barrier.missing += bytes;
  --barrier.pending;
  ++steps;
  turn(barrier);
}

// The copies that count for this barrier come.
static void land(const void* place, Barrier& barrier) {
  for (Flight& one : flights) {
    if (one.landed || one.barrier != place) continue;
    std::memcpy(one.to, one.from, one.bytes);
    barrier.missing -= one.bytes;
    one.landed = true;
    one.phase = barrier.phase;
    ++steps;
  }
  if (barrier.missing < 0) fail("more bytes come than a barrier expects");
  turn(barrier);
}

// What the thread `reader` reads of shared memory must have come, and it must know that.
static void check_come(const u8* begin, const u8* end, unsigned reader) {
  for (const Flight& one : flights) {
    if (one.to >= end || begin >= one.to + one.bytes) continue;
    if (!one.landed) fail("reads shared memory that a copy is still writing");
    if (fibers[reader].seen[one.barrier] <= one.phase) fail("reads what came by a copy that it has not waited for");
  }
}

// Whether a product that some warp has not waited for reads this.
static bool still_read(const u8* begin, const u8* end) {
  for (const Warp& warp : under_way) {
    for (auto& product : warp.open)
      if (product->reads(begin, end)) return true;
    for (auto& group : warp.committed)
      for (auto& product : group)
        if (product->reads(begin, end)) return true;
  }
  return false;
}

FAST static void multiply(Product& product) {
  product.done = true;
  product.sums.assign(64 * product.columns, 0);
  static int left[64][32], right[256][32];
  for (int row = 0; row < product.columns; ++row)
    for (int k = 0; k < 32; ++k)
      right[row][k] = (signed char)
          shared_start()[product.start + k / 16 * product.along + row / 8 * product.down + row % 8 * 16 + k % 16];
  for (int thread = 0; thread < 128; ++thread) {
    int g = thread % 32 / 4, t = thread % 4;
    for (int i = 0; i < 4; ++i)
      for (int j = 0; j < 4; ++j)
        left[thread / 32 * 16 + g + i % 2 * 8][16 * (i / 2) + 4 * t + j] =
            (int)(signed char)(product.of[thread].left[i] >> (8 * j));
  }
  for (int row = 0; row < 64; ++row)
    for (int column = 0; column < product.columns; ++column)
      for (int k = 0; k < 32; ++k) product.sums[row * product.columns + column] += left[row][k] * right[column][k];
}

// The products of a warp that are under way come to their end, but for the last `pending` groups.
static void finish_groups(Warp& warp, unsigned first, size_t pending) {
  while (warp.committed.size() > pending) {
    for (auto& product : warp.committed.front()) {
      if (!product->done) multiply(*product);
      for (unsigned thread = first % 128; thread < first % 128 + 32; ++thread) {
        Operands& one = product->of[thread];
        int columns = product->columns;
        if (std::memcmp(one.a, one.left, sizeof one.left)) fail("operands were written while a product read them");
        if (one.alone && std::memcmp(one.d, one.before.data(), columns / 2 * 4))
          fail("sums were written while a product added to them");
        for (int set = 0; set < columns / 8; ++set)
          for (int i = 0; i < 4; ++i)
            one.d[set][i] += product->sums[(thread / 32 * 16 + thread % 32 / 4 + i / 2 * 8) * columns + 8 * set +
                                           2 * (thread % 4) + i % 2];
      }
    }
    warp.committed.erase(warp.committed.begin());
  }
}

static bool adds_to(const Warp& warp, int thread, const void* sums) {
  for (auto& product : warp.open)
    if (product->of[thread].d == sums) return true;
  for (auto& group : warp.committed)
    for (auto& product : group)
      if (product->of[thread].d == sums) return true;
  return false;
}

}  // namespace emulator

static void barrier_create(u64* place, u32 count) {
  emulator::check_shared(place, 8, "a barrier");
  if ((uintptr_t)place % 8) emulator::fail("a barrier is not aligned");
  emulator::Barrier made{(int)count, (int)count};
  made.made = emulator::block.round;
  made.maker = threadIdx.x;
  emulator::barriers[place] = made;
}

static void publish_shared() {
  for (auto one = emulator::unpublished.begin(); one != emulator::unpublished.end();)
    one = one->second == threadIdx.x ? emulator::unpublished.erase(one) : std::next(one);
  for (auto& one : emulator::barriers)
    if (one.second.maker == threadIdx.x) one.second.published = true;
}

static void barrier_arrive(u64* place) { emulator::arrive(emulator::barrier_at(place), 0); }
static void barrier_expect(u64* place, u32 bytes) { emulator::arrive(emulator::barrier_at(place), bytes); }

static void barrier_wait(u64* place, u32 parity) {
  if (parity > 1) emulator::fail("a parity is 0 or 1");
  emulator::Barrier& barrier = emulator::barrier_at(place);
  emulator::wait_until("a barrier at", (u8*)place - emulator::shared_start(), [&] {
    if ((barrier.phase & 1) == parity && !barrier.pending) emulator::land(place, barrier);
    return (barrier.phase & 1) != parity;
  });
  emulator::own().seen[place] = barrier.phase;
}

static void copy_bulk(void* to, const void* from, u32 bytes, u64* place) {
  emulator::Barrier& barrier = emulator::barrier_at(place);
  if (!barrier.published) emulator::fail("the copies do not know of the barrier: publish_shared");
  if ((uintptr_t)to % 16 || (uintptr_t)from % 16 || bytes % 16) emulator::fail("a copy in bulk is not aligned");
  emulator::check_shared(to, bytes, "a copy in bulk");
  emulator::check_global(from, bytes, "a copy in bulk");
  u8 *begin = (u8*)to, *end = begin + bytes;
  if (emulator::still_read(begin, end)) emulator::fail("a copy writes over what a product still reads");
  auto& flights = emulator::flights;
  for (size_t i = flights.size(); i-- > 0;) {
    if (flights[i].to >= end || begin >= flights[i].to + flights[i].bytes) continue;
    if (!flights[i].landed) emulator::fail("two copies write the same shared memory");
    flights.erase(flights.begin() + i);
  }
  std::memset(to, 0xA5, bytes);
  flights.push_back({begin, (const u8*)from, bytes, place, false, 0});
}

// Registers of a group of warps: who wants more than there are waits until others give theirs back.
template <int Registers>
static void lower_registers() {
  emulator::meet(emulator::own_group(), 128, threadIdx.x % 128, nullptr, [](std::vector<void*>&) {
    if (Registers > emulator::own_registers) emulator::fail("more registers are given back than there are");
    emulator::free_registers += 128 * (emulator::own_registers - Registers);
  });
}

template <int Registers>
static void raise_registers() {
  int more = 128 * (Registers - emulator::own_registers);
  auto nothing = [](std::vector<void*>&) {};
  emulator::meet(emulator::own_group(), 128, threadIdx.x % 128, nullptr, nothing);
  if (threadIdx.x % 128 == 0) {
    emulator::wait_until("registers, more of them by", more, [&] { return emulator::free_registers >= more; });
    emulator::free_registers -= more;
  }
  emulator::meet(emulator::own_group(), 128, threadIdx.x % 128, nullptr, nothing);
}

static void ready(u32 (&)[4]) {}
static void begin_products() { emulator::own().fenced = true; }
template <int N>
static void settle(int (&)[N][4]) {}

static void commit_products() {
  emulator::own().fenced = false;
  emulator::meet(emulator::own_warp(), 32, threadIdx.x % 32, nullptr, [](std::vector<void*>&) {
    emulator::Warp& warp = emulator::under_way[threadIdx.x / 32];
    warp.committed.push_back(std::move(warp.open));
    warp.open.clear();
  });
}

template <int Pending>
static void wait_products() {
  emulator::meet(emulator::own_warp(), 32, threadIdx.x % 32, nullptr, [](std::vector<void*>&) {
    emulator::finish_groups(emulator::under_way[threadIdx.x / 32], threadIdx.x / 32 * 32, Pending);
  });
}

static void finish_products() {
  commit_products();
  wait_products<0>();
}

static u64 describe(const void* start, u32 along, u32 down) {
  u32 offset = (u32)((const u8*)start - emulator::shared_start());
  if (offset % 16 || along % 16 || down % 16) emulator::fail("a matrix in shared memory is not aligned");
  return (u64)((offset & 0x3FFFF) >> 4) | (u64)(along >> 4) << 16 | (u64)(down >> 4) << 32;
}

template <int N>
static void wgmma_s8(int (&d)[N][4], const u32 (&a)[4], u64 b) {
  if (!emulator::own().fenced) emulator::fail("products begin before the registers are ready: begin_products");
  emulator::Operands call{d, a, b};
  call.before.assign(&d[0][0], &d[0][0] + 4 * N);
  std::memcpy(call.left, a, sizeof call.left);
  emulator::meet(emulator::own_group(), 128, threadIdx.x % 128, &call, [](std::vector<void*>& all) {
    auto product = std::make_shared<emulator::Product>();
    unsigned group = threadIdx.x / 128;
    u64 b = ((emulator::Operands*)all[0])->b;
    product->columns = 8 * N;
    product->start = (u32)(b & 0x3FFF) << 4;
    product->along = (u32)(b >> 16 & 0x3FFF) << 4;
    product->down = (u32)(b >> 32 & 0x3FFF) << 4;
    for (int thread = 0; thread < 128; ++thread) {
      auto& one = *(emulator::Operands*)all[thread];
      if (one.b != b) emulator::fail("the threads of a group name different matrices");
      one.alone = !emulator::adds_to(emulator::under_way[group * 4 + thread / 32], thread, one.d);
      product->of.push_back(one);
    }
    for (int piece = 0; piece < 2; ++piece)
      for (int rows = 0; rows < N; ++rows) {
        const u8* at = emulator::shared_start() + product->start + piece * product->along + rows * product->down;
        emulator::check_shared(at, 128, "a product");
        auto hidden = emulator::unpublished.lower_bound(at);
        if (hidden != emulator::unpublished.end() && hidden->first < at + 128)
          emulator::fail("a product reads what a thread has not published: publish_shared");
        for (unsigned thread = 0; thread < 128 && (rows == 0 || rows == N - 1); ++thread)
          emulator::check_come(at, at + 128, group * 128 + thread);
      }
    for (unsigned warp = group * 4; warp < group * 4 + 4; ++warp) emulator::under_way[warp].open.push_back(product);
  });
}
