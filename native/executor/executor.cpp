// The life of a rank's thread.
#include "executor.h"

namespace deeptroupe {

void Executor::start() {
  thread_ = std::thread([this] {
    serve();
    std::vector<std::function<void()>> waiting;
    {
      std::lock_guard lock(mutex_);
      ended_.store(true, std::memory_order_release);
      waiting.swap(when_ended_);
    }
    for (const auto& ended : waiting) ended();
  });
}

std::optional<RunRequest> Executor::next() {
  std::unique_lock lock(mutex_);
  wake_.wait(lock, [&] { return finishing_ || !queue_.empty(); });
  if (queue_.empty()) return std::nullopt;
  std::optional<RunRequest> request(std::move(queue_.front()));
  queue_.pop_front();
  return request;
}

void Executor::enqueue(RunRequest request) {
  {
    std::lock_guard lock(mutex_);
    if (finishing_) throw closed("run");
    queue_.push_back(std::move(request));
  }
  wake_.notify_one();
}

void Executor::take_io(RunRequest& request) const {
  const std::byte* const io = group_.io[rank_];
  size_t bytes = 0;
  for (const IoRange& range : request.program->io.read) bytes += range.bytes;
  request.io.reserve(bytes);
  for (const IoRange& range : request.program->io.read)
    request.io.insert(request.io.end(), io + range.offset, io + range.offset + range.bytes);
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

UsageError Executor::closed(const char* operation) const {
  return UsageError(std::string(operation) + ": rank " + std::to_string(rank_) + ", expected an open one, got a closed one");
}

std::byte* Executor::place(const char* operation, uint32_t arena, double offset, size_t bytes) const {
  const Arena& source = group_.memory[rank_].at(arena);
  const std::string name = std::string(operation) + ": arena " + abi::arena_names[arena];
  if (!source.reserved()) throw UsageError(name + ", expected it to be allocated, got nothing");
  if (!(offset >= 0) || offset + static_cast<double>(bytes) > static_cast<double>(source.live()))
    throw UsageError(name + ", expected a range inside its " + std::to_string(source.live()) + " bytes, got " +
                     std::to_string(bytes) + " at " + std::to_string(static_cast<int64_t>(offset)));
  return (arena == io_arena ? group_.io[rank_] : source.base()) + static_cast<size_t>(offset);
}

Arena& Executor::expect_free(uint32_t arena) const {
  Arena& target = group_.memory[rank_].at(arena);
  if (target.reserved())
    throw UsageError(std::string("allocate: arena ") + abi::arena_names[arena] + ", expected none yet, got one of " +
                     std::to_string(target.live()) + " bytes");
  return target;
}

}  // namespace deeptroupe
