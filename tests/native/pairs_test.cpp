// Every kernel of cpu/pairs.h that does the last stage and the pairs at once, and the inverse's in double too, and
// those of cpu/bluestein.h and cpu/resample.h with every outermost radix, by plans that no planner chose: against sums
// by definition, and forward against inverse, on work arrays of exactly the needed size that are NaN at first. And the
// response of decimate.h's filters and of resample.h's window. Built with sanitizers by tests/test_native.py; prints "N
// passed, M failed".
#include <algorithm>
#include <cmath>
#include <complex>
#include <cstdio>
#include <cstring>
#include <limits>
#include <memory>
#include <new>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "cpu/axis_isa.h"

namespace {

using front::AxisPlan;
using front::Direction;
using front::cpu::AxisView;
using front::cpu::kGeneric;
using Values = std::vector<double>;

int passed = 0, failed = 0;

void count(bool good, const std::string& what, double found) {
  good ? ++passed : ++failed;
  if (!good) std::printf("FAILED %s: %.3g\n", what.c_str(), found);
}

double dot(const Values& a, const Values& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += a[i] * b[i];
  return sum;
}

double relative_error(Values found, const Values& expected) {
  for (size_t i = 0; i < found.size(); ++i) found[i] -= expected[i];
  return std::sqrt(dot(found, found) / dot(expected, expected));
}

template <class T>
Values random_values(int64_t size) {
  static std::mt19937 random(1);
  std::normal_distribution<double> normal;
  Values x(size);
  for (double& value : x) value = static_cast<double>(static_cast<T>(normal(random)));
  return x;
}

// Element i of lane l is number i * lanes + l.
Values by_definition(Direction direction, const AxisPlan& plan, int64_t lanes, const Values& x) {
  const bool forward = direction == Direction::forward;
  const int64_t n = plan.n;
  Values y((forward ? plan.kept : n) * lanes, 0.0);
  for (int64_t k = 0; k < plan.kept; ++k)
    for (int64_t i = 0; i < n; ++i) {
      const auto turn = static_cast<double>((2 * i + 1) * k % (4 * n)) / static_cast<double>(4 * n);
      const double factor = std::sqrt((k ? 2.0 : 1.0) / static_cast<double>(n)) * std::cos(2 * M_PI * turn);
      for (int64_t l = 0; l < lanes; ++l) y[(forward ? k : i) * lanes + l] += factor * x[(forward ? i : k) * lanes + l];
    }
  return y;
}

template <class T>
Values transform(Direction direction, const AxisView<T>& axis, int64_t lanes, const Values& x) {
  const std::vector<T> in(x.begin(), x.end());
  std::vector<T> out((direction == Direction::forward ? axis.kept : axis.n) * lanes);
  front::AxisPass pass{};
  pass.direction = direction;
  pass.n = axis.n, pass.kept = axis.kept;
  pass.in = in.data(), pass.out = out.data();
  pass.in_type = pass.out_type = sizeof(T) == 4 ? front::DType::f32 : front::DType::f64;
  pass.in_along = pass.out_along = {lanes, 0, 0};
  pass.lanes[pass.lane_dims++] = {lanes, 1, 1};
  const size_t bytes = 2 * axis.work * kGeneric.vector_bytes;
  void* scratch = ::operator new(bytes, std::align_val_t{64});
  std::memset(scratch, 0xff, bytes);  // NaN
  if constexpr (sizeof(T) == 4)
    kGeneric.f32(pass, axis, axis, {0, 1, 1}, scratch);
  else
    kGeneric.f64(pass, axis, axis, {0, 1, 1}, scratch);
  ::operator delete(scratch, std::align_val_t{64});
  return {out.begin(), out.end()};
}

template <class T>
void check(const AxisPlan& plan) {
  std::shared_ptr<const front::cpu::DftTables<T>> dft;
  std::shared_ptr<const front::cpu::ResampledTables> resampled;
  if (plan.dft.resampled)
    resampled = std::make_shared<const front::cpu::ResampledTables>(plan.dft);
  else
    dft = std::make_shared<const front::cpu::DftTables<T>>(plan.dft);
  const front::cpu::AxisTables<T> tables(plan, {}, dft, resampled);
  const AxisView<T> axis = tables.view();
  const int64_t lanes = front::cpu::lanes_per_block<T>(kGeneric);
  const auto x = random_values<T>(plan.n * lanes), y = random_values<T>(plan.kept * lanes);
  const auto inverse = transform(Direction::inverse, axis, lanes, y);
  const std::string what = (sizeof(T) == 4 ? "float " : "double ") + to_string(plan);
  const double most = 8 * static_cast<double>(std::numeric_limits<T>::epsilon());
  const double error_back = relative_error(inverse, by_definition(Direction::inverse, plan, lanes, y));
  count(error_back <= most, what + " inverse", error_back);
  count(plan.wide == (axis.wide_combine != nullptr), what + " in double if asked", 0);
  if (plan.wide) return;  // inverse alone
  const auto forward = transform(Direction::forward, axis, lanes, x);
  const double error = relative_error(forward, by_definition(Direction::forward, plan, lanes, x));
  const double gap = std::fabs(dot(forward, y) - dot(x, inverse)) / std::sqrt(dot(x, x) * dot(y, y));
  count(error <= most, what + " forward", error);
  count(gap <= most, what + " <Fx, y> - <x, F'y>", gap);
}

// What resample.h's tables make of exp(-2 pi i j k / n): the window's values are float, which rounds by 1.4e-8
// to 3.5e-8; its own error must be below that. With two values fewer it would be 5e-8.
void check_window(const front::DftPlan& plan, int64_t step) {
  constexpr int64_t kTaps = front::plan_detail::kResampleTaps;
  const front::cpu::ResampledTables tables(plan);
  const front::cpu::ResampledView view = tables.view();
  const int64_t n = plan.n, all = 2 * plan.smooth;
  const auto wave = [](int64_t num, int64_t den) {
    return std::polar(1.0, -2 * M_PI * static_cast<double>(num % den) / static_cast<double>(den));
  };
  double squares = 0, terms = 0;
  for (int64_t k = 0; k < n; k += step)
    for (int64_t i = 0; i < n; ++i) {
      const int64_t j = 2 * i < n ? i : i - n;
      std::complex<double> sum = 0;
      for (int64_t odd = 0; odd < 2; ++odd)
        for (int64_t t = 0; t < kTaps / 2; ++t) {
          const int64_t l = 2 * (view.first[2 * k + odd] - kTaps + t) + odd;
          sum += static_cast<double>(view.taps[kTaps * k + kTaps / 2 * odd + t]) * wave(j * l, all);
        }
      squares += std::norm(view.scale[i] * sum - wave(j * k, n)), ++terms;
    }
  const double error = std::sqrt(squares / terms);
  count(error <= 3.8e-8, "window of " + std::to_string(n) + " from " + std::to_string(plan.smooth), error);
}

// A(u) of filters.h at u / n = share. Of the coefficients that may be kept it must fall little, because rounding errors
// are divided by it; aliases must be below float32's digits.
void check_filter(const front::plan_detail::Filter& filter, double most_alias) {
  AxisPlan plan;
  plan.n = 4 * filter.share, plan.filter = &filter;
  plan.dft = front::plan_dft(plan.length() / 2, sizeof(float));
  const front::cpu::AxisTables<float> tables(plan, {}, std::make_shared<const front::cpu::DftTables<float>>(plan.dft));
  const float* taps = tables.view().filter;
  const auto response = [&](double share) {
    double a = 0;
    for (int t = 0; t < filter.taps / 2; ++t)
      a += static_cast<double>(taps[t]) * std::cos(M_PI / 2 * share * (2 * t + 1));
    return a;
  };
  const double last = 1 / static_cast<double>(filter.share), fold = 2.0 / filter.factor;
  double alias = 0, least = std::fabs(response(0)), most = least;
  for (double share = 0; share <= last; share += last / 16384) {
    const double kept = std::fabs(response(share));
    least = std::fmin(least, kept), most = std::fmax(most, kept);
    for (double at = fold; at <= 1; at += fold) {
      alias = std::fmax(alias, std::fabs(response(at - share)) / kept);
      if (at < 1) alias = std::fmax(alias, std::fabs(response(at + share)) / kept);
    }
  }
  count(least >= 0.7 * most, std::to_string(filter.taps) + " taps, least response of kept coefficients", least / most);
  count(alias <= most_alias, std::to_string(filter.taps) + " taps, alias", alias);
}

// Of the transpose, whose weights are rounded once more: a wave of the kept ones, e^{i w j}, makes values f j + r of
// which each of the f waves that it may stand for has a share.
void check_interpolation(const front::plan_detail::Filter& filter, double most_alias) {
  const float* const half = front::cpu::filter_half(filter);
  const int factor = filter.factor;
  double alias = 0;
  for (int i = 0; i <= 4096; ++i) {
    const double w = M_PI * factor / static_cast<double>(filter.share) * i / 4096;
    std::vector<std::complex<double>> share(factor);
    for (int r = 0; r < factor; ++r) {
      const int mirrored = std::min(r, factor - 1 - r);
      std::complex<double> value = front::plan_detail::even(filter, half, mirrored, 0);
      for (int a = 1; a <= filter.edge(); ++a)
        value += 2.0 * front::plan_detail::even(filter, half, mirrored, a) * std::cos(w * a) +
                 std::complex<double>(0, r == mirrored ? 2 : -2) *
                     static_cast<double>(front::plan_detail::odd(filter, half, mirrored, a)) * std::sin(w * a);
      for (int q = 0; q < factor; ++q) share[q] += value * std::polar(1.0, -(w + 2 * M_PI * q) / factor * r);
    }
    for (int q = 1; q < factor; ++q) alias = std::fmax(alias, std::abs(share[q]) / std::abs(share[0]));
  }
  count(alias <= most_alias, std::to_string(filter.taps) + " taps, alias of the transpose", alias);
}

}  // namespace

