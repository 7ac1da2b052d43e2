#include "host-lane.h"

#include <chrono>
#include <utility>

#include "affinity.h"
#include "non-finite.h"

namespace deeptroupe {
namespace {

double now() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

}  // namespace

HostLane::HostLane(int threads, std::vector<int> cores, const KernelTable& kernels, int rank, int ranks, std::function<void()> moved)
    : kernels_(kernels), rank_(rank), ranks_(ranks), cores_(std::move(cores)), moved_(std::move(moved)), pool_(threads, cores_) {
  thread_ = std::thread([this] { serve(); });
}

HostLane::~HostLane() {
  {
    std::lock_guard lock(mutex_);
    tasks_.clear();
    ending_ = true;
  }
  wake_.notify_one();
  thread_.join();
}

uint64_t HostLane::post(HostTask task) {
  uint64_t number;
  {
    std::lock_guard lock(mutex_);
    tasks_.push_back(std::move(task));
    number = ++posted_;
  }
  wake_.notify_one();
  return number;
}

void HostLane::expect_well() const {
  if (!failed_.load(std::memory_order_acquire)) return;
  std::lock_guard lock(mutex_);
  throw KernelError(failure_);
}

void HostLane::drop() {
  std::unique_lock lock(mutex_);
  tasks_.clear();
  rested_.wait(lock, [&] { return !working_; });
}

void HostLane::serve() {
  stay_on(cores_, 0);
  std::unique_lock lock(mutex_);
  for (;;) {
    wake_.wait(lock, [&] { return ending_ || !tasks_.empty(); });
    if (tasks_.empty()) return;
    const HostTask task = std::move(tasks_.front());
    tasks_.pop_front();
    working_ = true;
    lock.unlock();
    std::string failure;
    try {
      execute(task);
    } catch (const std::exception& error) {
      failure = error.what();
    }
    lock.lock();
    working_ = false;
    if (failure.empty()) {
      done_.fetch_add(1, std::memory_order_release);
    } else {
      tasks_.clear();
      failure_ = failure;
      failed_.store(true, std::memory_order_release);
    }
    rested_.notify_all();
    lock.unlock();
    moved_();
    lock.lock();
  }
}

void HostLane::execute(const HostTask& task) {
  const ProgramInstruction& instruction = *task.instruction;
  std::vector<double> scalars;
  for (const uint32_t slot : instruction.scalars) scalars.push_back(task.scalars->at(slot));
  Call call = call_of<Call>(instruction);
  call.scalars = scalars.data();
  call.pool = &pool_;
  call.rank = rank_;
  call.ranks = ranks_;
  std::vector<double>& seconds = task.news->seconds;
  if (!seconds.empty()) seconds[2 * task.number] = now();
  kernels_.kernels[static_cast<uint16_t>(instruction.op->opcode)](call);
  if (!seconds.empty()) seconds[2 * task.number + 1] = now();
  if (!task.check || task.news->non_finite != HostNews::all_finite) return;
  for (const Tensor* output : instruction.output_tensors)
    if (output && non_finite(*output)) return task.news->non_finite.store(task.number);
}

}  // namespace deeptroupe
