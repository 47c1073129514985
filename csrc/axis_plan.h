// Planning an axis: which algorithm transforms one of length n of which `kept` coefficients matter. Pure host data,
// printable, no torch, no tables. Its cost constants live here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

#include "filters.h"
#include "params.h"

namespace front {

// A complex DFT of length n: mixed radix where n is smooth; otherwise by DFTs of a length that is. For float64
// Bluestein, a convolution as two cyclic ones of that length; for float32 two DFTs, from which the values are resampled
// (cpu/resample.h): half the work and fewer roundings.
struct DftPlan {
  int64_t n = 1;
  int64_t smooth = 0;            // not less than n; 0: mixed radix
  bool resampled = false;        // else, if smooth is not 0, Bluestein
  std::vector<int32_t> radices;  // of n, or of smooth; innermost stage first
  double cost = 0;               // vector operations per transform

  // Complex numbers besides its n points that it is computed in.
  int64_t spare() const { return !smooth ? 0 : resampled ? 2 * smooth : smooth + n; }
};

// An inverse of float32 to so many values or more computes the fused step in double: it has a third of the roundings,
// and the worst of the millions of values would be too far off otherwise. Not after decimation, which rounds less
// anyway, nor where the coefficients or values are bfloat16 or float16.
constexpr int64_t kWideValues = 4096;

// A DCT-II (or its transpose) of length n with `kept` coefficients. Even n: the Makhoul sequence v is split into
// `split` decimated subsequences of even length n / split, each a complex DFT of half that length; the coefficients
// are combined from the `split` spectra (a pruned last stage: only kept ones are formed). Odd n: one complex DFT of
// length n of the real sequence. Few coefficients: by definition, at half the products (`dense`).
struct AxisPlan {
  int64_t n = 1, kept = 1;
  bool dense = false;
  bool streamed = false;                        // while rows stream by (cpu/streamed.h)
  const plan_detail::Filter* filter = nullptr;  // by which it is decimated first, or null (float32 only)

  int64_t length() const { return filter ? n / filter->factor : n; }  // what `split` and `dft` are of

  int64_t split = 1;
  DftPlan dft;
  bool wide = false;  // the inverse's fused step may be computed in double, see kWideValues
  double cost = 0;    // vector operations per lane

