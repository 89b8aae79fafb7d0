// Running a program, segment by segment.
#include "network.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>

#include "kernel.h"
#include "panel.h"
#include "parallel.h"
#include "program.h"

namespace robustq {
namespace {

void pool(const Step& s, const float* x, float* y) {
  const Integer& isa = integer_current();
  const int64_t channels = s.in.channels;
  for (int64_t h = 0; h < s.out.height; ++h)
    for (int64_t v = 0; v < s.out.width; ++v, y += channels) {
      const int64_t top = h * s.window[2] - s.window[4], left = v * s.window[3] - s.window[5];
      bool first = true;
      for (int64_t i = std::max<int64_t>(0, top); i < std::min(s.in.height, top + s.window[0]); ++i)
        for (int64_t j = std::max<int64_t>(0, left); j < std::min(s.in.width, left + s.window[1]); ++j, first = false) {
          const float* from = x + (i * s.in.width + j) * channels;
          if (first) std::memcpy(y, from, size_t(channels) * sizeof(float));
          else isa.larger(from, channels, y);
        }
    }
}

void pick(const Step& s, const float* x, float* y) {
  for (int64_t h = 0; h < s.out.height; ++h)
    for (int64_t v = 0; v < s.out.width; ++v) {
      const float* from = x + (h * s.window[0] * s.in.width + v * s.window[1]) * s.in.channels;
      y = std::fill_n(y, s.window[2], 0.0f);
      y = std::copy_n(from, s.in.channels, y);
      y = std::fill_n(y, s.window[3], 0.0f);
    }
}

class Run {
 public:
  Run(const Network& network, const std::vector<Input>& inputs, int64_t batch, float* y, int64_t y_size)
      : plan_(network, inputs, batch), batch_(batch), planes_(network.planes) {
    if (plan_.steps.back().out.size() != y_size)
      throw std::invalid_argument("robustq native network: y has another size; values of an image = " +
                                  std::to_string(y_size));
    values_.resize(plan_.values.size());
    for (int64_t i = 0; i < plan_.inputs; ++i) values_[size_t(i)].whole = const_cast<float*>(inputs[size_t(i)].at);
    values_[size_t(plan_.steps.back().target)].whole = y;
    for (size_t k = 0; k < plan_.segments.size(); ++k)
      for (size_t i = plan_.segments[k].first; i < plan_.segments[k].last; ++i) {
        const Step& step = plan_.steps[i];
        values_[size_t(step.target)].segment = k;
        for (int64_t read : {step.source, step.other})
          if (read >= 0 && values_[size_t(read)].segment != k) keep(read);
      }
  }

  void run(int threads) {
    for (size_t k = 0; k < plan_.segments.size(); ++k) {
      const Stretch& segment = plan_.segments[k];
      std::vector<std::unique_ptr<Convolver>> convolvers;
      int64_t work = 0;
      for (size_t i = segment.first; i < segment.last; ++i) {
        const Step& step = plan_.steps[i];
        const bool convolves = step.kind == Kind::kConvolve;
        convolvers.push_back(convolves ? convolver(step.layer, planes_, segment.images) : nullptr);
        if (convolves) work += batch_ * step.out.size() * step.layer.columns();
      }
      const int64_t shares = (batch_ + segment.images - 1) / segment.images;
      const int64_t parts = shares < threads ? 1 : parts_for(work, 4 * kThreadWork, threads);
      in_parts(parts, shares, [&](Range range) {
        const std::vector<Buffer<float>> own = slots(segment);
        for (int64_t share = range.first; share < range.last; ++share) {
          const int64_t first = share * segment.images, images = std::min(segment.images, batch_ - first);
          for (size_t i = segment.first; i < segment.last; ++i)
            apply(plan_.steps[i], convolvers[i - segment.first].get(), own, first, images, parts == 1 ? threads : 1);
        }
      });
    }
  }

 private:
  struct Place {
    float* whole = nullptr;  // of all images: inputs, the result, and what another segment reads; else null
    Buffer<float> own;
    size_t segment = 0;      // that makes it
  };

  void keep(int64_t value) {
    Place& place = values_[size_t(value)];
    if (place.whole) return;
    place.own = buffer<float>(batch_ * plan_.values[size_t(value)].image.size());
    place.whole = place.own.get();
  }

  // The slots of a segment, for its own values.
  std::vector<Buffer<float>> slots(const Stretch& segment) const {
    std::vector<int64_t> size(size_t(plan_.slots()), 0);
    for (size_t i = segment.first; i < segment.last; ++i) {
      const int64_t target = plan_.steps[i].target;
      int64_t& most = size[size_t(plan_.values[size_t(target)].slot)];
      if (!values_[size_t(target)].whole) most = std::max(most, plan_.steps[i].out.size());
    }
    std::vector<Buffer<float>> made(size.size());
    for (size_t i = 0; i < size.size(); ++i)
      if (size[i]) made[i] = buffer<float>(segment.images * size[i]);
    return made;
  }

  void apply(const Step& step, const Convolver* convolver, const std::vector<Buffer<float>>& slots, int64_t first,
             int64_t images, int threads) const {
    const auto at = [&](int64_t index) {
      const Value& value = plan_.values[size_t(index)];
      float* whole = values_[size_t(index)].whole;
      return whole ? whole + first * value.image.size() : slots[size_t(value.slot)].get();
    };
    const float* x = at(step.source);
    const float* other = step.other >= 0 ? at(step.other) : nullptr;
    float* y = at(step.target);
    const int64_t count = images * step.out.size();
    switch (step.kind) {
      case Kind::kConvolve:
        convolver->run(x, other, y, images, threads);
        break;
      case Kind::kAdd:
        for (int64_t i = 0; i < count; ++i) y[i] = x[i] + other[i];
        if (step.relu) rectify(y, count, y);
        break;
      case Kind::kRelu:
        rectify(x, count, y);
        break;
      case Kind::kPool:
      case Kind::kPick:
        for (int64_t n = 0; n < images; ++n)
          (step.kind == Kind::kPool ? pool : pick)(step, x + n * step.in.size(), y + n * step.out.size());
        break;
    }
  }

  static void rectify(const float* x, int64_t count, float* y) {
    for (int64_t i = 0; i < count; ++i) y[i] = x[i] < 0.0f ? 0.0f : x[i];  // NaN stays
  }

  Reading plan_;
  int64_t batch_;
  int planes_;
  std::vector<Place> values_;
};

}  // namespace

void run_network(const Network& network, const std::vector<Input>& inputs, int64_t batch, float* y, int64_t y_size,
                 int threads) {
  Run(network, inputs, batch, y, y_size).run(threads);
}

}  // namespace robustq
