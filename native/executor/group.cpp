// Groups and the table of them.
#include "group.h"

#include <map>

#include "executor.h"

namespace deeptroupe {
namespace {

struct Groups {
  std::mutex mutex;
  std::map<int, std::shared_ptr<Group>> list;
  int last = 0;
};
// Never destroyed: threads of other workers may outlive static destructors.
Groups& groups() {
  static Groups* all = new Groups;
  return *all;
}

}  // namespace

std::shared_ptr<Executor> Group::open(int rank, int threads) {
  std::lock_guard lock(mutex_);
  if (closed_) throw UsageError("rank: group, expected an open one, got a closed one");
  if (rank < 0 || rank >= communicator.ranks())
    throw UsageError("rank: number, expected 0 to " +
        std::to_string(communicator.ranks() - 1) + ", got " + std::to_string(rank));
  if (executors_[rank])
    throw UsageError("rank: number " + std::to_string(rank) + ", expected one that is not open, got one opened before");
  return executors_[rank] = std::make_shared<Executor>(*this, rank, threads);
}

bool Group::idle() {
  std::lock_guard lock(mutex_);
  for (const auto& executor : executors_)
    if (executor && !executor->ended()) return false;
  return true;
}

void Group::close() {
  std::vector<std::shared_ptr<Executor>> executors;
  {
    std::lock_guard lock(mutex_);
    if (closed_) return;
    closed_ = true;
    executors.swap(executors_);
    executors_.resize(executors.size());
  }
  for (const auto& executor : executors)
    if (executor && !executor->ended()) communicator.abort("the group was closed");
  for (const auto& executor : executors)
    if (executor) executor->join();
  std::unique_lock lock(memory_mutex);
  for (RankMemory& rank : memory)
    for (Arena& arena : rank) arena.release();
}

int add_group(std::shared_ptr<Group> group) {
  std::lock_guard lock(groups().mutex);
  groups().list[++groups().last] = std::move(group);
  return groups().last;
}

std::shared_ptr<Group> group_of(int id) {
  std::lock_guard lock(groups().mutex);
  const auto found = groups().list.find(id);
  if (found == groups().list.end())
    throw UsageError("group: number, expected one of an open group, got " + std::to_string(id));
  return found->second;
}

void remove_group(int id) {
  std::shared_ptr<Group> last;
  std::lock_guard lock(groups().mutex);
  const auto found = groups().list.find(id);
  if (found == groups().list.end()) return;
  last = std::move(found->second);
  groups().list.erase(found);
}

}  // namespace deeptroupe
