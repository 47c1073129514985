// Half the rows (Halving): the transform across the rows begins with a filter (decimate.h), and it commutes with the
// transform along them. Where it comes first, on the way in, half as many rows are transformed, and half as much lies
// between the passes. Included only by axis_isa.cpp (see vectors.h).
//
// Every row is read once. So blocks follow each other in order, and each leaves to the next what it needs of its rows;
// the first one of a thread reads the rows before it itself. Each sum is formed in the order of its rows, wherever
// blocks begin and however they are filtered.
//
// At once (filters_at_once): W columns of all the rows of a block go by, those that several lanes need in registers,
// and become a tile that is transposed. They are asked for four lines ahead, so that memory works all the time, and
// every row is one long stream. The last rows are kept for the next block.
//
// In strips otherwise: a row is added to all the lanes that it is a part of, four of which are completed by eight rows,
// and those that lack rows still, the next ones', wait as sums. A strip's rows are asked for while the one before it is
// filtered, half of them, and transposed, the other half (two Zen 5 cores: 0.83 to 0.88 of the time of asking for them
// four lines ahead).
#pragma once

#include "decimate.h"

namespace front::cpu::FRONT_ISA {

constexpr int kTogether = 4;               // lanes that are completed together
constexpr int kAskedByFilter = kTogether;  // of their 2 kTogether rows; the others by the transposition

constexpr int kReachedAtOnce = plan_detail::kMostTapsAtOnce / 2 - 1;  // rows beyond a lane's own two, on either side

// Where the lanes of a block are filtered.
struct HalvedRows {
  bool follows;  // the block follows the one before, which left `begun` or `kept`

  // At once.
  Vector<float>* kept;                                       // the last rows, as many as lanes share, per W columns
  const void* rows[2 * kReachedAtOnce + 2 * kLanes<float>];  // of the block: those, and its own

  // A strip of columns at a time.
  Vector<float>* lanes;  // filtered but not yet transposed: W vectors, a lane each, per W columns of the strip
  Vector<float>* begun;  // sums of the next lanes: as many vectors as the filter reaches, per W columns of a row
  int64_t begin, end;    // the columns of the strip
  int64_t next;          // elements from it to the next one: of the same rows, or of the next block's
};

// `vectors`: of the workspace, halving_vectors().
inline HalvedRows halved_rows(Vector<float>* vectors) {
  HalvedRows halved{};
  halved.kept = halved.lanes = vectors, halved.begun = vectors + kStrip;
  return halved;
}

inline int64_t reflected(int64_t row, int64_t rows) {
  return row < 0 ? -1 - row : row < rows ? row : 2 * rows - 1 - row;
}

// Asks for column c of rows row(first), ... row(end - 1), or, where a line holds several vectors, for some of them: for
// all by the time that its columns have gone by. kLocality: __builtin_prefetch's; 3: to the innermost cache.
template <class In, int kLocality, class Row>
FRONT_INLINE void ask_for(int64_t c, int first, int end, Row row) {
  constexpr int W = kLanes<float>, kTurns = kBlocksPerLine<float, In>;
  for (int r = first + (kTurns == 1 ? 0 : static_cast<int>(c / W % kTurns)); r < end; r += kTurns)
    __builtin_prefetch(row(r) + c, 0, kLocality);
}

// The next 2 kTogether rows complete kTogether lanes, which have had all other rows, and begin the next ones. next: the
// rows of which this asks for as many columns.
template <int kHalfTaps, class In>
void add_rows(const In* const* rows, int64_t n, const In* const* next, const Vector<float>* taps, Vector<float>* begun,
              Vector<float>* lanes) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1;
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = taps[t];
  const In* from[2 * kTogether];
  for (int r = 0; r < 2 * kTogether; ++r) from[r] = rows[r];
  for (int64_t c = 0; c < n; c += W, begun += kReach, lanes += W) {
    Vector<float> sum[kTogether + kReach];
    for (int l = 0; l < kReach; ++l) sum[l] = begun[l];
    ask_for<In, 2>(c, 0, kAskedByFilter, [&](int r) FRONT_INLINED { return next[r]; });
#pragma GCC unroll 32
    for (int r = 0; r < 2 * kTogether; ++r) {
      const Vector<float> row = load<float>(from[r] + c);
#pragma GCC unroll 32
      for (int l = 0; l < kTogether + kReach; ++l) {
        const int t = 2 * (kReach - l) + r;  // which of the lane's rows this is
        if (t < 0 || t >= 2 * kHalfTaps) continue;
        const Vector<float> tap = h[t < kHalfTaps ? kReach - t : t - kHalfTaps];
        sum[l] = t == 0 ? tap * row : sum[l] + tap * row;
      }
    }
    for (int l = 0; l < kTogether; ++l) lanes[l] = sum[l];
    for (int l = 0; l < kReach; ++l) begun[l] = sum[kTogether + l];
  }
}

