// Arenas over mmap. A large arena starts on a huge-page border, so that the kernel can back all of it with huge pages.
#include "arena.h"

#include <sys/mman.h>

#include <new>

namespace deeptroupe {
namespace {

constexpr size_t small_page = 4096;
constexpr size_t huge_page = size_t{2} << 20;
/// Below this size the pages that rounding wastes weigh more than the page faults saved.
constexpr size_t huge_from = 8 * huge_page;

size_t round_up(size_t bytes, size_t unit) { return (bytes + unit - 1) / unit * unit; }

std::byte* map(size_t bytes) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  return static_cast<std::byte*>(memory);
}

/// Maps more than asked and gives back the ends, so that the rest starts on a huge-page border.
std::byte* map_aligned(size_t bytes) {
  std::byte* memory = map(bytes + huge_page);
  const size_t head = round_up(reinterpret_cast<uintptr_t>(memory), huge_page) - reinterpret_cast<uintptr_t>(memory);
  if (head) munmap(memory, head);
  if (head < huge_page) munmap(memory + head + bytes, huge_page - head);
  madvise(memory + head, bytes, MADV_HUGEPAGE);
  return memory + head;
}

}  // namespace

void Arena::reserve(size_t bytes) {
  const bool large = bytes >= huge_from;
  if (bytes > SIZE_MAX / 2) throw std::bad_alloc();
  mapped_ = round_up(bytes ? bytes : 1, small_page);
  publish(large ? map_aligned(mapped_) : map(mapped_), bytes);
  in_all_ += mapped_;
}

void Arena::adopt(void* memory, size_t bytes) {
  mapped_ = 0;
  publish(memory, bytes);
}

void Arena::release() {
  std::byte* memory = base_.exchange(nullptr);
  if (memory && mapped_) {
    munmap(memory, mapped_);
    in_all_ -= mapped_;
  }
  live_ = 0;
}

void Arena::publish(void* memory, size_t bytes) {
  live_ = bytes;
  if (bytes > peak_) peak_ = bytes;
  base_.store(static_cast<std::byte*>(memory), std::memory_order_release);
}

}  // namespace deeptroupe