  // How many times `kept` coefficients go round the points of a subsequence's spectrum.
  int64_t runs() const { return (kept + dft.n - 1) / dft.n; }
  // Whether the last stage of the DFTs and the pairs of the spectrum are one step (cpu/pairs.h): the common cases whose
  // points do not overflow the registers by too much.
  bool fused() const {
    if (dense || length() % 2 != 0 || dft.smooth != 0) return false;
    const int32_t last = dft.radices.back();
    if (last == 1 || last == 7 || last > 8) return false;
    return split == 1 ? runs() <= 2 : split == 2 && runs() == 1 && last > 2 && last < 8;
  }
};

namespace plan_detail {

constexpr int64_t kLargestSplit = 32;
constexpr int32_t kLargestRadix = 61;  // generic odd radices above this never beat the others

// Vector operations (arithmetic, loads and stores) per complex point of one butterfly stage, twiddles included.
inline double stage_cost(int32_t radix) {
  switch (radix) {
    case 1:
      return 0;
    case 2:
      return 6;
    case 3:
      return 8;
    case 4:
      return 7.5;
    case 5:
      return 10;
    case 7:
      return 14;
    case 8:
      return 10;
    case 12:
      return 12;
    default:
      return 8 + 2.0 * radix;  // p/2 products of each kind per output, shared by output pairs
  }
}
constexpr double kPointCost = 10;   // per complex point of a DFT: what it costs to bring it near, whatever the stages
constexpr double kCombineCost = 7;  // per kept coefficient and subsequence: 4 products, 4 loads, half a store
constexpr double kPairsCost = 5;    // per complex point where the pairs are a step of their own
// Points on either grid that a value of a DFT is resampled from, and the window's parameter: with 10 and 2.34 * 10 what
// is lost, and what is added from elsewhere, is 6e-10 of a value in the mean.
constexpr int kResampleTaps = 10;
constexpr double kResampleBeta = 23.4;
// Per value; the points around it lie far from each other, and are to stay in a core's cache.
constexpr double kResampleCost = 50, kResampleFarCost = 200;
constexpr int64_t kNearResample = 1 << 14;  // points of the DFTs and values
constexpr double kPointwiseCost = 8;        // per point of a complex product with load and store

// The dense transform: per value for the fold x_i +- x_{n-1-i}; per product, kDenseBlock coefficients at a time.
constexpr double kFoldCost = 3, kProductCost = 1.5;
constexpr int64_t kDenseBlock = 8;
constexpr int64_t kLargestBasis = 1 << 17;  // products: a basis that stays in a core's cache
// Where rows stream by (cpu/streamed.h), from memory, or near a core's cache, where what else is done with them costs
// less. kApartCost, per value, is what an FFT costs more than its operations there, because a lane's values lie a row
// apart; it decides between the two and is in no plan's cost. From timings of 5 to 64 coefficients on one Zen 5 core,
// beside all other plans of a matrix; a single axis of 4096 x 4096 takes 1.2 of the time of an FFT for 48 under
// AVX-512, 0.94 under AVX2. (Before there were fewer rows to transform, on a virtual Cascade Lake and Zen 3: 0.5, 1.25
// and 0.)
constexpr double kStreamedProductCost = 0.7, kNearProductCost = 2.25, kApartCost = 4;

// Points that stay in the innermost cache while several stages pass over them.
constexpr int64_t kNearBytes = 24 << 10;

// Radices without code of their own.
inline bool is_generic(int32_t radix) { return radix > 8 && radix != 12; }

// Prime factors as radices, innermost stage first; empty if one is too large. The last stage is done together with the
// pairs of the spectrum, whose points fill the registers: a small radix is the best for it, and 7 and more are not for
// it.
inline std::vector<int32_t> factorize(int64_t n) {
  std::vector<int32_t> large, radices, odd;
  int twos = 0;
  while (n % 2 == 0) n /= 2, ++twos;
  for (int64_t p = 3; n > 1; p += 2) {
    if (p > kLargestRadix) return {};
    while (n % p == 0) (p > 5 ? large : odd).push_back(static_cast<int32_t>(p)), n /= p;
  }
  radices = large;
  if (twos % 3 == 1 && twos > 3 && !odd.empty() && odd.front() == 3) {
    radices.push_back(12), odd.erase(odd.begin()), twos -= 2;
  }
  radices.insert(radices.end(), twos / 3, 8);
  radices.insert(radices.end(), odd.rbegin(), odd.rend());
  if (twos % 3 != 0) radices.push_back(1 << twos % 3);
  if (radices.empty()) radices.push_back(1);
  return radices;
}

inline double mixed_radix_cost(int64_t n, const std::vector<int32_t>& radices) {
  double per_point = kPointCost;
  for (int32_t r : radices) per_point += stage_cost(r);
  return per_point * static_cast<double>(n);
}

}  // namespace plan_detail

inline DftPlan plan_dft(int64_t n, int64_t compute_bytes) {
  using namespace plan_detail;
  DftPlan best;
  best.n = n;
  best.radices = factorize(n);
  if (!best.radices.empty()) best.cost = mixed_radix_cost(n, best.radices);
  if (!best.radices.empty() && std::none_of(best.radices.begin(), best.radices.end(), is_generic)) return best;

  for (int64_t odd : {1, 3, 5, 7, 9, 15}) {  // the cheapest 2^a * odd that is long enough
    int64_t smooth = odd;
    while (smooth < n) smooth *= 2;
    auto radices = factorize(smooth);
    const bool resampled = compute_bytes == 4;
    double cost = 2 * mixed_radix_cost(smooth, radices);
    if (resampled) {
      std::sort(radices.begin(), radices.end());  // the outermost stage, in double, takes most roundings away
      cost += 2 * stage_cost(radices.back()) * static_cast<double>(smooth) +
              (2 * smooth + n <= kNearResample ? kResampleCost : kResampleFarCost) * static_cast<double>(n);
    } else {
      cost = 2 * cost + kPointwiseCost * static_cast<double>(2 * smooth + 2 * n);
    }
    if (best.radices.empty() || cost < best.cost) best = {n, smooth, resampled, std::move(radices), cost};
  }
  return best;
}

inline AxisPlan plan_fft(int64_t n, int64_t kept, int64_t compute_bytes) {
  using namespace plan_detail;
  AxisPlan best;
  best.n = n;
  best.kept = kept;
  if (n % 2 != 0) {
    best.dft = plan_dft(n, compute_bytes);
    best.cost = best.dft.cost + kCombineCost * static_cast<double>(kept);
    return best;
  }
  bool found = false;
  for (int64_t split = 1; split <= kLargestSplit && 2 * split <= n; ++split) {
    if (n % (2 * split) != 0) continue;
    AxisPlan plan;
    plan.n = n;
    plan.kept = kept;
    plan.split = split;
    plan.dft = plan_dft(n / (2 * split), compute_bytes);
    plan.cost = (plan.dft.cost + kCombineCost * static_cast<double>(kept)) * static_cast<double>(split);
    if (!plan.fused()) plan.cost += kPairsCost * static_cast<double>(n / 2);
    if (found && plan.cost >= best.cost) continue;
    best = std::move(plan);
    found = true;
  }
  return best;
}

// Whether an axis may be decimated by a filter, and what comes after it.
inline bool decimates(int64_t n, int64_t kept, int64_t compute_bytes, const plan_detail::Filter& filter) {
  return compute_bytes == 4 && n % (2 * filter.factor) == 0 && n >= filter.shortest && kept <= n / filter.share;
}
inline AxisPlan plan_decimated(int64_t n, int64_t kept, int64_t compute_bytes, const plan_detail::Filter& filter) {
  AxisPlan plan = plan_fft(n / filter.factor, kept, compute_bytes);
  plan.n = n;
  plan.filter = &filter;
  return plan;
}

// Coefficients of an axis whose rows stream by, at most.
constexpr int64_t kMostStreamed = 64;

// Whether few coefficients of columns may be computed while the rows stream by (cpu/streamed.h), and from where they
// do.
enum class Streams : int32_t { no, near, far };

// compute_bytes: of an element; only float32 is decimated.
inline AxisPlan plan_axis(int64_t n, int64_t kept, int64_t compute_bytes, Streams streams = Streams::no) {
  using namespace plan_detail;
  AxisPlan best = plan_fft(n, kept, compute_bytes);
  for (const Filter& filter : kFilters) {
    if (filter.factor != 2 || !decimates(n, kept, compute_bytes, filter)) continue;
    AxisPlan half = plan_decimated(n, kept, compute_bytes, filter);
    half.cost += filter_cost(n, filter);
    if (half.cost < best.cost) best = std::move(half);
  }
  best.wide = compute_bytes == 4 && best.fused() && !best.filter && n >= kWideValues;
  const int64_t products = (kept + kDenseBlock - 1) / kDenseBlock * kDenseBlock * ((n + 1) / 2);
  const bool streamed = streams != Streams::no && kept <= kMostStreamed;
  const double product = !streamed ? kProductCost : streams == Streams::far ? kStreamedProductCost : kNearProductCost;
  const double cost = kFoldCost * static_cast<double>(n) + product * static_cast<double>(products);
  const double apart = streamed ? kApartCost * static_cast<double>(n) : 0;
  if (products > kLargestBasis || cost >= best.cost + apart) return best;
  AxisPlan dense;
  dense.n = n;
  dense.kept = kept;
  dense.dense = true;
  dense.streamed = streamed;
  dense.cost = cost;
  return dense;
}

inline const char* name(const DftPlan& p) {
  return !p.smooth ? "mixed radix" : p.resampled ? "resampled" : "bluestein";
}

inline std::string to_string(const AxisPlan& p) {
  std::ostringstream s;
  s << "dct " << p.n << " -> " << p.kept << ": ";
  if (p.dense) {
    s << "dense, folded, " << (p.streamed ? "while rows stream by, " : "") << static_cast<int64_t>(p.cost)
      << " vector operations per lane";
    return s.str();
  }
  if (p.filter) s << "decimated by " << p.filter->factor << " (" << p.filter->taps << " taps), ";
  s << p.split << " x " << name(p.dft) << ' ' << p.dft.n;
  if (p.dft.smooth) s << (p.dft.resampled ? " from DFTs" : " by convolutions") << " of length " << p.dft.smooth;
  s << ", radices";
  for (int32_t r : p.dft.radices) s << ' ' << r;
  if (p.fused()) s << ", the last one with the pairs";
  if (p.wide) s << " (of the inverse in double)";
  s << ", " << static_cast<int64_t>(p.cost) << " vector operations per lane";
  return s.str();
}

}  // namespace front
