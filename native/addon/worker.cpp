// The life of a worker's part of the addon.
#include "worker.h"

namespace deeptroupe {
namespace {

/// Ends what the worker opened. The `Worker` itself lives until the environment is gone, for a message that is under way.
void end_worker(void* data) {
  Worker* const worker = static_cast<Worker*>(data);
  close_port(worker->port);
  worker->pending.clear();
  for (auto& [handle, open] : worker->ranks)
    if (!open.executor->ended())
      open.group->communicator.abort("rank " + std::to_string(open.rank) + ": its worker ended");
  for (auto& [handle, open] : worker->ranks) open.executor->join();
  for (const int id : worker->groups) {
    try {
      const std::shared_ptr<Group> group = group_of(id);
      remove_group(id);
      group->close();
    } catch (const UsageError&) {
      // Closed before.
    }
  }
  worker->ranks.clear();
}

}  // namespace

void open_worker(napi_env env) {
  auto* worker = new Worker;
  napi_set_instance_data(
      env, worker, [](napi_env, void* data, void*) { delete static_cast<Worker*>(data); }, nullptr);
  worker->port = open_port(env);
  // After the port's function, so that this hook runs before Node takes the function away.
  napi_add_env_cleanup_hook(env, end_worker, worker);
}

Worker& worker_of(napi_env env) {
  void* data = nullptr;
  napi_get_instance_data(env, &data);
  return *static_cast<Worker*>(data);
}

std::optional<std::pair<uint64_t, Napi::Value>> promise(napi_env env) {
  Worker& worker = worker_of(env);
  napi_deferred deferred;
  napi_value value;
  if (napi_create_promise(env, &deferred, &value) != napi_ok) return std::nullopt;
  if (worker.pending.empty()) keep_alive(worker.port, env, true);
  worker.pending[++worker.last_pending] = deferred;
  return std::pair{worker.last_pending, Napi::Value(env, value)};
}

void settle(napi_env env, uint64_t id, napi_value value) {
  Worker& worker = worker_of(env);
  const auto found = worker.pending.find(id);
  if (found == worker.pending.end()) return;
  napi_resolve_deferred(env, found->second, value);
  worker.pending.erase(found);
  if (worker.pending.empty()) keep_alive(worker.port, env, false);
}

}  // namespace deeptroupe
