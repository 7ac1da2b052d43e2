// Checks the passes that stream activations (norms, GELU and its derivative, with their sums over rows) against plain ones in float64
// and measures them beside a copy of as many bytes. Prints one JSON object a line; exits with 1 where a check failed. `--check` leaves
// the measurement out, `--measure` the checks.
//   nvcc -std=c++20 -O3 -fmad=false -gencode=arch=compute_90a,code=sm_90a -o passes test/gpu/passes.cu
//        kernels/gpu/{norm,linear,activation,elementwise}.cu
#include <cstring>

#include "trial.h"

namespace deeptroupe::gpu {
namespace {

const char* text(bool value) { return value ? "true" : "false"; }

/// What workspace.ts asks for.
size_t norm_workspace(int64_t rows, int64_t width, bool sum) {
  const int64_t chunk = std::max<int64_t>(16, ((rows + 255) / 256 + 7) / 8 * 8);
  return static_cast<size_t>((rows + chunk - 1) / chunk * width * (sum ? 3 : 2) * 4);
}
size_t derivative_workspace(int64_t rows, int64_t width) {
  return std::max(product_workspace, static_cast<size_t>((rows + 63) / 64 * width * 4));
}

struct Case {
  int64_t rows, width;
  DType dtype;
  /// Elements from a border of 256 bytes to the tensors.
  int64_t offset;
};

bool report(const char* what, const Case& c, const std::string& form, double worst, bool well) {
  const bool right = worst <= 1 && well;
  std::printf("{\"check\":\"%s\",\"right\":%s,\"shape\":[%lld,%lld],\"dtype\":\"%s\",\"offset\":%lld,\"form\":\"%s\",\"error_over_bound\":%.3g,\"well\":%s}\n",
              what, text(right), static_cast<long long>(c.rows), static_cast<long long>(c.width), abi::dtype_names[static_cast<int>(c.dtype)],
              static_cast<long long>(c.offset), form.c_str(), worst, text(well));
  std::fflush(stdout);
  return right;
}

/// Per row the mean and 1 / sqrt(variance + epsilon) of values.
struct Statistics {
  std::vector<double> mean, rstd, top;
  Statistics(const std::vector<double>& x, const Case& c, double epsilon) {
    for (int64_t r = 0; r < c.rows; ++r) {
      double sum = 0, squares = 0, most = 0;
      for (int64_t i = 0; i < c.width; ++i) sum += x[r * c.width + i], most = std::max(most, std::fabs(x[r * c.width + i]));
      const double m = sum / static_cast<double>(c.width);
      for (int64_t i = 0; i < c.width; ++i) squares += (x[r * c.width + i] - m) * (x[r * c.width + i] - m);
      mean.push_back(m), rstd.push_back(1 / std::sqrt(squares / static_cast<double>(c.width) + epsilon)), top.push_back(most);
    }
  }
};

bool check_forward(Machine& machine, const Case& c, bool weighted, bool biased, bool statistics) {
  const std::vector<int64_t> shape{c.rows, c.width};
  Trial trial(machine);
  const auto x = trial.operand(true, c.dtype, shape, c.offset, normal(c.rows * c.width, 1.5, 0.5, 1))->values();
  const Guarded* weight = trial.operand(weighted, c.dtype, {c.width}, c.offset, normal(c.width, 1, 0, 2));
  const Guarded* bias = trial.operand(biased, c.dtype, {c.width}, c.offset, normal(c.width, 1, 0, 3));
  const Guarded* y = trial.output(true, c.dtype, shape, c.offset);
  const Guarded* mean = trial.output(statistics, DType::f32, {c.rows}, 0);
  const Guarded* rstd = trial.output(statistics, DType::f32, {c.rows}, 0);
  const abi::LayerNormAttributes attributes{1e-5};
  const bool well = trial.run(abi::Opcode::layer_norm, &attributes, 0);
  const Statistics is(x, c, 1e-5);
  const auto w = weight ? weight->values() : std::vector<double>(c.width, 1), b = bias ? bias->values() : std::vector<double>(c.width, 0);
  const auto got = y->values();
  const double error = summed(c.width);
  Worst worst;
  for (int64_t r = 0; r < c.rows; ++r) {
    const double spread = (is.top[r] + std::fabs(is.mean[r])) * is.rstd[r];
    for (int64_t i = 0; i < c.width; ++i) {
      const double expected = (x[r * c.width + i] - is.mean[r]) * is.rstd[r] * w[i] + b[i];
      worst.compare_rounded(got[r * c.width + i], expected, error * (spread * std::fabs(w[i]) + std::fabs(b[i])), c.dtype);
    }
  }
  if (statistics) {
    const auto means = mean->values(), rstds = rstd->values();
    for (int64_t r = 0; r < c.rows; ++r) {
      const double spread = (is.top[r] + std::fabs(is.mean[r])) * is.rstd[r];
      worst.compare(means[r], is.mean[r], error * spread / is.rstd[r]);
      worst.compare(rstds[r], is.rstd[r], error * is.rstd[r] * (1 + spread));
    }
  }
  return report("norm forward", c, std::string(weighted ? " weight" : "") + (biased ? " bias" : "") + (statistics ? " statistics" : ""), worst.ratio, well);
}

struct BackwardForm {
  bool weighted, residual, dx, dweight, dbias, sum, wide;
  /// The operand that dx lies on; -1: none.
  int over;
};

bool check_backward(Machine& machine, const Case& c, const BackwardForm& f) {
  const std::vector<int64_t> shape{c.rows, c.width};
  Trial trial(machine);
  const int64_t count = c.rows * c.width;
  const auto dy = trial.operand(true, c.dtype, shape, c.offset, normal(count, 1, 0, 11))->values();
  const auto x = trial.operand(true, c.dtype, shape, c.offset, normal(count, 1.5, 0.5, 12))->values();
  const Guarded* weight = trial.operand(f.weighted, c.dtype, {c.width}, c.offset, normal(c.width, 1, 0, 13));
  const Statistics is(x, c, 1e-5);
  const auto mean = trial.operand(true, DType::f32, {c.rows}, 0, is.mean)->values();
  const auto rstd = trial.operand(true, DType::f32, {c.rows}, 0, is.rstd)->values();
  const Guarded* residual = trial.operand(f.residual, c.dtype, shape, c.offset, normal(count, 1, 0, 14));
  const auto past = residual ? residual->values() : std::vector<double>(count, 0);
  const auto w = weight ? weight->values() : std::vector<double>(c.width, 1);
  const DType gradient = f.wide ? DType::f32 : c.dtype;
  const Guarded* dx = f.over >= 0 ? trial.output_over(f.over) : trial.output(f.dx, c.dtype, shape, c.offset);
  const Guarded* dweight = trial.output(f.dweight, gradient, {c.width}, 0);
  const Guarded* dbias = trial.output(f.dbias, gradient, {c.width}, 0);
  const Guarded* sum = trial.output(f.sum, gradient, {c.width}, 0);
  abi::LayerNormBackwardAttributes attributes{};
  attributes.wide = f.wide, attributes.sum = f.sum;
  const bool well = trial.run(abi::Opcode::layer_norm_backward, &attributes, norm_workspace(c.rows, c.width, f.sum));

  Worst worst;
  const auto got = dx ? dx->values() : std::vector<double>(count, 0);
  std::vector<double> dw(c.width), db(c.width), total(c.width), dw_size(c.width), db_size(c.width), total_size(c.width);
  for (int64_t r = 0; r < c.rows; ++r) {
    double mean_g = 0, mean_gh = 0, size_g = 0, size_gh = 0;
    const auto at = [&](int64_t i) { return r * c.width + i; };
    const auto h = [&](int64_t i) { return (x[at(i)] - mean[r]) * rstd[r]; };
    const auto h_size = [&](int64_t i) { return (std::fabs(x[at(i)]) + std::fabs(mean[r])) * rstd[r]; };
    for (int64_t i = 0; i < c.width; ++i) {
      const double g = dy[at(i)] * w[i];
      mean_g += g / c.width, mean_gh += g * h(i) / c.width;
      size_g += std::fabs(g) / c.width, size_gh += std::fabs(g) * h_size(i) / c.width;
      dw[i] += dy[at(i)] * h(i), dw_size[i] += std::fabs(dy[at(i)]) * h_size(i);
      db[i] += dy[at(i)], db_size[i] += std::fabs(dy[at(i)]);
      total[i] += got[at(i)], total_size[i] += std::fabs(got[at(i)]);
    }
    for (int64_t i = 0; dx && i < c.width; ++i) {
      const double g = dy[at(i)] * w[i], expected = (g - mean_g - h(i) * mean_gh) * rstd[r] + past[at(i)];
      const double bound = summed(c.width) * (rstd[r] * (std::fabs(g) + size_g + h_size(i) * size_gh) + std::fabs(past[at(i)]));
      worst.compare_rounded(got[at(i)], expected, bound, c.dtype);
    }
  }
  const auto compare_sums = [&](const Guarded* found, const std::vector<double>& expected, const std::vector<double>& size) {
    if (!found) return;
    const auto values = found->values();
    for (int64_t i = 0; i < c.width; ++i) worst.compare_rounded(values[i], expected[i], summed(c.rows) * size[i], gradient);
  };
  compare_sums(dweight, dw, dw_size), compare_sums(dbias, db, db_size), compare_sums(sum, total, total_size);
  std::string form;
  for (const auto& [is_there, name] : {std::pair{f.weighted, " weight"}, {f.residual, " residual"}, {dx != nullptr, " dx"}, {f.dweight, " dweight"},
                                       {f.dbias, " dbias"}, {f.sum, " sum"}, {f.wide, " wide"}, {f.over == 0, " over dy"}, {f.over == 5, " over residual"}})
    if (is_there) form += name;
  return report("norm backward", c, form, worst.ratio, well);
}

/// The derivative of an activation by its formula.
double derivative(int kind, double x) {
  switch (kind) {
    case 0: {
      const double k = std::sqrt(2 / M_PI), t = std::tanh(k * (x + 0.044715 * x * x * x));
      return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * k * (1 + 3 * 0.044715 * x * x);
    }
    case 1: return 0.5 * std::erfc(-x / std::sqrt(2.0)) + x * std::exp(-0.5 * x * x) / std::sqrt(2 * M_PI);
    case 2: return x > 0 ? 1 : 0;
    case 3: {
      const double s = 1 / (1 + std::exp(-x));
      return s * (1 + x * (1 - s));
    }
    default: return 1 - std::tanh(x) * std::tanh(x);
  }
}
double activated(int kind, double x) {
  switch (kind) {
    case 0: return 0.5 * x * (1 + std::tanh(std::sqrt(2 / M_PI) * (x + 0.044715 * x * x * x)));
    case 1: return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case 2: return std::max(x, 0.0);
    case 3: return x / (1 + std::exp(-x));
    default: return std::tanh(x);
  }
}

/// y = f(x) and dx = dy f'(x), over numbers of which some are large.
bool check_activation(Machine& machine, const Case& c, int kind, bool backward) {
  const std::vector<int64_t> shape{c.rows, c.width};
  Trial trial(machine);
  auto numbers = normal(c.rows * c.width, 2, 0, 21);
  for (size_t i = 0; i < numbers.size(); i += 101) numbers[i] *= i % 2 ? 8 : 1e3;
  const auto dy = backward ? trial.operand(true, c.dtype, shape, c.offset, normal(c.rows * c.width, 1, 0, 22))->values() : std::vector<double>{};
  const auto x = trial.operand(true, c.dtype, shape, c.offset, numbers)->values();
  const Guarded* y = backward ? trial.output_over(0) : trial.output(true, c.dtype, shape, c.offset);
  const abi::ActivationAttributes forward_kind{kind};
  const abi::ActivationBackwardAttributes backward_kind{kind};
  const bool well = backward ? trial.run(abi::Opcode::activation_backward, &backward_kind, 0) : trial.run(abi::Opcode::activation, &forward_kind, 0);
  const auto got = y->values();
  Worst worst;
  for (size_t i = 0; i < got.size(); ++i) {
    if (!backward) {
      worst.compare_rounded(got[i], activated(kind, x[i]), 8 * 0x1p-24 * std::fabs(kind < 2 ? x[i] : activated(kind, x[i])), c.dtype);
      continue;
    }
    const double size = std::fabs(dy[i]), cube = std::min(std::fabs(x[i]), 20.0);
    worst.compare_rounded(got[i], dy[i] * derivative(kind, x[i]), 8 * 0x1p-24 * size * (1 + cube * cube * cube), c.dtype);
  }
  return report(backward ? "activation backward" : "activation", c, "kind " + std::to_string(kind), worst.ratio, well);
}

/// The passes after the product of linear_input_gradient_activation: dpre holds the product before and the gradient after.
bool check_derivative(Machine& machine, const Case& c, int kind, bool wide) {
  const std::vector<int64_t> shape{c.rows, c.width};
  Trial trial(machine);
  trial.operand(true, c.dtype, {c.rows, 8}, 0, normal(c.rows * 8, 1, 0, 31));
  trial.operand(true, c.dtype, {8, c.width}, 0, normal(c.width * 8, 1, 0, 32));
  const auto x = trial.operand(true, c.dtype, shape, c.offset, normal(c.rows * c.width, 2, 0, 33))->values();
  // Only this program's products leave what is there, so the output counts as an operand that it lies on.
  const auto dy = trial.operand(true, c.dtype, shape, c.offset, normal(c.rows * c.width, 1, 0, 34))->values();
  const Guarded* dpre = trial.output_over(3);
  const DType gradient = wide ? DType::f32 : c.dtype;
  const Guarded* sum = trial.output(true, gradient, {c.width}, 0);
  abi::LinearInputGradientActivationAttributes attributes{};
  attributes.kind = kind, attributes.sum = 1, attributes.transposed = 1;
  const bool well = trial.run(abi::Opcode::linear_input_gradient_activation, &attributes, derivative_workspace(c.rows, c.width));
  const auto got = dpre->values(), sums = sum->values();
  Worst worst;
  std::vector<double> total(c.width), size(c.width);
  for (int64_t i = 0; i < c.rows * c.width; ++i) {
    const double cube = std::fabs(x[i] * x[i] * x[i]);
    worst.compare_rounded(got[i], dy[i] * derivative(kind, x[i]), 8 * 0x1p-24 * std::fabs(dy[i]) * (1 + cube), c.dtype);
    total[i % c.width] += got[i], size[i % c.width] += std::fabs(got[i]);
  }
  for (int64_t i = 0; i < c.width; ++i) worst.compare_rounded(sums[i], total[i], summed(c.rows) * size[i], gradient);
  return report("derivative with sums", c, "kind " + std::to_string(kind) + (wide ? " wide" : ""), worst.ratio, well);
}

bool checks(Machine& machine) {
  std::vector<Case> cases;
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    for (const auto& [rows, width] : std::initializer_list<std::pair<int64_t, int64_t>>{
             {1, 1}, {3, 8}, {19, 136}, {17, 264}, {300, 512}, {77, 768}, {130, 1024}, {61, 1096}, {131, 1600}, {33, 2048}, {9, 2056},
             {21, 3072}, {10, 8192}, {3, 12288}, {2, 20480}, {5000, 96}, {4100, 64}}) {
      cases.push_back({rows, width, dtype, 0});
    }
    for (const auto& [rows, width] : std::initializer_list<std::pair<int64_t, int64_t>>{{77, 768}, {40, 1024}, {33, 5001}, {7, 3}, {5000, 33}}) {
      cases.push_back({rows, width, dtype, 1});
    }
  }
  bool right = true;
  for (const Case& c : cases) {
    for (int form = 0; form < 8; form += 3) right = check_forward(machine, c, form & 1, form & 2, !(form & 4)) && right;
    right = check_forward(machine, c, true, true, true) && right;
    //                      weight residual dx   dweight dbias  sum   wide  over
    for (const BackwardForm& form : {BackwardForm{true, true, true, true, true, true, true, 5}, {true, true, true, true, true, true, false, -1},
                                     {true, false, true, true, false, false, false, 0}, {false, false, true, false, false, false, false, -1},
                                     {true, false, false, true, true, false, true, -1}, {false, true, true, false, false, true, true, 0},
                                     {true, true, true, false, true, false, false, -1}}) {
      right = check_backward(machine, c, form) && right;
    }
    for (const bool wide : {false, true}) right = check_derivative(machine, c, 0, wide) && right;
  }
  for (const DType dtype : {DType::bf16, DType::f16, DType::f32}) {
    for (int kind = 0; kind < 5; ++kind) {
      const Case c{131, 1021, dtype, kind % 2};
      right = check_activation(machine, c, kind, false) && right;
      right = check_activation(machine, c, kind, true) && right;
      right = check_derivative(machine, {257, 520, dtype, 0}, kind, true) && right;
    }
  }
  return right;
}

/// Times `enqueue(set)` over sets of operands in turn, so that nothing is left of one in the cache when its turn comes again.
template <class F>
void measure(const char* pass, int64_t rows, int64_t width, int64_t bytes, int sets, double copy, F&& enqueue) {
  int turn = 0;
  const double ms = median_milliseconds([&] { enqueue(turn++ % sets); }, 15);
  const double rate = static_cast<double>(bytes) / ms * 1e-9;
  std::printf("{\"measure\":\"%s\",\"rows\":%lld,\"width\":%lld,\"ms\":%.4f,\"terabytes_per_second\":%.3f,\"of_copy\":%.3f}\n", pass,
              static_cast<long long>(rows), static_cast<long long>(width), ms, rate, copy > 0 ? rate / copy : 0);
  std::fflush(stdout);
}

void measurements(Machine& machine, DType dtype) {
  Memory common;
  void* const workspace = common.take(product_workspace);
  const auto copy_rate = [&](const Tensor& from, const Tensor& to) {
    const double ms = median_milliseconds([&] { machine.call(abi::Opcode::copy, {&from}, {&to}, nullptr, nullptr, 0); }, 15);
    return 2.0 * static_cast<double>(from.elements() * size_of(dtype)) / ms * 1e-9;
  };
  double copy = 0;
  {
    Memory memory;
    const Tensor from = memory.random(dtype, {1 << 29}), to = memory.random(dtype, {1 << 29});
    copy = copy_rate(from, to);
    std::printf("{\"measure\":\"copy of 1 GiB\",\"device\":\"%s\",\"terabytes_per_second\":%.3f}\n", machine.device.name.c_str(), copy);
  }
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{65536, 768}, {32768, 1024}, {16384, 1600}}) {
    const int64_t size = rows * width * size_of(dtype), statistics = rows * 8;
    constexpr int sets = 4;
    Memory memory;
    std::vector<Tensor> x, dy, residual, dx, mean, rstd;
    for (int set = 0; set < sets; ++set) {
      for (auto* tensors : {&x, &dy, &residual, &dx}) tensors->push_back(memory.random(dtype, {rows, width}));
      for (auto* tensors : {&mean, &rstd}) tensors->push_back(memory.random(DType::f32, {rows}));
    }
    const Tensor weight = memory.random(dtype, {width}), bias = memory.random(dtype, {width});
    const Tensor dweight = memory.random(dtype, {width}), dbias = memory.random(dtype, {width}), sum = memory.random(dtype, {width});
    const abi::LayerNormAttributes epsilon{1e-5};
    measure("copy", rows, width, 2 * size, sets, copy, [&](int s) { machine.call(abi::Opcode::copy, {&x[s]}, {&dx[s]}, nullptr, nullptr, 0); });
    measure("norm forward", rows, width, 2 * size + statistics, sets, copy, [&](int s) {
      machine.call(abi::Opcode::layer_norm, {&x[s], &weight, &bias}, {&dx[s], &mean[s], &rstd[s]}, &epsilon, nullptr, 0);
    });
    for (const bool past : {true, false}) {
      abi::LayerNormBackwardAttributes attributes{};
      attributes.sum = past;
      measure(past ? "norm backward with residual and sum" : "norm backward", rows, width, (past ? 4 : 3) * size + statistics, sets, copy, [&](int s) {
        machine.call(abi::Opcode::layer_norm_backward, {&dy[s], &x[s], &weight, &mean[s], &rstd[s], past ? &residual[s] : nullptr},
                     {&dx[s], &dweight, &dbias, past ? &sum : nullptr}, &attributes, workspace, product_workspace);
      });
    }
  }
  for (const auto& [rows, width] : {std::pair<int64_t, int64_t>{65536, 3072}, {32768, 4096}, {16384, 6400}}) {
    const int64_t size = rows * width * size_of(dtype);
    constexpr int sets = 2;
    Memory memory;
    std::vector<Tensor> x, dy, y;
    for (int set = 0; set < sets; ++set)
      for (auto* tensors : {&x, &dy, &y}) tensors->push_back(memory.random(dtype, {rows, width}));
    const Tensor sum = memory.random(dtype, {width}), before = memory.random(dtype, {rows, 8}), weight = memory.random(dtype, {8, width});
    const abi::ActivationAttributes kind{0};
    const abi::ActivationBackwardAttributes backward_kind{0};
    measure("GELU", rows, width, 2 * size, sets, copy, [&](int s) { machine.call(abi::Opcode::activation, {&x[s]}, {&y[s]}, &kind, nullptr, 0); });
    measure("GELU'", rows, width, 3 * size, sets, copy,
            [&](int s) { machine.call(abi::Opcode::activation_backward, {&dy[s], &x[s]}, {&y[s]}, &backward_kind, nullptr, 0); });
    for (const bool with_sum : {false, true}) {
      abi::LinearInputGradientActivationAttributes attributes{};
      attributes.sum = with_sum, attributes.transposed = 1;
      measure(with_sum ? "GELU' in place with the sum over rows" : "GELU' in place", rows, width, 3 * size, sets, copy, [&](int s) {
        machine.call(abi::Opcode::linear_input_gradient_activation, {&before, &weight, &x[s]}, {&y[s], with_sum ? &sum : nullptr}, &attributes,
                     workspace, product_workspace);
      });
    }
  }
}

int run(bool checked, bool measured) {
  Machine machine{add_norm, add_linear, add_activation, add_elementwise};
  const bool right = !checked || checks(machine);
  if (measured) measurements(machine, DType::bf16);
  return right ? 0 : 1;
}

}  // namespace
}  // namespace deeptroupe::gpu

int main(int count, char** arguments) {
  bool checked = true, measured = true;
  for (int i = 1; i < count; ++i) {
    if (std::strcmp(arguments[i], "--check") == 0) measured = false;
    else if (std::strcmp(arguments[i], "--measure") == 0) checked = false;
    else return std::fprintf(stderr, "passes: option, expected --check or --measure, got %s\n", arguments[i]), 2;
  }
  try {
    return deeptroupe::gpu::run(checked, measured);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "passes: %s\n", error.what());
    return 1;
  }
}
