// A program made ready for one GPU: its calls built, its segments captured as graphs, and how a run of it is put onto the lanes. All
// of it is used on the rank's thread alone.
#pragma once

#include <functional>

#include "../../kernels/gpu/products.h"
#include "../collective/gpu-communicator.h"
#include "../memory/cuda.h"
#include "host-lane.h"
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
struct RankContext {
  int rank, ranks;
  Properties properties;
  OwnedStream compute, communication, download, upload;
  /// Of what JavaScript reads and writes.
  OwnedStream copies;
  /// Where something is computed on the host.
  std::unique_ptr<HostLane> host;
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
  /// It has a collective to enqueue to which peers have not come.
  bool held_up = false;

  bool several() const { return ranks > 1; }
  /// Null for the lane of the host.
  Stream stream(Lane lane) const;
  /// Waits for all that the device was given.
  Status drain() const;
};

enum class Pace {
  /// Graphs where they are captured.
  replay,
  /// One graph of all of the run, its collectives too.
  whole,
  /// Every instruction for itself.
  each,
  /// The same, and the ranks meet before a collective and wait for it: nobody loads a kernel or a library's part while a collective
  /// of another waits for him.
  careful,
  /// Careful, and every instruction is waited for.
  step,
};

class GpuProgram;

/// A run that is put onto the lanes, as far as that has gone.
struct Launch {
  GpuProgram* program;
  Pace pace;
  bool check = false;
  /// Where not null, two events per instruction, of which each is recorded around its instruction.
  const std::vector<Event>* around = nullptr;
  std::shared_ptr<const std::vector<double>> scalars;
  std::shared_ptr<HostNews> news = std::make_shared<HostNews>();
  /// Puts the run's copies onto `compute`: what it is told, and its answer.
  std::function<void()> tell, ask;
  /// Parts that are on their lanes, and by part the number of what the host does of it.
  uint32_t next = 0;
  std::vector<uint64_t> numbers;
  bool begun = false, answered = false;
  /// The next part's lane has what it waits for.
  bool entered = false;
  /// The last instruction that was put.
  uint32_t instruction = 0;

  /// The answer stands behind all of the run, which then leaves no tail.
  bool whole() const { return check || around || careful() || pace == Pace::whole; }
  /// The ranks meet before each collective, and wait for it.
  bool careful() const { return pace == Pace::careful || pace == Pace::step; }
  /// All of it is on its lanes.
  bool complete() const;
};

/// What the launch before another left on its way.
struct Wake {
  const Launch* launch;
  const Crossing* crossing;
};

class GpuProgram {
 public:
  GpuProgram(std::shared_ptr<const ScheduledProgram> program, RankContext& context);

  /// Lays down the order of its parts, once, before the first run. `tails`: of the programs whose runs may come before its own.
  void schedule(const std::vector<const Tail*>& tails);
  bool scheduled() const { return scheduled_; }
  const Schedule& schedule() const { return schedule_; }

  const ScheduledProgram& program() const { return *program_; }
  /// Has collectives between several ranks.
  bool meets() const { return meets_; }
  bool captured() const { return captured_; }
  /// Runs that were begun.
  int64_t runs() const { return runs_; }
  /// "instructions 8 to 15 (linear to add), expected them": those between two crumbs of which `first` is the first, or only it.
  std::string name_of(uint32_t first, bool only) const;

  /// Something of it is computed on the host, which no graph holds.
  bool hosted() const;
  /// Captures the compute segments as graphs or, for that pace, all of a run as one. The ranks meet before and after. Throws Aborted, Error.
  void capture(Pace pace);
  /// Lets go of the graph of a whole run.
  void drop_whole() { whole_ = {}; }

  /// Puts parts of a run onto their lanes, in order, as far as that goes without waiting; `before` is what may still be going on. Throws
  /// what putting them threw, and KernelError where the host failed.
  void proceed(Launch& launch, const Wake* before);
  /// Whether the tail of a complete launch is done. Throws Error.
  bool settled(const Launch& launch) const;

 private:
  struct Operation {
    Call call;
    std::vector<const double*> scalars;
  };
  /// A part of a run, by lane, that something waits for.
  struct Awaited {
    const Launch* launch;
    const ByLane* parts;
  };

  /// False where one of them is not yet on its lane or, where the host is concerned, not yet done. Else `lane` waits for them.
  static bool wait(Lane lane, std::initializer_list<Awaited> all);
  bool done(const Launch& launch, uint32_t part) const;
  bool begin(Launch& launch, const Wake* before);
  bool put(Launch& launch, const Wake* before);
  /// Makes the part's lane wait for what it must. False where not all of that is on its lane yet.
  bool enter(const Part& part, const Launch& launch, const Wake* before);
  bool answer(Launch& launch, const Wake* before);
  void segment(const Part& part, Launch& launch);
  /// Before a collective: who is careful agrees with the others on it.
  void announce(uint32_t i, const Launch& launch);
  /// False: peers have not come.
  bool collective(uint32_t i, const Launch& launch);
  void post(uint32_t i, Launch& launch);
  void operate(uint32_t i, const Launch& launch);
  void begin_operation(uint32_t i, const Launch& launch);
  void end_operation(uint32_t i, const Launch& launch);
  void find_non_finite(uint32_t i);
  /// Says on the compute stream that all instructions before `i` are done.
  void crumb(uint32_t i);
  /// Puts all parts, on all streams from and back to `compute`.
  void play();
  /// What `body` puts onto the compute stream, and onto streams that it makes wait for it, as a graph.
  template <class F>
  GraphExec captured_from(const std::string& what, F&& body);
  /// Waits for all that was put.
  void settle();

  const std::shared_ptr<const ScheduledProgram> program_;
  RankContext& context_;
  const bool meets_;
  bool scheduled_ = false;
  Schedule schedule_;
  std::vector<Operation> operations_;
  Event start_;
  /// By part; null where nobody waits for it.
  std::vector<Event> events_;
  /// By part; null where there is none.
  std::vector<GraphExec> graphs_;
  /// Of a whole run; null where its parts are captured.
  GraphExec whole_;
  bool captured_ = false;
  int64_t runs_ = 0;
};

}  // namespace deeptroupe::gpu
