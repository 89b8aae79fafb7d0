// AVX-512: sixteen rows a register, and a list as a jump into a straight run of additions, so many before its end as
// the list has entries: lists are too short for a loop, whose end would be guessed wrongly too often.
#include <immintrin.h>

#include "sparse_plain.h"

namespace robustq {
namespace {

// Sixteen rows of sixteen columns each -> sixteen columns of sixteen rows.
inline void transpose(__m512 (&v)[16]) {
  __m512 t[16];
#pragma GCC unroll 16
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(v[i], v[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(v[i], v[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4)
#pragma GCC unroll 2
    for (int h = 0; h < 2; ++h) {
      const __m512d low = _mm512_castps_pd(t[i + h]), high = _mm512_castps_pd(t[i + 2 + h]);
      v[i + 2 * h] = _mm512_castpd_ps(_mm512_unpacklo_pd(low, high));
      v[i + 2 * h + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(low, high));
    }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(v[i], v[4 + i], 0x88), b = _mm512_shuffle_f32x4(v[i], v[4 + i], 0xdd);
    const __m512 c = _mm512_shuffle_f32x4(v[8 + i], v[12 + i], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(v[8 + i], v[12 + i], 0xdd);
    t[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    t[4 + i] = _mm512_shuffle_f32x4(b, d, 0x88);
    t[8 + i] = _mm512_shuffle_f32x4(a, c, 0xdd);
    t[12 + i] = _mm512_shuffle_f32x4(b, d, 0xdd);
  }
#pragma GCC unroll 16
  for (int i = 0; i < 16; ++i) v[i] = t[i];
}

void load(const float* x, int64_t ldx, int64_t rows, int64_t count, int units, float* columns) {
  const int64_t lanes = units * kUnit;
  for (int u = 0; u < units; ++u)
    for (int64_t k = 0; k < count; k += 16) {
      const __mmask16 mask = count - k < 16 ? __mmask16((1u << (count - k)) - 1) : __mmask16(0xffff);
      __m512 v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const int64_t row = u * kUnit + i;
        v[i] = row < rows ? _mm512_maskz_loadu_ps(mask, x + row * ldx + k) : _mm512_setzero_ps();
      }
      transpose(v);
      float* to = columns + k * lanes + u * kUnit;
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        if (mask >> i & 1) _mm512_store_ps(to + i * lanes, v[i]);
    }
}

void store(const SparseStore& s) {
  const int64_t lanes = s.units * kUnit;
  for (int64_t o = 0; o < s.outputs; o += 16) {
    const int64_t count = s.outputs - o < 16 ? s.outputs - o : 16;
    const __mmask16 mask = __mmask16((1u << count) - 1);
    const __m512 scale = s.scale_step ? _mm512_maskz_loadu_ps(mask, s.scale + o) : _mm512_set1_ps(s.scale[0]);
    const __m512 bias = s.bias ? _mm512_maskz_loadu_ps(mask, s.bias + o) : _mm512_setzero_ps();
    for (int u = 0; u < s.units; ++u) {
      __m512 v[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i)
        v[i] = i < count ? _mm512_load_ps(s.sums + (o + i) * lanes + u * kUnit) : _mm512_setzero_ps();
      transpose(v);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) {
        const int64_t row = u * kUnit + i;
        if (row >= s.rows) continue;
        const __m512 factor = s.row_scale ? _mm512_mul_ps(scale, _mm512_set1_ps(s.row_scale[row])) : scale;
        __m512 y = _mm512_add_ps(_mm512_mul_ps(v[i], factor), bias);
        if (s.relu) y = _mm512_max_ps(_mm512_setzero_ps(), y);  // the second operand where one is NaN
        _mm512_mask_storeu_ps(s.y + row * s.ldy + o, mask, y);
      }
    }
  }
}

constexpr int kRun = 128;  // additions: the reach of a one-byte displacement

// `step` is the code of one addition, of `size` bytes; the sums take turns, so that two lines of them are under way.
// %[e] is the end of the list, %[n] how many entries it has (at most kRun), %[t] the table.
#define ROBUSTQ_RUN(op, shift, size, lines_a, lines_b)                                     \
  "leaq 2f(%%rip), %%r8\n imulq $" #size ", %q[n], %%r9\n subq %%r9, %%r8\n jmp *%%r8\n" \
  ".p2align 5\n 1:\n .set .Lrobustq%=, 128\n .rept 64\n"                                  \
  "movzbl -.Lrobustq%=(%[e]), %%r8d\n shll $" #shift ", %%r8d\n addq %[t], %%r8\n" lines_a(op) \
  ".set .Lrobustq%=, .Lrobustq%= - 1\n"                                                   \
  "movzbl -.Lrobustq%=(%[e]), %%r8d\n shll $" #shift ", %%r8d\n addq %[t], %%r8\n" lines_b(op) \
  ".set .Lrobustq%=, .Lrobustq%= - 1\n .endr\n 2:\n"                                      \
  ".if (2b - 1b) - 128 * " #size "\n .error \"the steps of a list have another size\"\n .endif\n"
#define ROBUSTQ_LINE(op, at, sum) op " " #at "(%%r8), %[" #sum "], %[" #sum "]\n"
#define ROBUSTQ_A1(op) ROBUSTQ_LINE(op, , a0)
#define ROBUSTQ_B1(op) ROBUSTQ_LINE(op, , b0)
#define ROBUSTQ_A2(op) ROBUSTQ_A1(op) ROBUSTQ_LINE(op, 64, a1)
#define ROBUSTQ_B2(op) ROBUSTQ_B1(op) ROBUSTQ_LINE(op, 64, b1)
#define ROBUSTQ_A4(op) ROBUSTQ_A2(op) ROBUSTQ_LINE(op, 128, a2) ROBUSTQ_LINE(op, 192, a3)
#define ROBUSTQ_B4(op) ROBUSTQ_B2(op) ROBUSTQ_LINE(op, 128, b2) ROBUSTQ_LINE(op, 192, b3)
#define ROBUSTQ_IN [e] "d"(at + n), [n] "a"(n), [t] "c"(table) : "r8", "r9", "memory", "cc"

template <int Units>
struct Sums;

template <>
struct Sums<1> {
  __m512 a[1], b[1];
  inline void plus(const uint8_t* at, uint64_t n, const float* table) {
    asm volatile(ROBUSTQ_RUN("vaddps", 6, 18, ROBUSTQ_A1, ROBUSTQ_B1) : [a0] "+v"(a[0]), [b0] "+v"(b[0]) : ROBUSTQ_IN);
  }
  inline void minus(const uint8_t* at, uint64_t n, const float* table) {
    asm volatile(ROBUSTQ_RUN("vsubps", 6, 18, ROBUSTQ_A1, ROBUSTQ_B1) : [a0] "+v"(a[0]), [b0] "+v"(b[0]) : ROBUSTQ_IN);
  }
};

template <>
struct Sums<2> {
  __m512 a[2], b[2];
#define ROBUSTQ_SUMS [a0] "+v"(a[0]), [a1] "+v"(a[1]), [b0] "+v"(b[0]), [b1] "+v"(b[1])
  inline void plus(const uint8_t* at, uint64_t n, const float* table) {
    asm volatile(ROBUSTQ_RUN("vaddps", 7, 25, ROBUSTQ_A2, ROBUSTQ_B2) : ROBUSTQ_SUMS : ROBUSTQ_IN);
  }
  inline void minus(const uint8_t* at, uint64_t n, const float* table) {
    asm volatile(ROBUSTQ_RUN("vsubps", 7, 25, ROBUSTQ_A2, ROBUSTQ_B2) : ROBUSTQ_SUMS : ROBUSTQ_IN);
  }
#undef ROBUSTQ_SUMS
};

template <>
struct Sums<4> {
  __m512 a[4], b[4];
#define ROBUSTQ_SUMS                                                                               \
  [a0] "+v"(a[0]), [a1] "+v"(a[1]), [a2] "+v"(a[2]), [a3] "+v"(a[3]), [b0] "+v"(b[0]), [b1] "+v"(b[1]), \
      [b2] "+v"(b[2]), [b3] "+v"(b[3])
  inline void plus(const uint8_t* at, uint64_t n, const float* table) {
    asm volatile(ROBUSTQ_RUN("vaddps", 8, 39, ROBUSTQ_A4, ROBUSTQ_B4) : ROBUSTQ_SUMS : ROBUSTQ_IN);
  }
  inline void minus(const uint8_t* at, uint64_t n, const float* table) {
    asm volatile(ROBUSTQ_RUN("vsubps", 8, 39, ROBUSTQ_A4, ROBUSTQ_B4) : ROBUSTQ_SUMS : ROBUSTQ_IN);
  }
#undef ROBUSTQ_SUMS
};

template <int Units>
void add(const uint8_t* at, const uint8_t* end, const float* table, float* sums) {
  while (at < end) {
    float* to = sums + (at[0] | at[1] << 8) * int64_t(Units * kUnit);
    int64_t plus = at[2], minus = at[3];
    at += kHeader;
    Sums<Units> sum;
#pragma GCC unroll 4
    for (int u = 0; u < Units; ++u) {
      sum.a[u] = _mm512_load_ps(to + u * kUnit);
      sum.b[u] = _mm512_setzero_ps();
    }
    do {  // once, unless more than kRun of a block's weights have the same sign
      const int64_t n = plus < kRun ? plus : kRun;
      sum.plus(at, uint64_t(n), table);
      at += n;
      plus -= n;
    } while (plus > 0);
    do {
      const int64_t n = minus < kRun ? minus : kRun;
      sum.minus(at, uint64_t(n), table);
      at += n;
      minus -= n;
    } while (minus > 0);
#pragma GCC unroll 4
    for (int u = 0; u < Units; ++u)
      _mm512_store_ps(to + u * kUnit, _mm512_add_ps(sum.a[u], sum.b[u]));
  }
}

}  // namespace

const Sparse avx512_sparse = {load, combine_plain, {add<1>, add<2>, add<4>}, store};

}  // namespace robustq
