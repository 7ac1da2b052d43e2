#pragma once

#include <napi.h>

namespace deeptroupe {

/// Adds the functions of groups.cpp to the addon.
void add_group_functions(Napi::Env env, Napi::Object exports);

}  // namespace deeptroupe
