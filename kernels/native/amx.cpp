// Intel AMX: a tile product adds 16 rows x 64 columns of activations times 64 columns x 16 outputs of weights, sixteen
// times the multiplications of a vpdpbusd.
//
// A tile register holds 16 rows of 64 bytes; of weights, a row is one step: 16 outputs of four columns, just as they are
// stored. Registers 0 ... 3 are the sums of 64 outputs, 4 is the activations, 5 ... 7 are weights.
#include <immintrin.h>

#include <cstring>

#include "matrix.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace robustq {
namespace {

constexpr int64_t kAhead = 2048;  // bytes

struct alignas(64) TileConfig {
  uint8_t palette = 1, start = 0, reserved[14] = {};
  uint16_t bytes[16] = {};  // of a row
  uint8_t rows[16] = {};
};

// As assembly with a memory clobber: the intrinsics of g++ 12 do not say that they read memory.
template <int T>
inline void load(const void* at) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(int64_t(64)), "i"(T) : "memory");
}
template <int T>
inline void begin(const int32_t* sum, bool add) {
  if (add) asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(sum), "r"(int64_t(4 * kOutputs)), "i"(T) : "memory");
  else asm volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
inline void end(int32_t* sum) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(sum), "r"(int64_t(4 * kOutputs)), "i"(T) : "memory");
}
template <int Sum, int W>
inline void multiply_add() {
  asm volatile("tdpbssd %%tmm%c1, %%tmm4, %%tmm%c0" ::"i"(Sum), "i"(W));
}

// Field 3 of two bits is shifted down: the corrupt code 2 << 6 would be beyond a signed byte.
constexpr int shift(int bits, int b) { return bits == 4 ? 4 * (b % 2) : 2 * (b % 3); }

// `steps` steps, at most a chunk; the rest of it keeps what it holds.
template <int Bits>
inline void decode_chunk(const uint8_t* codes, int64_t steps, uint8_t* to) {
  for (int64_t step = 0; step < steps; ++step, codes += 32 * Bits, to += 64) {
#pragma GCC unroll 4
    for (int b = 0; b < kFields; ++b) {
      const int at = Bits == 4 ? 64 * (b / 2) : 0;
      if (b == 0 || (Bits == 4 && b == 2)) _mm_prefetch(codes + at + kAhead, _MM_HINT_T0);
      const __m512i field = _mm512_set1_epi8(char(((1 << Bits) - 1) << shift(Bits, b)));
      const __m512i zero = _mm512_set1_epi8(char((Bits == 2 ? 1 : 8) << shift(Bits, b)));
      __m512i code = _mm512_loadu_si512(codes + at);
      if (Bits == 2 && b == 3) code = _mm512_srli_epi16(code, 6);
      _mm512_store_si512(to + b * 64 * kChunk, _mm512_sub_epi8(_mm512_and_si512(code, field), zero));
    }
  }
}

template <int Bits>
void decode(const uint8_t* codes, int64_t steps, uint8_t* out) {
  for (; steps > 0; steps -= kChunk, codes += 32 * Bits * kChunk, out += kChunkBytes)
    decode_chunk<Bits>(codes, steps < kChunk ? steps : kChunk, out);
}

template <int Fields>
inline void multiply_chunk(const int8_t* x, const uint8_t* w) {
  load<4>(x);
  load<5>(w);
  multiply_add<0, 5>();
  if (Fields > 1) {
    load<6>(w + 64 * kChunk);
    multiply_add<1, 6>();
  }
  if (Fields > 2) {
    load<7>(w + 2 * 64 * kChunk);
    multiply_add<2, 7>();
  }
  if (Fields > 3) {
    load<5>(w + 3 * 64 * kChunk);
    multiply_add<3, 5>();
  }
}

template <int Fields>
inline void begin_all(const UnitTile& t) {
  begin<0>(t.sum, t.add);
  if (Fields > 1) begin<1>(t.sum + 16, t.add);
  if (Fields > 2) begin<2>(t.sum + 32, t.add);
  if (Fields > 3) begin<3>(t.sum + 48, t.add);
}

template <int Fields>
inline void end_all(const UnitTile& t) {
  end<0>(t.sum);
  if (Fields > 1) end<1>(t.sum + 16);
  if (Fields > 2) end<2>(t.sum + 32);
  if (Fields > 3) end<3>(t.sum + 48);
}

