// The memory of the other ranks' GPUs in this process, read by copy engines over the link between them: what moves takes no multiprocessor
// from a kernel. As on the CPU, a rank reads its peers' arenas between two meetings and writes only its own. They meet on their
// streams: each says that it has come in a word that the others wait for. A stream is given a wait only when what it waits for is on the
// streams of the peers: it never waits for another rank's thread, which may be loading, allocating or waiting for a place in a stream.
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "../../kernels/gpu/gpu.h"
#include "../memory/arena.h"

namespace deeptroupe::gpu {

class Peers {
 public:
  /// What the ranks share: how often each one's stream has come, and how often its thread has enqueued that.
  class Board {
   public:
    explicit Board(int ranks);
    /// From any thread: the CUDA call is made on one of its own.
    ~Board();
    Board(const Board&) = delete;
    Board& operator=(const Board&) = delete;

    /// Of a stream: in pinned memory, so that the host can let go of streams that wait. The same address here and on all devices.
    uint64_t* word(int rank) const { return words_ + rank * spread; }
    /// Of a thread.
    std::atomic<uint64_t>& enqueued(int rank) { return enqueued_[rank]; }
    /// Lets go of all that wait now. What a stream still stores may hold others up again.
    void release() const;

   private:
    /// Words of one lie in a line of their own.
    static constexpr int spread = 16;
    uint64_t* words_ = nullptr;
    std::vector<std::atomic<uint64_t>> enqueued_;
  };

  /// Whether each of the devices can read the memory of all others, and its streams can meet.
  static bool reachable(const std::vector<int>& devices);

  /// Of one rank, whose device is the thread's current one. `memory`: the arenas of all. Throws Error.
  Peers(std::shared_ptr<Board> board, const std::vector<RankMemory>& memory, const std::vector<int>& devices, int rank);

  /// Where a peer has what this rank has at `own`: ranks lay out their arenas alike. Throws Error where that is in none.
  const std::byte* address(int peer, const std::byte* own) const;

  /// What the stream was given before comes before what the others are given after. Behind its coming, it gets what `meanwhile` enqueues. False:
  /// not all have come; to be asked again.
  template <class F>
  bool meet(Stream stream, F&& meanwhile) {
    if (!came_) {
      come(stream);
      meanwhile();
    }
    return await(stream);
  }
  /// Meetings of the collective that is being enqueued.
  int passed() const { return passed_; }
  /// The collective is enqueued.
  void part() { passed_ = 0; }
  /// From any thread.
  void release() const { board_->release(); }

 private:
  void come(Stream stream);
  bool await(Stream stream);

  const std::shared_ptr<Board> board_;
  const std::vector<RankMemory>& memory_;
  const int rank_;
  uint64_t times_ = 0;
  bool came_ = false;
  int passed_ = 0;
};

}  // namespace deeptroupe::gpu
