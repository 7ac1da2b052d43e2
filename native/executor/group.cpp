// Groups and the table of them.
#include "group.h"

#include <map>
#include <utility>

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

Group::Group(const ArenaBytes& bytes, const std::vector<std::byte*>& io, std::unique_ptr<Device> device)
    : bytes(bytes),
      io(io),
      communicator(static_cast<int>(io.size())),
      memory(io.size()),
      device_(std::move(device)),
      executors_(io.size()),
      kept_(io.size(), nothing_kept) {
  constexpr auto arena = static_cast<uint32_t>(abi::Arena::io);
  for (size_t rank = 0; rank < io.size(); ++rank) memory[rank][arena].adopt(io[rank], bytes[arena]);
}

std::shared_ptr<Executor> Group::open(int rank, int threads, std::vector<int> cores) {
  std::lock_guard lock(mutex_);
  if (closed_) throw UsageError("rank: group, expected an open one, got a closed one");
  if (rank < 0 || rank >= communicator.ranks())
    throw UsageError("rank: number, expected 0 to " +
        std::to_string(communicator.ranks() - 1) + ", got " + std::to_string(rank));
  if (executors_[rank])
    throw UsageError("rank: number " + std::to_string(rank) + ", expected one that is not open, got one opened before");
  return executors_[rank] = device_->open(*this, rank, threads, std::move(cores));
}

void Group::keep(int rank, int64_t what) {
  std::lock_guard lock(mutex_);
  kept_.at(rank) = what;
}

int64_t Group::take_kept(int rank) {
  std::lock_guard lock(mutex_);
  return std::exchange(kept_.at(rank), nothing_kept);
}

void Group::renew() {
  std::lock_guard lock(mutex_);
  if (closed_) throw UsageError("renew: group, expected an open one, got a closed one");
  for (size_t rank = 0; rank < executors_.size(); ++rank)
    if (executors_[rank] && !executors_[rank]->ended())
      throw UsageError("renew: rank " + std::to_string(rank) + ", expected a closed one, got an open one");
  std::unique_lock memory_lock(memory_mutex);
  for (size_t rank = 0; rank < executors_.size(); ++rank) {
    if (executors_[rank]) executors_[rank]->join();
    executors_[rank].reset();
    if (kept_[rank] == nothing_kept) device_->release(*this, static_cast<int>(rank));
  }
  communicator.renew();
}

std::vector<Progress> Group::progress() {
  std::lock_guard lock(mutex_);
  std::vector<Progress> all;
  for (const auto& executor : executors_) all.push_back(executor ? executor->progress() : 0);
  return all;
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
  for (size_t rank = 0; rank < memory.size(); ++rank) {
    device_->release(*this, static_cast<int>(rank));
    memory[rank][static_cast<uint32_t>(abi::Arena::io)].release();
  }
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
