// How the ranks of one process open their devices to each other, and meet on their streams.
#include "peers.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "../../kernels/gpu/driver.h"
#include "../memory/words.h"

namespace deeptroupe::gpu {

namespace {

/// More than any rank comes.
constexpr uint64_t released = uint64_t{1} << 62;

}  // namespace

Peers::Board::Board(int ranks) : enqueued_(ranks) {
  const size_t bytes = ranks * spread * sizeof(uint64_t);
  check(cudaHostAlloc(reinterpret_cast<void**>(&words_), bytes, cudaHostAllocMapped | cudaHostAllocPortable), "pinned memory");
  std::memset(words_, 0, bytes);
}

Peers::Board::~Board() {
  std::thread([this] { cudaFreeHost(words_); }).join();
}

void Peers::Board::release() const {
  for (int rank = 0; rank < static_cast<int>(enqueued_.size()); ++rank) std::atomic_ref(*word(rank)).store(released, std::memory_order_release);
}

bool Peers::reachable(const std::vector<int>& devices) {
  // The runtime's own question could make a context.
  static const auto asked = driver_function<decltype(cuDeviceCanAccessPeer)>("cuDeviceCanAccessPeer");
  if (!asked) return false;
  return std::ranges::all_of(devices, [&](int device) {
    return streams_have_words(device) && std::ranges::all_of(devices, [&](int peer) {
             int can = 0;
             return peer == device || (asked(&can, device, peer) == CUDA_SUCCESS && can);
           });
  });
}

Peers::Peers(std::shared_ptr<Board> board, const std::vector<RankMemory>& memory, const std::vector<int>& devices, int rank)
    : board_(std::move(board)), memory_(memory), rank_(rank) {
  for (const int peer : devices) {
    if (peer == devices[rank]) continue;
    const Status status = cudaDeviceEnablePeerAccess(peer, 0);
    if (status == cudaErrorPeerAccessAlreadyEnabled) last_status();
    else check(status, "access to the memory of a peer");
  }
}

const std::byte* Peers::address(int peer, const std::byte* own) const {
  for (size_t arena = 0; arena < memory_[rank_].size(); ++arena) {
    const std::byte* const base = memory_[rank_][arena].base();
    if (!base || own < base || own >= base + memory_[rank_][arena].live()) continue;
    const std::byte* const theirs = memory_[peer][arena].base();
    if (!theirs) throw Error("gpu: collective, expected the arena of an operand on rank " + std::to_string(peer) + ", got none");
    return theirs + (own - base);
  }
  throw Error("gpu: collective, expected an operand in an arena, got one elsewhere");
}

void Peers::come(Stream stream) {
  store_word(stream, board_->word(rank_), ++times_);
  board_->enqueued(rank_).store(times_, std::memory_order_release);
  came_ = true;
}

bool Peers::await(Stream stream) {
  const int ranks = static_cast<int>(memory_.size());
  for (int peer = 0; peer < ranks; ++peer)
    if (board_->enqueued(peer).load(std::memory_order_acquire) < times_) return false;
  for (int peer = 0; peer < ranks; ++peer)
    if (peer != rank_) await_word(stream, board_->word(peer), times_);
  came_ = false;
  ++passed_;
  return true;
}

}  // namespace deeptroupe::gpu
