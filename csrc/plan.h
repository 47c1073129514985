// Planning: which algorithm transforms an axis of length n of which `kept` coefficients matter. Pure host data,
// printable, no torch, no tables. All cost constants live here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <sstream>
#include <string>
#include <vector>

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
  bool streamed = false;  // while rows stream by (cpu/streamed.h)
  int taps = 0;           // not 0: first decimated by two, with a filter of so many taps (float32 only)

  int64_t length() const { return taps ? n / 2 : n; }  // what `split` and `dft` are of

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
// Where rows stream by (cpu/streamed.h).
constexpr double kStreamedProductCost = 0.5;  // from a virtual Cascade Lake

// Decimation by a filter of `taps` with the response T(b c) / T(b) (1 + flatness (1 - c^2)) (tables.cpp), where n /
// share coefficients are kept at most; below the shortest length it does not pay.
struct Filter {
  int64_t share;
  int taps;
  double flatness;
  int64_t shortest;
};
constexpr Filter kFilters[] = {{8, 10, 0, 512}, {4, 18, 12, 1024}};
constexpr double kTapCost = 0.5;  // per value and tap
inline double filter_cost(int64_t values, int taps) { return kTapCost * taps * static_cast<double>(values); }
// Few lanes of such short vectors share rows, and on x86 they have no FMA: the long filter takes more than it saves, a
// tenth of 4096 x 4096 -> 1024 x 1024 there.
constexpr int64_t kNarrowBytes = 16;
constexpr int kMostNarrowTaps = kFilters[0].taps;
// Of one halved row of n values.
inline double halving_cost(int64_t n, int taps) { return filter_cost(2 * n, taps); }

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

// Coefficients of an axis whose rows stream by, at most.
constexpr int64_t kMostStreamed = 64;

// compute_bytes: of an element; only float32 is decimated. streamed: where few coefficients of columns can be computed
// while the rows stream by (cpu/streamed.h).
inline AxisPlan plan_axis(int64_t n, int64_t kept, int64_t compute_bytes, bool streamed = false) {
  using namespace plan_detail;
  AxisPlan best = plan_fft(n, kept, compute_bytes);
  for (const Filter& filter : kFilters) {
    if (compute_bytes != 4 || n % 4 != 0 || n < filter.shortest || kept > n / filter.share) continue;
    AxisPlan half = plan_fft(n / 2, kept, compute_bytes);
    half.n = n;
    half.taps = filter.taps;
    half.cost += filter_cost(n, filter.taps);
    if (half.cost < best.cost) best = std::move(half);
  }
  best.wide = compute_bytes == 4 && best.fused() && !best.taps && n >= kWideValues;
  const int64_t products = (kept + kDenseBlock - 1) / kDenseBlock * kDenseBlock * ((n + 1) / 2);
  streamed = streamed && kept <= kMostStreamed;
  const double cost = kFoldCost * static_cast<double>(n) +
                      (streamed ? kStreamedProductCost : kProductCost) * static_cast<double>(products);
  if (products > kLargestBasis || cost >= best.cost) return best;
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
  if (p.taps) s << "decimated by " << p.taps << " taps, ";
  s << p.split << " x " << name(p.dft) << ' ' << p.dft.n;
  if (p.dft.smooth) s << (p.dft.resampled ? " from DFTs" : " by convolutions") << " of length " << p.dft.smooth;
  s << ", radices";
  for (int32_t r : p.dft.radices) s << ' ' << r;
  if (p.fused()) s << ", the last one with the pairs";
  if (p.wide) s << " (of the inverse in double)";
  s << ", " << static_cast<int64_t>(p.cost) << " vector operations per lane";
  return s.str();
}

// What the choices and predictions below depend on. The instruction set in use and the caches of the machine.
struct Machine {
  int64_t vector_bytes = 32;
  int64_t own_cache = 1 << 20;      // of a core
  int64_t shared_cache = 32 << 20;  // of all cores; no more is counted on
  int64_t threads = 1;
};

// Least work worth a thread: points of one lane block.
constexpr int64_t kGrainPoints = 1 << 15;
// Matrices whose intermediate is smaller are taken together, so that their lanes fill vectors and a task is worth its
// start; a group's intermediate stays in a core's cache.
constexpr int64_t kGroupBytes = 256 << 10;
// Up to this size of the intermediate a thread takes matrices of its own; above, threads share each matrix.
constexpr int64_t kOwnBytes = 2 << 20;

enum class Order : int32_t { rows_first, columns_first };

// Both axes of an in_rows x in_columns -> out_rows x out_columns matrix.
struct MatrixPlan {
  Order order = Order::rows_first;
  AxisPlan rows, columns;              // of the transforms along a row, and along a column
  bool halved = false;                 // the columns are decimated first, so that half as many rows are transformed
  int64_t workspace = 0;               // elements of the intermediate, in whole panels
  double rows_us = 0, columns_us = 0;  // predicted microseconds
};

