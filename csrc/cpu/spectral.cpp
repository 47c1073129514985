#include "spectral.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "../plan.h"
#include "matrix.h"
#include "memory.h"
#include "parallel.h"

namespace front::cpu {
namespace {

// Below this share of the energy its value is the residual's: what Parseval's identity subtracts would cancel.
constexpr double kParsevalShare = 1e-2;
constexpr double kStdEps = 1e-8;  // what is added to a standard deviation

double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 31  ? (fraction ? std::nan("") : std::numeric_limits<double>::infinity())
                           : exponent == 0 ? std::ldexp(fraction, -24)
                                           : std::ldexp(1024 + fraction, exponent - 25);
  return bits >> 15 ? -magnitude : magnitude;
}

double first_value(const void* x, DType type) {
  const auto read = [x](auto value) {
    std::memcpy(&value, x, sizeof value);
    return value;
  };
  switch (type) {
    case DType::f16:
      return half_value(read(uint16_t{}));
    case DType::bf16: {
      const uint32_t bits = static_cast<uint32_t>(read(uint16_t{})) << 16;
      float value;
      std::memcpy(&value, &bits, sizeof value);
      return value;
    }
    case DType::f32:
      return read(float{});
    default:
      return read(double{});
  }
}

// exp(-decay u / n) and what it lacks to 1, without cancellation.
struct Factors {
  Factors(double decay, int64_t n, int64_t kept) {
    for (int64_t u = 0; u < kept; ++u) {
      const double exponent = -decay * static_cast<double>(u) / static_cast<double>(n);
      kept_.push_back(std::exp(exponent));
      lost_.push_back(-std::expm1(exponent));
    }
  }
  std::vector<double> kept_, lost_;
};

struct Energy {
  double kept = 0;   // sum of w C^2 without the mean's coefficient
  double extra = 0;  // sum of w (1 - w) C^2: what E has more than the squared residual
};

// C becomes w C.
template <class T>
Energy weigh(T* c, const SpectralMatrix& p, const Executor& executor) {
  const bool box = p.decay0 == 0 && p.decay1 == 0;
  const Factors rows(p.decay0, p.m, box ? 0 : p.k0), columns(p.decay1, p.n, box ? 0 : p.k1);
  std::vector<Energy> row_energy(static_cast<size_t>(p.k0));
  parallel_for(executor, p.k0, std::max<int64_t>(1, kGrainPoints / p.k1), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      T* row = c + u * p.k1;
      Energy e;
      for (int64_t v = 0; v < p.k1; ++v) {
        const double square = static_cast<double>(row[v]) * static_cast<double>(row[v]);
        double w = 1, lost = 0;
        if (!box) {
          w = rows.kept_[u] * columns.kept_[v];
          lost = rows.lost_[u] + rows.kept_[u] * columns.lost_[v];
          row[v] = static_cast<T>(w * row[v]);
        }
        if (u + v > 0) e.kept += w * square;
        e.extra += w * lost * square;
      }
      row_energy[u] = e;
    }
  });
  Energy total;
  for (const Energy& e : row_energy) total.kept += e.kept, total.extra += e.extra;
  return total;
}

MatrixPass matrix_pass(Direction direction, const SpectralMatrix& p, DType compute) {
  MatrixPass pass{};
  pass.direction = direction;
  pass.m = p.m, pass.n = p.n, pass.k0 = p.k0, pass.k1 = p.k1;
  pass.compute_type = compute;
  pass.count = 1;
  return pass;
}

