// The filters by which an axis is decimated (cpu/decimate.h), or the rows of a matrix (cpu/decimated_rows.h), where few
// of its coefficients are kept. Symmetric and of even length: with f = factor, x continued by reflection and
//   y_j = sum_t h_t (x_{f j + f/2 - 1 - t} + x_{f j + f/2 + t}),   A(u) = sum_t h_t cos(pi (2t + 1) u / 2n),
// the DCT-II of y, of length m = n / f, is 2 / f times A(u) X_u and its aliases, A(2m - u) X_{2m - u}, and, of f = 4,
// A(2m + u) X_{2m + u} and A(4m - u) X_{4m - u}. Pure host data, no torch.
#pragma once

#include <cstdint>

namespace front::plan_detail {

struct Filter {
  int factor;     // values for one
  int64_t share;  // n / share coefficients are kept at most
  int taps;
  double flatness;   // of a response by formula (cpu/tables.cpp)
  int64_t shortest;  // length: below it does not pay

  // Always inlined: code for one instruction set shall define nothing that another could pick up.
  // How many values beyond its own f, on either side, y_j is made of.
  [[gnu::always_inline]] constexpr int beyond() const { return (taps - factor) / 2; }
  // How many y after y_j are made of values that it is made of, too, at most.
  [[gnu::always_inline]] constexpr int begun() const { return (taps + factor - 1) / factor - 1; }
  // How many y on either side of y_j the transpose makes its f values of, at most.
  [[gnu::always_inline]] constexpr int edge() const { return (taps / 2 - 1 + factor / 2) / factor; }
  // Blocks of `width` y before one that the transpose makes values up to its own of, at most.
  [[gnu::always_inline]] constexpr int64_t blocks_before(int64_t width) const {
    return (2 * edge() + width - 1) / width;
  }
};

// A(alias) / A(u) of the kept u is at most 4.2e-9 by the first, 7.2e-9 by the second (both are a fifth of that and less
// but for the rounding of the taps to float32) and 6.6e-9 by the third; of the transpose, whose weights are sums of
// taps rounded once more (cpu/interpolated_rows.h), 1.2e-8 by the third.
inline constexpr Filter kFilters[] = {{2, 8, 10, 0, 512}, {2, 4, 18, 12, 1024}, {4, 8, 38, 0, 512}};
// Their numbers of taps tell them apart.
static_assert(kFilters[0].taps < kFilters[1].taps && kFilters[1].taps < kFilters[2].taps);

// The transpose makes value f j + r of weight(r, a) y_{j+a}, `half` the taps. Rows r and f - 1 - r are mirror images,
// weight(f - 1 - r, a) = weight(r, -a), so that both are made of even() (y_{j+a} + y_{j-a}), plus or minus odd()
// (y_{j+a} - y_{j-a}).
[[gnu::always_inline]] inline float weight(const Filter& filter, const float* half, int r, int a) {
  const int after = filter.factor * a + filter.factor / 2 - 1 - r, t = after < 0 ? -1 - after : after;
  return t < filter.taps / 2 ? half[t] : 0;
}
[[gnu::always_inline]] inline float even(const Filter& filter, const float* half, int r, int a) {
  return (weight(filter, half, r, a) + weight(filter, half, r, -a)) / 2;
}
[[gnu::always_inline]] inline float odd(const Filter& filter, const float* half, int r, int a) {
  return (weight(filter, half, r, a) - weight(filter, half, r, -a)) / 2;
}

// h of the last one (quarter_taps.py).
constexpr float kQuarterTaps[kFilters[2].taps / 2] = {
    0.702793896f,   0.627954006f,     0.49514392f,      0.332689047f,    0.172009423f,
    0.0389492847f,  -0.0518938117f,   -0.0984089822f,   -0.108467095f,   -0.0949815437f,
    -0.0710068271f, -0.0464426242f,   -0.0267373286f,   -0.0134911956f,  -0.00589217804f,
    -0.0021696256f, -0.000644068408f, -0.000141557655f, -1.74528559e-05f};

constexpr double kTapCost = 0.5;  // vector operations per value and tap
inline double filter_cost(int64_t values, const Filter& filter) {
  return kTapCost * filter.taps * static_cast<double>(values);
}
// Few lanes of such short vectors share rows, and on x86 they have no FMA: a long filter takes more than it saves, a
// tenth of 4096 x 4096 -> 1024 x 1024 there.
constexpr int64_t kNarrowBytes = 16;
constexpr int kMostNarrowTaps = kFilters[0].taps;
// Vectors that come with 32 registers: those of a filter's values stay in them.
constexpr int64_t kManyRegistersBytes = 64;
// Of a row of n values that is made of `factor` ones (forward), or of which they are made, each by `taps` products:
// what those cost beside kTapCost. Of a quarter less where registers hold all taps; of the inverse less, because rows
// that are mirror images share products (cpu/interpolated_rows.h) and all rows are stored in long pieces. Fitted on one
// Zen 5 core (bench/plans.py).
struct RowShares {
  double half, quarter;
};
constexpr RowShares kForwardShares{0.9, 1.1}, kForwardHeldShares{1, 0.8};
constexpr RowShares kInverseShares{0.8, 0.6}, kInverseHeldShares{0.7, 0.3};
inline double row_filter_cost(int64_t n, const Filter& filter, bool forward, int64_t vector_bytes) {
  const bool held = vector_bytes >= kManyRegistersBytes;
  const RowShares shares =
      forward ? (held ? kForwardHeldShares : kForwardShares) : (held ? kInverseHeldShares : kInverseShares);
  return filter_cost(2 * n, filter) * (filter.factor == 4 ? shares.quarter : shares.half);
}

}  // namespace front::plan_detail
