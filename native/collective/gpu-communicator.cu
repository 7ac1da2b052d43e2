// How the ranks of one process come together, and apart.
#include "gpu-communicator.h"

#include <chrono>
#include <cstdlib>

namespace deeptroupe::gpu {
namespace {

using namespace std::chrono_literals;

/// How soon an abort is seen, and how often NCCL is asked whether all is well.
constexpr auto interval = 5ms;
constexpr int intervals_per_question = 40;
/// A rank's thread that is inside NCCL for longer waits there for a peer.
constexpr auto patience = 2s;

}  // namespace

bool wants_copies() {
  const auto of = [](const char* name) {
    const char* const value = std::getenv(name);
    return std::string(value ? value : "");
  };
  const std::string wanted = of("DEEPTROUPE_COLLECTIVES");
  // A graph of a whole run is enqueued without the peers.
  if (wanted == "copies" || wanted.empty()) return of("DEEPTROUPE_GRAPH") != "nccl";
  if (wanted == "nccl") return false;
  throw Error("gpu: DEEPTROUPE_COLLECTIVES, expected copies or nccl, got " + wanted);
}

GpuCommunicator::GpuCommunicator(const Members& members, int rank, std::function<void()> lost)
    : group_(members.group), device_(members.devices[rank]), rank_(rank), lost_(std::move(lost)) {
  MeetingPlace& place = members.place;
  group_.barrier();
  if (rank == 0) {
    place.board = members.copies && Peers::reachable(members.devices) ? std::make_shared<Peers::Board>(group_.ranks()) : nullptr;
    if (!place.board) place.id = new_nccl_id();
  }
  group_.barrier();
  if (place.board) peers_ = std::make_unique<Peers>(place.board, members.memory, members.devices, rank);
  else nccl_ = std::make_unique<NcclRank>(group_.ranks(), rank, place.id);
  try {
    // Nobody enqueues while a peer is still at it.
    group_.barrier();
  } catch (...) {
    if (nccl_) nccl_->abort();
    throw;
  }
  watcher_ = std::thread([this] { watch(); });
}

GpuCommunicator::~GpuCommunicator() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  watcher_.join();
  // Peers may be gone: nothing to part from in order.
  if (nccl_ && group_.aborted()) nccl_->abort();
}

bool GpuCommunicator::enqueue(abi::Opcode opcode, const Call& call) {
  // After an abort the watcher may be inside until this thread has let go of its graphs.
  std::unique_lock lock(inside_, std::defer_lock);
  while (!lock.try_lock_for(interval))
    if (group_.aborted()) throw Aborted();
  try {
    return enqueue_collective(opcode, call, nccl_.get(), peers_.get());
  } catch (const Error&) {
    if (group_.aborted()) throw Aborted();
    throw;
  }
}

void GpuCommunicator::watch() {
  std::unique_lock lock(mutex_);
  for (int passed = 1; !stopping_; ++passed) {
    if (group_.aborted()) return let_go(lock);
    if (passed % intervals_per_question == 0) {
      std::string wrong;
      try {
        if (nccl_) wrong = nccl_->async_error();
      } catch (const Error& error) {
        wrong = error.what();
      }
      if (!wrong.empty()) group_.abort("rank " + std::to_string(rank_) + ": collective, expected NCCL to be well, got " + wrong);
      continue;
    }
    wake_.wait_for(lock, interval, [&] { return stopping_; });
  }
}

void GpuCommunicator::let_go(std::unique_lock<std::mutex>& lock) {
  lost_();
  if (!peers_) {
    lock.unlock();
    return end();
  }
  // A word that was released may be stored once more by what a stream had before it.
  while (!stopping_) {
    peers_->release();
    wake_.wait_for(lock, interval, [&] { return stopping_; });
  }
}

void GpuCommunicator::end() {
  cudaSetDevice(device_);
  const bool alone = inside_.try_lock_for(patience);
  nccl_->abort();
  if (alone) inside_.unlock();
}

}  // namespace deeptroupe::gpu
