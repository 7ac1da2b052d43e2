// The instruction loop of one rank.
#include "executor.h"

#include <chrono>
#include <cstring>
#include <utility>

#include "affinity.h"

namespace deeptroupe {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// True where any of `count` numbers has all bits of `exponent` set, which makes it infinite or not a number.
template <class Bits>
bool any_non_finite(const void* data, int64_t count, Bits exponent) {
  const Bits* bits = static_cast<const Bits*>(data);
  constexpr int64_t block = 4096;
  for (int64_t start = 0; start < count; start += block) {
    const int64_t end = std::min(count, start + block);
    Bits found = 0;
    for (int64_t i = start; i < end; ++i) found |= (bits[i] & exponent) == exponent;
    if (found) return true;
  }
  return false;
}

bool non_finite(const Tensor& tensor) {
  switch (tensor.dtype) {
    case DType::f32: return any_non_finite<uint32_t>(tensor.data, tensor.elements(), 0x7f800000u);
    case DType::f64: return any_non_finite<uint64_t>(tensor.data, tensor.elements(), 0x7ff0000000000000u);
    case DType::bf16: return any_non_finite<uint16_t>(tensor.data, tensor.elements(), 0x7f80u);
    case DType::f16: return any_non_finite<uint16_t>(tensor.data, tensor.elements(), 0x7c00u);
    default: return false;
  }
}

}  // namespace

Executor::Executor(Group& group, int rank, int threads, std::vector<int> cores)
    : group_(group), rank_(rank), cores_(std::move(cores)), pool_(threads, cores_), thread_([this] {
        stay_on(cores_, 0);
        loop();
      }) {}

Executor::~Executor() { join(); }

void Executor::enqueue(RunRequest request) {
  {
    std::lock_guard lock(mutex_);
    if (finishing_) throw UsageError("run: rank " + std::to_string(rank_) + ", expected an open one, got a closed one");
    queue_.push_back(std::move(request));
  }
  wake_.notify_one();
}

void Executor::finish(std::function<void()> ended) {
  {
    std::lock_guard lock(mutex_);
    if (!this->ended()) {
      when_ended_.push_back(std::move(ended));
      finishing_ = true;
      ended = nullptr;
    }
  }
  if (ended) ended();
  wake_.notify_one();
}

void Executor::join() {
  {
    std::lock_guard lock(mutex_);
    finishing_ = true;
  }
  wake_.notify_one();
  std::lock_guard lock(join_mutex_);
  if (thread_.joinable()) thread_.join();
}

void Executor::loop() {
  for (;;) {
    RunRequest request;
    {
      std::unique_lock lock(mutex_);
      wake_.wait(lock, [&] { return finishing_ || !queue_.empty(); });
      if (queue_.empty()) break;
      request = std::move(queue_.front());
      queue_.pop_front();
    }
    RunReport report = run(request);
    request.done(std::move(report));
  }
  std::vector<std::function<void()>> waiting;
  {
    std::lock_guard lock(mutex_);
    ended_.store(true, std::memory_order_release);
    waiting.swap(when_ended_);
  }
  for (const auto& ended : waiting) ended();
}

RunReport Executor::run(const RunRequest& request) {
  RunReport report;
  const std::vector<ProgramInstruction>& instructions = request.program->instructions;
  std::vector<double> scalars;
  if (request.profile) report.seconds.reserve(2 * instructions.size());
  for (size_t i = 0; i < instructions.size() || i == 0; ++i) {
    try {
      if (group_.communicator.aborted()) throw Aborted();
      if (instructions.empty()) break;
      if (request.profile) report.seconds.push_back(now());
      execute(instructions[i], request, scalars);
      progress_.store((progress_.load(std::memory_order_relaxed) | 1) + 1, std::memory_order_relaxed);
      if (request.profile) report.seconds.push_back(now());
    } catch (const Aborted&) {
      report.status = RunStatus::aborted;
      report.message = group_.communicator.reason();
      report.instruction = static_cast<int64_t>(i);
      return report;
    } catch (const std::exception& error) {
      report.status = RunStatus::failed;
      report.message = error.what();
      report.instruction = static_cast<int64_t>(i);
      group_.communicator.abort("rank " + std::to_string(rank_) + ": " + report.message);
      return report;
    }
    if (!request.check || report.non_finite >= 0) continue;
    for (const Tensor* output : instructions[i].output_tensors)
      if (output && report.non_finite < 0 && non_finite(*output)) report.non_finite = static_cast<int64_t>(i);
  }
  return report;
}

void Executor::execute(const ProgramInstruction& instruction, const RunRequest& request, std::vector<double>& scalars) {
  if (!instruction.kernel) {
    progress_.fetch_or(1, std::memory_order_relaxed);
    run_collective(collective_call(instruction), {rank_, group_.communicator, group_.memory, pool_, group_.kernels});
    return;
  }
  scalars.clear();
  for (const uint32_t slot : instruction.scalars) scalars.push_back(request.scalars[slot]);
  Call call{};
  call.inputs = instruction.input_tensors.data();
  call.outputs = instruction.output_tensors.data();
  call.attributes = instruction.attributes;
  call.scalars = scalars.data();
  if (instruction.workspace) {
    call.workspace = instruction.workspace->tensor.as<std::byte>();
    call.workspace_bytes = instruction.workspace->place.bytes();
  }
  call.pool = &pool_;
  call.rank = rank_;
  call.ranks = group_.communicator.ranks();
  instruction.kernel(call);
}

}  // namespace deeptroupe
