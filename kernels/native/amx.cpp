// Intel AMX: a tile product adds 16 rows x 64 columns of activations times 64 columns x 16 outputs of weights, sixteen
// times the multiplications of a vpdpbusd.
//
// A tile register holds 16 rows of 64 bytes; of weights, a row is one step: 16 outputs of four columns, just as they are
// stored. Registers 0 ... 3 are sums, the others activations and weights. Layers decode their codes while the unit works,
// two chunks ahead: a load of a tile waits for the stores before it, and these for the products before them.
#include <immintrin.h>

#include <cstring>

#include "amx.h"
#include "matrix.h"

#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace robustq {
namespace {

constexpr int64_t kFetched = 2048;  // bytes ahead of what is decoded
constexpr int kTile = 16 * 64;      // bytes

template <int Sum, int X, int W>
inline void add_product() {
  multiply_add<Product::kInt8, Sum, X, W>();
}

// Field 3 of two bits is shifted down: the corrupt code 2 << 6 would be beyond a signed byte.
constexpr int shift(int bits, int b) { return bits == 4 ? 4 * (b % 2) : 2 * (b % 3); }

// Fields 2 * Half and 2 * Half + 1 of `steps` steps, at most a chunk, to a tile each.
template <int Bits, int Half>
inline void decode(const uint8_t* codes, int64_t steps, uint8_t* to) {
  codes += Bits == 4 ? 64 * Half : 0;
  for (int64_t step = 0; step < steps; ++step, codes += 32 * Bits, to += 64) {
    _mm_prefetch(codes + kFetched, _MM_HINT_T0);
    const __m512i line = _mm512_loadu_si512(codes);
#pragma GCC unroll 2
    for (int f = 0; f < 2; ++f) {
      const int b = 2 * Half + f;
      const __m512i field = _mm512_set1_epi8(char(((1 << Bits) - 1) << shift(Bits, b)));
      const __m512i zero = _mm512_set1_epi8(char((Bits == 2 ? 1 : 8) << shift(Bits, b)));
      const __m512i code = Bits == 2 && b == 3 ? _mm512_srli_epi16(line, 6) : line;
      _mm512_store_si512(to + f * kTile, _mm512_sub_epi8(_mm512_and_si512(code, field), zero));
    }
  }
}

// The weights of one half of a block for one chunk after the other, in buffers that take turns.
template <int Bits, int Half>
class Decoder {
 public:
  explicit Decoder(const UnitTile& t) : codes_(t.codes), steps_(t.steps) {
    for (int64_t chunk = 0; chunk < kAhead; ++chunk) (*this)(chunk);
  }
  inline void operator()(int64_t chunk) {  // nothing beyond the last one
    const int64_t left = steps_ - kChunk * chunk;
    const uint8_t* codes = codes_ + 32 * Bits * kChunk * chunk;
    uint8_t* to = weights_[chunk % kDecoded];
    if (left >= kChunk) {
      decode<Bits, Half>(codes, kChunk, to);
    } else if (left > 0) {
      std::memset(to, 0, 2 * kTile);
      decode<Bits, Half>(codes, left, to);
    }
  }
  inline const uint8_t* tile(int64_t chunk, int field) const { return weights_[chunk % kDecoded] + field * kTile; }

 private:
  const uint8_t* codes_;
  int64_t steps_;
  alignas(64) uint8_t weights_[kDecoded][2 * kTile];
};

// One tile of rows by the 64 outputs of a block.
template <int Bits>
void narrow(const UnitTile& t) {
  Decoder<Bits, 0> first(t);
  Decoder<Bits, 1> second(t);
  clear_sums();
  const int8_t* x = t.x[0];
  for (int64_t chunk = 0; kChunk * chunk < t.steps; ++chunk, x += kTileBytes) {
    load<4>(x);
    load<6>(first.tile(chunk, 0));
    add_product<0, 4, 6>();
    load<7>(first.tile(chunk, 1));
    add_product<1, 4, 7>();
    first(chunk + kAhead);
    load<6>(second.tile(chunk, 0));
    add_product<2, 4, 6>();
    load<7>(second.tile(chunk, 1));
    add_product<3, 4, 7>();
    second(chunk + kAhead);
  }
  store<0>(t.sum, 4 * kOutputs);
  store<1>(t.sum + 16, 4 * kOutputs);
  store<2>(t.sum + 32, 4 * kOutputs);
  store<3>(t.sum + 48, 4 * kOutputs);
}

// Two tiles of rows by one half of a block.
template <int Bits, int Half>
void square(const UnitTile& t) {
  Decoder<Bits, Half> weights(t);
  clear_sums();
  const int8_t *x = t.x[0], *second = t.x[1];
  for (int64_t chunk = 0; kChunk * chunk < t.steps; ++chunk, x += kTileBytes, second += kTileBytes) {
    load<4>(x);
    load<6>(weights.tile(chunk, 0));
    add_product<0, 4, 6>();
    load<7>(weights.tile(chunk, 1));
    add_product<1, 4, 7>();
    load<5>(second);
    add_product<2, 5, 6>();
    weights(chunk + kAhead);
    add_product<3, 5, 7>();
  }
  int32_t* sum = t.sum + 32 * Half;
  store<0>(sum, 4 * kOutputs);
  store<1>(sum + 16, 4 * kOutputs);
  store<2>(sum + kTileRows * kOutputs, 4 * kOutputs);
  store<3>(sum + kTileRows * kOutputs + 16, 4 * kOutputs);
}

template <int Bits>
void multiply(const UnitTile& t) {
  if (!t.x[1]) return narrow<Bits>(t);
  square<Bits, 0>(t);
  if (t.fields > 2) square<Bits, 1>(t);
}

template <int Bits, int Planes, bool Zero>
void add_rows(const UnitAdd& a) {
  for (int b = 0; 16 * b < a.outputs; ++b) {
    const __mmask16 mask = lanes(a.outputs - 16 * b);
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
    const __mmask16 mask = lanes(outputs - i);
    __m512 value = _mm512_mul_ps(_mm512_loadu_ps(total + i), _mm512_set1_ps(scale));
    if (bias) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, bias + i));
    // NaN stays: the second operand is given where one is NaN.
    if (relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
    _mm512_mask_storeu_ps(y + i, mask, value);
  }
}

int64_t peak(int64_t rounds) {
  multiply_registers<Product::kInt8>(rounds);
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

const Unit amx_unit = {peak, configure_rows,       release,    {multiply<2>, multiply<4>},
                       add,  amx_configure_window, amx_window, put};

}  // namespace robustq
