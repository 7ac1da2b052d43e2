// A program made ready for one GPU: its calls built, its segments captured as graphs, and how a run of it is put onto the streams. All
// of it is used on the rank's thread alone.
#pragma once

#include <functional>

#include "../../kernels/gpu/products.h"
#include "../collective/gpu-communicator.h"
#include "../memory/cuda.h"
#include "schedule.h"

namespace deeptroupe::gpu {

inline constexpr uint32_t most_scalars = 4096;
inline constexpr uint32_t all_finite = 0xffffffff;

/// What a run is told and what it answers, in device memory; only as many scalars are copied as the program has.
struct Control {
  Fault fault;
  /// The first instruction with a non-finite output, where checked; else `all_finite`.
  uint32_t non_finite;
  uint32_t unused;
  /// Instructions of all runs of this rank before this one.
  uint64_t before;
  double scalars[most_scalars];

  static constexpr size_t head_bytes = sizeof(Fault) + 16;
};

/// Where the streams say how far they are, in pinned memory.
struct Crumbs {
  /// Instructions done, of all runs.
  uint64_t done;
  /// 1 from before a collective until it is done.
  uint64_t meeting;
};

/// What the programs of a rank share.
struct Lane {
  int rank, ranks;
  Properties properties;
  OwnedStream compute, communication, copies;
  std::unique_ptr<Products> products;
  /// In device memory.
  Control* control;
  Crumbs* crumbs;
  Communicator* group;
  /// Set before the first collective of several ranks.
  std::unique_ptr<GpuCommunicator> communicator;
  /// Makes it: with all ranks at once.
  std::function<std::unique_ptr<GpuCommunicator>()> meet;
  /// The rank's thread waits for others.
  std::atomic<bool>* meeting;

  bool several() const { return ranks > 1; }
};

enum class Pace {
  /// Graphs where they are captured.
  replay,
  /// Every instruction for itself.
  each,
  /// The same, and the ranks meet before a collective and wait for it: nobody loads a kernel or a library's part while a collective
  /// of another waits for him.
  careful,
  /// Careful, and every instruction is waited for.
  step,
};

class GpuProgram {
 public:
  GpuProgram(std::shared_ptr<const ScheduledProgram> program, Lane& lane);

  const ScheduledProgram& program() const { return *program_; }
  /// Has collectives between several ranks.
  bool meets() const { return meets_; }
  bool captured() const { return captured_; }
  /// Runs that were begun.
  int64_t runs() const { return runs_; }
  /// "instructions 8 to 15 (linear to add), expected them": those between two crumbs of which `first` is the first, or only it.
  std::string name_of(uint32_t first, bool only) const;

  /// Captures the compute segments as graphs or, `whole`, all of a run with its collectives as one. The ranks meet before and after.
  /// Throws Aborted, Error.
  void capture(bool whole);

  struct Options {
    Pace pace = Pace::each;
    bool check = false;
    /// Where not null, two events per instruction, of which each is recorded around its instruction.
    const std::vector<Event>* around = nullptr;
  };
  /// Puts one run behind what the streams have. `instruction()` is then the last that was enqueued. Throws what enqueuing threw.
  void enqueue(const Options& options);
  uint32_t instruction() const { return instruction_; }

 private:
  struct Operation {
    Call call;
    std::vector<const double*> scalars;
  };

  /// Puts the parts onto their streams, each behind what it waits for.
  void play(const Options& options);
  void segment(const Part& part, const Options& options);
  void collective(const Part& part, const Options& options);
  void operate(uint32_t i, const Options& options);
  void find_non_finite(uint32_t i);
  /// Says on the compute stream that all instructions before `i` are done.
  void crumb(uint32_t i);
  /// What `body` puts onto the compute stream, and onto streams that it makes wait for it, as a graph.
  template <class F>
  GraphExec captured_from(const std::string& what, F&& body);
  /// Waits for all that was enqueued.
  void settle();

  const std::shared_ptr<const ScheduledProgram> program_;
  Lane& lane_;
  const bool meets_;
  std::vector<Operation> operations_;
  std::vector<Event> events_;
  /// By part; null where there is none.
  std::vector<GraphExec> graphs_;
  /// Of a whole run; null where its parts are captured.
  GraphExec whole_;
  bool captured_ = false;
  int64_t runs_ = 0;
  uint32_t instruction_ = 0;
};

}  // namespace deeptroupe::gpu
