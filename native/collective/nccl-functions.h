// The part of NCCL's interface that nccl.cu uses, so that no header of it is needed to build. Names and numbers are the library's;
// test/gpu/headers.cu compares them with its own header where that is installed. RCCL has the same.
#pragma once

#include "../../kernels/gpu/library.h"
#include "nccl.h"

namespace deeptroupe::gpu::nccl {

using Result = int;
inline constexpr Result success = 0;
inline constexpr Result in_progress = 7;

/// ncclDataType_t: only bytes are moved.
enum class DataType : int { u8 = 1 };

using Communicator = struct CommunicatorOpaque*;

struct Functions {
  Result (*version)(int*);
  Result (*unique_id)(NcclId*);
  Result (*init_rank)(Communicator*, int ranks, NcclId, int rank);
  Result (*destroy)(Communicator);
  Result (*abort)(Communicator);
  Result (*async_error)(Communicator, Result*);
  const char* (*error_string)(Result);
  const char* (*last_error)(Communicator);
  Result (*all_gather)(const void*, void*, size_t count, DataType, Communicator, Stream);
  Result (*send)(const void*, size_t count, DataType, int peer, Communicator, Stream);
  Result (*receive)(void*, size_t count, DataType, int peer, Communicator, Stream);
  Result (*group_start)();
  Result (*group_end)();

  /// Throws Error where the library lacks one.
  explicit Functions(const Library& library) {
    library.find(version, "ncclGetVersion");
    library.find(unique_id, "ncclGetUniqueId");
    library.find(init_rank, "ncclCommInitRank");
    library.find(destroy, "ncclCommDestroy");
    library.find(abort, "ncclCommAbort");
    library.find(async_error, "ncclCommGetAsyncError");
    library.find(error_string, "ncclGetErrorString");
    library.find(last_error, "ncclGetLastError");
    library.find(all_gather, "ncclAllGather");
    library.find(send, "ncclSend");
    library.find(receive, "ncclRecv");
    library.find(group_start, "ncclGroupStart");
    library.find(group_end, "ncclGroupEnd");
  }
};

}  // namespace deeptroupe::gpu::nccl
