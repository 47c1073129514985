#include "dfts.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "roots.h"

namespace front::cpu {

namespace {

// Plain recursive DFT in double, for tables only. root[j] = exp(-2 pi i j / root.size()).
void exact_dft(const ComplexDouble* x, int64_t stride, int64_t n, const std::vector<ComplexDouble>& root,
               ComplexDouble* y) {
  if (n == 1) {
    *y = *x;
    return;
  }
  int64_t p = 2;
  while (n % p) ++p;
  const int64_t m = n / p, step = static_cast<int64_t>(root.size()) / n;
  std::vector<ComplexDouble> parts(n);
  for (int64_t q = 0; q < p; ++q) exact_dft(x + q * stride, stride * p, m, root, parts.data() + q * m);
  for (int64_t k = 0; k < n; ++k) {
    ComplexDouble sum = parts[k % m];
    for (int64_t q = 1; q < p; ++q) sum += root[q * k % n * step] * parts[q * m + k % m];
    y[k] = sum;
  }
}

}  // namespace

template <class T>
Fft<T>::Fft(int64_t n, const std::vector<int32_t>& radices) : n_(n), slot_(n) {
  auto half = [](int32_t r) -> int64_t { return plan_detail::is_generic(r) ? (r - 1) / 2 : 0; };
  int64_t span = 1, count = 0;
  for (int32_t r : radices) {
    count += 2 * span * (r - 1) + 2 * half(r) * half(r);
    span *= r;
  }
  values_.resize(count);
  T* at = values_.data();
  span = 1;
  for (int32_t r : radices) {
    StageView<T> stage{r, span, at, nullptr};
    at = fill_twiddles(r, span, at);
    stage.rotations = at;
    for (int part = 0; part < 2; ++part)
      for (int64_t q = 1; q <= half(r); ++q)
        for (int64_t j = 1; j <= half(r); ++j) {
          const auto w = unit(q * j, r);
          *at++ = static_cast<T>(part == 0 ? w.real() : -w.imag());
        }
    stages_.push_back(stage);
    span *= r;
  }
  for (int64_t j = 0; j < n; ++j) {  // decimation in time: the outermost stage splits by the lowest digit
    int64_t rest = j, block = n, slot = 0;
    for (auto r = radices.rbegin(); r != radices.rend(); ++r) {
      block /= *r;
      slot += (rest % *r) * block;
      rest /= *r;
    }
    slot_[j] = static_cast<int32_t>(slot);
  }
}

template <class T>
int64_t Fft<T>::bytes() const {
  return bytes_of(values_) + bytes_of(stages_) + bytes_of(slot_);
}

template <class T>
DftTables<T>::DftTables(const DftPlan& plan) : plan_(plan), fft_(plan.smooth ? plan.smooth : plan.n, plan.radices) {
  const int64_t n = plan.n, m = plan.smooth, all = 2 * m;
  if (!m) return;
  if (plan.resampled || sizeof(T) != sizeof(double)) throw std::logic_error("Bluestein's DFTs are float64");
  std::vector<ComplexDouble> root(all), conjugate(all), spectrum(all);
  for (int64_t j = 0; j < all; ++j) root[j] = unit(j, all);
  chirp_.resize(6 * n);
  kernel_.resize(2 * all);
  for (int64_t j = 0; j < n; ++j) {
    const auto w = unit(j * j % (2 * n), 2 * n);
    put(chirp_.data() + 2 * j, w);
    put(chirp_.data() + 2 * (n + j), w * root[j]);
    put(chirp_.data() + 2 * (2 * n + j), w * std::conj(root[j]));
    conjugate[j] = std::conj(w) / static_cast<double>(all);
    if (j > 0) conjugate[all - j] = conjugate[j];
  }
  exact_dft(conjugate.data(), 1, all, root, spectrum.data());
  for (int64_t f = 0; f < all; ++f) put(kernel_.data() + 2 * (f % 2 * m + fft_.slot()[f / 2]), spectrum[f]);
}

template <class T>
DftView<T> DftTables<T>::view() const {
  return {plan_.n, fft_.view(), plan_.smooth ? chirp_.data() : nullptr, plan_.smooth ? kernel_.data() : nullptr};
}

template <class T>
int64_t DftTables<T>::bytes() const {
  return fft_.bytes() + bytes_of(chirp_) + bytes_of(kernel_);
}

namespace {

// Of order 0.
double modified_bessel(double x) {
  double sum = 1, term = 1;
  for (int k = 1; term > 1e-17 * sum; ++k) term *= x * x / (4.0 * k * k), sum += term;
  return sum;
}

// The window of Kaiser and Bessel, between -taps / 2 and taps / 2, and its transform, both over the transform at 0: so
// that the grid is as large as the values, which may be near the ends of float's range.
const double kWindowAt0 =
    plan_detail::kResampleTaps * std::sinh(plan_detail::kResampleBeta) / plan_detail::kResampleBeta;
double window(double x) {
  const double share = 2 * x / plan_detail::kResampleTaps;
  return modified_bessel(plan_detail::kResampleBeta * std::sqrt(std::max(0.0, 1 - share * share))) / kWindowAt0;
}
double window_transform(double frequency) {
  const double turn = kPi * plan_detail::kResampleTaps * frequency;
  const double root = std::sqrt(plan_detail::kResampleBeta * plan_detail::kResampleBeta - turn * turn);
  return plan_detail::kResampleTaps * std::sinh(root) / root / kWindowAt0;
}

}  // namespace

ResampledTables::ResampledTables(const DftPlan& plan)
    : n_(plan.n), fft_(plan.smooth, plan.radices), scale_(plan.n), turned_(2 * plan.n) {
  constexpr int64_t taps = plan_detail::kResampleTaps;
  const int64_t n = plan.n, m = plan.smooth, radix = plan.radices.back();
  twiddles_.resize(2 * m / radix * (radix - 1));
  fill_twiddles(plan.radices.back(), m / radix, twiddles_.data());
  for (int64_t j = 0; j < n; ++j) {
    const int64_t at = 2 * j < n ? j : j - n;
    const double scale = 1 / window_transform(static_cast<double>(at) / static_cast<double>(2 * m));
    scale_[j] = scale;
    put(turned_.data() + 2 * j, scale * unit(at, 2 * m));
  }
  slots_.reserve(m + 2 * taps), first_.reserve(2 * n), taps_.reserve(taps * n);
  // Index q = -taps .. m + taps - 1 modulo m lies at slots[q + taps].
  for (int64_t q = -taps; q < m + taps; ++q) slots_.push_back(fft_.slot()[(q + m) % m]);
  for (int64_t k = 0; k < n; ++k) {
    // 2 m k / n = whole + rest / n; l = whole - taps / 2 + 1 ...
    const int64_t whole = 2 * m * k / n, begin = whole - taps / 2 + 1;
    const double rest = static_cast<double>(2 * m * k % n) / static_cast<double>(n);
    for (int64_t odd = 0; odd < 2; ++odd) {
      const int64_t l = begin + ((begin ^ odd) & 1);  // the first one of this parity
      first_.push_back(static_cast<int32_t>((l - odd) / 2 + taps));
      for (int64_t t = 0; t < taps / 2; ++t)
        taps_.push_back(static_cast<float>(window(rest + static_cast<double>(whole - l - 2 * t))));
    }
  }
}

ResampledView ResampledTables::view() const {
  const StageView<float>& last = fft_.view().stage[fft_.view().stages - 1];
  const StageView<double> outermost{last.radix, last.span, twiddles_.data(), nullptr};
  return {n_, fft_.view(), outermost, scale_.data(), turned_.data(), taps_.data(), first_.data(), slots_.data()};
}

int64_t ResampledTables::bytes() const {
  return fft_.bytes() + bytes_of(twiddles_) + bytes_of(scale_) + bytes_of(turned_) + bytes_of(taps_) +
         bytes_of(first_) + bytes_of(slots_);
}

template class Fft<float>;
template class Fft<double>;
template class DftTables<float>;
template class DftTables<double>;

}  // namespace front::cpu
