// Sums of what ranks hold, for the collectives: added left to right, element by element, so their bits depend on nothing else.
#include "check.h"

namespace deeptroupe::DT_ISA {

namespace {

/// Elements of one task.
constexpr int64_t block = 65536;

/// Sources of S onto a target of D, which each addition is rounded to unless `once`.
template <class S, class D, bool once>
void sum_floats(const SumOfRanks& sum) {
  D* const to = static_cast<D*>(sum.target);
  const D* const base = static_cast<const D*>(sum.base);
  const int first = base ? 0 : 1;
  sum.pool->each((sum.elements + block - 1) / block, [&](int64_t task, int) {
    const int64_t end = task * block + block < sum.elements ? task * block + block : sum.elements;
    for (int64_t i = task * block; i < end; i += VL) {
      const int n = lanes_left(end - i);
      vf total = base ? load_part(base + i, n) : load_part(static_cast<const S*>(sum.sources[0]) + i, n);
      for (int s = first; s < sum.count; ++s) {
        total += load_part(static_cast<const S*>(sum.sources[s]) + i, n);
        if constexpr (!once) total = round_to<D>(total);
      }
      store_part(to + i, total, n);
    }
  });
}

void sum_doubles(const SumOfRanks& sum) {
  double* const to = static_cast<double*>(sum.target);
  const double* const base = static_cast<const double*>(sum.base);
  sum.pool->each((sum.elements + block - 1) / block, [&](int64_t task, int) {
    const int64_t end = task * block + block < sum.elements ? task * block + block : sum.elements;
    for (int64_t i = task * block; i < end; ++i) {
      double total = base ? base[i] : static_cast<const double*>(sum.sources[0])[i];
      for (int s = base ? 0 : 1; s < sum.count; ++s) total += static_cast<const double*>(sum.sources[s])[i];
      to[i] = total;
    }
  });
}

void sum_of_ranks(const SumOfRanks& sum) {
  if (sum.source == DType::f64) return sum_doubles(sum);
  const Tensor source{nullptr, sum.source, 0, {}};
  with_float("sum", "source", source, [&]<class S>(TypeTag<S>) {
    if (sum.target_dtype == DType::f32) sum_floats<S, float, false>(sum);
    else if (sum.once) sum_floats<S, S, true>(sum);
    else sum_floats<S, S, false>(sum);
  });
}

}  // namespace

void add_sum(KernelTable& table) { table.sum = sum_of_ranks; }

}  // namespace deeptroupe::DT_ISA
