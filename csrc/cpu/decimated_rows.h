// Fewer rows (Decimation): the transform across the rows begins with a filter (filters.h), and it commutes with the
// transform along them. Where it comes first, on the way in, a half or a quarter as many rows are transformed, and as
// much less lies between the passes. Included only by axis_isa.cpp (see vectors.h).
//
// Every row is read once: it is added to all the lanes that it is a part of, and those that lack rows still, the next
// ones', wait as sums. So blocks follow each other in order, and each leaves its sums to the next; the first one of a
// thread reads the rows before it itself. Each sum is formed in the order of its rows, wherever blocks begin.
//
// In strips of columns: eight rows at a time are added. A strip's rows are asked for while the one before it is
// filtered, half of them, and transposed, the other half (two Zen 5 cores: 0.83 to 0.88 of the time of asking for them
// four lines ahead). The filter waits for memory, so that its products cost little: 8192 x 8192 -> 1024 x 1024 takes as
// long by 18 taps as by 10, and 0.8 of the time with a quarter of the rows by 38 (two Zen 5 cores, AVX-512).
#pragma once

#include "decimate.h"

namespace front::cpu::FRONT_ISA {

constexpr int kRowsTogether = 8;                   // rows that are added together, and complete lanes
constexpr int kAskedByFilter = kRowsTogether / 2;  // of them; the others by the transposition

// Where the lanes of a block are filtered, a strip of columns at a time.
struct DecimatedRows {
  bool follows;          // the block follows the one before, which left `begun`
  Vector<float>* lanes;  // filtered but not yet transposed: W vectors, a lane each, per W columns of the strip
  Vector<float>* begun;  // sums of the next lanes: Filter::begun() vectors per W columns of a row
  int64_t begin, end;    // the columns of the strip
  int64_t next;          // elements from it to the next one: of the same rows, or of the next block's
};

inline int64_t reflected(int64_t row, int64_t rows) {
  return row < 0 ? -1 - row : row < rows ? row : 2 * rows - 1 - row;
}

// Asks for column c of rows row(first), ... row(end - 1), or, where a line holds several vectors, for some of them: for
// all by the time that its columns have gone by.
template <class In, class Row>
FRONT_INLINE void ask_for(int64_t c, int first, int end, Row row) {
  constexpr int W = kLanes<float>, kTurns = kBlocksPerLine<float, In>;
  for (int r = first + (kTurns == 1 ? 0 : static_cast<int>(c / W % kTurns)); r < end; r += kTurns)
    __builtin_prefetch(row(r) + c, 0, 2);
}

// Lanes that kRowsTogether rows complete.
template <int kFilter>
constexpr int kCompleted = kRowsTogether / plan_detail::kFilters[kFilter].factor;

// The next rows complete some lanes, which have had all other rows, and begin the next ones. next: the rows of which
// this asks for as many columns.
template <int kFilter, class In>
void add_rows(const In* const* rows, int64_t n, const In* const* next, const Vector<float>* taps, Vector<float>* begun,
              Vector<float>* lanes) {
  constexpr plan_detail::Filter kThis = plan_detail::kFilters[kFilter];
  constexpr int W = kLanes<float>, kBegun = kThis.begun(), kLanesNow = kCompleted<kFilter>, kHalf = kThis.taps / 2;
  Vector<float> h[kHalf];
  for (int t = 0; t < kHalf; ++t) h[t] = taps[t];
  const In* from[kRowsTogether];
  for (int r = 0; r < kRowsTogether; ++r) from[r] = rows[r];
  for (int64_t c = 0; c < n; c += W, begun += kBegun, lanes += W) {
    ask_for<In>(c, 0, kAskedByFilter, [&](int r) FRONT_INLINED { return next[r]; });
    Vector<float> row[kRowsTogether];
    for (int r = 0; r < kRowsTogether; ++r) row[r] = load<float>(from[r] + c);
#pragma GCC unroll 32
    for (int l = 0; l < kLanesNow + kBegun; ++l) {
      const int first = 2 * kThis.beyond() - kThis.factor * l;  // row 0 is this one of the lane's
      Vector<float> sum{};
      bool any = false;
#pragma GCC unroll 32
      for (int r = 0; r < kRowsTogether; ++r) {
        const int t = first + r;
        if (t < 0 || t >= kThis.taps) continue;
        const Vector<float> tap = h[t < kHalf ? kHalf - 1 - t : t - kHalf];
        sum = any ? sum + tap * row[r] : tap * row[r];
        any = true;
      }
      if (l < kBegun) sum += begun[l];
      (l < kLanesNow ? lanes[l] : begun[l - kLanesNow]) = sum;
    }
  }
}

// The next strip, of lanes [first, first + W). x: row 0 of the matrix. Rows beyond either end are reflected; lanes
// beyond the last are computed, too, and not used.
template <int kFilter, class In>
void fill_strip(const In* x, const Decimation& decimation, int64_t first, DecimatedRows& decimated) {
  constexpr plan_detail::Filter kThis = plan_detail::kFilters[kFilter];
  constexpr int W = kLanes<float>, kBegun = kThis.begun(), kLanesNow = kCompleted<kFilter>, kHalf = kThis.taps / 2;
  constexpr int kBefore = (kBegun + kLanesNow - 1) / kLanesNow * kLanesNow;  // lanes: of the rows that begin the first
  static_assert(W % kLanesNow == 0);
  static_assert(kThis.factor * W + kThis.beyond() + kRowsTogether <= kThis.shortest);  // reflected once
  Vector<float> h[kHalf];
  for (int t = 0; t < kHalf; ++t) h[t] = splat(decimation.taps[t]);
  const int64_t n = decimated.end - decimated.begin, whole = n / W * W, rest = n - whole;
  Vector<float>* const begun = decimated.begun + decimated.begin / W * kBegun;
  if (!decimated.follows)
    for (int64_t i = 0; i < (n + W - 1) / W * kBegun; ++i) begun[i] = Vector<float>{};
  for (int lane = decimated.follows ? 0 : -kBefore; lane < W; lane += kLanesNow) {
    const In* rows[kRowsTogether];
    for (int i = 0; i < kRowsTogether; ++i) {
      const int64_t r = reflected(kThis.factor * (first + lane) + kThis.beyond() + i, decimation.rows);
      rows[i] = x + r * decimation.stride + decimated.begin;
    }
    Vector<float>* const lanes = decimated.lanes + (lane < 0 ? 0 : lane);
    const In* next[kAskedByFilter];
    for (int i = 0; i < kAskedByFilter; ++i) next[i] = rows[i] + decimated.next;
    add_rows<kFilter>(rows, whole, next, h, begun, lanes);
    if (!rest) continue;
    In last[kRowsTogether][W] = {};
    for (int i = 0; i < kRowsTogether; ++i) {
      std::memcpy(last[i], rows[i] + whole, static_cast<size_t>(rest) * sizeof(In));
      rows[i] = last[i];
    }
    for (const In*& row : next) row += whole;
    add_rows<kFilter>(rows, W, next, h, begun + whole / W * kBegun, lanes + whole);
  }
}

// Strips are of one length, whole lines, but for what the last one lacks: it asks for the first one of the next rows.
template <class In>
int64_t strip_columns(int64_t columns) {
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(In));
  static_assert(kStrip % kLine == 0);
  const int64_t strips = (columns + kStrip - 1) / kStrip;
  return ((columns + strips - 1) / strips + kLine - 1) / kLine * kLine;
}

