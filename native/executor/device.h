// What a group asks of the kind of device that its ranks run on.
#pragma once

#include <memory>

namespace deeptroupe {

class Executor;
class Group;
struct KernelTable;

class Device {
 public:
  virtual ~Device() = default;
  /// Starts the thread of a rank.
  virtual std::shared_ptr<Executor> open(Group& group, int rank, int threads) = 0;
  /// Gives back what a rank whose executor has ended has reserved; `io` stays.
  virtual void release(Group& group, int rank) = 0;
};

std::unique_ptr<Device> make_cpu_device(const KernelTable& kernels);

}  // namespace deeptroupe