namespace plan_detail {

// Nanoseconds of one thread of a 3.6 GHz Zen 4 core under AVX-512, from timings of the passes' steps.
constexpr double kOperationNs = 0.2;  // a vector operation of AxisPlan::cost
// Per byte, each with its share of the work on the points in the core's cache: from and to caches; from and to memory;
// the same by columns, a cache line or a few at a time. Those two are from a virtual Cascade Lake: they choose the
// faster order of all crops and paddings of 4096 x 4096 that were timed both ways there.
constexpr double kCachedNs = 0.03, kReadNs = 0.06, kWriteNs = 0.06, kReadColumnsNs = 0.12, kWriteColumnsNs = 0.07;
constexpr double kPassUs = 1;  // start of a parallel loop

// One side of a pass: elements per lane, their size, and whether the elements of a lane lie far apart.
struct PassSide {
  int64_t length, bytes;
  bool apart;
};

inline double pass_us(double cost, int64_t lanes, int64_t compute_bytes, PassSide in, PassSide out, const Machine& m) {
  const auto in_bytes = static_cast<double>(lanes * in.length * in.bytes);
  const auto out_bytes = static_cast<double>(lanes * out.length * out.bytes);
  const bool cached = in_bytes + out_bytes <= static_cast<double>(m.shared_cache);
  const double read = cached ? kCachedNs : in.apart ? kReadColumnsNs : kReadNs;
  const double write = cached ? kCachedNs : out.apart ? kWriteColumnsNs : kWriteNs;
  const int64_t width = m.vector_bytes / compute_bytes, blocks = (lanes + width - 1) / width;
  const int64_t busiest = (blocks + m.threads - 1) / m.threads;  // blocks of the thread that has most
  const double share = static_cast<double>(busiest) / static_cast<double>(blocks);
  const double ns = static_cast<double>(blocks) * cost * kOperationNs + in_bytes * read + out_bytes * write;
  return kPassUs + share * ns / 1e3;
}

}  // namespace plan_detail

// Whether a pass writes around the caches: when it moves more than they hold, nothing of its result is in them when the
// next pass begins.
inline bool writes_around_caches(int64_t bytes_moved, const Machine& m) { return bytes_moved > m.shared_cache; }

// Whether a pass asks for a lane's elements ahead: those so far from each other are no stream that the hardware
// follows, and a core's cache does not hold them. One axis along the columns of 4096 x 4096 takes 0.4 of the time with
// it.
constexpr int64_t kFarBytes = 512;
inline bool reads_far_apart(int64_t stride_bytes, int64_t bytes_moved, const Machine& m) {
  return stride_bytes >= kFarBytes && bytes_moved > 2 * m.own_cache;
}

// Whether rows of a forward pass along columns may stream by: `row` lanes of a matrix follow each other. How many
// matrices there are, and how they are grouped, does not matter: results shall not depend on it.
inline bool streams_rows(int64_t n, int64_t row, int64_t stride_bytes, int64_t in_bytes, int64_t compute_bytes,
                         const Machine& m) {
  return row * compute_bytes >= m.vector_bytes && reads_far_apart(stride_bytes, n * row * in_bytes, m);
}

// How many blocks of a pass over adjacent lanes are transformed together, so that rows are moved in longer pieces than
// one vector: a cache line, or up to four where the matrix is not in the cores' caches and their work arrays still are;
// but no thread goes without.
constexpr int64_t kMostLines = 4, kMostSideBySide = kMostLines * kLineBytes / 16;  // 16: the narrowest vectors
inline int64_t blocks_side_by_side(int64_t work_bytes, int64_t blocks, int64_t bytes_moved, const Machine& m) {
  const int64_t line = std::max<int64_t>(1, kLineBytes / m.vector_bytes);
  const int64_t own = std::min(m.own_cache * m.threads, m.shared_cache);
  int64_t count = 1;
  while (2 * count * m.threads <= blocks && count < kMostLines * line) {
    const bool near = 2 * count * work_bytes <= m.own_cache / 2;
    if (count >= line && (bytes_moved <= own || !near)) break;
    count *= 2;
  }
  return count;
}

// How many blocks rows are read in at once where they stream by: sums and folded pieces stay in a core's cache.
constexpr int64_t kStreamedBytes = 512;
inline int64_t blocks_streamed(int64_t blocks, const Machine& m) {
  int64_t count = std::min(kStreamedBytes / m.vector_bytes, kMostSideBySide);
  while (count > 1 && count * m.threads > blocks) count /= 2;
  return count;
}

// Products by definition: sums of so many pairs' are summed, so many of these in turn, and then all.
constexpr int64_t kSummedPairs = 16, kSummedPieces = 16;
// Coefficients in whole blocks.
inline int64_t dense_coefficients(int64_t kept) {
  return (kept + plan_detail::kDenseBlock - 1) / plan_detail::kDenseBlock * plan_detail::kDenseBlock;
}
// What a block needs of the work array while rows stream by: a folded piece, and two sums per coefficient.
inline int64_t streamed_vectors(int64_t kept) { return 2 * kSummedPairs + 2 * dense_coefficients(kept); }

