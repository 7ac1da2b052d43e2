// Runs programs on the cores of the machine: the rank's thread takes part in its pool.
#pragma once

#include "../../kernels/cpu/kernel.h"
#include "executor.h"
#include "thread-pool.h"

namespace deeptroupe {

class CpuExecutor final : public Executor {
 public:
  CpuExecutor(Group& group, int rank, int threads, std::vector<int> cores, const KernelTable& kernels);
  ~CpuExecutor() override { join(); }

  std::shared_ptr<const ScheduledProgram> load(std::span<const std::byte> bytes) override;
  void allocate(uint32_t arena) override;
  void read(uint32_t arena, double offset, std::byte* target, size_t bytes) override;
  void write(uint32_t arena, double offset, const std::byte* source, size_t bytes) override;
  Progress progress() override { return progress_.load(std::memory_order_relaxed); }

 protected:
  void serve() override;

 private:
  RunReport run(const RunRequest& request);
  void execute(const ProgramInstruction& instruction, const RunRequest& request, std::vector<double>& scalars);

  const KernelTable& kernels_;
  const std::vector<int> cores_;
  ThreadPool pool_;
  /// Written by the rank's thread.
  std::atomic<Progress> progress_{0};
};

}  // namespace deeptroupe
