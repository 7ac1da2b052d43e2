// The library's products against the plain kernel's, on every layout, dtype and epilogue, with odd sizes, padded rows, unaligned
// addresses and a base; and every candidate that tuning may choose. Prints each that differs; the status says whether any did.
#include <cmath>
#include <string>

#include "../../kernels/gpu/products.h"
#include "device.h"

namespace deeptroupe::gpu {
namespace {

struct Shape {
  int64_t m, n, k;
};
constexpr Shape shapes[] = {{1, 1, 1}, {7, 5, 3}, {64, 64, 64}, {65, 129, 33}, {1, 768, 1600}, {300, 1, 40}, {256, 384, 4096}, {1000, 257, 512}, {16, 50257, 24}};

/// How far two results are apart at the most, in units of what their roundings and sums may differ by and of `slack`, and where.
struct Difference {
  double worst = 0;
  int64_t row = 0, column = 0;
  double got = 0, expected = 0;
};

Difference difference(const Tensor& a, const Tensor& b, int64_t columns, int64_t stride, double terms, double slack) {
  const size_t size = abi::dtype_bytes[static_cast<uint32_t>(a.dtype)];
  const auto left = copied<std::byte>(a.data, a.elements() * size), right = copied<std::byte>(b.data, b.elements() * size);
  const double unit = a.dtype == DType::bf16 ? 0x1p-8 : a.dtype == DType::f16 ? 0x1p-11 : 0x1p-24;
  Difference found;
  for (int64_t i = 0; i < a.elements(); ++i) {
    if (i % stride >= columns) continue;
    const double x = as_double(left.data(), a.dtype, i), y = as_double(right.data(), a.dtype, i);
    const double limit = 2 * unit * std::fabs(y) + 4 * 0x1p-24 * (8 + 2 * std::sqrt(terms)) * std::sqrt(terms) + slack;
    const double off = std::fabs(x - y) / limit;
    if (off > found.worst || std::isnan(off)) found = {std::isnan(off) ? INFINITY : off, i / stride, i % stride, x, y};
  }
  return found;
}

int run() {
  const Properties device = properties_of(0);
  std::string reason;
  const std::unique_ptr<Products> library = make_products(device, {}, &reason), plain = make_portable_products();
  if (!reason.empty()) return std::fprintf(stderr, "%s\n", reason.c_str()), 1;
  Memory workspace_memory;
  std::byte* const workspace = static_cast<std::byte*>(workspace_memory.take(product_workspace));
  int checked = 0, wrong = 0;
  const std::pair<DType, DType> types[] = {
      {DType::f32, DType::f32}, {DType::bf16, DType::bf16}, {DType::bf16, DType::f32}, {DType::f16, DType::f16}, {DType::f16, DType::f32}};
  for (const auto& [operands, result] : types)
    for (const Shape& s : shapes)
      for (int form = 0; form < 32; ++form) {
        const bool a_transposed = form & 1, b_transposed = form & 2, base = form & 4, bias = form & 8, padded = form & 16;
        Memory memory;
        const auto padding = [&](int64_t columns) { return padded ? (columns + 127) / 128 * 128 : columns; };
        const int64_t a_rows = a_transposed ? s.k : s.m, a_stride = padding(a_transposed ? s.m : s.k);
        const int64_t b_rows = b_transposed ? s.n : s.k, b_stride = padding(b_transposed ? s.k : s.n), d_stride = padding(s.n);
        const Tensor a = memory.random(operands, {a_rows, a_stride}), b = memory.random(operands, {b_rows, b_stride});
        const Tensor c = memory.random(result, {s.m, d_stride}), extra = memory.random(result, {s.n});
        const Tensor mine = memory.random(result, {s.m, d_stride}), theirs = memory.random(result, {s.m, d_stride});
        const Tensor aux[] = {memory.random(result, {s.m, s.n}), memory.random(result, {s.m, s.n})};
        Product product{s.m, s.n, s.k, a.data, b.data, base ? c.data : nullptr, mine.data, a_transposed, b_transposed, operands, result, 1,
                        base ? 1.0f : 0.0f, bias ? extra.data : nullptr, a_stride, b_stride, d_stride};
        for (const Epilogue epilogue : {Epilogue::none, Epilogue::gelu_aux, Epilogue::gelu_gradient}) {
          const bool gelu = epilogue != Epilogue::none;
          if (gelu && (operands != result || base || (bias && epilogue == Epilogue::gelu_gradient))) continue;
          product.epilogue = epilogue;
          const auto compare = [&](Products& products, const char* who) {
            // A gradient reads one aux, the other forms write one each.
            product.d = theirs.data, product.aux = aux[epilogue == Epilogue::gelu_aux].data;
            products.enqueue(product, workspace, product_workspace, nullptr);
            product.d = mine.data, product.aux = aux[0].data;
            plain->enqueue(product, nullptr, 0, nullptr);
            check(cudaDeviceSynchronize(), "a product");
            // The library's tanh is good to 2^-11; a derivative multiplies what it is off by with the product.
            const double terms = static_cast<double>(s.k), slack = gelu ? 4e-3 * std::sqrt(terms) : 0;
            Difference off = difference(theirs, mine, s.n, d_stride, terms, slack);
            if (epilogue == Epilogue::gelu_aux) {
              const Difference pre = difference(aux[1], aux[0], s.n, s.n, terms, 0);
              if (pre.worst > off.worst) off = pre;
            }
            ++checked;
            if (off.worst <= 1) return;
            ++wrong;
            std::fprintf(stderr, "%s: %s>%s %lld x %lld x %lld%s%s%s%s%s epilogue %d: off by %.1f of what it may, at [%lld, %lld] %g for %g\n", who,
                         abi::dtype_names[static_cast<int>(operands)], abi::dtype_names[static_cast<int>(result)], static_cast<long long>(s.m),
                         static_cast<long long>(s.n), static_cast<long long>(s.k), a_transposed ? " a transposed" : "",
                         b_transposed ? " b transposed" : "", base ? " base" : "", bias ? " bias" : "", padded ? " padded" : "",
                         static_cast<int>(epilogue), off.worst, static_cast<long long>(off.row),
                         static_cast<long long>(off.column), off.got, off.expected);
          };
          compare(*library, "first");
          // The stored choice of each candidate, used as a run would.
          if (form != 2 && form != 9 && form != 17) continue;
          product.d = theirs.data;
          for (const Candidate& candidate : library->tune(product, workspace, product_workspace, nullptr, 4)) {
            const std::unique_ptr<Products> chosen = make_products(device, {false, false, "# chosen\n" + candidate.choice + "\n"});
            compare(*chosen, "chosen");
          }
        }
      }
  std::printf("{\"products\": %d, \"wrong\": %d}\n", checked, wrong);
  return wrong != 0;
}

}  // namespace
}  // namespace deeptroupe::gpu

int main() {
  try {
    return deeptroupe::gpu::run();
  } catch (const std::exception& error) {
    return std::fprintf(stderr, "%s\n", error.what()), 1;
  }
}
