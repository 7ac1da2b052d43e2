// Which calls of attention go to Hopper's warpgroups, and the description of tensors to the copy engine.
#include "attention-hopper.h"

#if !defined(__HIP__)

#include "driver.h"

namespace deeptroupe::gpu {

namespace {

/// The driver's function that describes a tensor; null where the driver has none.
auto* encode_tiled() {
  static auto* const function = driver_function<decltype(cuTensorMapEncodeTiled)>("cuTensorMapEncodeTiled");
  return function;
}

}  // namespace

CUtensorMap box_map(const Tensor& tensor, int rows) {
  const auto width = static_cast<cuuint64_t>(tensor.dims[2]), sequence = static_cast<cuuint64_t>(tensor.dims[1]);
  const cuuint64_t dims[3] = {width, sequence, static_cast<cuuint64_t>(tensor.dims[0])}, strides[2] = {2 * width, 2 * width * sequence};
  const cuuint32_t box[3] = {BOX, static_cast<cuuint32_t>(rows), 1}, steps[3] = {1, 1, 1};
  CUtensorMap map;
  const CUresult result = encode_tiled()(
      &map, tensor.dtype == DType::bf16 ? CU_TENSOR_MAP_DATA_TYPE_BFLOAT16 : CU_TENSOR_MAP_DATA_TYPE_FLOAT16, 3, tensor.data, dims, strides,
      box, steps, CU_TENSOR_MAP_INTERLEAVE_NONE, CU_TENSOR_MAP_SWIZZLE_128B, CU_TENSOR_MAP_L2_PROMOTION_L2_256B,
      CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE);
  if (result != CUDA_SUCCESS) {
    throw Error("gpu: description of a tensor to the copy engine, expected success, got error " + std::to_string(result));
  }
  return map;
}

bool fits_hopper(const Call& call, const Plan& plan, std::initializer_list<const void*> pointers) {
  return call.device->major == 9 && call.device->minor == 0 && !plan.dropout.active && (plan.size == 64 || plan.size == 128) &&
         fits_mma(call, plan, pointers) && encode_tiled() != nullptr;
}

}  // namespace deeptroupe::gpu

#endif