int main() {
  for (int32_t radix : {2, 3, 4, 5, 8})
    for (auto [split, runs] : {std::pair<int64_t, int64_t>{1, 1}, {1, 2}, {2, 1}})
      for (int32_t span : {1, 3, 4, 12}) {
        if (radix == 2 && split == 2) continue;  // has no such kernel
        const int64_t half = radix * span;
        for (int64_t of_last_run : {int64_t{1}, (half + 1) / 2, half}) {
          AxisPlan plan;
          plan.n = 2 * split * half, plan.kept = (runs - 1) * half + of_last_run;
          plan.split = split, plan.dft.n = half;
          plan.dft.radices = span == 1 ? std::vector<int32_t>{radix} : std::vector<int32_t>{span, radix};
          check<double>(plan);
          check<float>(plan);
          plan.wide = plan.fused();  // of radix 8 two parts are too many
          if (plan.wide) check<float>(plan);
        }
      }
  for (int32_t radix : {2, 3, 4, 5, 7, 8, 12})
    for (auto [n, split] : {std::pair<int64_t, int64_t>{37, 0}, {37, 1}, {34, 3}, {35, 1}, {48, 2}}) {
      AxisPlan plan;  // split 0: an odd length
      plan.n = split ? 2 * split * n : n, plan.split = split ? split : 1, plan.kept = (plan.n + 1) / 2;
      plan.dft.n = n, plan.dft.smooth = radix;
      while (plan.dft.smooth < n) plan.dft.radices.push_back(radix == 4 ? 3 : 4), plan.dft.smooth *= radix == 4 ? 3 : 4;
      plan.dft.radices.push_back(radix);
      check<double>(plan);
      plan.dft.resampled = true;
      check<float>(plan);
      check_window(plan.dft, 1);
    }
  check_window({5087, 5120, true, {2, 5, 8, 8, 8}, 0}, 61);
  check_filter(front::plan_detail::kFilters[0], 4.5e-9);
  check_filter(front::plan_detail::kFilters[1], 7.5e-9);
  check_filter(front::plan_detail::kFilters[2], 6.9e-9);
  check_interpolation(front::plan_detail::kFilters[0], 4.5e-9);
  check_interpolation(front::plan_detail::kFilters[1], 7.5e-9);
  check_interpolation(front::plan_detail::kFilters[2], 1.25e-8);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
