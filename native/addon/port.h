// How native threads reach the worker that waits for them. A port is one thread-safe function of one worker in a
// process-wide table; native threads know its number only, so a message to a worker that is gone is dropped instead of
// touching a dead function.
#pragma once

#include <node_api.h>

#include <functional>

namespace deeptroupe {

/// Runs on the worker's thread, with its environment.
using PortMessage = std::function<void(napi_env)>;

/// Opens a port of `env`; it is closed by an environment cleanup hook that runs before Node's own. Not keeping the
/// worker alive.
int open_port(napi_env env);
/// From any thread. Drops the message if the port is closed. One that may wait arrives with the next that may not.
void post(int port, PortMessage message, bool may_wait = false);
/// Lets pending work keep the worker's event loop alive, or not. On the worker's thread.
void keep_alive(int port, napi_env env, bool alive);
void close_port(int port);

}  // namespace deeptroupe
