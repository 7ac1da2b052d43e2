// The memory of the other ranks' GPUs in this process, read by copy engines over the link between them: what moves takes no multiprocessor
// from a kernel. As on the CPU, a rank reads its peers' arenas between two meetings and writes only its own. They meet on their
// streams: each says that it has come in a word that the others wait for.
#pragma once

#include <memory>
#include <vector>

#include "../../kernels/gpu/gpu.h"
#include "../memory/arena.h"

namespace deeptroupe::gpu {

class Peers {
 public:
  /// What the ranks share: for each, how often it has come. In pinned memory, so that the host can let go of streams that wait.
  class Board {
   public:
    explicit Board(int ranks);
    /// From any thread: the CUDA call is made on one of its own.
    ~Board();
    Board(const Board&) = delete;
    Board& operator=(const Board&) = delete;

    /// The same address here and on all devices.
    uint64_t* word(int rank) const { return words_ + rank * spread; }
    /// Lets go of all that wait now. What a stream still stores may hold others up again.
    void release() const;

   private:
    /// Words of one lie in a line of their own.
    static constexpr int spread = 16;
    const int ranks_;
    uint64_t* words_ = nullptr;
  };

  /// Whether each of the devices can read the memory of all others, and its streams can meet.
  static bool reachable(const std::vector<int>& devices);

  /// Of one rank, whose device is the thread's current one. `memory`: the arenas of all. Throws Error.
  Peers(std::shared_ptr<const Board> board, const std::vector<RankMemory>& memory, const std::vector<int>& devices, int rank);

  /// Where a peer has what this rank has at `own`: ranks lay out their arenas alike. Throws Error where that is in none.
  const std::byte* address(int peer, const std::byte* own) const;

  /// Says on the stream that this rank has come once more.
  void arrive(Stream stream);
  /// The stream waits until all others have come as often.
  void await(Stream stream) const;
  /// From any thread.
  void release() const { board_->release(); }

 private:
  const std::shared_ptr<const Board> board_;
  const std::vector<RankMemory>& memory_;
  const int rank_;
  uint64_t arrivals_ = 0;
};

}  // namespace deeptroupe::gpu
