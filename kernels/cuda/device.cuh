// What the kernels take from the machine: memory, tensor cores, barriers. No header is included, so that NVRTC compiles
// this without a toolkit; tests/kernels/cuda/emulator.h has the same functions for a CPU.
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

struct alignas(16) Quad {
  u32 word[4];
};

// The block's dynamic shared memory.
__device__ __forceinline__ u8* shared_memory() {
  extern __shared__ __align__(128) u8 dynamic_shared[];
  return dynamic_shared;
}

__device__ __forceinline__ u32 shared_address(const void* pointer) {
  return static_cast<u32>(__cvta_generic_to_shared(pointer));
}

__device__ __forceinline__ Quad load_shared(const void* pointer) { return *(const Quad*)pointer; }

// 16 bytes that are read once: past the first cache, which the activations need.
__device__ __forceinline__ Quad load_streaming(const void* pointer) {
  Quad q;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(q.word[0]), "=r"(q.word[1]), "=r"(q.word[2]), "=r"(q.word[3])
               : "l"(pointer));
  return q;
}

__device__ __forceinline__ Quad load_cached(const void* pointer) {
  Quad q;
  asm volatile("ld.global.nc.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(q.word[0]), "=r"(q.word[1]), "=r"(q.word[2]), "=r"(q.word[3])
               : "l"(pointer));
  return q;
}

