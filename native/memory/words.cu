// The driver has it, the runtime does not.
#include "words.h"

#include "../../kernels/gpu/driver.h"

namespace deeptroupe::gpu {
namespace {

struct Functions {
  decltype(cuDeviceGetAttribute)* attribute = driver_function<decltype(cuDeviceGetAttribute)>("cuDeviceGetAttribute");
  decltype(cuStreamWriteValue64)* store = driver_function<decltype(cuStreamWriteValue64)>("cuStreamWriteValue64");
  decltype(cuStreamWaitValue64)* wait = driver_function<decltype(cuStreamWaitValue64)>("cuStreamWaitValue64");
};

const Functions& functions() {
  static const Functions found;
  return found;
}

CUdeviceptr address_of(const uint64_t* word) { return reinterpret_cast<CUdeviceptr>(word); }

void expect_success(CUresult result, const char* what) {
  if (result != CUDA_SUCCESS) throw Error(std::string("gpu: ") + what + ", expected success, got error " + std::to_string(result));
}

}  // namespace

bool streams_have_words(int device) {
  const Functions& driver = functions();
  int have = 0;
  return driver.attribute && driver.store && driver.wait &&
         driver.attribute(&have, CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS, device) == CUDA_SUCCESS && have;
}

void store_word(Stream stream, uint64_t* word, uint64_t value) {
  expect_success(functions().store(stream, address_of(word), value, CU_STREAM_WRITE_VALUE_DEFAULT), "word that a stream stores");
}

void await_word(Stream stream, const uint64_t* word, uint64_t least) {
  expect_success(functions().wait(stream, address_of(word), least, CU_STREAM_WAIT_VALUE_GEQ), "word that a stream waits for");
}

}  // namespace deeptroupe::gpu