// The next strip, of lanes [first, first + W). x: row 0 of the matrix. Rows beyond either end
// are reflected; lanes beyond the last are computed, too, and not used.
template <int kHalfTaps, class In>
void fill_strip(const In* x, const Halving& halving, int64_t first, HalvedRows& halved) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1;
  static_assert(kReach % kTogether == 0 && W % kTogether == 0);
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(halving.filter[t]);
  const int64_t n = halved.end - halved.begin, whole = n / W * W, rest = n - whole;
  Vector<float>* const begun = halved.begun + halved.begin / W * kReach;
  if (!halved.follows)
    for (int64_t i = 0; i < (n + W - 1) / W * kReach; ++i) begun[i] = Vector<float>{};
  for (int lane = halved.follows ? 0 : -kReach; lane < W; lane += kTogether) {
    const In* rows[2 * kTogether];
    for (int i = 0; i < 2 * kTogether; ++i) {
      const int64_t r = reflected(2 * (first + lane) + kReach + i, halving.rows);
      rows[i] = x + r * halving.stride + halved.begin;
    }
    Vector<float>* const lanes = halved.lanes + (lane < 0 ? 0 : lane);
    const In* next[kAskedByFilter];
    for (int i = 0; i < kAskedByFilter; ++i) next[i] = rows[i] + halved.next;
    add_rows<kHalfTaps>(rows, whole, next, h, begun, lanes);
    if (!rest) continue;
    In last[2 * kTogether][W] = {};
    for (int i = 0; i < 2 * kTogether; ++i) {
      std::memcpy(last[i], rows[i] + whole, static_cast<size_t>(rest) * sizeof(In));
      rows[i] = last[i];
    }
    for (const In*& row : next) row += whole;
    add_rows<kHalfTaps>(rows, W, next, h, begun + whole / W * kReach, lanes + whole);
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

// A lane, of its rows in their order.
template <int kHalfTaps>
FRONT_INLINE Vector<float> sum_of_rows(const Vector<float>* h, const Vector<float>* rows) {
  Vector<float> sum = h[kHalfTaps - 1] * rows[0];
#pragma GCC unroll 32
  for (int t = 1; t < 2 * kHalfTaps; ++t) sum += h[t < kHalfTaps ? kHalfTaps - 1 - t : t - kHalfTaps] * rows[t];
  return sum;
}

// As load_in_strips.
template <int kHalfTaps, class In>
void load_at_once(const In* x, int64_t columns, int64_t begin, int64_t n, const Halving& halving, int64_t first,
                  const int32_t* index, Vector<float>* z, HalvedRows& halved) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1, kOld = 2 * kReach, kNew = 2 * W, kRows = 2 * kTogether;
  constexpr int64_t kAhead = 4 * kLineBytes / static_cast<int64_t>(sizeof(In));
  static_assert(kReach <= kReachedAtOnce);
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(halving.filter[t]);
  const void** const rows = halved.rows;
  if (begin == 0)
    for (int i = 0; i < kOld + kNew; ++i)
      rows[i] = x + reflected(2 * first - kReach + i, halving.rows) * halving.stride;
  const auto row = [&](int i, int64_t c) FRONT_INLINED { return static_cast<const In*>(rows[i]) + c; };
  for (int64_t i = 0; i < n; i += W) {
    const int64_t c = begin + i;
    const int count = n - i < W ? static_cast<int>(n - i) : W;
    Vector<float>* const kept = halved.kept + c / W * kOld;
    // The window of rows slides down in registers: loops over it are unrolled, and its indices constants.
    Vector<float> v[kOld + kNew], tile[W];
    const auto load_row = [&](int r) FRONT_INLINED {
      return count == W ? load<float>(row(r, c)) : load_some<float>(row(r, c), count);
    };
    if (!halved.follows)
      for (int r = 0; r < kOld; ++r) kept[r] = load_row(r);
#pragma GCC unroll 32
    for (int r = 0; r < kOld; ++r) v[r] = kept[r];
    const auto filter = [&](auto whole) FRONT_INLINED {
      // Of the same rows, or, at their end, of the next block's.
      const int64_t ahead = c + kAhead < columns ? c + kAhead : c + kAhead - columns + kNew * halving.stride;
#pragma GCC unroll 8
      for (int g = 0; g < W; g += kTogether) {
#pragma GCC unroll 32
        for (int r = kOld + 2 * g; r < kOld + 2 * g + kRows; ++r)
          v[r] = whole ? load<float>(row(r, c)) : load_some<float>(row(r, c), count);
        if (whole)
          ask_for<In, 3>(c, kOld + 2 * g, kOld + 2 * g + kRows, [&](int r) FRONT_INLINED { return row(r, ahead - c); });
#pragma GCC unroll 32
        for (int l = g; l < g + kTogether; ++l) tile[l] = sum_of_rows<kHalfTaps>(h, v + 2 * l);
      }
    };
    if (count == W)
      filter(Constant<true>{});
    else
      filter(Constant<false>{});
#pragma GCC unroll 32
    for (int r = 0; r < kOld; ++r) kept[r] = v[kNew + r];
    transpose<float>(tile);
    for (int j = 0; j < count; ++j) z[index[i + j]] = tile[j];
  }
}

