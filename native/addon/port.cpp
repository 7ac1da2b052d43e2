// The table of ports. Posting and closing exclude each other: unguarded, Node 20 aborts when a dead worker's function
// is called.
#include "port.h"

#include <map>
#include <memory>
#include <mutex>

namespace deeptroupe {
namespace {

struct Ports {
  std::mutex mutex;
  std::map<int, napi_threadsafe_function> list;
  int last = 0;
};
// Never destroyed: native threads may post until the process is gone.
Ports& ports() {
  static Ports* all = new Ports;
  return *all;
}

void deliver(napi_env env, napi_value, void*, void* data) {
  const std::unique_ptr<PortMessage> message(static_cast<PortMessage*>(data));
  if (env) (*message)(env);
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
  ports().list[++ports().last] = function;
  return ports().last;
}

void post(int port, PortMessage message) {
  std::lock_guard lock(ports().mutex);
  const auto found = ports().list.find(port);
  if (found == ports().list.end()) return;
  auto* data = new PortMessage(std::move(message));
  if (napi_call_threadsafe_function(found->second, data, napi_tsfn_nonblocking) != napi_ok) delete data;
}

void keep_alive(int port, napi_env env, bool alive) {
  std::lock_guard lock(ports().mutex);
  const auto found = ports().list.find(port);
  if (found == ports().list.end()) return;
  if (alive)
    napi_ref_threadsafe_function(env, found->second);
  else
    napi_unref_threadsafe_function(env, found->second);
}

void close_port(int port) {
  std::lock_guard lock(ports().mutex);
  ports().list.erase(port);
}

}  // namespace deeptroupe
