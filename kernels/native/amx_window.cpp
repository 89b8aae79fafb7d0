// Intel AMX: convolutions of integers. Tiles of activations are read where they lie; see matrix.h.
#include "amx.h"
#include "matrix.h"

namespace robustq {
namespace {

template <int Sum, int X, int W>
inline void add_product() {
  multiply_add<Product::kInt8, Sum, X, W>();
}

// Four sums: `Tiles` tiles of activations by 4 / Tiles groups of 16 outputs.
template <int Tiles>
void window_four(const UnitWindow& w, const int8_t* const* x, int32_t* const* sum, int64_t pitch) {
  if (w.add) {
    load<0>(sum[0], pitch);
    load<1>(sum[1], pitch);
    load<2>(sum[2], pitch);
    load<3>(sum[3], pitch);
  } else {
    clear<0>();
    clear<1>();
    clear<2>();
    clear<3>();
  }
  const uint8_t* weights = w.weights;
  for (int64_t part = 0; part < w.parts; ++part, weights += w.part_bytes) {
    const int64_t at = w.offset[part];
    load<6>(weights, kDecodedStep);
    load<4>(x[0] + at, w.pitch);
    add_product<0, 4, 6>();
    if (Tiles == 4) {
      load<5>(x[1] + at, w.pitch);
      add_product<1, 5, 6>();
      load<4>(x[2] + at, w.pitch);
      add_product<2, 4, 6>();
      load<5>(x[3] + at, w.pitch);
      add_product<3, 5, 6>();
    } else {
      load<7>(weights + 64, kDecodedStep);
      add_product<1, 4, 7>();
      if (Tiles == 2) {
        load<5>(x[1] + at, w.pitch);
        add_product<2, 5, 6>();
        add_product<3, 5, 7>();
      } else {
        load<6>(weights + 128, kDecodedStep);
        add_product<2, 4, 6>();
        load<7>(weights + 192, kDecodedStep);
        add_product<3, 4, 7>();
      }
    }
  }
  store<0>(sum[0], pitch);
  store<1>(sum[1], pitch);
  store<2>(sum[2], pitch);
  store<3>(sum[3], pitch);
}

}  // namespace

void amx_configure_window(int steps) {
  TileConfig config;
  for (int i = 0; i < 8; ++i) config.set(i, i < 6 ? kTileRows : steps, i == 4 || i == 5 ? 4 * steps : 64);
  config.use();
}

void amx_window(const UnitWindow& w, int planes, int fields) {
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

}  // namespace robustq
