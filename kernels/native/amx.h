// What the files for AMX share: tile registers. All of it static but for two declarations: see CMakeLists.txt.
#pragma once
#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace robustq {

struct UnitWindow;
void amx_configure_window(int steps);  // amx_window.cpp
void amx_window(const UnitWindow& w, int planes, int fields);

namespace {

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};

  void set(int tile, int64_t tile_rows, int64_t row_bytes) {
    rows[tile] = uint8_t(tile_rows);
    bytes[tile] = uint16_t(row_bytes);
  }
  void use() const { asm volatile("ldtilecfg %0" ::"m"(*this)); }
};

// Codes are decoded so many steps before the unit wants them, in so many buffers that take turns.
constexpr int64_t kAhead = 2, kDecoded = 4;

// Registers 0 and 1 are sums of one tile of rows, which is in 4; 2 and 3 those of another, in 5.
[[maybe_unused]] void configure_rows(int64_t rows, int64_t second) {
  TileConfig config;
  const int64_t of[8] = {rows, rows, second, second, rows, second, 16, 16};
  for (int i = 0; i < 8; ++i) config.set(i, of[i], 64);
  config.use();
}

[[maybe_unused]] void release() { asm volatile("tilerelease"); }

// As assembly with a memory clobber: the intrinsics of g++ 12 do not say that they read memory.
template <int T>
inline void load(const void* at, int64_t pitch = 64) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(pitch), "i"(T) : "memory");
}
template <int T>
inline void store(void* sum, int64_t pitch) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(sum), "r"(pitch), "i"(T) : "memory");
}
inline void clear_sums() {
  asm volatile("tilezero %tmm0\n tilezero %tmm1\n tilezero %tmm2\n tilezero %tmm3");
}

// The first two as the instruction's prefix is coded; the last takes weights without a sign.
enum class Product { kBf16 = 2, kFp16 = 3, kInt8, kUint8 };

template <Product P, int Sum, int X, int W>
inline void multiply_add() {
  // tdpbf16ps or tdpfp16ps, which assemblers before 2.40 do not know: VEX.128.(F3|F2).0F38.W0 5C
  constexpr int kPrefix = (15 - W) << 3 | int(P), kRegisters = 0xc0 | Sum << 3 | X;
  if (P == Product::kInt8) asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(X), "i"(W));
  else if (P == Product::kUint8) asm volatile("tdpbsud %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(X), "i"(W));
  else asm volatile(".byte 0xc4, 0xe2, %c0, 0x5c, %c1" ::"i"(kPrefix), "i"(kRegisters));
}

// Sixteen float32 -> numbers of 16 bits whose sum they are, each kind `plane` numbers behind the one before: two of
// float16, rounded, or three of bfloat16, eight bits each and none rounded.
template <Product P>
inline void split(__m512 rest, __mmask16 mask, uint16_t* to, int64_t plane) {
#pragma GCC unroll 3
  for (int limb = 0; limb < (P == Product::kBf16 ? 3 : 2); ++limb) {
    __m256i half;
    if (P == Product::kBf16) {
      const __m512i part = _mm512_and_si512(_mm512_castps_si512(rest), _mm512_set1_epi32(int(0xffff0000)));
      half = _mm512_cvtepi32_epi16(_mm512_srli_epi32(part, 16));
      rest = _mm512_sub_ps(rest, _mm512_castsi512_ps(part));
    } else {
      half = _mm512_cvtps_ph(rest, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
      rest = _mm512_sub_ps(rest, _mm512_cvtph_ps(half));
    }
    _mm256_mask_storeu_epi16(to + limb * plane, mask, half);
  }
}

// The first of `count` lanes.
inline __mmask16 lanes(int64_t count) {
  return count >= 16 ? __mmask16(0xffff) : count > 0 ? __mmask16((1u << count) - 1) : __mmask16(0);
}

inline __m512 columns(const float* x, int64_t count) {
  return count > 0 ? _mm512_maskz_loadu_ps(lanes(count), x) : _mm512_setzero_ps();
}

// The power of two that brings the largest magnitude of a row to 2^to ... 2^(to + 1), as far as float32 has it.
[[maybe_unused]] float power_for(const float* x, int64_t n, int to) {
  __m512 most = _mm512_setzero_ps(), other = most;
  for (int64_t k = 0; k < n; k += 32) {
    most = _mm512_max_ps(most, _mm512_abs_ps(columns(x + k, n - k)));
    other = _mm512_max_ps(other, _mm512_abs_ps(columns(x + k + 16, n - k - 16)));
  }
  most = _mm512_max_ps(most, other);
  const float largest = _mm512_reduce_max_ps(most);
  uint32_t bits;
  std::memcpy(&bits, &largest, sizeof bits);
  const int exponent = int(bits >> 23) - 127;  // of a subnormal: -127
  const int wanted = to - exponent < 126 ? to - exponent : 126;
  bits = uint32_t(wanted + 127) << 23;
  float power;
  std::memcpy(&power, &bits, sizeof power);
  return power;
}

template <Product P>
void multiply_registers(int64_t rounds) {  // four products a round; for rooflines
  configure_rows(16, 16);  // and the registers are zero
  for (int64_t r = 0; r < rounds; ++r) {
    multiply_add<P, 0, 4, 6>();
    multiply_add<P, 1, 4, 7>();
    multiply_add<P, 2, 5, 6>();
    multiply_add<P, 3, 5, 7>();
  }
  release();
}

}  // namespace
}  // namespace robustq
