// What one worker has of the addon: the ranks that it opened, the groups that it made, the promises that native threads
// settle. All of it ends with the worker's environment.
#pragma once

#include <napi.h>

#include <atomic>
#include <map>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>

#include "../executor/executor.h"
#include "../executor/group.h"
#include "port.h"

namespace deeptroupe {

/// A rank that a worker opened.
struct OpenRank {
  std::shared_ptr<Group> group;
  std::shared_ptr<Executor> executor;
  int rank;
  std::vector<std::shared_ptr<const ScheduledProgram>> programs;
  /// Runs that were asked for.
  std::shared_ptr<std::atomic<uint64_t>> runs = std::make_shared<std::atomic<uint64_t>>(0);
};

struct Worker {
  int port = 0;
  std::map<int, OpenRank> ranks;
  int last_rank = 0;
  /// Groups that this worker made.
  std::vector<int> groups;
  std::map<uint64_t, napi_deferred> pending;
  uint64_t last_pending = 0;
};

/// Opens the worker of an environment and has it ended with that.
void open_worker(napi_env env);
Worker& worker_of(napi_env env);

/// Gives C++ errors to JavaScript with a code.
template <class F>
auto guarded(Napi::Env env, F&& body) -> decltype(body()) {
  const auto fail = [&](const char* code, const char* message) {
    Napi::Error error = Napi::Error::New(env, message);
    error.Set("code", code);
    throw error;
  };
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const ProgramError& error) {
    fail("PROGRAM_FORMAT", error.what());
  } catch (const MemoryError& error) {
    fail("DEVICE_MEMORY", error.what());
  } catch (const MissingError& error) {
    fail("DEVICE_MISSING", error.what());
  } catch (const std::bad_alloc&) {
    fail("DEVICE_MEMORY", "device: memory, expected as much as asked for, got less");
  } catch (const std::exception& error) {
    fail("DEVICE_USAGE", error.what());
  }
  throw std::logic_error("unreachable");
}

/// A promise, and the number by which a native thread settles it. None in a worker that is being terminated: it runs
/// native calls until it comes to its next check, but makes no more promises.
std::optional<std::pair<uint64_t, Napi::Value>> promise(napi_env env);

void settle(napi_env env, uint64_t id, napi_value value);

/// From a native thread: settles promise `id` on the worker of `port` with what `make` gives there, perhaps not before others are settled.
template <class F>
void settle_later(int port, uint64_t id, F make, bool may_wait = false) {
  post(port, [id, make = std::move(make)](napi_env env) {
    try {
      Napi::HandleScope scope(env);
      settle(env, id, make(Napi::Env(env)));
    } catch (const Napi::Error&) {
      // The worker is being terminated and makes no more objects; nobody waits for the promise.
    }
  }, may_wait);
}

}  // namespace deeptroupe