// Columns [begin, begin + n) of lanes [first, first + W) -> z[index[i]]; x: row 0 of the matrix, of `columns`.
template <int kFilter, class In>
void load_decimated(const In* x, int64_t columns, int64_t begin, int64_t n, const Decimation& decimation, int64_t first,
                    const int32_t* index, Vector<float>* z, DecimatedRows& decimated) {
  constexpr plan_detail::Filter kThis = plan_detail::kFilters[kFilter];
  constexpr int W = kLanes<float>, kRows = kThis.factor * W;
  for (int64_t i = 0; i < n; i += W) {
    if (begin + i >= decimated.end) {
      const int64_t strip = strip_columns<In>(columns);
      decimated.begin = begin + i;
      decimated.end = decimated.begin + strip < columns ? decimated.begin + strip : columns;
      decimated.next = decimated.end < columns ? strip : kRows * decimation.stride - decimated.begin;
      fill_strip<kFilter>(x, decimation, first, decimated);
    }
    const In* const next = x + (kThis.factor * first + kThis.beyond()) * decimation.stride + decimated.next;
    for (int r = 0; r < kRows; r += kRowsTogether)
      ask_for<In>(begin + i, r + kAskedByFilter, r + kRowsTogether,
                  [&](int row) FRONT_INLINED { return next + row * decimation.stride; });
    Vector<float> tile[W];
    for (int l = 0; l < W; ++l) tile[l] = decimated.lanes[begin + i - decimated.begin + l];
    transpose<float>(tile);
    const int count = n - i < W ? static_cast<int>(n - i) : W;
    for (int j = 0; j < count; ++j) z[index[i + j]] = tile[j];
  }
}

}  // namespace front::cpu::FRONT_ISA