__device__ __forceinline__ float half_to_float(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

__device__ __forceinline__ u16 float_to_half(float value) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

__device__ __forceinline__ u32 float_bits(float value) { return __float_as_uint(value); }
__device__ __forceinline__ float bits_float(u32 bits) { return __uint_as_float(bits); }
__device__ __forceinline__ int round_to_int(float value) { return __float2int_rn(value); }
__device__ __forceinline__ void opaque(i64& value) { asm volatile("" : "+l"(value)); }
__device__ __forceinline__ int count_bits(u32 word) { return __popc(word); }
__device__ __forceinline__ u32 shuffle_up(u32 value, int by) { return __shfl_up_sync(0xFFFFFFFFu, value, by); }
__device__ __forceinline__ u32 shuffle_xor(u32 value, int mask) { return __shfl_xor_sync(0xFFFFFFFFu, value, mask); }
__device__ __forceinline__ void synchronize() { __syncthreads(); }
__device__ __forceinline__ void synchronize_warp() { __syncwarp(); }
__device__ __forceinline__ void add_to(int* place, int value) { atomicAdd(place, value); }
__device__ __forceinline__ void raise_to(u32* place, u32 value) { atomicMax(place, value); }

// d (16, 8) += a (16, 32) b (32, 8), signed bytes. Lane 4 g + t has a[h + 2 r] = rows g + 8 h, columns 16 r + 4 t ...
// + 3; b[r] = rows 16 r + 4 t ... + 3 of column g; d[2 h + c] = row g + 8 h, column 2 t + c.
__device__ __forceinline__ void mma_s8(int (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// d (16, 8) += a (16, 16) b (16, 8), bfloat16 pairs. Lane 4 g + t has a[h + 2 r] = row g + 8 h, columns 8 r + 2 t, + 1;
// b[r] = rows 8 r + 2 t, + 1 of column g; d as above.
__device__ __forceinline__ void mma_bf16(float (&d)[4], const u32 (&a)[4], u32 b0, u32 b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
               "{%0, %1, %2, %3};"
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// Copies 16 bytes to shared memory in the background, or 16 zeros where `present` is false.
__device__ __forceinline__ void copy_async(void* to, const void* from, bool present) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;"
               :
               : "r"(shared_address(to)), "l"(from), "r"(present ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Waits until at most `Pending` of this thread's groups of copies are under way.
template <int Pending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" : : "n"(Pending) : "memory");
}

#if WGMMA
// Makes what this thread wrote to shared memory visible to the tensor cores of the warp group.
__device__ __forceinline__ void publish_shared() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
__device__ __forceinline__ void begin_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

__device__ __forceinline__ void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

// Waits until at most `Pending` committed groups of this warp's products are under way.
template <int Pending>
__device__ __forceinline__ void wait_products() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" : : "n"(Pending) : "memory");
}

__device__ __forceinline__ void finish_products() {
  commit_products();
  wait_products<0>();
}

// A matrix in shared memory as pieces of 8 rows x 16 bytes, each contiguous: `along` bytes from a piece to the next one
// along a row, `down` bytes to the next 8 rows; not swizzled.
__device__ __forceinline__ u64 describe(const void* start, u32 along, u32 down) {
  return (u64)((shared_address(start) & 0x3FFFF) >> 4) | (u64)(along >> 4) << 16 | (u64)(down >> 4) << 32;
}

// Has an operand ready in its registers before `begin_products`.
__device__ __forceinline__ void ready(u32 (&a)[4]) {
  asm volatile("" : "+r"(a[0]), "+r"(a[1]), "+r"(a[2]), "+r"(a[3])::"memory");
}

// Keeps reads of the sums behind `wait_products`: to the compiler the two have nothing to do with each other.
template <int N>
__device__ __forceinline__ void settle(int (&d)[N][4]) {
#pragma unroll
  for (int i = 0; i < N; ++i)
    asm volatile("" : "+r"(d[i][0]), "+r"(d[i][1]), "+r"(d[i][2]), "+r"(d[i][3])::"memory");
}

#define ROW4(d, i) "+r"(d[i][0]), "+r"(d[i][1]), "+r"(d[i][2]), "+r"(d[i][3])
#define ROW16(d, i) ROW4(d, i), ROW4(d, i + 1), ROW4(d, i + 2), ROW4(d, i + 3)

// d (64, 64) += a (64, 32) b^T, b (64, 32) in shared memory; a as four mma_s8 operands, one for each warp of the group.
__device__ __forceinline__ void wgmma_s8(int (&d)[8][4], const u32 (&a)[4], u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n64k32.s32.s8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, "
      "%14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, {%32, %33, %34, "
      "%35}, %36, 1;"
      : ROW16(d, 0), ROW16(d, 4)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

// The same with d (64, 128), b (128, 32).
__device__ __forceinline__ void wgmma_s8(int (&d)[16][4], const u32 (&a)[4], u64 b) {
  asm volatile(
      "wgmma.mma_async.sync.aligned.m64n128k32.s32.s8.s8 {%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, "
      "%14, %15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, %32, %33, %34, %35, "
      "%36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, "
      "%58, %59, %60, %61, %62, %63}, {%64, %65, %66, %67}, %68, 1;"
      : ROW16(d, 0), ROW16(d, 4), ROW16(d, 8), ROW16(d, 12)
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef ROW16
#undef ROW4

// A barrier in shared memory. Its phases are numbered from 0; one is complete when `count` arrivals and all the bytes
// that they expect have come.
__device__ __forceinline__ void barrier_create(u64* barrier, u32 count) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" : : "r"(shared_address(barrier)), "r"(count) : "memory");
}

__device__ __forceinline__ void barrier_arrive(u64* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" : : "r"(shared_address(barrier)) : "memory");
}

// Arrives, and has the phase wait for the bytes of copies too.
__device__ __forceinline__ void barrier_expect(u64* barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :
               : "r"(shared_address(barrier)), "r"(bytes)
               : "memory");
}

// Waits until the last phase of this parity is complete; the one before the first has parity 1, and is.
__device__ __forceinline__ void barrier_wait(u64* barrier, u32 parity) {
  u32 complete;
  do {
    asm volatile(
        "{\n.reg .pred complete;\nmbarrier.try_wait.parity.shared::cta.b64 complete, [%1], %2;\n"
        "selp.u32 %0, 1, 0, complete;\n}"
        : "=r"(complete)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!complete);
}

// Copies a multiple of 16 bytes to shared memory in the background; the barrier counts them as they come.
__device__ __forceinline__ void copy_bulk(void* to, const void* from, u32 bytes, u64* barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
               :
               : "r"(shared_address(to)), "l"(from), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
}

// Registers of each thread of a group of four warps, given back or taken.
template <int Registers>
__device__ __forceinline__ void lower_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" : : "n"(Registers));
}

template <int Registers>
__device__ __forceinline__ void raise_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" : : "n"(Registers));
}
#endif
