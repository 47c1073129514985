#include "spectral.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <vector>

#include "../plan.h"
#include "axis.h"
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

// The mean of the first values of the first row, as many as the largest power of two up to 64: of equal values that
// value. Rounded to the compute type, in which it is subtracted.
double typical_value(const SpectralMatrix& x) {
  int64_t count = 1;
  while (2 * count <= std::min<int64_t>(x.n, 64)) count *= 2;
  double sum = 0;
  for (int64_t j = 0; j < count; ++j)
    sum += first_value(static_cast<const char*>(x.x) + j * x.column * size_of(x.type), x.type);
  const double mean = sum / static_cast<double>(count);
  return x.compute() == DType::f64 ? mean : static_cast<double>(static_cast<float>(mean));
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
Energy weigh(T* c, const SpectralLoss& p, const Executor& executor) {
  const SpectralMatrix& x = p.matrix;
  const bool box = p.decay0 == 0 && p.decay1 == 0;
  const Factors rows(p.decay0, x.m, box ? 0 : x.k0), columns(p.decay1, x.n, box ? 0 : x.k1);
  std::vector<Energy> row_energy(static_cast<size_t>(x.k0));
  parallel_for(executor, x.k0, std::max<int64_t>(1, kGrainPoints / x.k1), [&](int64_t begin, int64_t end) {
    for (int64_t u = begin; u < end; ++u) {
      T* row = c + u * x.k1;
      Energy e;
      for (int64_t v = 0; v < x.k1; ++v) {
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

double positive(double v) { return v < 0 ? 0 : v; }  // NaN stays

double count_of(const SpectralMatrix& x) { return static_cast<double>(x.m) * static_cast<double>(x.n); }

double std_of(const Spread& spread, const SpectralMatrix& x) {
  return count_of(x) > 1 ? std::sqrt(spread.energy / (count_of(x) - 1)) : 0;
}

// Of the rows alone: between x (or its gradient) and [m, k1] coefficients.
AxisPass row_pass(Direction direction, const SpectralMatrix& x) {
  AxisPass pass{};
  pass.direction = direction;
  pass.n = x.n, pass.kept = x.k1;
  pass.in_type = pass.out_type = x.compute();
  pass.in_along = pass.out_along = {1, 0, 0};
  pass.lane_dims = 1;
  pass.lanes[0] = {x.m, x.k1, x.k1};
  return pass;
}

MatrixPass matrix_pass(Direction direction, const SpectralMatrix& x) {
  MatrixPass pass{};
  pass.direction = direction;
  pass.m = x.m, pass.n = x.n, pass.k0 = x.k0, pass.k1 = x.k1;
  pass.in_type = pass.compute_type = pass.out_type = x.compute();
  pass.in_row = pass.out_row = x.k1, pass.in_column = pass.out_column = 1;
  pass.count = 1;
  return pass;
}

void run_loss(SpectralLoss& p, const Executor& executor) {
  const SpectralMatrix& x = p.matrix;
  const Workspace corner(static_cast<size_t>(x.k0 * x.k1 * size_of(x.compute())));
  p.loss = 0;
  const Spread spread = read_coefficients(x, corner.data(), executor);
  if (spread.constant) return;
  const double std = std_of(spread, x), s = p.standardize ? std + kStdEps : 1;
  const Energy low = x.compute() == DType::f64 ? weigh(static_cast<double*>(corner.data()), p, executor)
                                               : weigh(static_cast<float*>(corner.data()), p, executor);
  const double high = positive(spread.energy - low.kept);
  p.loss = high / (s * s);
  if (!p.grad.data && high > kParsevalShare * spread.energy) return;

  // The gradient's second term may have `high` as it is here: its error is then no larger than the residual's own.
  p.grad.factor = p.scale * 2 / (s * s);
  p.grad.slope = p.standardize ? -p.scale * 2 * high / (s * s * s * (count_of(x) - 1) * std) : 0;
  p.grad.mean = spread.mean;
  p.grad.shift = spread.shift;
  p.loss = (add_residual(x, corner.data(), p.grad, executor) + low.extra) / (s * s);
}

}  // namespace

Spread read_coefficients(const SpectralMatrix& x, void* coefficients, const Executor& executor) {
  std::vector<Moments> moments(static_cast<size_t>(x.m));
  const Measure measure{typical_value(x), moments.data()};
  if (x.only_rows) {
    AxisPass pass = row_pass(Direction::forward, x);
    pass.in = x.x, pass.in_type = x.type, pass.in_along = {x.column, 0, 0}, pass.lanes[0].in_stride = x.row;
    pass.out = coefficients;
    pass.measure = &measure;
    run_axis(pass, executor);
  } else {
    MatrixPass pass = matrix_pass(Direction::forward, x);
    pass.in = &x.x, pass.in_type = x.type, pass.in_row = x.row, pass.in_column = x.column;
    pass.out = &coefficients;
    pass.measure = &measure;
    run_matrices(pass, executor);
  }
  Moments sums{};
  for (const Moments& part : moments) sums.sum += part.sum, sums.square += part.square;
  Spread spread;
  spread.shift = measure.shift;
  spread.mean = measure.shift + sums.sum / count_of(x);
  spread.energy = positive(sums.square - sums.sum / count_of(x) * sums.sum);
  const double eps = x.compute() == DType::f64 ? std::numeric_limits<double>::epsilon()
                                               : static_cast<double>(std::numeric_limits<float>::epsilon());
  // NOTE: a matrix this near to constant is, up to a factor of about 1, nowhere larger than in its first row.
  spread.constant = std_of(spread, x) <= 8 * eps * std::abs(measure.shift);
  return spread;
}

double add_residual(const SpectralMatrix& x, const void* coefficients, const SpectralGrad& given,
                    const Executor& executor) {
  SpectralGrad grad = given;
  if (!grad.data) grad.type = x.type, grad.row = x.row, grad.column = x.column;  // x is walked as if it were written
  std::vector<double> squares(static_cast<size_t>(x.m));
  const Residual residual{x.x, x.type, x.row, x.column, grad.factor, grad.slope, grad.mean, grad.shift, squares.data()};
  if (x.only_rows) {
    AxisPass pass = row_pass(Direction::inverse, x);
    pass.in = coefficients;
    pass.out = grad.data, pass.out_type = grad.type, pass.out_along = {grad.column, 0, 0};
    pass.lanes[0].out_stride = grad.row;
    pass.residual = &residual;
    run_axis(pass, executor);
  } else {
    MatrixPass pass = matrix_pass(Direction::inverse, x);
    pass.in = &coefficients;
    pass.out = &grad.data, pass.out_type = grad.type, pass.out_row = grad.row, pass.out_column = grad.column;
    pass.residual = &residual;
    run_matrices(pass, executor);
  }
  return std::accumulate(squares.begin(), squares.end(), 0.0);
}

void run_spectral(SpectralLoss* losses, int64_t count, bool apart, const Executor& executor) {
  // Small matrices are dealt out to the threads whole, the costliest first, each to the thread that has least to do;
  // threads share each of the others.
  std::vector<SpectralLoss*> own, shared;
  for (int64_t i = 0; i < count; ++i) {
    const SpectralMatrix& x = losses[i].matrix;
    const bool small = x.m * x.k1 * size_of(x.compute()) <= kOwnBytes;
    (apart && small ? own : shared).push_back(losses + i);
  }
  const auto cost = [](const SpectralLoss* p) { return count_of(p->matrix); };
  std::stable_sort(own.begin(), own.end(),
                   [&](const SpectralLoss* a, const SpectralLoss* b) { return cost(a) > cost(b); });
  const auto threads = static_cast<size_t>(std::max<int64_t>(1, executor.threads));
  std::vector<std::vector<SpectralLoss*>> dealt(threads);
  std::vector<double> load(threads);
  for (SpectralLoss* p : own) {
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
        for (SpectralLoss* p : dealt[t]) run_loss(*p, kSerial);
    });
  }
  for (SpectralLoss* p : shared) run_loss(*p, executor);
}

}  // namespace front::cpu
