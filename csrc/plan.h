// Planning: which algorithm transforms an axis of length n of which `kept` coefficients matter. Pure host data,
// printable, no torch, no tables. All cost constants live here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

namespace front {

// A complex DFT of length n: mixed radix where n is smooth; otherwise Bluestein, a cyclic convolution of length
// conv >= 2n - 1 that is smooth.
struct DftPlan {
  int64_t n = 1;
  int64_t conv = 0;              // 0: mixed radix
  std::vector<int32_t> radices;  // of n, or of conv; innermost stage first
  double cost = 0;               // vector operations per transform
};

// A DCT-II (or its transpose) of length n with `kept` coefficients. Even n: the Makhoul sequence v is split into
// `split` decimated subsequences of even length n / split, each a complex DFT of half that length; the coefficients
// are combined from the `split` spectra (a pruned last stage: only kept ones are formed). Odd n: one complex DFT of
// length n of the real sequence.
struct AxisPlan {
  int64_t n = 1, kept = 1;
  int64_t split = 1;
  DftPlan dft;
  double cost = 0;  // vector operations per lane
};

namespace plan_detail {

constexpr int64_t kLargestSplit = 32;
constexpr int32_t kLargestRadix = 61;  // generic odd radices above this never beat Bluestein

// Vector operations (arithmetic, loads and stores) per complex point of one butterfly stage, twiddles included.
inline double stage_cost(int32_t radix) {
  switch (radix) {
    case 1:
      return 0;
    case 2:
      return 7;
    case 3:
      return 9;
    case 4:
      return 9.5;
    case 5:
      return 12;
    case 7:
      return 17;
    case 8:
      return 13;
    default:
      return 10 + 2.0 * radix;  // p/2 products of each kind per output, shared by output pairs
  }
}
constexpr double kCombineCost = 7;    // per kept coefficient and subsequence: 4 products, 4 loads, half a store
constexpr double kPointwiseCost = 8;  // per point of a complex product with load and store

// Prime factors as radices, largest power-of-two radices first; empty if a prime factor is too large.
inline std::vector<int32_t> factorize(int64_t n) {
  std::vector<int32_t> radices;
  int twos = 0;
  while (n % 2 == 0) n /= 2, ++twos;
  while (twos > 0) {
    int take = (twos == 2 || twos == 4) ? 2 : twos == 1 ? 1 : 3;  // 8s, then one or two 4s rather than a lone 2
    radices.push_back(1 << take);
    twos -= take;
  }
  for (int64_t p = 3; n > 1; p += 2) {
    if (p > kLargestRadix) return {};
    while (n % p == 0) radices.push_back(static_cast<int32_t>(p)), n /= p;
  }
  if (radices.empty()) radices.push_back(1);
  return radices;
}

inline double mixed_radix_cost(int64_t n, const std::vector<int32_t>& radices) {
  double per_point = 0;
  for (int32_t r : radices) per_point += stage_cost(r);
  return per_point * static_cast<double>(n);
}

}  // namespace plan_detail

inline DftPlan plan_dft(int64_t n) {
  using namespace plan_detail;
  DftPlan best;
  best.n = n;
  best.radices = factorize(n);
  if (!best.radices.empty()) best.cost = mixed_radix_cost(n, best.radices);
  if (!best.radices.empty() && *std::max_element(best.radices.begin(), best.radices.end()) <= 8) return best;

  for (int64_t odd : {1, 3, 5, 7, 9, 15}) {  // Bluestein: the cheapest 2^a * odd that is long enough
    int64_t conv = odd;
    while (conv < 2 * n - 1) conv *= 2;
    auto radices = factorize(conv);
    double cost = 2 * mixed_radix_cost(conv, radices) + kPointwiseCost * static_cast<double>(conv + 2 * n);
    if (best.radices.empty() || cost < best.cost) best = {n, conv, std::move(radices), cost};
  }
  return best;
}

inline AxisPlan plan_axis(int64_t n, int64_t kept) {
  using namespace plan_detail;
  AxisPlan best;
  best.n = n;
  best.kept = kept;
  if (n % 2 != 0) {
    best.dft = plan_dft(n);
    best.cost = best.dft.cost + kCombineCost * static_cast<double>(kept);
    return best;
  }
  bool found = false;
  for (int64_t split = 1; split <= kLargestSplit && 2 * split <= n; ++split) {
    if (n % (2 * split) != 0) continue;
    DftPlan dft = plan_dft(n / (2 * split));
    double cost = (dft.cost + kCombineCost * static_cast<double>(kept)) * static_cast<double>(split);
    if (found && cost >= best.cost) continue;
    best.split = split;
    best.dft = std::move(dft);
    best.cost = cost;
    found = true;
  }
  return best;
}

inline std::string to_string(const AxisPlan& p) {
  std::ostringstream s;
  s << "dct " << p.n << " -> " << p.kept << ": " << p.split << " x " << (p.dft.conv ? "bluestein " : "mixed radix ")
    << p.dft.n;
  if (p.dft.conv) s << " by convolution of length " << p.dft.conv;
  s << ", radices";
  for (int32_t r : p.dft.radices) s << ' ' << r;
  s << ", " << static_cast<int64_t>(p.cost) << " vector operations per lane";
  return s.str();
}

}  // namespace front
