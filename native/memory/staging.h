// Copies between memory of the host that the driver does not know and a GPU's: through two pinned buffers in turn, so that the device's
// copy of one chunk and the processor's of another go on at once.
#pragma once

#include <array>

#include "cuda.h"

namespace deeptroupe::gpu {

class Staging {
 public:
  explicit Staging(Stream stream);

  /// Each returns when the bytes are there. Throws Error.
  void copy_out(const std::byte* source, std::byte* target, size_t bytes);
  void copy_in(const std::byte* source, std::byte* target, size_t bytes);

 private:
  struct Buffer {
    Pinned memory;
    Event copied;
  };

  const Stream stream_;
  std::array<Buffer, 2> buffers_;
};

}  // namespace deeptroupe::gpu
