#include "tables.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>
#include <tuple>

#include "cache.h"
#include "mirrors.h"
#include "roots.h"

namespace front::cpu {
namespace {

// What coefficient k of the sum of cosines is multiplied by.
double factor(int64_t k, int64_t n, Scale scale) {
  const double dn = static_cast<double>(n);
  return k == 0 ? std::sqrt(1 / dn) * scale.first : std::sqrt(2 / dn) * scale.other;
}

// filters.h's 2 A(u) / factor at u / n = share.
double response(const std::vector<double>& taps, int factor, double share) {
  double a = 0;
  for (size_t t = 0; t < taps.size(); ++t) a += taps[t] * std::cos(kPi / 2 * share * static_cast<double>(2 * t + 1));
  return 2 * a / factor;
}

// Of factor 2 Dolph and Chebyshev's filter, made flatter. With c = cos(pi u / 2n) and T the Chebyshev polynomial of an
// odd degree: A = T(b c) / T(b) (1 + flatness (1 - c^2)), with b c = 1 where the aliases of the kept coefficients
// begin, at the coefficient n - n / share. The second factor is largest where the first has fallen most: dividing by a
// small A would amplify rounding errors. A is a sum of cosines of odd multiples, whose factors follow from its values
// at as many points.
std::vector<double> filter_taps(const plan_detail::Filter& filter) {
  using plan_detail::kQuarterTaps;
  if (filter.factor == 4) return {std::begin(kQuarterTaps), std::end(kQuarterTaps)};
  const int half = filter.taps / 2, m = filter.taps - 1 - (filter.flatness ? 2 : 0);
  const double b = 1 / std::sin(kPi / 2 / static_cast<double>(filter.share));
  std::vector<double> taps(half, 0.0);
  for (int i = 0; i < half; ++i) {
    const double angle = kPi * (2 * i + 1) / (4 * half), c = std::cos(angle), x = b * c;
    const double chebyshev = x > 1 ? std::cosh(m * std::acosh(x)) : std::cos(m * std::acos(x));
    const double value = chebyshev / std::cosh(m * std::acosh(b)) * (1 + filter.flatness * (1 - c * c));
    for (int t = 0; t < half; ++t) taps[t] += 2.0 / half * value * std::cos(angle * (2 * t + 1));
  }
  return taps;
}

}  // namespace

const float* filter_half(const plan_detail::Filter& filter) {
  using plan_detail::kFilters;
  constexpr size_t kCount = std::size(kFilters);
  static const auto* halves = [] {
    auto* all = new std::vector<float>[kCount];  // never destroyed: ops may run while the process exits
    for (size_t i = 0; i < kCount; ++i)
      for (double tap : filter_taps(kFilters[i])) all[i].push_back(static_cast<float>(tap));
    return all;
  }();
  const auto same = [&](const plan_detail::Filter& other) { return other.taps == filter.taps; };
  const auto* const found = std::find_if(std::begin(kFilters), std::end(kFilters), same);
  if (found == std::end(kFilters)) std::abort();  // of no filter
  return halves[found - kFilters].data();
}

namespace {

// Real numbers of the work array: where value i lies before the first stage of the DFTs, and coefficient k after the
// last one.
int32_t value_place(const AxisPlan& plan, const int32_t* slots, int64_t i) {
  const int64_t n = plan.length(), split = plan.split;
  const int64_t v = i % 2 == 0 ? i / 2 : n - 1 - i / 2;  // Makhoul: even indices up, odd ones down
  int64_t sequence = 0, point = v, part = 0;
  if (n % 2 == 0) sequence = v % split, part = v / split % 2, point = v / (2 * split);
  return static_cast<int32_t>(2 * (sequence * plan.dft.n + (slots ? slots[point] : point)) + part);
}
int32_t coefficient_place(const AxisPlan& plan, int64_t k) {
  // Even n: coefficient q half + r takes the place of a real number of point r of a pair of subsequences.
  const int64_t half = plan.dft.n, q = k / half, r = k % half;
  return static_cast<int32_t>((plan.length() % 2 == 0 ? pair_part(q, half) : 0) + 2 * r);
}

}  // namespace

UseOrder UseOrder::of_coefficients(const AxisPlan& plan) {
  UseOrder order;
  for_fused_radix(plan.dft.radices.back(), [&](auto radix) {
    const int64_t half = plan.dft.n, span = half / radix;
    for_butterflies(span, [&](int64_t k, auto mirrors) {
      for_mirrors<radix, mirrors>(k, span, [&](Pair pair, int, int) {
        for_coefficients<Runs::any>(pair, half, plan.kept, [&](int64_t, int64_t c, bool) {
          order.element_.push_back(static_cast<int32_t>(c));
          order.place_.push_back(coefficient_place(plan, c));
        });
      });
    });
  });
  return order;
}

UseOrder UseOrder::of_values(const AxisPlan& plan, const int32_t* slots, bool in) {
  UseOrder order;
  order.element_.resize(plan.length()), order.place_.resize(plan.length());
  for (int64_t i = 0; i < plan.length(); ++i) {
    order.element_[value_place(plan, slots, i)] = static_cast<int32_t>(i);
    order.place_[i] = static_cast<int32_t>(in ? i : i ^ 1);  // re and im are exchanged
  }
  return order;
}

int64_t UseOrder::bytes() const { return static_cast<int64_t>(sizeof *this) + bytes_of(element_) + bytes_of(place_); }

template <class T>
AxisTables<T>::AxisTables(const AxisPlan& plan, Scale scale, std::shared_ptr<const DftTables<T>> dft,
                          std::shared_ptr<const ResampledTables> resampled)
    : plan_(plan),
      dft_(std::move(dft)),
      resampled_(std::move(resampled)),
      forward_in_(plan.length()),
      inverse_out_(plan.length()),
      coefficient_at_(plan.kept) {
  plan.dense ? fill_dense(scale) : fill_fft(scale);
}

template <class T>
void AxisTables<T>::fill_dense(Scale scale) {
  constexpr int64_t kBlock = plan_detail::kDenseBlock;
  const int64_t n = plan_.n, half = (n + 1) / 2;
  for (int64_t i = 0; i < n; ++i)
    forward_in_[i] = inverse_out_[i] = static_cast<int32_t>(i < half ? 2 * i : 2 * (n - 1 - i) + 1);
  for (int64_t k = 0; k < plan_.kept; ++k) coefficient_at_[k] = static_cast<int32_t>(2 * half + k);
  combine_.assign((plan_.kept + kBlock - 1) / kBlock * kBlock * half, T(0));
  for (int64_t k = 0; k < plan_.kept; ++k)
    for (int64_t i = 0; i < half; ++i)
      if (k % 2 == 0 || 2 * i != n - 1)  // odd coefficients of the middle value are 0
        combine_[(k / kBlock * half + i) * kBlock + k % kBlock] =
            static_cast<T>(factor(k, n, scale) * unit((2 * i + 1) * k, 4 * n).real());
}

template <class T>
void AxisTables<T>::fill_fft(Scale scale) {
  const AxisPlan& plan = plan_;
  const int64_t n = plan.length();
  std::vector<double> filter;
  if (plan.filter) {
    filter = filter_taps(*plan.filter);
    for (double tap : filter) filter_.push_back(static_cast<T>(tap));
  }

  for (int64_t i = 0; i < n; ++i) {
    forward_in_[i] = value_place(plan, plan.dft.smooth ? nullptr : dft_->slots(), i);
    inverse_out_[i] = forward_in_[i] ^ 1;  // re and im are exchanged
  }
  for (int64_t k = 0; k < plan.kept; ++k) coefficient_at_[k] = coefficient_place(plan, k);

  if (!plan.wide) return fill_combine(scale, filter, combine_);
  fill_combine(scale, filter, wide_combine_);
  const int32_t radix = plan.dft.radices.back();
  const int64_t span = plan.dft.n / radix;
  wide_twiddles_.resize(2 * span * (radix - 1));
  fill_twiddles(radix, span, wide_twiddles_.data());
}

// X_k = sum_s Re(a_s E_s[k] + b_s O_s[k]) with E, O the spectra of the even and odd points of subsequence s, both
// from Z = E + iO and its mirror Y_k = Z_{half - k}: four real products per subsequence.
template <class T>
template <class C>
void AxisTables<T>::fill_combine(Scale scale, const std::vector<double>& filter, std::vector<C>& combine) const {
  const AxisPlan& plan = plan_;
  const int64_t n = plan.length(), split = plan.split;
  const bool even = n % 2 == 0;
  combine.resize(plan.kept * (even ? 4 * split : 2));
  C* at = combine.data();
  for (int64_t k = 0; k < plan.kept; ++k) {
    double f = factor(k, plan.n, scale);
    if (plan.filter) f /= response(filter, plan.filter->factor, static_cast<double>(k) / static_cast<double>(plan.n));
    if (!even) {
      at = put(at, f * std::conj(unit(k, 4 * n)));
      continue;
    }
    for (int64_t s = 0; s < split; ++s) {
      const auto a = unit(k * (4 * s + 1), 4 * n), b = unit(k * (4 * (s + split) + 1), 4 * n);
      *at++ = static_cast<C>(f / 2 * (a.real() + b.imag()));  // Re Z
      *at++ = static_cast<C>(f / 2 * (a.real() - b.imag()));  // Re Y
      *at++ = static_cast<C>(f / 2 * (b.real() - a.imag()));  // Im Z
      *at++ = static_cast<C>(f / 2 * (b.real() + a.imag()));  // Im Y
    }
  }
}

template <class T>
AxisView<T> AxisTables<T>::view() const {
  AxisView<T> view{};
  view.dense = plan_.dense;
  view.streamed = plan_.streamed;
  view.length = plan_.length();
  view.taps = plan_.filter ? plan_.filter->taps : 0;
  view.filter = filter_.data();
  view.n = plan_.n;
  view.kept = plan_.kept;
  view.split = plan_.split;
  view.fused = plan_.fused();
  view.forward_in = forward_in_.data();
  view.inverse_out = inverse_out_.data();
  view.coefficient_at = coefficient_at_.data();
  view.combine = combine_.data();
  if (plan_.wide) view.wide_combine = wide_combine_.data(), view.wide_twiddles = wide_twiddles_.data();
  if (plan_.dense) {
    view.half = (plan_.n + 1) / 2;
    view.work = view.half + dense_coefficients(plan_.kept) / 2;
  } else {
    view.half = plan_.dft.n;
    if (dft_) view.dft = dft_->view();
    if (resampled_) view.resampled = resampled_->view();
    view.work = plan_.split * plan_.dft.n + plan_.dft.spare();
  }
  return view;
}

template <class T>
int64_t AxisTables<T>::bytes() const {
  // With the DFT's part, which lives as long as this does, whether it is still in its own cache or not.
  return bytes_of(combine_) + bytes_of(filter_) + bytes_of(wide_combine_) + bytes_of(wide_twiddles_) +
         bytes_of(forward_in_) + bytes_of(inverse_out_) + bytes_of(coefficient_at_) + (dft_ ? dft_->bytes() : 0) +
         (resampled_ ? resampled_->bytes() : 0);
}

namespace {

template <class Tables>
std::shared_ptr<const Tables> cached_dft(const DftPlan& plan) {
  static auto* dfts = new Cache<int64_t, Tables>;  // never destroyed: ops may run while the process exits
  return dfts->get(plan.n, [&] { return std::make_shared<const Tables>(plan); });
}

}  // namespace

template <class T>
std::shared_ptr<const DftTables<T>> dft_tables(const DftPlan& plan) {
  return cached_dft<DftTables<T>>(plan);
}

template <class T>
std::shared_ptr<const AxisTables<T>> axis_tables(int64_t n, int64_t kept, Scale scale, bool wide, Streams streams,
                                                 const plan_detail::Filter* filter) {
  // Never destroyed: ops may run while the process exits.
  static auto* axes = new Cache<std::tuple<int64_t, int64_t, double, double, bool, bool, const void*>, AxisTables<T>>;
  // Else it is the same axis.
  const bool streamed = streams != Streams::no && plan_axis(n, kept, sizeof(T), streams).streamed;
  return axes->get({n, kept, scale.first, scale.other, wide, streamed, filter}, [&] {
    AxisPlan plan = filter ? plan_decimated(n, kept, sizeof(T), *filter)
                           : plan_axis(n, kept, sizeof(T), streamed ? streams : Streams::no);
    plan.wide &= wide;
    std::shared_ptr<const DftTables<T>> dft;
    std::shared_ptr<const ResampledTables> resampled;
    if (plan.dft.resampled)
      resampled = cached_dft<ResampledTables>(plan.dft);
    else if (!plan.dense)
      dft = dft_tables<T>(plan.dft);
    return std::make_shared<const AxisTables<T>>(plan, scale, std::move(dft), std::move(resampled));
  });
}

template <class T>
std::shared_ptr<const UseOrder> use_order(int64_t n, int64_t kept, UseOrder::Of of) {
  // Never destroyed: ops may run while the process exits.
  static auto* orders = new Cache<std::tuple<int64_t, int64_t, UseOrder::Of>, UseOrder>;
  return orders->get({n, kept, of}, [&] {
    const AxisPlan plan = plan_axis(n, kept, sizeof(T));
    const auto make = [](UseOrder order) { return std::make_shared<const UseOrder>(std::move(order)); };
    if (!plan.fused()) return make({});
    if (of == UseOrder::Of::coefficients_in) return make(UseOrder::of_coefficients(plan));
    // Values are used in order by a butterfly before the fused step, if they are what it transforms.
    const auto& radices = plan.dft.radices;
    if (plan.filter || radices.size() == 1 || plan_detail::is_generic(radices[0])) return make({});
    return make(UseOrder::of_values(plan, dft_tables<T>(plan.dft)->slots(), of == UseOrder::Of::values_in));
  });
}

template std::shared_ptr<const UseOrder> use_order<float>(int64_t, int64_t, UseOrder::Of);
template std::shared_ptr<const UseOrder> use_order<double>(int64_t, int64_t, UseOrder::Of);
template class AxisTables<float>;
template class AxisTables<double>;
template std::shared_ptr<const DftTables<float>> dft_tables<float>(const DftPlan&);
template std::shared_ptr<const DftTables<double>> dft_tables<double>(const DftPlan&);
template std::shared_ptr<const AxisTables<float>> axis_tables<float>(int64_t, int64_t, Scale, bool, Streams,
                                                                     const plan_detail::Filter*);
template std::shared_ptr<const AxisTables<double>> axis_tables<double>(int64_t, int64_t, Scale, bool, Streams,
                                                                       const plan_detail::Filter*);

}  // namespace front::cpu
