// What a group asks of the kind of device that its ranks run on.
#pragma once

#include <memory>
#include <vector>

namespace deeptroupe {

class Executor;
class Group;
struct KernelTable;

class Device {
 public:
  virtual ~Device() = default;
  /// Starts the thread of a rank. Thread t of a CPU's pool, 0 being the rank's own, stays on CPU cores[t], where there is one.
  virtual std::shared_ptr<Executor> open(Group& group, int rank, int threads, std::vector<int> cores) = 0;
  /// Gives back what a rank whose executor has ended has reserved; `io` stays.
  virtual void release(Group& group, int rank) = 0;
};

std::unique_ptr<Device> make_cpu_device(const KernelTable& kernels);

}  // namespace deeptroupe
