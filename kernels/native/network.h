// A chain of convolutions and what stands between them, on some images at a time so that they stay in the caches.
//
// The program is text, whole numbers between spaces (../network.py is the specification): inputs, slots, then steps, each
// its kind and its operands. A slot holds float32 images, channels last; the first slots are the inputs, the last step's
// slot is the result. `factors` holds for a convolution the scale and the bias of each output.
#pragma once
#include <cstdint>
#include <string>
#include <vector>

namespace robustq {

struct Image {
  int64_t height = 0, width = 0, channels = 0;
  int64_t size() const { return height * width * channels; }
  bool operator==(const Image& o) const { return height == o.height && width == o.width && channels == o.channels; }
};

struct Input {
  const float* at;
  Image image;
};

struct Network {
  const std::string& program;
  const uint8_t* codes;
  int64_t code_bytes;
  const float* factors;
  int64_t factor_count;
  int planes;  // of activations: 1 or 2; 0: float32
};

// y: `batch` images of y_size values each. std::invalid_argument where anything does not fit together.
void run_network(const Network& network, const std::vector<Input>& inputs, int64_t batch, float* y, int64_t y_size,
                 int threads);

}  // namespace robustq
