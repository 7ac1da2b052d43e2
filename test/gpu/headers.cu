// Our own declarations of cublasLt and NCCL against the libraries' headers: this file compiles or something changed. Only where both
// headers are installed.
#include <cublasLt.h>
#include <nccl.h>

#include <cstddef>
#include <type_traits>

#include "../../kernels/gpu/cublaslt.h"
#include "../../native/collective/nccl-functions.h"

namespace deeptroupe::gpu {
namespace {

template <class E, class T>
constexpr bool same(E ours, T theirs) {
  return sizeof(E) == sizeof(T) && static_cast<long long>(ours) == static_cast<long long>(theirs);
}

static_assert(same(lt::success, CUBLAS_STATUS_SUCCESS));
static_assert(same(lt::DataType::f32, CUDA_R_32F));
static_assert(same(lt::DataType::f16, CUDA_R_16F));
static_assert(same(lt::DataType::bf16, CUDA_R_16BF));
static_assert(same(lt::Compute::f32, CUBLAS_COMPUTE_32F));
static_assert(same(lt::Compute::tf32, CUBLAS_COMPUTE_32F_FAST_TF32));
static_assert(same(lt::Operation::none, CUBLAS_OP_N));
static_assert(same(lt::Operation::transpose, CUBLAS_OP_T));
static_assert(same(lt::Epilogue::none, CUBLASLT_EPILOGUE_DEFAULT));
static_assert(same(lt::Epilogue::bias, CUBLASLT_EPILOGUE_BIAS));
static_assert(same(lt::Epilogue::gelu_aux, CUBLASLT_EPILOGUE_GELU_AUX));
static_assert(same(lt::Epilogue::gelu_aux_bias, CUBLASLT_EPILOGUE_GELU_AUX_BIAS));
static_assert(same(lt::Epilogue::gelu_gradient, CUBLASLT_EPILOGUE_DGELU));
static_assert(same(lt::DescAttribute::transa, CUBLASLT_MATMUL_DESC_TRANSA));
static_assert(same(lt::DescAttribute::transb, CUBLASLT_MATMUL_DESC_TRANSB));
static_assert(same(lt::DescAttribute::epilogue, CUBLASLT_MATMUL_DESC_EPILOGUE));
static_assert(same(lt::DescAttribute::bias_pointer, CUBLASLT_MATMUL_DESC_BIAS_POINTER));
static_assert(same(lt::DescAttribute::aux_pointer, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_POINTER));
static_assert(same(lt::DescAttribute::aux_ld, CUBLASLT_MATMUL_DESC_EPILOGUE_AUX_LD));
static_assert(same(lt::PreferenceAttribute::max_workspace_bytes, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES));
static_assert(same(lt::PreferenceAttribute::reduction_scheme_mask, CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK));
static_assert(same(lt::PreferenceAttribute::min_alignment_a_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES));
static_assert(same(lt::PreferenceAttribute::min_alignment_b_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES));
static_assert(same(lt::PreferenceAttribute::min_alignment_c_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES));
static_assert(same(lt::PreferenceAttribute::min_alignment_d_bytes, CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES));
static_assert(same(lt::Capability::min_alignment_a_bytes, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_A_BYTES));
static_assert(same(lt::Capability::min_alignment_b_bytes, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_B_BYTES));
static_assert(same(lt::Capability::min_alignment_c_bytes, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_C_BYTES));
static_assert(same(lt::Capability::min_alignment_d_bytes, CUBLASLT_ALGO_CAP_MIN_ALIGNMENT_D_BYTES));
static_assert(same(lt::reduction_in_compute_type, CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));

static_assert(sizeof(lt::Algorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(lt::HeuristicResult) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(lt::HeuristicResult, algorithm) == offsetof(cublasLtMatmulHeuristicResult_t, algo));
static_assert(offsetof(lt::HeuristicResult, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(lt::HeuristicResult, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));
static_assert(offsetof(lt::HeuristicResult, waves) == offsetof(cublasLtMatmulHeuristicResult_t, wavesCount));

static_assert(same(nccl::success, ncclSuccess));
static_assert(same(nccl::in_progress, ncclInProgress));
static_assert(same(nccl::DataType::u8, ncclUint8));
static_assert(sizeof(NcclId) == sizeof(ncclUniqueId));

/// What a parameter or result is to the calling convention: numbers are as wide, everything else is a pointer or a struct of one size.
template <class A, class B>
constexpr bool passes_alike = sizeof(A) == sizeof(B) && std::is_pointer_v<A> == std::is_pointer_v<B> && std::is_class_v<A> == std::is_class_v<B>;

template <class A, class B>
constexpr bool alike = false;
template <class R, class... A, class Q, class... B>
constexpr bool alike<R (*)(A...), Q (*)(B...)> = [] {
  if constexpr (sizeof...(A) == sizeof...(B)) return (passes_alike<R, Q> && ... && passes_alike<A, B>);
  else return false;
}();

static_assert(alike<decltype(lt::Functions::version), decltype(&cublasLtGetVersion)>);
static_assert(alike<decltype(lt::Functions::status_string), decltype(&cublasLtGetStatusString)>);
static_assert(alike<decltype(lt::Functions::create), decltype(&cublasLtCreate)>);
static_assert(alike<decltype(lt::Functions::destroy), decltype(&cublasLtDestroy)>);
static_assert(alike<decltype(lt::Functions::desc_create), decltype(&cublasLtMatmulDescCreate)>);
static_assert(alike<decltype(lt::Functions::desc_destroy), decltype(&cublasLtMatmulDescDestroy)>);
static_assert(alike<decltype(lt::Functions::desc_set), decltype(&cublasLtMatmulDescSetAttribute)>);
static_assert(alike<decltype(lt::Functions::layout_create), decltype(&cublasLtMatrixLayoutCreate)>);
static_assert(alike<decltype(lt::Functions::layout_destroy), decltype(&cublasLtMatrixLayoutDestroy)>);
static_assert(alike<decltype(lt::Functions::preference_create), decltype(&cublasLtMatmulPreferenceCreate)>);
static_assert(alike<decltype(lt::Functions::preference_destroy), decltype(&cublasLtMatmulPreferenceDestroy)>);
static_assert(alike<decltype(lt::Functions::preference_set), decltype(&cublasLtMatmulPreferenceSetAttribute)>);
static_assert(alike<decltype(lt::Functions::heuristic), decltype(&cublasLtMatmulAlgoGetHeuristic)>);
static_assert(alike<decltype(lt::Functions::check), decltype(&cublasLtMatmulAlgoCheck)>);
static_assert(alike<decltype(lt::Functions::capability), decltype(&cublasLtMatmulAlgoCapGetAttribute)>);
static_assert(alike<decltype(lt::Functions::matmul), decltype(&cublasLtMatmul)>);

static_assert(alike<decltype(nccl::Functions::version), decltype(&ncclGetVersion)>);
static_assert(alike<decltype(nccl::Functions::unique_id), decltype(&ncclGetUniqueId)>);
static_assert(alike<decltype(nccl::Functions::init_rank), decltype(&ncclCommInitRank)>);
static_assert(alike<decltype(nccl::Functions::destroy), decltype(&ncclCommDestroy)>);
static_assert(alike<decltype(nccl::Functions::abort), decltype(&ncclCommAbort)>);
static_assert(alike<decltype(nccl::Functions::async_error), decltype(&ncclCommGetAsyncError)>);
static_assert(alike<decltype(nccl::Functions::error_string), decltype(&ncclGetErrorString)>);
static_assert(alike<decltype(nccl::Functions::last_error), decltype(&ncclGetLastError)>);
static_assert(alike<decltype(nccl::Functions::all_gather), decltype(&ncclAllGather)>);
static_assert(alike<decltype(nccl::Functions::send), decltype(&ncclSend)>);
static_assert(alike<decltype(nccl::Functions::receive), decltype(&ncclRecv)>);
static_assert(alike<decltype(nccl::Functions::group_start), decltype(&ncclGroupStart)>);
static_assert(alike<decltype(nccl::Functions::group_end), decltype(&ncclGroupEnd)>);

}  // namespace
}  // namespace deeptroupe::gpu
