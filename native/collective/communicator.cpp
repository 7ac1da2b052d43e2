// Barrier, abort and agreement of the ranks of one process.
#include "communicator.h"

#include <algorithm>

#include "../memory/futex.h"

namespace deeptroupe {
namespace {

const char* op_name(abi::Opcode opcode) {
  for (const abi::OpInfo& op : abi::op_table)
    if (op.opcode == opcode) return op.name;
  return "unknown";
}

std::string describe(size_t rank, const Announcement& a) {
  std::string text = "rank " + std::to_string(rank) + ": " + op_name(a.opcode);
  if (a.opcode != abi::Opcode::barrier) text += " of " + std::to_string(a.elements) + " " + abi::dtype_names[a.dtype];
  if (a.opcode == abi::Opcode::broadcast) text += " from rank " + std::to_string(a.root);
  return text;
}

}  // namespace

void Communicator::abort(const std::string& reason) {
  {
    std::lock_guard lock(mutex_);
    if (aborted()) return;
    reason_ = reason;
    phase_.fetch_or(1, std::memory_order_acq_rel);
  }
  futex_wake_all(phase_);
}

void Communicator::renew() {
  std::lock_guard lock(mutex_);
  reason_.clear();
  arrived_.store(0, std::memory_order_relaxed);
  std::fill(sequence_.begin(), sequence_.end(), 0);
  phase_.store(0, std::memory_order_release);
}

std::string Communicator::reason() const {
  std::lock_guard lock(mutex_);
  return reason_;
}

void Communicator::barrier() {
  const uint32_t before = phase_.load(std::memory_order_acquire);
  if (before & 1) throw Aborted();
  if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(ranks_)) {
    arrived_.store(0, std::memory_order_relaxed);
    phase_.fetch_add(2, std::memory_order_acq_rel);
    if (ranks_ > 1) futex_wake_all(phase_);
    return;
  }
  const auto passed = [&] { return phase_.load(std::memory_order_acquire) != before; };
  if (!spin_until(passed))
    while (!passed()) futex_wait(phase_, before);
  if (aborted()) throw Aborted();
}

void Communicator::agree(int rank, const Announcement& mine) {
  std::vector<Announcement>& board = boards_[sequence_[rank]++ % 2];
  board[rank] = mine;
  barrier();
  for (size_t other = 1; other < board.size(); ++other) {
    if (board[other] == board[0]) continue;
    abort("collective: operation, expected the same on every rank, got " + describe(0, board[0]) + "; " +
          describe(other, board[other]));
    throw Aborted();
  }
}

}  // namespace deeptroupe
