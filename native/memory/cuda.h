// Owners of what the CUDA runtime hands out. They are made, used and destroyed on the thread of their device; destroying them complains
// of nothing, for after an error of the device nothing can be given back in order.
#pragma once

#include <utility>

#include "../../kernels/gpu/gpu.h"

namespace deeptroupe::gpu {

template <class T, Status (*destroy)(T)>
class Owned {
 public:
  Owned() = default;
  explicit Owned(T value) : value_(value) {}
  Owned(Owned&& other) noexcept : value_(std::exchange(other.value_, T{})) {}
  Owned& operator=(Owned&& other) noexcept {
    std::swap(value_, other.value_);
    return *this;
  }
  ~Owned() {
    if (value_) destroy(value_);
  }

  operator T() const { return value_; }

 private:
  T value_{};
};

using OwnedStream = Owned<cudaStream_t, cudaStreamDestroy>;
using Event = Owned<cudaEvent_t, cudaEventDestroy>;
using Graph = Owned<cudaGraph_t, cudaGraphDestroy>;
using GraphExec = Owned<cudaGraphExec_t, cudaGraphExecDestroy>;
/// Memory of the host that the device copies from and to, and whose addresses it knows.
using Pinned = Owned<void*, cudaFreeHost>;

/// The answer to a question whether something is done. 'Not yet' is no error that the next launch should find.
inline Status look(Status status) {
  if (status == cudaErrorNotReady) cudaGetLastError();
  return status;
}

/// `priority` 0: the lowest; 1: the highest that the device has.
inline OwnedStream make_stream(int priority) {
  int lowest = 0, highest = 0;
  check(cudaDeviceGetStreamPriorityRange(&lowest, &highest), "priorities of streams");
  cudaStream_t stream = nullptr;
  check(cudaStreamCreateWithPriority(&stream, cudaStreamNonBlocking, priority ? highest : lowest), "stream");
  return OwnedStream(stream);
}

inline Event make_event(unsigned flags = cudaEventDisableTiming) {
  cudaEvent_t event = nullptr;
  check(cudaEventCreateWithFlags(&event, flags), "event");
  return Event(event);
}

inline Pinned make_pinned(size_t bytes) {
  void* memory = nullptr;
  check(cudaHostAlloc(&memory, bytes ? bytes : 1, cudaHostAllocMapped | cudaHostAllocPortable), "pinned memory");
  return Pinned(memory);
}

template <class T>
T* on_device(const Pinned& memory) {
  void* address = nullptr;
  check(cudaHostGetDevicePointer(&address, memory, 0), "device address of pinned memory");
  return static_cast<T*>(address);
}

}  // namespace deeptroupe::gpu
