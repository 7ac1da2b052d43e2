// The ranks of one communicator: their memory, what they share, and their executors. Groups live in a process-wide
// table, so that every worker finds its group by number. On which device they run is not known here.
#pragma once

#include <array>
#include <memory>
#include <mutex>
#include <shared_mutex>
#include <stdexcept>
#include <string>
#include <vector>

#include "../collective/communicator.h"
#include "../memory/arena.h"
#include "device.h"

namespace deeptroupe {

/// What a rank's memory holds when nothing is known of it.
constexpr int64_t nothing_kept = -1;

/// How far a rank is: `2 * instructions done`, plus 1 inside a collective, where it may wait for others.
using Progress = uint64_t;

/// The caller asked for what cannot be: a bad argument, a second allocation, something closed.
struct UsageError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// Memory is short; the message says which and by how much.
struct MemoryError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// A device, or what it needs, is not there.
struct MissingError : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using ArenaBytes = std::array<size_t, abi::arena_count>;

class Group {
 public:
  /// `io` is the memory of each rank that JavaScript sees; the caller keeps it alive until close().
  Group(const ArenaBytes& bytes, const std::vector<std::byte*>& io, std::unique_ptr<Device> device);
  ~Group() { close(); }

  const ArenaBytes bytes;
  /// The `io` arena of each rank as JavaScript sees it.
  const std::vector<std::byte*> io;
  Communicator communicator;
  std::vector<RankMemory> memory;
  /// Held shared while JavaScript copies in or out, exclusively while memory is given back.
  std::shared_mutex memory_mutex;

  /// Makes the executor of a rank, its threads on `cores`, where there are some. Throws UsageError if there is one already.
  std::shared_ptr<Executor> open(int rank, int threads, std::vector<int> cores);
  /// Says what the memory of a rank that closes holds; the next to open the rank takes it over.
  void keep(int rank, int64_t what);
  /// What the last one to have the rank kept, told once.
  int64_t take_kept(int rank);
  /// After the end of all executors: a new communicator, and ranks that can be opened again. Memory that nobody kept is
  /// given back. Throws UsageError while an executor's thread runs.
  void renew();
  /// Of every rank since it was opened; 0 where nobody has it.
  std::vector<Progress> progress();
  /// True where no executor's thread runs any more.
  bool idle();
  /// Aborts if a rank is still open, joins every thread and gives all memory back.
  void close();

 private:
  const std::unique_ptr<Device> device_;
  std::mutex mutex_;
  std::vector<std::shared_ptr<Executor>> executors_;
  std::vector<int64_t> kept_;
  bool closed_ = false;
};

/// Makes a group and gives its number.
int add_group(std::shared_ptr<Group> group);
/// Throws UsageError where there is none of that number.
std::shared_ptr<Group> group_of(int id);
void remove_group(int id);

}  // namespace deeptroupe
