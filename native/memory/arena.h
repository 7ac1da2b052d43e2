// The memory of one rank: a fixed set of arenas, each reserved once, zeroed, never grown. An arena is anonymous mmap
// (huge pages where it is large), memory lent by JavaScript or a part of a GPU's block. Counts are of bytes really
// reserved; they may be read from any thread.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

#include "../../kernels/abi/abi.h"

namespace deeptroupe {

class Arena {
 public:
  Arena() = default;
  Arena(const Arena&) = delete;
  Arena& operator=(const Arena&) = delete;
  ~Arena() { release(); }

  /// Maps `bytes` of zeroed memory. Throws std::bad_alloc.
  void reserve(size_t bytes);
  /// Uses memory that the caller keeps alive until release().
  void adopt(void* memory, size_t bytes);
  void release();

  bool reserved() const { return base() != nullptr; }
  std::byte* base() const { return base_.load(std::memory_order_acquire); }
  size_t live() const { return live_.load(std::memory_order_relaxed); }
  size_t peak() const { return peak_.load(std::memory_order_relaxed); }

  /// Bytes that all arenas of the process have mapped now, and what others that keep arenas have told of theirs.
  static size_t mapped_in_all() { return in_all_.load(std::memory_order_relaxed); }
  static void count(ptrdiff_t bytes) { in_all_ += bytes; }

 private:
  void publish(void* memory, size_t bytes);

  std::atomic<std::byte*> base_{nullptr};
  std::atomic<size_t> live_{0};
  std::atomic<size_t> peak_{0};
  /// Length of our own mapping; zero where the memory is lent.
  size_t mapped_ = 0;
  static inline std::atomic<size_t> in_all_{0};
};

using RankMemory = std::array<Arena, abi::arena_count>;

}  // namespace deeptroupe
