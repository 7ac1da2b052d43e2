#include "staging.h"

#include <algorithm>
#include <cstring>

namespace deeptroupe::gpu {
namespace {
constexpr size_t chunk_bytes = size_t{4} << 20;
}

Staging::Staging(Stream stream) : stream_(stream) {
  for (Buffer& buffer : buffers_) buffer = {make_pinned(chunk_bytes), make_event()};
}

void Staging::copy_out(const std::byte* source, std::byte* target, size_t bytes) {
  const size_t chunks = (bytes + chunk_bytes - 1) / chunk_bytes;
  const auto size = [&](size_t chunk) { return std::min(chunk_bytes, bytes - chunk * chunk_bytes); };
  const auto fetch = [&](size_t chunk) {
    const Buffer& buffer = buffers_[chunk % 2];
    check(cudaMemcpyAsync(buffer.memory, source + chunk * chunk_bytes, size(chunk), cudaMemcpyDeviceToHost, stream_), "copy out");
    check(cudaEventRecord(buffer.copied, stream_), "event");
  };
  if (chunks > 0) fetch(0);
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    if (chunk + 1 < chunks) fetch(chunk + 1);
    const Buffer& buffer = buffers_[chunk % 2];
    check(cudaEventSynchronize(buffer.copied), "copy out");
    std::memcpy(target + chunk * chunk_bytes, buffer.memory, size(chunk));
  }
}

void Staging::copy_in(const std::byte* source, std::byte* target, size_t bytes) {
  const size_t chunks = (bytes + chunk_bytes - 1) / chunk_bytes;
  for (size_t chunk = 0; chunk < chunks; ++chunk) {
    const Buffer& buffer = buffers_[chunk % 2];
    const size_t at = chunk * chunk_bytes, size = std::min(chunk_bytes, bytes - at);
    if (chunk >= 2) check(cudaEventSynchronize(buffer.copied), "copy in");
    std::memcpy(buffer.memory, source + at, size);
    check(cudaMemcpyAsync(target + at, buffer.memory, size, cudaMemcpyHostToDevice, stream_), "copy in");
    check(cudaEventRecord(buffer.copied, stream_), "event");
  }
  check(cudaStreamSynchronize(stream_), "copy in");
}

}  // namespace deeptroupe::gpu