// Columns that an intermediate of `columns` takes: it is stored as panels of one cache line's width, but one that is
// narrower as it is.
inline int64_t panel_columns(int64_t columns, int64_t element_bytes) {
  const int64_t width = kLineBytes / element_bytes;
  return columns <= width ? columns : (columns + width - 1) / width * width;
}

// What of a matrix matters: the sizes, bytes of the elements, whether it is stored column by column, and whether the
// elements of the input's rows are adjacent.
struct MatrixShape {
  bool forward;  // m x n -> k0 x k1; else the transpose
  int64_t m, n, k0, k1;
  int64_t in_bytes, compute_bytes, out_bytes;
  bool in_by_columns, out_by_columns, in_adjacent;
  int64_t in_row = 0;  // from row to row of the input; 0: the rows follow each other
};

// Whether a forward transform, rows first, filters the columns while it loads the rows: rows that are halved cost the
// taps, and save half of what they cost themselves. Of k1 columns, that make at least a panel.
inline bool halves_rows(const MatrixShape& x, const AxisPlan& rows, const AxisPlan& columns, const Machine& machine) {
  using namespace plan_detail;
  if (!x.forward || !x.in_adjacent || !columns.taps || x.k1 * x.compute_bytes < kLineBytes) return false;
  if (machine.vector_bytes <= kNarrowBytes && columns.taps > kMostNarrowTaps) return false;
  return rows.cost > halving_cost(x.n, columns.taps);
}

// Rows first needs an intermediate of in_rows x out_columns, columns first one of out_rows x in_columns; but for the
// rounding to panels it is never larger than m x k1. The order is what is predicted to be faster with one thread:
// results do not depend on threads.
inline MatrixPlan plan_matrix(const MatrixShape& x, const Machine& machine) {
  using namespace plan_detail;
  MatrixPlan best;
  double fastest = 0;
  best.rows = plan_axis(x.n, x.k1, x.compute_bytes);
  const AxisPlan across = plan_axis(x.m, x.k0, x.compute_bytes);
  const int64_t stride_bytes = (x.in_row ? x.in_row : x.n) * x.in_bytes;
  const bool streams =
      x.forward && x.in_adjacent && streams_rows(x.m, x.n, stride_bytes, x.in_bytes, x.compute_bytes, machine);
  const AxisPlan across_first = plan_axis(x.m, x.k0, x.compute_bytes, streams);
  const int64_t in_rows = x.forward ? x.m : x.k0, in_columns = x.forward ? x.n : x.k1;
  const int64_t out_rows = x.forward ? x.k0 : x.m, out_columns = x.forward ? x.k1 : x.n;
  const bool halves = halves_rows(x, best.rows, across, machine);
  for (Order order : {Order::rows_first, Order::columns_first}) {
    const bool rows_first = order == Order::rows_first, halved = halves && rows_first;
    const int64_t read = halved ? 2 : 1;  // rows for one
    const int64_t rows = rows_first ? in_rows / read : out_rows, columns = rows_first ? out_columns : in_columns;
    if (rows * columns > x.m * x.k1) continue;
    const AxisPlan& columns_plan = rows_first ? across : across_first;
    const double row_cost = best.rows.cost + (halved ? halving_cost(x.n, across.taps) : 0);
    const double column_cost = columns_plan.cost - (halved ? filter_cost(x.m, across.taps) : 0);
    const auto us = [&](Order which, const Machine& m) {
      return which == Order::rows_first
                 ? pass_us(
                       row_cost, rows, x.compute_bytes,
                       {read * in_columns, rows_first ? x.in_bytes : x.compute_bytes, rows_first && x.in_by_columns},
                       {out_columns, rows_first ? x.compute_bytes : x.out_bytes, !rows_first && x.out_by_columns}, m)
                 : pass_us(column_cost, rows_first ? out_columns : in_columns, x.compute_bytes,
                           {rows_first ? rows : in_rows, rows_first ? x.compute_bytes : x.in_bytes,
                            !rows_first && !x.in_by_columns},
                           {out_rows, rows_first ? x.out_bytes : x.compute_bytes, rows_first && !x.out_by_columns}, m);
    };
    Machine alone = machine;
    alone.threads = 1;
    const double total = us(Order::rows_first, alone) + us(Order::columns_first, alone);
    if (best.workspace && total >= fastest) continue;
    fastest = total;
    best.order = order;
    best.columns = columns_plan;
    best.halved = halved;
    best.workspace = rows * panel_columns(columns, x.compute_bytes);
    best.rows_us = us(Order::rows_first, machine);
    best.columns_us = us(Order::columns_first, machine);
  }
  // What is rounded by more than float32 is takes no step in double: the first pass reads x, the last writes the
  // result.
  const bool rows_first = best.order == Order::rows_first;
  if (x.in_bytes < x.compute_bytes) (rows_first ? best.rows : best.columns).wide = false;
  if (x.out_bytes < x.compute_bytes) (rows_first ? best.columns : best.rows).wide = false;
  return best;
}

}  // namespace front
