// Shared libraries that are opened at run time, so that one binary serves machines that have them and machines that do not.
#pragma once

#include <dlfcn.h>

#include <cstdlib>
#include <initializer_list>
#include <string>
#include <vector>

#include "gpu.h"

namespace deeptroupe::gpu {

class Library {
 public:
  /// The first that opens: what the environment's `variable` names (the file, or its folder), then each name where the loader looks, then
  /// in the folders of LD_LIBRARY_PATH as it is now. It stays open. `what` is for error messages.
  Library(std::string what, const char* variable, std::initializer_list<const char*> names) : what_(std::move(what)) {
    for (const std::string& path : paths(variable, names)) {
      handle_ = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
      if (handle_) {
        reason_.clear();
        return;
      }
      const char* text = dlerror();
      if (reason_.empty()) reason_ = text ? text : path;
    }
    reason_ = what_ + ", expected " + *names.begin() + " where the loader looks or " + variable + " to name it, got: " + reason_;
  }

  explicit operator bool() const { return handle_ != nullptr; }
  /// Why it did not open; empty where it did.
  const std::string& reason() const { return reason_; }

  /// Sets `function` to the library's function of that name. Throws Error where it has none.
  template <class F>
  void find(F*& function, const char* name) const {
    function = reinterpret_cast<F*>(dlsym(handle_, name));
    if (!function) throw Error("gpu: " + what_ + ", expected a function " + name + ", got a library without it");
  }

 private:
  static std::vector<std::string> paths(const char* variable, std::initializer_list<const char*> names) {
    std::vector<std::string> paths;
    if (const char* named = std::getenv(variable); named && *named) {
      paths.push_back(named);
      for (const char* name : names) paths.push_back(std::string(named) + "/" + name);
    }
    for (const char* name : names) paths.push_back(name);
    if (const char* folders = std::getenv("LD_LIBRARY_PATH")) {
      const std::string list = folders;
      for (size_t start = 0; start < list.size();) {
        const size_t end = std::min(list.find(':', start), list.size());
        if (end > start)
          for (const char* name : names) paths.push_back(list.substr(start, end - start) + "/" + name);
        start = end + 1;
      }
    }
    return paths;
  }

  std::string what_;
  void* handle_ = nullptr;
  std::string reason_;
};

}  // namespace deeptroupe::gpu
