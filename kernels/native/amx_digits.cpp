// Intel AMX: few rows as digits, signed bytes whose products with codes are summed in int32.
//
// Registers 0 ... 3 are sums, 4 activations, 6 and 7 weights.
#include <immintrin.h>

#include <cstring>

#include "amx.h"
#include "amx_codes.h"
#include "amx_parts.h"
#include "few.h"

namespace robustq {
namespace {

constexpr int64_t kNear = int64_t(1) << 21;  // bytes of codes that the second-level cache may hold

// Sums of digits by codes as they are stored: the first field of a line has what all together have, less the others,
// each of which is a multiple of what it is worth.
template <int Bits, bool Zero, int Count>
struct Digits {
  static constexpr int kOutputs = 64, kPart = 8 / Bits;

  static void put(const ExactTile& t, const Part& part, const float* sums, float* total) {
    const int32_t* excess = t.digit_sums + part.group * t.rows * Count;
    const int64_t end = t.outputs - 64 * part.block < 64 ? t.outputs : 64 * part.block + 64;
    for (int64_t first = 64 * part.block; first < end; first += 16 * kPart, sums += 16 * kPart, total += 16 * kPart) {
      __m512i zero[kPart];
      for (int field = 0; Zero && field < kPart; ++field)
        zero[field] = zero_points(t, part.group, first + 16 * field);
      for (int64_t r = 0; r < t.rows; ++r) {
        __m512 made[kPart];
        line(sums + r * Count * kOutputs, excess + r * Count, zero, made);
#pragma GCC unroll 4
        for (int field = 0; field < kPart; ++field)
          if (first + 16 * field < end)
            robustq::put(t, part, r, first + 16 * field, made[field], total + r * kOutputs + 16 * field);
      }
    }
  }

 private:
  static inline void line(const float* sums, const int32_t* excess, const __m512i* zero, __m512* made) {
#pragma GCC unroll 5
    for (int digit = 0; digit < Count; ++digit, sums += kOutputs, ++excess) {
      __m512i of[kPart];
#pragma GCC unroll 4
      for (int field = 0; field < kPart; ++field) of[field] = _mm512_load_si512(sums + 16 * field);
#pragma GCC unroll 3
      for (int field = 1; field < kPart; ++field) {
        of[0] = _mm512_sub_epi32(of[0], of[field]);
        of[field] = _mm512_srai_epi32(of[field], unsigned(field * Bits));
      }
#pragma GCC unroll 4
      for (int field = 0; field < kPart; ++field) {
        const __m512i all = _mm512_set1_epi32(Zero ? *excess : (Bits == 2 ? 1 : 8) * *excess);
        const __m512i less = Zero ? _mm512_mullo_epi32(zero[field], all) : all;
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_sub_epi32(of[field], less));
        made[field] = digit == 0 ? sum : _mm512_fmadd_ps(made[field], _mm512_set1_ps(256.0f), sum);
      }
    }
  }
};

// Weights of `few`: codes as they are stored, block after block. Lines are tiles themselves; the fields but the first
// are masked, in buffers that take turns.
template <int Bits>
class Masked {
 public:
  explicit Masked(const ExactTile& t)
      : t_(t), next_(t.codes), left_((t.outputs + 63) / 64), far_(left_ * t.parts * kStep > kNear) {
    for (int64_t step = 0; step < kAhead; ++step) prepare();
  }

  // The step that is kAhead after the one before it; nothing beyond the last block.
  inline void prepare() {
    const int64_t slot = prepared_++ % kDecoded;
    if (left_ == 0) return;
    const int64_t count = t_.parts - part_ < kParts ? t_.parts - part_ : kParts;
    const uint8_t* from = next_;
    if (count < kParts) {
      std::memset(padded_[slot], 0, sizeof padded_[slot]);
      std::memcpy(padded_[slot], from, size_t(count * kStep));
      from = padded_[slot];
    }
    codes_[slot] = from;
    for (int64_t at = 0; far_ && at < kParts * kStep; at += 64) {  // what is to come, into the two nearer caches
      _mm_prefetch(next_ + at + 1024, _MM_HINT_T0);
      _mm_prefetch(next_ + at + 8192, _MM_HINT_T1);
    }
    for (int line = 0; line < kStep / 64; ++line)
#pragma GCC unroll 16
      for (int part = 0; part < kParts; ++part) {
        const __m512i all = _mm512_loadu_si512(from + part * kStep + 64 * line);
#pragma GCC unroll 3
        for (int field = 1; field < kPart; ++field)
          _mm512_store_si512(masked_[slot][line * (kPart - 1) + field - 1] + 64 * part,
                             _mm512_and_si512(all, _mm512_set1_epi8(char(((1 << Bits) - 1) << field * Bits))));
      }
    next_ += count * kStep;
    part_ += count;
    if (part_ == t_.parts) part_ = 0, --left_;
  }

  // A group of 16 outputs by what is in register 4.
  template <int Block, class Sums>
  inline void multiply(int64_t step, Parts<Sums>& parts) const {
    constexpr int W = 6 + Block % 2;
    parts.template begin<Block>();
    if (Block % kPart == 0) load<W>(codes_[step % kDecoded] + 64 * (Block / kPart), kStep);
    else load<W>(masked_[step % kDecoded][Block - Block / kPart - 1]);
    multiply_add<Product::kUint8, Block, 4, W>();
  }

