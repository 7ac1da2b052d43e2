// The instruction loop of one rank.
#include "cpu-executor.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <utility>

#include "affinity.h"
#include "non-finite.h"

namespace deeptroupe {
namespace {

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

}  // namespace

CpuExecutor::CpuExecutor(Group& group, int rank, int threads, std::vector<int> cores, const KernelTable& kernels)
    : Executor(group, rank), kernels_(kernels), cores_(std::move(cores)), pool_(threads, cores_) {
  {
    // JavaScript fills its `io` for a next run while this one goes on.
    std::unique_lock lock(group_.memory_mutex);
    Arena& io = group_.memory[rank_][io_arena];
    if (io.base() == group_.io[rank_]) {
      io.release();
      io.reserve(group_.bytes[io_arena]);
    }
  }
  start();
}

std::shared_ptr<const ScheduledProgram> CpuExecutor::load(std::span<const std::byte> bytes) {
  std::shared_lock lock(group_.memory_mutex);
  const auto has_kernel = [&](abi::Opcode opcode) { return kernels_.kernels[static_cast<uint16_t>(opcode)] != nullptr; };
  auto program = std::make_shared<ScheduledProgram>();
  decode_program(*program, bytes,
                 {group_.memory[rank_], kernels_.isa, has_kernel, 64, rank_, group_.communicator.ranks()});
  program->io = io_of(*program);
  return program;
}

void CpuExecutor::allocate(uint32_t arena) {
  std::unique_lock lock(group_.memory_mutex);
  expect_free(arena).reserve(group_.bytes[arena]);
}

void CpuExecutor::read(uint32_t arena, double offset, std::byte* target, size_t bytes) {
  std::shared_lock lock(group_.memory_mutex);
  std::copy_n(place("read", arena, offset, bytes), bytes, target);
}

void CpuExecutor::write(uint32_t arena, double offset, const std::byte* source, size_t bytes) {
  std::shared_lock lock(group_.memory_mutex);
  std::copy_n(source, bytes, place("write", arena, offset, bytes));
}

void CpuExecutor::serve() {
  stay_on(cores_, 0);
  while (const std::optional<RunRequest> request = next()) request->done(run(*request));
}

RunReport CpuExecutor::run(const RunRequest& request) {
  RunReport report;
  const std::vector<ProgramInstruction>& instructions = request.program->instructions;
  std::vector<double> scalars;
  if (request.profile) report.seconds.reserve(2 * instructions.size());
  std::byte* const io = group_.memory[rank_][io_arena].base();
  const IoUse& use = request.program->io;
  size_t taken = 0;
  for (const IoRange& range : use.read) {
    std::copy_n(request.io.data() + taken, range.bytes, io + range.offset);
    taken += range.bytes;
  }
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
  for (const IoRange& range : use.written)
    report.io.push_back({range.offset, {io + range.offset, io + range.offset + range.bytes}});
  return report;
}

void CpuExecutor::execute(const ProgramInstruction& instruction, const RunRequest& request, std::vector<double>& scalars) {
  if (instruction.collective) {
    progress_.fetch_or(1, std::memory_order_relaxed);
    run_collective(collective_call(instruction), {rank_, group_.communicator, group_.memory, pool_, kernels_});
    return;
  }
  scalars.clear();
  for (const uint32_t slot : instruction.scalars) scalars.push_back(request.scalars[slot]);
  Call call = call_of<Call>(instruction);
  call.scalars = scalars.data();
  call.pool = &pool_;
  call.rank = rank_;
  call.ranks = group_.communicator.ranks();
  kernels_.kernels[static_cast<uint16_t>(instruction.op->opcode)](call);
}

namespace {

class CpuDevice final : public Device {
 public:
  explicit CpuDevice(const KernelTable& kernels) : kernels_(kernels) {}

  std::shared_ptr<Executor> open(Group& group, int rank, int threads, std::vector<int> cores) override {
    return std::make_shared<CpuExecutor>(group, rank, threads, std::move(cores), kernels_);
  }

  void release(Group& group, int rank) override {
    for (uint32_t arena = 0; arena < abi::arena_count; ++arena)
      if (arena != static_cast<uint32_t>(abi::Arena::io)) group.memory[rank][arena].release();
  }

 private:
  const KernelTable& kernels_;
};

}  // namespace

std::unique_ptr<Device> make_cpu_device(const KernelTable& kernels) { return std::make_unique<CpuDevice>(kernels); }

}  // namespace deeptroupe