template <int Fields>
void multiply(const UnitTile& t) {
  begin_all<Fields>(t);
  const uint8_t* w = t.weights;
  const int8_t* x = t.x;
  const uint8_t* ahead = t.ahead;
  for (int64_t chunk = 0; chunk < t.chunks; ++chunk, w += kChunkBytes, x += kTileBytes) {
    for (int64_t line = 0; line < t.ahead_lines; ++line, ahead += 64) _mm_prefetch(ahead, _MM_HINT_T1);
    multiply_chunk<Fields>(x, w);
  }
  end_all<Fields>(t);
}

// The same from codes, decoded a chunk ahead: the load of a tile waits for the stores before it.
template <int Bits>
void multiply_codes(const UnitTile& t, int64_t steps) {
  alignas(64) uint8_t decoded[2][kChunkBytes] = {};
  begin_all<kFields>(t);
  const uint8_t* codes = t.weights;
  const int8_t* x = t.x;
  decode_chunk<Bits>(codes, steps < kChunk ? steps : kChunk, decoded[0]);
  for (int turn = 0; steps > 0; turn ^= 1, x += kTileBytes) {
    steps -= kChunk;
    codes += 32 * Bits * kChunk;
    if (steps > 0) decode_chunk<Bits>(codes, steps < kChunk ? steps : kChunk, decoded[turn ^ 1]);
    multiply_chunk<kFields>(x, decoded[turn]);
  }
  end_all<kFields>(t);
}

void multiply_fields(const UnitTile& t) {
  static constexpr void (*kMultiply[])(const UnitTile&) = {multiply<1>, multiply<2>, multiply<3>, multiply<4>};
  kMultiply[t.fields - 1](t);
}

void configure(int planes) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.bytes[i] = 64;
    config.rows[i] = uint8_t(i < 5 ? planes : kTileRows);
  }
  asm volatile("ldtilecfg %0" ::"m"(config));
}

void configure_window(int steps) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) {
    config.bytes[i] = uint16_t(i == 4 || i == 5 ? 4 * steps : 64);
    config.rows[i] = uint8_t(i < 6 ? kTileRows : steps);
  }
  asm volatile("ldtilecfg %0" ::"m"(config));
}

template <int T>
inline void load_from(const void* at, int64_t pitch) {
  asm volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(at), "r"(pitch), "i"(T) : "memory");
}
template <int T>
inline void store_to(int32_t* sum, int64_t pitch) {
  asm volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(sum), "r"(pitch), "i"(T) : "memory");
}
template <int Sum, int X, int W>
inline void multiply_add_to() {
  asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sum), "i"(X), "i"(W));
}

// Four sums: `Tiles` tiles of activations by 4 / Tiles groups of 16 outputs.
template <int Tiles>
void window_four(const UnitWindow& w, const int8_t* const* x, int32_t* const* sum, int64_t pitch) {
  if (w.add) {
    load_from<0>(sum[0], pitch);
    load_from<1>(sum[1], pitch);
    load_from<2>(sum[2], pitch);
    load_from<3>(sum[3], pitch);
  } else {
    begin<0>(nullptr, false);
    begin<1>(nullptr, false);
    begin<2>(nullptr, false);
    begin<3>(nullptr, false);
  }
  const uint8_t* weights = w.weights;
  for (int64_t part = 0; part < w.parts; ++part, weights += w.part_bytes) {
    const int64_t at = w.offset[part];
    load_from<6>(weights, kDecodedStep);
    load_from<4>(x[0] + at, w.pitch);
    multiply_add_to<0, 4, 6>();
    if (Tiles == 4) {
      load_from<5>(x[1] + at, w.pitch);
      multiply_add_to<1, 5, 6>();
      load_from<4>(x[2] + at, w.pitch);
      multiply_add_to<2, 4, 6>();
      load_from<5>(x[3] + at, w.pitch);
      multiply_add_to<3, 5, 6>();
    } else {
      load_from<7>(weights + 64, kDecodedStep);
      multiply_add_to<1, 4, 7>();
      if (Tiles == 2) {
        load_from<5>(x[1] + at, w.pitch);
        multiply_add_to<2, 5, 6>();
        multiply_add_to<3, 5, 7>();
      } else {
        load_from<6>(weights + 128, kDecodedStep);
        multiply_add_to<2, 4, 6>();
        load_from<7>(weights + 192, kDecodedStep);
        multiply_add_to<3, 4, 7>();
      }
    }
  }
  store_to<0>(sum[0], pitch);
  store_to<1>(sum[1], pitch);
  store_to<2>(sum[2], pitch);
  store_to<3>(sum[3], pitch);
}

