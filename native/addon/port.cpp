// The table of ports. Posting and closing exclude each other: unguarded, Node 20 aborts when a dead worker's function
// is called.
#include "port.h"

#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

namespace deeptroupe {
namespace {

using Messages = std::vector<PortMessage>;

struct Port {
  napi_threadsafe_function function;
  Messages waiting;
};
struct Ports {
  std::mutex mutex;
  std::map<int, Port> list;
  int last = 0;
};
// Never destroyed: native threads may post until the process is gone.
Ports& ports() {
  static Ports* all = new Ports;
  return *all;
}

void deliver(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<Messages> messages(static_cast<Messages*>(data));
  if (!env) return;
  for (const PortMessage& message : *messages) message(env);
}

}  // namespace

int open_port(napi_env env) {
  napi_value name;
  napi_threadsafe_function function;
  napi_create_string_utf8(env, "deeptroupe", NAPI_AUTO_LENGTH, &name);
  if (napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, nullptr, deliver,
      &function) != napi_ok)
    return 0;
  napi_unref_threadsafe_function(env, function);
  std::lock_guard lock(ports().mutex);
  ports().list[++ports().last] = {function, {}};
  return ports().last;
}

void post(int port, PortMessage message, bool may_wait) {
  std::lock_guard lock(ports().mutex);
  const auto found = ports().list.find(port);
  if (found == ports().list.end()) return;
  auto& [function, waiting] = found->second;
  waiting.push_back(std::move(message));
  if (may_wait) return;
  auto* data = new Messages(std::exchange(waiting, {}));
  if (napi_call_threadsafe_function(function, data, napi_tsfn_nonblocking) != napi_ok) delete data;
}

void keep_alive(int port, napi_env env, bool alive) {
  std::lock_guard lock(ports().mutex);
  const auto found = ports().list.find(port);
  if (found == ports().list.end()) return;
  if (alive)
    napi_ref_threadsafe_function(env, found->second.function);
  else
    napi_unref_threadsafe_function(env, found->second.function);
}

void close_port(int port) {
  std::lock_guard lock(ports().mutex);
  ports().list.erase(port);
}

}  // namespace deeptroupe