// Columns [begin, begin + n) of lanes [first, first + W) -> z[index[i]]; x: row 0 of the matrix, of `columns`.
template <int kHalfTaps, class In>
void load_in_strips(const In* x, int64_t columns, int64_t begin, int64_t n, const Halving& halving, int64_t first,
                    const int32_t* index, Vector<float>* z, HalvedRows& halved) {
  constexpr int W = kLanes<float>, kRows = 2 * kTogether;
  for (int64_t i = 0; i < n; i += W) {
    if (begin + i >= halved.end) {
      const int64_t strip = strip_columns<In>(columns);
      halved.begin = begin + i, halved.end = halved.begin + strip < columns ? halved.begin + strip : columns;
      halved.next = halved.end < columns ? strip : 2 * W * halving.stride - halved.begin;
      fill_strip<kHalfTaps>(x, halving, first, halved);
    }
    const In* const next = x + (2 * first + kHalfTaps - 1) * halving.stride + halved.next;
    for (int r = 0; r < 2 * W; r += kRows)
      ask_for<In, 2>(begin + i, r + kAskedByFilter, r + kRows,
                     [&](int row) FRONT_INLINED { return next + row * halving.stride; });
    Vector<float> tile[W];
    for (int l = 0; l < W; ++l) tile[l] = halved.lanes[begin + i - halved.begin + l];
    transpose<float>(tile);
    const int count = n - i < W ? static_cast<int>(n - i) : W;
    for (int j = 0; j < count; ++j) z[index[i + j]] = tile[j];
  }
}

}  // namespace front::cpu::FRONT_ISA
