// One rank's end of an NCCL communicator.
#include <memory>

#include "nccl-functions.h"

namespace deeptroupe::gpu {

namespace {

struct Opened {
  std::unique_ptr<nccl::Functions> functions;
  std::string reason;
};

const Opened& opened() {
  static const Opened result = []() -> Opened {
    setenv("NCCL_NVLS_ENABLE", "0", 1);
    // What is captured moves its bytes as everything else does: no buffer is registered with peers.
    setenv("NCCL_GRAPH_REGISTER", "0", 0);
#if defined(__HIP__)
    const Library library("RCCL", "DEEPTROUPE_NCCL", {"librccl.so.1", "librccl.so"});
#else
    const Library library("NCCL", "DEEPTROUPE_NCCL", {"libnccl.so.2"});
#endif
    if (!library) return {nullptr, library.reason()};
    try {
      return {std::make_unique<nccl::Functions>(library), {}};
    } catch (const Error& error) {
      return {nullptr, error.what()};
    }
  }();
  return result;
}

const nccl::Functions& functions() {
  const Opened& found = opened();
  if (!found.functions) throw Error("gpu: collective of several GPUs: " + found.reason);
  return *found.functions;
}

/// The result in words, with the library's last message.
std::string words(nccl::Result result, nccl::Communicator communicator) {
  std::string text = functions().error_string(result);
  const char* last = functions().last_error(communicator);
  if (last && *last) text += std::string(": ") + last;
  return text;
}

void expect_success(nccl::Result result, const char* what, nccl::Communicator communicator) {
  if (result != nccl::success) throw Error(std::string("gpu: ") + what + ", expected success, got " + words(result, communicator));
}

}  // namespace

std::string nccl_missing() { return opened().reason; }

int nccl_version() {
  int version = 0;
  expect_success(functions().version(&version), "ncclGetVersion", nullptr);
  return version;
}

NcclId new_nccl_id() {
  NcclId id;
  expect_success(functions().unique_id(&id), "ncclGetUniqueId", nullptr);
  return id;
}

NcclRank::NcclRank(int ranks, int rank, const NcclId& id) {
  nccl::Communicator communicator = nullptr;
  expect_success(functions().init_rank(&communicator, ranks, id, rank), "ncclCommInitRank", nullptr);
  communicator_ = communicator;
}

NcclRank::~NcclRank() {
  const std::lock_guard lock(ending_);
  if (const auto communicator = static_cast<nccl::Communicator>(communicator_.exchange(nullptr))) functions().destroy(communicator);
}

void* NcclRank::live() const {
  void* const communicator = communicator_;
  if (!communicator) throw Error("gpu: collective, expected a living communicator, got one that was aborted");
  return communicator;
}

void NcclRank::check(int result, const char* what) const {
  expect_success(result, what, static_cast<nccl::Communicator>(communicator_.load()));
}

void NcclRank::all_gather(const void* source, void* target, size_t bytes, Stream stream) {
  const auto communicator = static_cast<nccl::Communicator>(live());
  check(functions().all_gather(source, target, bytes, nccl::DataType::u8, communicator, stream), "ncclAllGather");
}

void NcclRank::send(const void* source, size_t bytes, int peer, Stream stream) {
  const auto communicator = static_cast<nccl::Communicator>(live());
  check(functions().send(source, bytes, nccl::DataType::u8, peer, communicator, stream), "ncclSend");
}

void NcclRank::receive(void* target, size_t bytes, int peer, Stream stream) {
  const auto communicator = static_cast<nccl::Communicator>(live());
  check(functions().receive(target, bytes, nccl::DataType::u8, peer, communicator, stream), "ncclRecv");
}

void NcclRank::group_start() { check(functions().group_start(), "ncclGroupStart"); }
void NcclRank::group_end() { check(functions().group_end(), "ncclGroupEnd"); }

void NcclRank::abort() {
  const std::lock_guard lock(ending_);
  // What it says no longer matters.
  if (const auto communicator = static_cast<nccl::Communicator>(communicator_.exchange(nullptr))) functions().abort(communicator);
}

std::string NcclRank::async_error() {
  const std::lock_guard lock(ending_);
  const auto communicator = static_cast<nccl::Communicator>(communicator_.load());
  if (!communicator) return "the communicator was aborted";
  nccl::Result result = nccl::success;
  check(functions().async_error(communicator, &result), "ncclCommGetAsyncError");
  return result == nccl::success || result == nccl::in_progress ? std::string() : words(result, communicator);
}

}  // namespace deeptroupe::gpu