 private:
  static constexpr int kPart = 8 / Bits, kParts = 16, kMasked = 4 - 4 / kPart;
  static constexpr int64_t kStep = 32 * Bits;
  const ExactTile& t_;
  const uint8_t* next_;
  int64_t left_, part_ = 0, prepared_ = 0;
  const bool far_;
  const uint8_t* codes_[kDecoded];
  alignas(64) uint8_t masked_[kDecoded][kMasked][kExactBytes], padded_[kDecoded][kParts * kStep];
};

// Few rows, whose digits are one tile, by all outputs.
template <int Bits, bool Zero, int Count>
void few(const ExactTile& t) {
  Masked<Bits> weights(t);
  Parts<Digits<Bits, Zero, Count>> parts(t);
  const int64_t steps = (t.outputs + 63) / 64 * t.steps;
  const uint8_t* x = t.x[0];
  for (int64_t step = 0, in_block = 0; step < steps; ++step) {
    load<4>(x + in_block * kDigitStep, t.x_step);
    in_block = in_block + 1 < t.steps ? in_block + 1 : 0;
    weights.template multiply<0>(step, parts);
    weights.template multiply<1>(step, parts);
    weights.template multiply<2>(step, parts);
    weights.template multiply<3>(step, parts);
    weights.prepare();
    parts.end_step();
  }
  parts.end();
}

// Whole numbers below 2^31 -> vectors of their digits for 64 columns, the highest first. Digits are bytes with a sign:
// adding 128 to each of the four carries what the one below leaves.
inline void whole_digits(const __m512i (&whole)[4], __m512i* digits) {
  const __m512i carry = _mm512_set1_epi32(int(0x80808080));
  const __m512i by_digit = _mm512_broadcast_i32x4(_mm_set_epi8(12, 8, 4, 0, 13, 9, 5, 1, 14, 10, 6, 2, 15, 11, 7, 3));
  __m512i of[4];  // [lane of 16 bytes][digit][4 columns]
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i)
    of[i] = _mm512_shuffle_epi8(_mm512_xor_si512(_mm512_add_epi32(whole[i], carry), carry), by_digit);
  const __m512i first = _mm512_set_epi32(29, 25, 21, 17, 13, 9, 5, 1, 28, 24, 20, 16, 12, 8, 4, 0);
  const __m512i last = _mm512_add_epi32(first, _mm512_set1_epi32(2));
#pragma GCC unroll 2
  for (int half = 0; half < 2; ++half) {
    const __m512i order = half ? last : first;
    const __m512i left = _mm512_permutex2var_epi32(of[0], order, of[1]);
    const __m512i right = _mm512_permutex2var_epi32(of[2], order, of[3]);
    digits[2 * half] = _mm512_inserti64x4(left, _mm512_castsi512_si256(right), 1);
    digits[2 * half + 1] = _mm512_shuffle_i64x2(left, right, 0xee);
  }
}

// Small whole numbers -> signed bytes.
inline __m512i bytes_of(const __m512i (&of)[4]) {
  const __m512i packed = _mm512_packs_epi16(_mm512_packs_epi32(of[0], of[1]), _mm512_packs_epi32(of[2], of[3]));
  return _mm512_permutexvar_epi32(_mm512_set_epi32(15, 11, 7, 3, 14, 10, 6, 2, 13, 9, 5, 1, 12, 8, 4, 0), packed);
}

void split(const float* x, int64_t rows, int64_t count, int64_t group, int64_t pitch, int8_t* planes, int32_t* sums,
           float* scale) {
  for (int64_t r = 0; r < rows; ++r, x += count, planes += kDigits * pitch) {
    const float power = power_for(x, count, 29);
    scale[r] = 1.0f / power / 256.0f;
    int32_t* sum = sums + r * kDigits;
    for (int64_t first = 0; first < count; first += group, sum += kDigits * rows) {
      __m512i all[kDigits];
      for (__m512i& none : all) none = _mm512_setzero_si512();
      const int64_t end = first + group < count ? first + group : count;
      for (int64_t k = first; k < end; k += kDigitStep) {
        __m512i whole[4], rest[4], digits[kDigits];
#pragma GCC unroll 4
        for (int i = 0; i < 4; ++i) {
          const __m512 value = _mm512_mul_ps(columns(x + k + 16 * i, end - k - 16 * i), _mm512_set1_ps(power));
          whole[i] = _mm512_cvtps_epi32(value);
          const __m512 left = _mm512_sub_ps(value, _mm512_cvtepi32_ps(whole[i]));
          rest[i] = _mm512_cvtps_epi32(_mm512_mul_ps(left, _mm512_set1_ps(256.0f)));
        }
        whole_digits(whole, digits);
        digits[kDigits - 1] = bytes_of(rest);  // 128 becomes 127
#pragma GCC unroll 5
        for (int digit = 0; digit < kDigits; ++digit) {
          _mm512_store_si512(planes + digit * pitch + k, digits[digit]);
          all[digit] = _mm512_dpbusd_epi32(all[digit], _mm512_set1_epi8(1), digits[digit]);
        }
      }
      for (int digit = 0; digit < kDigits; ++digit) sum[digit] = _mm512_reduce_add_epi32(all[digit]);
    }
  }
}

}  // namespace

const FewUnit amx_few = {
    split,
    {{nullptr, few<2, false, 1>, few<2, true, 1>, few<4, false, 1>, few<4, true, 1>},
     {nullptr, few<2, false, 2>, few<2, true, 2>, few<4, false, 2>, few<4, true, 2>},
     {nullptr, few<2, false, 5>, few<2, true, 5>, few<4, false, 5>, few<4, true, 5>}},
};

}  // namespace robustq
