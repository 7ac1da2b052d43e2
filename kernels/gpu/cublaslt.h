// The part of cublasLt's interface that products.cu uses, so that no header of it is needed to build. Names and numbers are the
// library's; test/gpu/headers.cu compares them with its own headers where those are installed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "library.h"

namespace deeptroupe::gpu::lt {

using Status = int;
inline constexpr Status success = 0;

/// cudaDataType_t.
enum class DataType : int { f32 = 0, f16 = 2, bf16 = 14 };
/// cublasComputeType_t.
enum class Compute : int { f32 = 68, tf32 = 77 };
/// cublasOperation_t.
enum class Operation : int32_t { none = 0, transpose = 1 };
/// cublasLtEpilogue_t.
enum class Epilogue : uint32_t { none = 1, bias = 4, gelu_aux = 160, gelu_aux_bias = 164, gelu_gradient = 192 };
/// cublasLtMatmulDescAttributes_t.
enum class DescAttribute : int { transa = 3, transb = 4, epilogue = 7, bias_pointer = 8, aux_pointer = 11, aux_ld = 12 };
/// cublasLtMatmulPreferenceAttributes_t.
enum class PreferenceAttribute : int {
  max_workspace_bytes = 1,
  reduction_scheme_mask = 3,
  min_alignment_a_bytes = 5,
  min_alignment_b_bytes = 6,
  min_alignment_c_bytes = 7,
  min_alignment_d_bytes = 8,
};
/// cublasLtMatmulAlgoCapAttributes_t.
enum class Capability : int {
  min_alignment_a_bytes = 16,
  min_alignment_b_bytes = 17,
  min_alignment_c_bytes = 18,
  min_alignment_d_bytes = 19,
};
/// cublasLtReductionScheme_t: parts of a sum over k are added in f32, in order.
inline constexpr uint32_t reduction_in_compute_type = 2;

/// cublasLtMatmulAlgo_t: may be stored as it is, for the same version of the library.
struct Algorithm {
  uint64_t data[8];
};

/// cublasLtMatmulHeuristicResult_t.
struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

using Handle = struct HandleOpaque*;
using Desc = struct DescOpaque*;
using Layout = struct LayoutOpaque*;
using Preference = struct PreferenceOpaque*;

/// The library's functions.
struct Functions {
  size_t (*version)();
  const char* (*status_string)(Status);
  Status (*create)(Handle*);
  Status (*destroy)(Handle);
  Status (*desc_create)(Desc*, Compute, DataType scale);
  Status (*desc_destroy)(Desc);
  Status (*desc_set)(Desc, DescAttribute, const void*, size_t);
  Status (*layout_create)(Layout*, DataType, uint64_t rows, uint64_t columns, int64_t ld);
  Status (*layout_destroy)(Layout);
  Status (*preference_create)(Preference*);
  Status (*preference_destroy)(Preference);
  Status (*preference_set)(Preference, PreferenceAttribute, const void*, size_t);
  Status (*heuristic)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, Preference, int requested, HeuristicResult*, int* returned);
  Status (*check)(Handle, Desc, Layout a, Layout b, Layout c, Layout d, const Algorithm*, HeuristicResult*);
  Status (*capability)(const Algorithm*, Capability, void*, size_t, size_t* written);
  Status (*matmul)(Handle, Desc, const void* alpha, const void* a, Layout, const void* b, Layout, const void* beta, const void* c, Layout,
                   void* d, Layout, const Algorithm*, void* workspace, size_t workspace_bytes, Stream);

  /// Throws Error where the library lacks one.
  explicit Functions(const Library& library) {
    library.find(version, "cublasLtGetVersion");
    library.find(status_string, "cublasLtGetStatusString");
    library.find(create, "cublasLtCreate");
    library.find(destroy, "cublasLtDestroy");
    library.find(desc_create, "cublasLtMatmulDescCreate");
    library.find(desc_destroy, "cublasLtMatmulDescDestroy");
    library.find(desc_set, "cublasLtMatmulDescSetAttribute");
    library.find(layout_create, "cublasLtMatrixLayoutCreate");
    library.find(layout_destroy, "cublasLtMatrixLayoutDestroy");
    library.find(preference_create, "cublasLtMatmulPreferenceCreate");
    library.find(preference_destroy, "cublasLtMatmulPreferenceDestroy");
    library.find(preference_set, "cublasLtMatmulPreferenceSetAttribute");
    library.find(heuristic, "cublasLtMatmulAlgoGetHeuristic");
    library.find(check, "cublasLtMatmulAlgoCheck");
    library.find(capability, "cublasLtMatmulAlgoCapGetAttribute");
    library.find(matmul, "cublasLtMatmul");
  }
};

}  // namespace deeptroupe::gpu::lt