void run_one(SpectralMatrix& p, const Executor& executor) {
  const DType compute = p.type == DType::f64 ? DType::f64 : DType::f32;
  const Workspace corner(static_cast<size_t>(p.k0 * p.k1 * size_of(compute)));
  const void* const coefficients[] = {corner.data()};
  const auto lanes = static_cast<size_t>(p.m);
  p.loss = 0;

  std::vector<Moments> moments(lanes);
  const Measure measure{first_value(p.x, p.type), moments.data()};
  void* const to_corner[] = {corner.data()};
  MatrixPass forward = matrix_pass(Direction::forward, p, compute);
  forward.in = &p.x, forward.in_type = p.type, forward.in_row = p.row, forward.in_column = p.column;
  forward.out = to_corner, forward.out_type = compute, forward.out_row = p.k1, forward.out_column = 1;
  forward.measure = &measure;
  run_matrices(forward, executor);

  Moments sums{};
  for (const Moments& part : moments) sums.sum += part.sum, sums.square += part.square;
  const double count = static_cast<double>(p.m) * static_cast<double>(p.n);
  const auto positive = [](double v) { return v < 0 ? 0 : v; };               // NaN stays
  const double energy = positive(sums.square - sums.sum / count * sums.sum);  // of x - mean
  const double std = count > 1 ? std::sqrt(energy / (count - 1)) : 0;
  const double eps = compute == DType::f64 ? std::numeric_limits<double>::epsilon()
                                           : static_cast<double>(std::numeric_limits<float>::epsilon());
  // NOTE: a matrix this near to constant is, up to a factor of about 1, nowhere larger than at its first element.
  if (std <= 8 * eps * std::abs(measure.shift)) return;

  const Energy low = compute == DType::f64 ? weigh(static_cast<double*>(corner.data()), p, executor)
                                           : weigh(static_cast<float*>(corner.data()), p, executor);
  const double high = positive(energy - low.kept);
  const double s = p.standardize ? std + kStdEps : 1;
  p.loss = high / (s * s);
  if (!p.grad && high > kParsevalShare * energy) return;

  // The gradient's second term may have `high` as it is here: its error is then no larger than the residual's own.
  std::vector<double> squares(lanes);
  const Residual residual{p.x,
                          p.type,
                          p.row,
                          p.column,
                          p.scale * 2 / (s * s),
                          p.standardize ? -p.scale * 2 * high / (s * s * s * (count - 1) * std) : 0,
                          measure.shift + sums.sum / count,
                          squares.data()};
  MatrixPass inverse = matrix_pass(Direction::inverse, p, compute);
  inverse.in = coefficients, inverse.in_type = compute, inverse.in_row = p.k1, inverse.in_column = 1;
  inverse.out = &p.grad, inverse.out_type = p.grad_type;
  inverse.out_row = p.grad_row, inverse.out_column = p.grad_column;
  inverse.residual = &residual;
  run_matrices(inverse, executor);
  p.loss = (std::accumulate(squares.begin(), squares.end(), 0.0) + low.extra) / (s * s);
}

}  // namespace

void run_spectral(SpectralMatrix* matrices, int64_t count, bool apart, const Executor& executor) {
  // Small matrices are dealt out to the threads whole, the costliest first, each to the thread that has least to do;
  // threads share each of the others.
  std::vector<SpectralMatrix*> own, shared;
  for (int64_t i = 0; i < count; ++i) {
    const bool small = matrices[i].m * matrices[i].k1 * size_of(matrices[i].type) <= kOwnBytes;
    (apart && small ? own : shared).push_back(matrices + i);
  }
  const auto cost = [](const SpectralMatrix* p) { return static_cast<double>(p->m) * static_cast<double>(p->n); };
  std::stable_sort(own.begin(), own.end(),
                   [&](const SpectralMatrix* a, const SpectralMatrix* b) { return cost(a) > cost(b); });
  const auto threads = static_cast<size_t>(std::max<int64_t>(1, executor.threads));
  std::vector<std::vector<SpectralMatrix*>> dealt(threads);
  std::vector<double> load(threads);
  for (SpectralMatrix* p : own) {
    const auto least = std::min_element(load.begin(), load.end()) - load.begin();
    dealt[least].push_back(p);
    load[least] += cost(p);
  }
  const double most = *std::max_element(load.begin(), load.end());
  const double total = std::accumulate(load.begin(), load.end(), 0.0);
  if (4 * most * static_cast<double>(threads) > 5 * total) {  // more than a fifth of the time would be idle
    shared.insert(shared.end(), own.begin(), own.end());
  } else {
    parallel_for(executor, static_cast<int64_t>(threads), 1, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (SpectralMatrix* p : dealt[t]) run_one(*p, kSerial);
    });
  }
  for (SpectralMatrix* p : shared) run_one(*p, executor);
}

}  // namespace front::cpu
