// Planning passes and matrices: which axis first, what goes around or stays in the caches, what is done together. Pure
// host data, no torch, no tables. All other cost constants live here.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "axis_plan.h"

namespace front {

// What the choices and predictions below depend on. The instruction set in use and the caches of the machine.
struct Machine {
  int64_t vector_bytes = 32;
  int64_t own_cache = 1 << 20;      // of a core
  int64_t shared_cache = 32 << 20;  // of all cores; no more is counted on
  int64_t threads = 1;
};

// Least work worth a thread: points of lane blocks.
constexpr int64_t kGrainPoints = 1 << 15;
// Matrices whose intermediate is smaller are taken together, so that their lanes fill vectors and a task is worth its
// start; a group's intermediate stays in a core's cache.
constexpr int64_t kGroupBytes = 256 << 10;
// Up to this size of the intermediate a thread takes matrices of its own; above, threads share each matrix.
constexpr int64_t kOwnBytes = 2 << 20;
// Up to this size it may be larger than m x k1, for few coefficients of columns: 64 rows of 4096.
constexpr int64_t kSmallBytes = 1 << 20;

enum class Order : int32_t { rows_first, columns_first };

// Both axes of an in_rows x in_columns -> out_rows x out_columns matrix.
struct MatrixPlan {
  Order order = Order::rows_first;
  AxisPlan rows, columns;                       // of the transforms along a row, and along a column
  const plan_detail::Filter* filter = nullptr;  // fewer rows are transformed: by this one columns are decimated as rows
                                                // are loaded (forward), or interpolated as they are stored (inverse)
  int64_t workspace = 0;                        // elements of the intermediate, in whole panels
  double rows_us = 0, columns_us = 0;           // predicted microseconds
};

namespace plan_detail {

// Nanoseconds of one thread of a 3.6 GHz Zen 4 core under AVX-512, from timings of the passes' steps.
constexpr double kOperationNs = 0.2;  // a vector operation of AxisPlan::cost
// Per byte, each with its share of the work on the points in the core's cache. From and to caches: the same read by
// columns, a line or a few at a time, and a padding's columns written where rows are a multiple of half a page long, so
// that few sets of a cache hold one (Zen 5: 512 x 512 from 256 x 256 columns first in 0.61 of the time, but 768 x 768
// 1.07; crops to such rows are faster rows first).
constexpr double kCachedNs = 0.03, kCachedColumnsNs = 0.036, kCachedCrowdedNs = 0.06;
constexpr int64_t kCrowdedBytes = 2048;  // from row to row
// From and to memory, along rows and by columns; the latter two are from a virtual Cascade Lake: they choose the faster
// order of all crops and paddings of 4096 x 4096 that were timed both ways there.
constexpr double kReadNs = 0.06, kWriteNs = 0.06, kReadColumnsNs = 0.12, kWriteColumnsNs = 0.07;
// Of a matrix's pass in which rows stream by, of AxisPlan::cost (Zen 5, as all of bench/plans.py's).
constexpr double kFarStreamedShare = 1.6, kNearStreamedShare = 0.3;
constexpr double kPassUs = 1;  // start of a parallel loop

// One side of a pass: elements per lane, their size, whether the elements of a lane lie far apart, and whether so far
// that few sets of a cache hold them all.
struct PassSide {
  int64_t length, bytes;
  bool apart, crowded = false;
};

inline double pass_us(double cost, int64_t lanes, int64_t compute_bytes, PassSide in, PassSide out, const Machine& m) {
  const auto in_bytes = static_cast<double>(lanes * in.length * in.bytes);
  const auto out_bytes = static_cast<double>(lanes * out.length * out.bytes);
  const bool cached = in_bytes + out_bytes <= static_cast<double>(m.shared_cache);
  const double read = cached ? (in.apart ? kCachedColumnsNs : kCachedNs) : in.apart ? kReadColumnsNs : kReadNs;
  const double write = cached ? (out.crowded ? kCachedCrowdedNs : kCachedNs) : out.apart ? kWriteColumnsNs : kWriteNs;
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

// How many of a lane's elements a pass asks for ahead. Rows of panels follow each other, and hardware follows them, but
// not as far ahead as memory takes (64 MiB of panels copied to work arrays by one Zen 5 core: 3.3 ms, with it 2.2), or
// the cache of a core that wrote them (768 x 768 on two that share no cache: 0.95 of the time).
inline int64_t elements_ahead(int64_t stride_bytes, int64_t bytes_moved, const Machine& m) {
  if (reads_far_apart(stride_bytes, bytes_moved, m)) return 16;
  return stride_bytes == kLineBytes && bytes_moved > m.own_cache ? 64 : 0;
}

// Whether the n rows of a pass along columns may stream by, as they are read (forward) or written (inverse): `row`
// lanes of a matrix follow each other. How many matrices there are, and how they are grouped, does not matter: results
// shall not depend on it. Not the smallest ones, nor where rows lie close together.
constexpr int64_t kLeastStreamed = 128 << 10;
inline Streams streams_rows(int64_t n, int64_t row, int64_t stride_bytes, int64_t bytes, int64_t compute_bytes,
                            const Machine& m) {
  const int64_t all = n * row * bytes;
  if (row * compute_bytes < m.vector_bytes || stride_bytes < kFarBytes) return Streams::no;
  if (reads_far_apart(stride_bytes, all, m)) return Streams::far;
  return all >= kLeastStreamed ? Streams::near : Streams::no;
}

// How many blocks of a pass over adjacent lanes are transformed together, so that rows are moved in longer pieces than
// one vector: a cache line, or up to four where what lies in rows is not in the cores' caches and their work arrays
// still are. Where it is in no cache at all, work arrays may overflow a core's by several times: of rows that lie pages
// apart a line at a time costs more (4096 x 4096 on Zen 3, with 512 KiB of cache for work arrays of 128: 0.84 of the
// time). What fits the cores' caches together is moved by lines of the compute type, the rest by lines of what lies in
// rows, `in_line` blocks for one, whatever they take. Of rows that would fit the shared cache but are written around it
// work arrays may fill a core's cache for two lines (bfloat16 on Zen 5: 4096 x 4096 in full 0.95 of the time, 2048 x
// 2048 -> 4096 x 4096 0.92; for four, of float32, 1.04). But no thread goes without.
constexpr int64_t kMostLines = 4;
// Lines of elements half as wide as those they are computed in, but for the narrowest vectors (float64 from two bytes
// does without half of them). Always inlined, as dense_coefficients().
[[gnu::always_inline]] constexpr int64_t most_side_by_side(int64_t vector_bytes) {
  return kMostLines * kLineBytes / (vector_bytes > 16 ? vector_bytes / 2 : 16);
}
inline int64_t blocks_side_by_side(int64_t work_bytes, int64_t blocks, int64_t bytes_in_rows, int64_t in_line,
                                   bool around_caches, const Machine& m) {
  const int64_t own = std::min(m.own_cache * m.threads, m.shared_cache);
  const int64_t line = bytes_in_rows <= own ? std::max<int64_t>(1, kLineBytes / m.vector_bytes) : in_line;
  int64_t count = 1;
  while (2 * count * m.threads <= blocks && count < std::min(kMostLines * line, most_side_by_side(m.vector_bytes))) {
    const int64_t overflowing = (count == line ? 4 : 2) * m.own_cache;
    const int64_t whole = around_caches && count < 2 * line ? m.own_cache : m.own_cache / 2;
    const int64_t most = bytes_in_rows > m.shared_cache ? overflowing : whole;
    if (count >= line && (bytes_in_rows <= own || 2 * count * work_bytes > most)) break;
    count *= 2;
  }
  return count;
}

// How many of those values are read for at once. They go to places of the work arrays that lie far apart: of vectors
// narrower than a line each line comes in pieces, at different times, and is to stay in the innermost cache until it is
// whole. So they are read for as many blocks as fit there, as fill a line with an element each, or four from memory
// (one Zen 5 core, columns first, beside all at once: 640 x 640 -> 320 x 320 in 0.64 of the time under AVX2, 2048 x
// 2048 0.88; by vectors of 16 bytes 0.68 and 0.75). Not coefficients, nor what a filter takes: those go to places that
// follow each other.
constexpr int64_t kInnermostBytes = 32 << 10, kLeastFromMemory = 4;
inline int64_t blocks_read_together(int64_t work_bytes, int64_t side_by_side, int64_t bytes_in_rows, const Machine& m) {
  const int64_t pieces = kLineBytes / m.vector_bytes, fitting = kInnermostBytes / work_bytes;
  if (pieces == 1) return side_by_side;
  const int64_t least = bytes_in_rows > m.shared_cache ? std::max(pieces, kLeastFromMemory) : pieces;
  return std::min(side_by_side, std::max(least, fitting));
}

// How many of those where only the result lies in rows, which the last stage writes around the caches: their work
// arrays stay in a core's cache.
inline int64_t blocks_written_together(int64_t work_bytes, int64_t side_by_side, const Machine& m) {
  int64_t count = side_by_side;
  while (count > 1 && count * work_bytes > m.own_cache) count /= 2;
  return count;
}

// Whether the rows of a matrix are taken in the order in which the transform across them uses them (cpu/tables.h,
// UseOrder), an intermediate of `columns` columns having them so, in panels that `width` columns fill. By blocks of
// whole vectors; rows of several matrices, if each has a single panel, fill blocks better as they are (20 x 16 of 500:
// 1.27 of the time in order). An inverse whose vectors fill no line goes through a panel several times, which is to
// stay in a core's cache then (65536 x 64 under AVX2 1.32).
struct Intermediate {
  int64_t rows, columns, width, bytes;  // bytes: of an element
  bool several;                         // matrices are taken together
};
inline bool orders_rows(const Intermediate& x, bool inverse, const Machine& m) {
  if (x.rows == 1 || x.width * x.bytes < m.vector_bytes || (x.several && x.columns <= x.width)) return false;
  return !inverse || m.vector_bytes == kLineBytes || x.rows * kLineBytes <= m.own_cache;
}

// How many blocks rows are read in at once where they stream by: sums and folded pieces stay in a core's cache.
constexpr int64_t kStreamedBytes = 512;
inline int64_t blocks_streamed(int64_t blocks, const Machine& m) {
  int64_t count = std::min(kStreamedBytes / m.vector_bytes, most_side_by_side(m.vector_bytes));
  while (count > 1 && count * m.threads > blocks) count /= 2;
  return count;
}

// Products by definition: sums of so many pairs' are summed, so many of these in turn, and then all; of the inverse, of
// so many coefficients.
constexpr int64_t kSummedPairs = 16, kSummedPieces = 16, kSummedCoefficients = 32;
// Coefficients in whole blocks. Always inlined: code for one instruction set shall define nothing that another could
// pick up.
[[gnu::always_inline]] inline int64_t dense_coefficients(int64_t kept) {
  return (kept + plan_detail::kDenseBlock - 1) / plan_detail::kDenseBlock * plan_detail::kDenseBlock;
}
// What a block needs of the work array while rows stream by: a piece of pairs, and two sums per coefficient.
inline int64_t streamed_vectors(int64_t kept) { return 2 * kSummedPairs + 2 * dense_coefficients(kept); }

// Columns that an intermediate of `columns` takes: it is stored as panels of one cache line's width, but one that is
// narrower as it is.
inline int64_t panel_columns(int64_t columns, int64_t element_bytes) {
  const int64_t width = kLineBytes / element_bytes;
  return columns <= width ? columns : (columns + width - 1) / width * width;
}

// What of a matrix matters: the sizes, bytes of the elements, whether it is stored column by column, and how its m rows
// lie.
struct MatrixShape {
  bool forward;  // m x n -> k0 x k1; else the transpose
  int64_t m, n, k0, k1;
  int64_t in_bytes, compute_bytes, out_bytes;
  bool in_by_columns, out_by_columns;
  bool adjacent;  // the elements of each row of n
  int64_t row;    // from row to row
};

namespace plan_detail {

// Whether columns may be decimated by a filter while rows are loaded, rows first (forward), or interpolated while they
// are stored, rows last (inverse): of k1 columns that make at least a panel.
inline bool decimates_rows(const MatrixShape& x, const Filter& filter, const Machine& m) {
  if (!x.adjacent || x.k1 * x.compute_bytes < kLineBytes) return false;
  if (m.vector_bytes <= kNarrowBytes && filter.taps > kMostNarrowTaps) return false;
  return decimates(x.m, x.k0, x.compute_bytes, filter);
}

// Whether, and from where, the m rows may stream by in the columns' pass that reads, or writes, them.
inline Streams streams_of(const MatrixShape& x, const Machine& machine) {
  const int64_t bytes = x.forward ? x.in_bytes : x.out_bytes;
  return x.adjacent ? streams_rows(x.m, x.n, x.row * bytes, bytes, x.compute_bytes, machine) : Streams::no;
}

// Sets what `plan` is predicted to take.
inline void predict(MatrixPlan& plan, const MatrixShape& x, const Machine& machine) {
  const bool rows_first = plan.order == Order::rows_first, streamed = plan.columns.streamed;
  const int64_t factor = plan.filter ? plan.filter->factor : 1, read = x.forward ? factor : 1, written = factor / read;
  const int64_t in_rows = x.forward ? x.m : x.k0, in_columns = x.forward ? x.n : x.k1;
  const int64_t out_rows = x.forward ? x.k0 : x.m, out_columns = x.forward ? x.k1 : x.n;
  const int64_t rows = rows_first ? in_rows / read : out_rows / written;
  const int64_t columns = rows_first ? out_columns : in_columns;
  const int64_t first_bytes = x.in_bytes, mid_bytes = x.compute_bytes, last_bytes = x.out_bytes;
  const double filter = plan.filter ? row_filter_cost(x.n, *plan.filter, x.forward, machine.vector_bytes) : 0;
  plan.rows_us =
      pass_us(plan.rows.cost + filter, rows, mid_bytes,
              {read * in_columns, rows_first ? first_bytes : mid_bytes, rows_first && x.in_by_columns},
              {written * out_columns, rows_first ? mid_bytes : last_bytes, !rows_first && x.out_by_columns}, machine);
  // Rows that stream by are moved in long pieces.
  const bool in_apart = !rows_first && !x.in_by_columns && !streamed;
  const bool out_apart = rows_first && !x.out_by_columns && !streamed;
  const double share = !streamed ? 1 : streams_of(x, machine) == Streams::far ? kFarStreamedShare : kNearStreamedShare;
  plan.columns_us = pass_us(share * plan.columns.cost, columns, mid_bytes,
                            {rows_first ? rows : in_rows, rows_first ? mid_bytes : first_bytes, in_apart},
                            {rows_first ? out_rows : rows, rows_first ? last_bytes : mid_bytes, out_apart,
                             !x.forward && out_apart && out_columns * last_bytes % kCrowdedBytes == 0},
                            machine);
}

}  // namespace plan_detail

// All plans of a matrix, with their predicted times. Rows first needs an intermediate of in_rows x out_columns, columns
// first one of out_rows x in_columns; but for the rounding to panels it is never larger than m x k1, or a small one
// where rows stream by.
inline std::vector<MatrixPlan> all_plans(const MatrixShape& x, const Machine& machine) {
  using namespace plan_detail;
  std::vector<MatrixPlan> plans;
  const AxisPlan rows = plan_axis(x.n, x.k1, x.compute_bytes), columns = plan_axis(x.m, x.k0, x.compute_bytes);
  const auto add = [&](Order order, const AxisPlan& across, const Filter* filter) {
    const int64_t m = filter ? x.m / filter->factor : x.m;
    const int64_t all_rows = (order == Order::rows_first) == x.forward ? m : x.k0;
    const int64_t all_columns = (order == Order::rows_first) == x.forward ? x.k1 : x.n;
    const bool small = across.streamed && all_rows * all_columns * x.compute_bytes <= kSmallBytes;
    if (all_rows * all_columns > x.m * x.k1 && !small) return;
    plans.push_back({order, rows, across, filter, all_rows * panel_columns(all_columns, x.compute_bytes)});
    predict(plans.back(), x, machine);
  };
  const AxisPlan streamed = plan_axis(x.m, x.k0, x.compute_bytes, streams_of(x, machine));
  for (Order order : {Order::rows_first, Order::columns_first}) {
    const bool rows_side = (order == Order::rows_first) == x.forward;  // the rows' pass reads, or writes, the m rows
    const bool streams = !rows_side && streamed.streamed;
    if (!streams || !columns.dense) add(order, columns, nullptr);  // by definition they do so best
    if (streams) add(order, streamed, nullptr);
    if (!rows_side) continue;
    for (const Filter& filter : kFilters)
      if (decimates_rows(x, filter, machine)) add(order, plan_decimated(x.m, x.k0, x.compute_bytes, filter), &filter);
  }
  return plans;
}

// The one that is predicted to be fastest with one thread, because results do not depend on threads; of one order, if
// `only` is given.
inline MatrixPlan plan_matrix(const MatrixShape& x, const Machine& machine, std::optional<Order> only = {}) {
  Machine alone = machine;
  alone.threads = 1;
  MatrixPlan best;
  for (MatrixPlan& plan : all_plans(x, alone)) {
    if (only && plan.order != *only) continue;
    if (!best.workspace || plan.rows_us + plan.columns_us < best.rows_us + best.columns_us) best = std::move(plan);
  }
  plan_detail::predict(best, x, machine);
  // What is rounded by more than float32 is takes no step in double: the first pass reads x, the last writes the
  // result.
  const bool rows_first = best.order == Order::rows_first;
  if (x.in_bytes < x.compute_bytes) (rows_first ? best.rows : best.columns).wide = false;
  if (x.out_bytes < x.compute_bytes) (rows_first ? best.columns : best.rows).wide = false;
  return best;
}

}  // namespace front
