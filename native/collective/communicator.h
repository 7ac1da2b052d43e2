// What the ranks of one communicator share: a barrier that an abort breaks, and a board on which each rank announces
// its collective, so that ranks which disagree end with an error instead of a hang or wrong numbers.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <exception>
#include <mutex>
#include <string>
#include <vector>

#include "../../kernels/abi/abi.h"

namespace deeptroupe {

/// The communicator was aborted; its reason says why.
struct Aborted : std::exception {
  const char* what() const noexcept override { return "aborted"; }
};

/// What a rank is about to do with the others.
struct Announcement {
  abi::Opcode opcode{};
  uint32_t dtype = 0;
  int64_t elements = 0;
  int64_t root = 0;
  bool operator==(const Announcement&) const = default;
};

class Communicator {
 public:
  explicit Communicator(int ranks)
      : ranks_(ranks),
        boards_{std::vector<Announcement>(ranks), std::vector<Announcement>(ranks)},
        sequence_(ranks, 0) {}

  int ranks() const { return ranks_; }
  bool aborted() const { return (phase_.load(std::memory_order_acquire) & 1) != 0; }
  /// Breaks the barrier until renew(); the first reason stays.
  void abort(const std::string& reason);
  /// As new. Only while no rank is inside, and none comes in meanwhile.
  void renew();
  std::string reason() const;

  /// Returns when every rank has arrived. Throws Aborted.
  void barrier();
  /// A barrier after which all ranks are known to be in the same collective; otherwise aborts, naming who does what.
  void agree(int rank, const Announcement& mine);

 private:
  const int ranks_;
  std::atomic<uint32_t> arrived_{0};
  /// Bit 0: aborted. The rest counts completed barriers. Sleepers wait on this word, so an abort wakes them.
  std::atomic<uint32_t> phase_{0};
  /// Two boards in turn: a rank may be one collective ahead of one that still reads.
  std::array<std::vector<Announcement>, 2> boards_;
  std::vector<uint64_t> sequence_;
  mutable std::mutex mutex_;
  std::string reason_;
};

}  // namespace deeptroupe