void window(const UnitWindow& w, int planes, int fields) {
  const int64_t row = int64_t(planes) * 16 * fields, pitch = row * int64_t(sizeof(int32_t));
  int32_t* sum[4];
  if (fields == 4) {
    for (int plane = 0; plane < planes; ++plane) {
      for (int f = 0; f < 4; ++f) sum[f] = w.sum + plane * 64 + 16 * f;
      window_four<1>(w, w.x + plane, sum, pitch);
    }
    return;
  }
  const int tiles = 4 / fields;
  for (int i = 0; i < tiles; ++i)
    for (int f = 0; f < fields; ++f)
      sum[i * fields + f] = w.sum + i / planes * kTileRows * row + i % planes * 16 * fields + 16 * f;
  if (fields == 2) window_four<2>(w, w.x, sum, pitch);
  else window_four<4>(w, w.x, sum, pitch);
}

void release() { asm volatile("tilerelease"); }

// Field 3 of two bits is shifted down: the corrupt code 2 << 6 would be beyond a signed byte.
template <int Bits, int Planes, bool Zero>
void add_rows(const UnitAdd& a) {
  for (int b = 0; 16 * b < a.outputs; ++b) {
    const __mmask16 mask = a.outputs - 16 * b < 16 ? __mmask16((1 << (a.outputs - 16 * b)) - 1) : __mmask16(0xffff);
    const __m512 scale = _mm512_maskz_loadu_ps(mask, a.weight_scale + 16 * b);
    const __m128i down = _mm_cvtsi32_si128(shift(Bits, b));
    __m512i zero = _mm512_setzero_si512();
    if (Zero)
      zero = _mm512_sub_epi32(_mm512_cvtepu8_epi32(_mm_maskz_loadu_epi8(mask, a.zero + 16 * b)),
                              _mm512_set1_epi32(Bits == 2 ? 1 : 8));
    for (int r = 0; r < a.rows; ++r) {
      const int32_t* at = a.sum + r * Planes * kOutputs + 16 * b;
      __m512i sum = _mm512_sra_epi32(_mm512_loadu_si512(at), down);
      if (Planes == 2)  // 256 * 15 * 127 * 4096 + ... < 2^31, so that it may wrap around in between
        sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), _mm512_sra_epi32(_mm512_loadu_si512(at + kOutputs), down));
      if (Zero) {
        const int32_t* x = a.activations + r * Planes;
        sum = _mm512_sub_epi32(sum, _mm512_mullo_epi32(zero, _mm512_set1_epi32(Planes == 2 ? 256 * x[0] + x[1] : x[0])));
      }
      float* total = a.total + r * kOutputs + 16 * b;
      const __m512 product = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), scale);
      _mm512_storeu_ps(total, a.first ? product : _mm512_add_ps(_mm512_loadu_ps(total), product));
    }
  }
}

template <bool Zero>
void add_as(const UnitAdd& a) {
  if (a.bits == 2) a.planes == 1 ? add_rows<2, 1, Zero>(a) : add_rows<2, 2, Zero>(a);
  else a.planes == 1 ? add_rows<4, 1, Zero>(a) : add_rows<4, 2, Zero>(a);
}

void add(const UnitAdd& a) { a.zero ? add_as<true>(a) : add_as<false>(a); }

void put(const float* total, float scale, const float* bias, int outputs, bool relu, float* y) {
  for (int i = 0; i < outputs; i += 16) {
    const __mmask16 mask = outputs - i < 16 ? __mmask16((1 << (outputs - i)) - 1) : __mmask16(0xffff);
    __m512 value = _mm512_mul_ps(_mm512_loadu_ps(total + i), _mm512_set1_ps(scale));
    if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias + i));
    // NaN stays: the second operand is given where one is NaN.
    if (relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
    _mm512_mask_storeu_ps(y + i, mask, value);
  }
}

int64_t peak(int64_t rounds) {
  alignas(64) static const int8_t ones[kTileBytes] = {1};
  configure(kTileRows);
  load<4>(ones);
  load<5>(ones);
  for (int64_t r = 0; r < rounds; ++r) {
    multiply_add<0, 5>();
    multiply_add<1, 5>();
    multiply_add<2, 5>();
    multiply_add<3, 5>();
  }
  release();
  return rounds * 4 * kTileRows * 16 * 64;
}

}  // namespace

bool amx_permitted() {
#if defined(__linux__) && defined(__x86_64__)
  return syscall(SYS_arch_prctl, 0x1023 /* ARCH_REQ_XCOMP_PERM */, 18 /* XTILEDATA */) == 0;
#else
  return false;
#endif
}

const Unit amx_unit = {peak, configure, release, {decode<2>, decode<4>}, multiply_fields,
                       {multiply_codes<2>, multiply_codes<4>}, add, configure_window, window, put};

}  // namespace robustq
