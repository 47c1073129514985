// The points of a spectrum in pairs, each with its mirror: the order in which the fused stage (pairs.h) goes through
// them, and so through the coefficients. Always inlined: code for one instruction set shall define nothing that another
// could pick up.
#pragma once

#include <cstdint>

#define FRONT_MIRRORS [[gnu::always_inline]] inline

namespace front::cpu {

// A number that is known when this is compiled. Not the standard library's: its conversion would be a function that the
// instruction sets share.
template <auto kValue>
struct Known {
  FRONT_MIRRORS constexpr operator decltype(kValue)() const { return kValue; }
};

// How many times the kept coefficients go round the points of a spectrum.
enum class Runs {
  any,
  one,        // at most once
  one_whole,  // exactly once: nothing to ask for each coefficient
  two,
  two_whole,
};

// A point and its mirror; `itself`: they are one.
struct Pair {
  int64_t a, b;
  bool itself;
};

// Coefficient q half + r lies at real number pair_part(q, half) + 2 r of the work array.
FRONT_MIRRORS int64_t pair_part(int64_t q, int64_t half) { return q / 2 * 2 * half + q % 2; }

// Calls f(q, k, mirrored) for the kept coefficients of a pair: k % half is b if mirrored, else a.
template <Runs kRuns, class F>
FRONT_MIRRORS void for_coefficients(Pair pair, int64_t half, int64_t kept, F f) {
  constexpr bool kWhole = kRuns == Runs::one_whole || kRuns == Runs::two_whole;
  constexpr bool kOnce = kRuns == Runs::one || kRuns == Runs::one_whole;
  const int64_t runs = kRuns == Runs::any ? (kept + half - 1) / half : kOnce ? 1 : 2;
#pragma GCC unroll 2
  for (int64_t q = 0; q < runs; ++q) {
    const int64_t k = q * half;
    if (kWhole || k + pair.a < kept) f(q, k + pair.a, false);
    if (!pair.itself && (kWhole || k + pair.b < kept)) f(q, k + pair.b, true);
  }
}

// Where the mirrors of the points of butterfly k, which are k + j span, lie.
enum class Mirrors {
  own_at_0,  // k = 0: in the same butterfly, point 0 being its own mirror
  others,    // in butterfly span - k
  own,       // 2 k = span: in the same
};

// Calls f(k, mirrors) for all butterflies, once for k and span - k.
template <class F>
FRONT_MIRRORS void for_butterflies(int64_t span, F f) {
  f(int64_t{0}, Known<Mirrors::own_at_0>{});
  for (int64_t k = 1; 2 * k < span; ++k) f(k, Known<Mirrors::others>{});
  if (span % 2 == 0) f(span / 2, Known<Mirrors::own>{});
}

// Calls f(pair, i, j) for the pairs of butterfly k: a is its point i, b is point j of the butterfly of the mirrors.
template <int R, Mirrors kMirrors, class F>
FRONT_MIRRORS void for_mirrors(int64_t k, int64_t span, F f) {
  constexpr bool kAt0 = kMirrors == Mirrors::own_at_0;
  constexpr int kCount = kMirrors == Mirrors::others ? R : kAt0 ? R / 2 + 1 : (R + 1) / 2;
#pragma GCC unroll 8
  for (int i = 0; i < kCount; ++i) {
    const int j = kAt0 ? (R - i) % R : R - 1 - i;
    const int64_t a = k + i * span;
    // Known when this is compiled, which spares a question for each coefficient.
    const bool itself = kMirrors != Mirrors::others && i == j;
    f(Pair{a, kAt0 && i == 0 ? 0 : R * span - a, itself}, i, j);
  }
}

// f(radix), a constant, of a stage that may be fused (AxisPlan::fused).
template <class F>
FRONT_MIRRORS void for_fused_radix(int32_t radix, F f) {
  switch (radix) {
    case 2:
      return f(Known<2>{});
    case 3:
      return f(Known<3>{});
    case 4:
      return f(Known<4>{});
    case 5:
      return f(Known<5>{});
    case 8:
      return f(Known<8>{});
    default:
      __builtin_trap();
  }
}

}  // namespace front::cpu
