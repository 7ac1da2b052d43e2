// Rows of a table by index, and their gradient: within each column tokens are added in order, so the bits depend on no thread.
#include "check.h"

namespace deeptroupe::DT_ISA {

namespace {

constexpr int64_t block = 16384;
/// Columns of one task of the gradient.
constexpr int64_t columns = 128;

void embedding(const Call& call) {
  const Tensor& weight = call.in(0);
  const int32_t* indices = data_of<int32_t>("embedding", "indices", call.in(1));
  if (call.out(0).dtype != weight.dtype) fail("embedding: dtype of y, expected %s, got %s", dtype_name(weight.dtype), dtype_name(call.out(0).dtype));
  const char* from = weight.as<const char>();
  char* to = call.out(0).as<char>();
  const int64_t width = weight.last(), bytes = width * abi::dtype_bytes[static_cast<uint32_t>(weight.dtype)], tokens = call.in(1).elements();
  expect_indices("embedding", "indices", indices, tokens, 0, call.in(0).dims[0]);
  each_block(call, tokens, width >= block ? 1 : block / (width ? width : 1), [=](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) std::memcpy(to + i * bytes, from + indices[i] * bytes, bytes);
  });
}

/// Tokens' gradients of T onto a table of O.
template <class T, class O>
void embedding_backward(const Call& call) {
  constexpr const char* op = "embedding_backward";
  const int32_t* indices = data_of<int32_t>(op, "indices", call.in(0));
  const T* dy = data_of<T>(op, "dy", call.in(1));
  const O* base = data_of<O>(op, "base", call.inputs[2]);
  O* dweight = data_of<O>(op, "dweight", call.out(0));
  const int64_t width = call.out(0).last(), tokens = call.in(0).elements();
  expect_indices(op, "indices", indices, tokens, 0, call.out(0).dims[0]);
  if (base != dweight) {
    each_block(call, call.out(0).elements(), 2 * block, [=](int64_t begin, int64_t end) {
      const size_t bytes = sizeof(O) * (end - begin);
      if (base) std::memcpy(dweight + begin, base + begin, bytes);
      else std::memset(dweight + begin, 0, bytes);
    });
  }
  each_block(call, width, tokens * width <= block ? width : columns, [=](int64_t begin, int64_t end) {
    for (int64_t i = 0; i < tokens; ++i) {
      const T* from = dy + i * width;
      O* to = dweight + indices[i] * width;
      for (int64_t j = begin; j < end; j += VL) {
        const int n = lanes_left(end - j);
        store_part(to + j, load_part(to + j, n) + load_part(from + j, n), n);
      }
    }
  });
}

void arange(const Call& call) {
  int32_t* y = data_of<int32_t>("arange", "y", call.out(0));
  const int64_t count = call.out(0).elements();
  for (int64_t i = 0; i < count; ++i) y[i] = static_cast<int32_t>(i);
}

}  // namespace

void add_embedding(KernelTable& table) {
  add_kernel(table, abi::Opcode::embedding, embedding);
  add_kernel(table, abi::Opcode::embedding_backward, [](const Call& call) {
    with_float("embedding_backward", "dy", call.in(1), [&]<class T>(TypeTag<T>) {
      with_gradient<T>("embedding_backward", "dweight", &call.out(0), [&]<class O>(TypeTag<O>) { embedding_backward<T, O>(call); });
    });
  });
  add_kernel(table, abi::Opcode::arange, arange);
}

}  // namespace deeptroupe::DT_ISA
