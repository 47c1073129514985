// run_spectral on buffers of exactly the needed size, gradients between sentinels, against sums by definition. Built
// with sanitizers by tests/test_native.py; prints "N passed, M failed".
#include <cmath>
#include <cstdio>
#include <map>
#include <random>
#include <tuple>
#include <vector>

#include "cpu/spectral.h"

namespace {

using front::DType;
using front::cpu::SpectralLoss;

constexpr double kSentinel = 77;
int passed = 0, failed = 0;

void serial(int64_t count, int64_t, front::ParallelBody body, void* context) {
  for (int64_t i = 0; i < count; ++i) body(i, i + 1, context);
}

// D_n^T diag(w) D_n with w_u = exp(-decay u / n) for u < kept, otherwise 0.
const std::vector<double>& filter(int64_t n, int64_t kept, double decay) {
  static std::map<std::tuple<int64_t, int64_t, double>, std::vector<double>> known;
  std::vector<double>& f = known[{n, kept, decay}];
  if (!f.empty()) return f;
  f.resize(n * n);
  for (int64_t u = 0; u < kept; ++u)
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        const auto wave = [&](int64_t k) {
          return std::cos(static_cast<double>((2 * k + 1) * u % (4 * n)) * M_PI / (2 * static_cast<double>(n)));
        };
        const double scale = std::exp(-decay * static_cast<double>(u) / static_cast<double>(n)) * (u ? 2.0 : 1.0);
        f[i * n + j] += scale * wave(i) * wave(j) / static_cast<double>(n);
      }
  return f;
}

template <class T>
void check(int64_t m, int64_t n, int64_t k0, int64_t k1, bool by_columns, int64_t gap, bool standardize, double decay,
           bool with_grad) {
  const int64_t row = by_columns ? 1 : n + gap, column = by_columns ? m + gap : 1;
  const int64_t size = (m - 1) * row + (n - 1) * column + 1;
  std::vector<T> x(size, static_cast<T>(NAN)), grad(size, static_cast<T>(kSentinel));
  std::mt19937 random(static_cast<unsigned>(m * 31 + n));
  std::normal_distribution<double> values(0.3, 1);
  std::vector<double> d(m * n);
  double mean = 0;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      x[i * row + j * column] = static_cast<T>(values(random));
      grad[i * row + j * column] = 2;
      d[i * n + j] = x[i * row + j * column];
      mean += d[i * n + j] / static_cast<double>(m * n);
    }

  SpectralLoss loss{};
  loss.matrix = {x.data(), sizeof(T) == 8 ? DType::f64 : DType::f32, m, n, k0, k1, row, column, false};
  loss.grad = {with_grad ? grad.data() : nullptr, loss.matrix.type, row, column, 0, 0, 0, 0};
  loss.decay0 = loss.decay1 = decay;
  loss.standardize = standardize;
  loss.scale = 0.5;
  front::cpu::run_spectral(&loss, 1, true, {serial, 1});

  // E = <x, x - A x B>; of the standardised matrix through the chain rule.
  const std::vector<double>&a = filter(m, k0, decay), &b = filter(n, k1, decay);
  double energy = 0, squares = 0;
  std::vector<double> r(m * n, 0.0), half(m * n, 0.0);
  for (double& v : d) v -= mean, squares += v * v;
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      for (int64_t k = 0; k < n; ++k) half[i * n + j] += d[i * n + k] * b[k * n + j];
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      r[i * n + j] = d[i * n + j];
      for (int64_t k = 0; k < m; ++k) r[i * n + j] -= a[i * m + k] * half[k * n + j];
      energy += d[i * n + j] * r[i * n + j];
    }
  const double count = static_cast<double>(m * n), std = count > 1 ? std::sqrt(squares / (count - 1)) : 0;
  const double s = standardize ? std + 1e-8 : 1;
  const bool constant = std == 0;
  const double expected = constant ? 0 : energy / (s * s);
  double error = 0, scale = 0;
  bool sentinels = true;
  std::vector<bool> inside(size, false);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j) {
      const int64_t at = i * row + j * column;
      inside[at] = true;
      double g = 2 * r[i * n + j] / (s * s);
      if (standardize) g -= 2 * energy / (s * s * s * (count - 1) * std) * d[i * n + j];
      const double added = with_grad && !constant ? 0.5 * g : 0;
      error += std::pow(static_cast<double>(grad[at]) - (2 + added), 2);
      scale += std::pow(2 + std::fabs(d[i * n + j] + mean) / (s * s), 2);
    }
  for (int64_t i = 0; i < size; ++i) sentinels &= inside[i] || grad[i] == static_cast<T>(kSentinel);
  const double limit = sizeof(T) == 8 ? 1e-13 : 1e-6;
  const bool good = sentinels && std::sqrt(error) <= limit * std::sqrt(scale) &&
                    std::fabs(loss.loss - expected) <= limit * (squares / (s * s) + (constant ? 1 : 0));
  good ? ++passed : ++failed;
  if (!good)
    std::printf(
        "FAILED %ldx%ld -> %ldx%ld %s gap=%ld standardize=%d decay=%g: loss %g, expected %g, gradient off by %g\n",
        static_cast<long>(m), static_cast<long>(n), static_cast<long>(k0), static_cast<long>(k1),
        by_columns ? "columns" : "rows", static_cast<long>(gap), standardize, decay, loss.loss, expected,
        std::sqrt(error / scale));
}

