#include "grid.h"

#include <algorithm>
#include <cstdlib>
#include <limits>

#include "matrix.h"

namespace robustq {

Lines lines_of(const Convolution& c, int64_t images) {
  Lines made;
  made.channels = (c.channels + 3) / 4 * 4;
  made.line = (c.width + c.pad_w + c.stride_w - 1) / c.stride_w * c.stride_w * made.channels;
  made.sample = (c.height + c.pad_h) * made.line;
  const int64_t reach =
      ((c.kernel_h - 1) * c.dilation_h + 1) * made.line + 2 * c.kernel_w * c.dilation_w * made.channels;
  const int64_t tile = kTileRows * c.stride_w * made.channels;
  made.all = (images * made.sample + c.pad_h * made.line + reach + tile + 255) / 64 * 64;
  return made;
}

Grid grid_of(const Convolution& c, int64_t images, int64_t line, int64_t sample, int64_t channels, bool filled) {
  const int64_t out_h = c.out_height(), out_w = c.out_width(), step = c.stride_w * channels;
  Grid made;
  const int64_t count = images * out_h * out_w;
  made.offset.reserve(size_t(count + count / 4 + kTileRows));
  made.target.reserve(made.offset.capacity());
  made.image.reserve(made.offset.capacity());
  int64_t end = std::numeric_limits<int64_t>::min();  // of the tile that is being filled
  int64_t at = 0;                                     // the next place in it
  const auto fill = [&](int64_t until) {
    for (; at < until; at += step) {
      made.offset.push_back(at);
      made.target.push_back(-1);
      made.image.push_back(0);
    }
  };
  for (int64_t n = 0; n < images; ++n)
    for (int64_t h = 0; h < out_h; ++h)
      for (int64_t v = 0; v < out_w; ++v) {
        const int64_t offset = n * sample + h * c.stride_h * line + v * step;
        if (filled) {
          if (offset >= end || offset < at) {  // wide padding: lines of positions overlap in memory
            if (end > 0) fill(end);
            at = offset;
            end = offset + kTileRows * step;
          }
          fill(offset);
          at = offset + step;
        }
        made.offset.push_back(offset);
        made.target.push_back(int32_t((n * out_h + h) * out_w + v));
        made.image.push_back(int32_t(n));
      }
  if (filled && end > 0) fill(end);
  return made;
}

}  // namespace robustq
