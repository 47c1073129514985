// The radices of a DFT in shared memory: all products are tried, and the cheapest is taken.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace front::cuda {
namespace plan_detail {

// Radices: at the ends of the transform two butterflies are in registers at once, in the middle one or more.
constexpr int64_t kLargestEnd = 16, kLargestMiddle = 32, kLargestPrime = 43, kLargestPrimeDouble = 19;
inline int64_t largest_prime(int64_t real_bytes) { return real_bytes == 4 ? kLargestPrime : kLargestPrimeDouble; }

// Instructions per point: of a stage's way through shared memory, with its twiddle; of its butterfly.
constexpr double kStage = 14;
constexpr double kUnpaired = 20;  // values moved one by one rather than four at a time, half of the sectors twice
constexpr double kConflicts = 6, kMoreConflicts = 8;  // of stores in shared memory
constexpr double kIdle = 0.3;  // what of a stage's instructions it costs that as many threads have nothing to do
inline int64_t smallest_factor(int64_t n) {
  for (int64_t p = 2; p * p <= n; ++p)
    if (n % p == 0) return p;
  return n;
}
inline double butterfly_cost(int64_t r) {
  double cost = 0;
  for (bool first = true; r > 1; first = false) {
    const int64_t p = smallest_factor(r);
    cost += (p == 2 ? 2 : 2.0 * static_cast<double>(p - 1)) + (first ? 0 : 1);
    r /= p;
  }
  return cost;
}

inline bool radix_allowed(int64_t r, bool end, int64_t real_bytes) {
  const int64_t narrow = real_bytes == 4 ? 1 : 2;
  if (end) return r <= kLargestEnd / narrow;
  if (r <= kLargestMiddle / narrow) return true;
  return smallest_factor(r) == r && r <= largest_prime(real_bytes);
}

// Threads that a lane of `points` points is planned with, to judge radices by how evenly they keep them busy.
inline int64_t usual_threads(int64_t points) {
  const int64_t threads = std::max(points / 32, std::min<int64_t>(points / 16, 128));
  int64_t rounded = 1;
  while (rounded < threads && rounded < 32) rounded *= 2;
  return threads <= 32 ? rounded : (threads + 31) / 32 * 32;
}

struct RadixSearch {
  int64_t points, real_bytes;
  bool even;
  int64_t most_middle;  // of what is no prime
  std::vector<int64_t> chosen, best;
  double best_cost = 0;

  double cost() const {
    double total = 0;
    const int64_t threads = usual_threads(points);
    for (size_t s = 0; s < chosen.size(); ++s) {
      const bool pairs = even && (s == 0 || s + 1 == chosen.size());  // of butterflies
      const int64_t work = std::max<int64_t>(1, points / chosen[s] / (pairs ? 2 : 1));
      const double rounds = std::ceil(static_cast<double>(work) / static_cast<double>(threads));
      const double idle = rounds * static_cast<double>(threads) / static_cast<double>(work) - 1;
      total += (kStage + butterfly_cost(chosen[s])) * (1 + kIdle * idle);
    }
    if (chosen.size() > 1 && even) {
      if (points / chosen.front() % 2 != 0) total += kUnpaired;
      if (points / chosen.back() % 2 != 0) total += kUnpaired;
    }
    const int64_t group = 64 / real_bytes, count = static_cast<int64_t>(chosen.size());
    if (count > 2 && chosen.back() < 4) total += kConflicts;  // a whole stage for little arithmetic
    // Stores of the first stage, and of the last but one, meet in banks unless they are of whole groups (axis.h).
    if (chosen.front() % group != 0) total += chosen.front() % 8 ? kMoreConflicts : kConflicts;
    if (count > 2 && points / chosen[count - 1] / chosen[count - 2] % group != 0) total += kConflicts;
    total +=
        0.02 * static_cast<double>(*std::max_element(chosen.begin(), chosen.end()));  // fewer registers, all else equal
    return total;
  }
  // The last radix is chosen first, then the first, then the middle: ends[] are fixed before the middle is split.
  void middle(int64_t left, int64_t most) {
    if (left == 1) {
      const double c = cost();
      if (best.empty() || c < best_cost) best = chosen, best_cost = c;
      return;
    }
    if (chosen.size() > 6) return;
    for (int64_t r = 2; r <= std::min({left, most, kLargestPrime});
         ++r) {  // larger ones first: their sum is what counts, not their order
      if (left % r != 0 || !radix_allowed(r, false, real_bytes)) continue;
      if (r > most_middle && smallest_factor(r) != r) continue;
      chosen.insert(chosen.end() - 1, r);
      middle(left / r, r);
      chosen.erase(chosen.end() - 2);
    }
  }
  void run() {
    if (radix_allowed(points, true, real_bytes)) {
      chosen = {points};
      best = chosen, best_cost = cost();
    }
    for (int64_t first = 1; first <= kLargestEnd; ++first) {
      if (points % first != 0 || !radix_allowed(first, true, real_bytes)) continue;
      for (int64_t last = 1; last <= kLargestEnd; ++last) {
        if (points / first % last != 0 || !radix_allowed(last, true, real_bytes)) continue;
        chosen = {first, last};
        middle(points / first / last, points);
      }
    }
  }
};

}  // namespace plan_detail

// Radices of a DFT of `points` points, first stage first; empty if there are none. Of those in the middle only primes
// exceed most_middle.
inline std::vector<int64_t> choose_radices(int64_t points, bool even, int64_t real_bytes,
                                           int64_t most_middle = plan_detail::kLargestMiddle) {
  plan_detail::RadixSearch search{points, real_bytes, even, most_middle, {}, {}, 0};
  int64_t rest = points;
  while (rest > 1) {
    const int64_t p = plan_detail::smallest_factor(rest);
    if (p > plan_detail::largest_prime(real_bytes)) return {};
    rest /= p;
  }
  search.run();
  return search.best;
}

}  // namespace front::cuda