// Of this matrix nothing is left once two passes have run: those that make its coefficients.
float* passing = nullptr;
int64_t passing_size = 0;
int regions = 0;

void poisoning(int64_t count, int64_t, front::ParallelBody body, void* context) {
  if (regions++ == 2)
    for (int64_t i = 0; i < passing_size; ++i) passing[i] = NAN;
  serial(count, 1, body, context);
}

// How often the matrix is read: once for the loss alone, as long as a hundredth of the energy is high, otherwise twice.
void check_reads(double noise, bool with_grad, bool once) {
  constexpr int64_t m = 64, n = 48, kept = 8;
  std::vector<float> x(m * n), grad(m * n);
  std::mt19937 random(1);
  std::normal_distribution<double> values(0, noise);
  for (int64_t i = 0; i < m; ++i)
    for (int64_t j = 0; j < n; ++j)
      x[i * n + j] = static_cast<float>(std::cos(M_PI * (static_cast<double>(i) + 0.5) / m) + values(random));
  SpectralLoss loss{};
  loss.matrix = {x.data(), DType::f32, m, n, kept, kept, n, 1, false};
  loss.grad = {with_grad ? grad.data() : nullptr, DType::f32, n, 1, 0, 0, 0, 0};
  loss.scale = 1;
  SpectralLoss expected = loss;
  front::cpu::run_spectral(&expected, 1, false, {serial, 1});
  passing = x.data(), passing_size = m * n, regions = 0;
  front::cpu::run_spectral(&loss, 1, false, {poisoning, 1});
  const bool good =
      std::isfinite(expected.loss) && regions > 2 && (once ? loss.loss == expected.loss : std::isnan(loss.loss));
  good ? ++passed : ++failed;
  if (!good)
    std::printf("FAILED reads: noise %g, gradient %d: loss %g, expected %g, in %d regions\n", noise, with_grad,
                loss.loss, expected.loss, regions);
}

}  // namespace

int main() {
  check_reads(1, false, true);
  check_reads(1, true, false);
  check_reads(1e-2, false, false);
  check_reads(1e-2, true, false);

  struct Size {
    int64_t m, n, k0, k1;
  };
  for (auto [m, n, k0, k1] : {Size{1, 1, 1, 1},
                              {1, 67, 1, 20},
                              {67, 1, 20, 1},
                              {5, 7, 5, 7},
                              {33, 48, 10, 17},
                              {37, 61, 37, 3},
                              {16, 256, 4, 30},
                              {70, 34, 1, 1}})
    for (bool by_columns : {false, true})
      for (int64_t gap : {0, 3})
        for (bool standardize : {false, true})
          for (double decay : {0.0, 1.5})
            for (bool with_grad : {false, true}) {
              if (m * n == 1 && standardize) continue;  // has no deviation
              check<float>(m, n, k0, k1, by_columns, gap, standardize, decay, with_grad);
              check<double>(m, n, k0, k1, by_columns, gap, standardize, decay, with_grad);
            }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
