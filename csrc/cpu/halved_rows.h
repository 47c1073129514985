// Half the rows (Halving): the transform across the rows begins with a filter (decimate.h), and it commutes with the
// transform along them. Where it comes first, on the way in, half as many rows are transformed, and half as much lies
// between the passes. Included only by axis_isa.cpp (see simd.h).
#pragma once

#include "decimate.h"

namespace front::cpu::FRONT_ISA {

// Some columns of the W lanes of a block, filtered but not yet transposed.
struct Strip {
  static constexpr int kStride = kStrip / kLanes<float> + 1;  // vectors from lane to lane; not a power of two
  Vector<float>* lanes;
  int64_t begin, end;  // the columns that it holds
};

constexpr int kAhead = 64;  // elements of a row
// Vectors of each row that are read together: a line, or half of one. Rows that lie a multiple of 4096 bytes apart take
// each other's place in the innermost cache, so that a line would have to be fetched again for its second half. No
// registers for more.
constexpr int kOfLine = FRONT_VECTOR_BYTES < kLineBytes ? 2 : 1;

// Columns [strip.begin, strip.end) of lanes [first, first + W). A few lanes at a time, all of whose sums are registers
// while the rows stream by. What lies beyond the last lane are rows again.
template <int kHalfTaps, class In>
void fill_strip(const In* x, const Halving& halving, int64_t first, Strip& strip) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1, kTogether = 4, kRows = 2 * kTogether + 2 * kReach;
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(halving.filter[t]);
  const int64_t n = strip.end - strip.begin;
  for (int lane = 0; lane < W; lane += kTogether) {
    const In* row[kRows];
    for (int i = 0; i < kRows; ++i) {
      int64_t r = 2 * (first + lane) - kReach + i;
      if (r < 0) r = -1 - r;
      if (r >= halving.rows) r = 2 * halving.rows - 1 - r;
      row[i] = x + r * halving.stride + strip.begin;
    }
    Vector<float>* out = strip.lanes + lane * Strip::kStride;
    const auto filter = [&](auto side_by_side, int64_t i, auto load_row) FRONT_INLINED {
      Vector<float> sum[kTogether][side_by_side];
#pragma GCC unroll 32
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < side_by_side; ++v) {
          const Vector<float> read = load_row(row[r] + i + v * W, v == 0 && r >= 2 * kReach);
#pragma GCC unroll 4
          for (int l = 0; l < kTogether; ++l) {
            const int tap = r - 2 * l, t = tap < kHalfTaps ? kReach - tap : tap - kHalfTaps;
            if (tap == 0)
              sum[l][v] = h[t] * read;
            else if (tap > 0 && tap < 2 * kHalfTaps)
              sum[l][v] += h[t] * read;
          }
        }
      for (int l = 0; l < kTogether; ++l)
        for (int v = 0; v < side_by_side; ++v) out[i / W + v + l * Strip::kStride] = sum[l][v];
    };
    const auto whole = [](const In* p, bool is_new) FRONT_INLINED {
      if (is_new) __builtin_prefetch(p + kAhead, 0, 2);
      return load<float>(p);
    };
    int64_t i = 0;
    const auto some = [&](const In* p, bool)
                          FRONT_INLINED { return load_some<float>(p, n - i < W ? static_cast<int>(n - i) : W); };
    for (; i + kOfLine * W <= n; i += kOfLine * W) filter(Constant<kOfLine>{}, i, whole);
    for (; i < n; i += W) filter(Constant<1>{}, i, some);
  }
}

// Columns [begin, begin + n) of lanes [first, first + W) -> z[index[i]]; x: row 0 of the matrix, of `columns`.
template <int kHalfTaps, class In>
void load_halved(const In* x, int64_t columns, int64_t begin, int64_t n, const Halving& halving, int64_t first,
                 const int32_t* index, Vector<float>* z, Strip& strip) {
  constexpr int W = kLanes<float>;
  for (int64_t i = 0; i < n; i += W) {
    if (begin + i >= strip.end) {
      strip.begin = begin + i, strip.end = strip.begin + kStrip < columns ? strip.begin + kStrip : columns;
      fill_strip<kHalfTaps>(x, halving, first, strip);
    }
    Vector<float> tile[W];
    for (int l = 0; l < W; ++l) tile[l] = strip.lanes[l * Strip::kStride + (begin + i - strip.begin) / W];
    transpose<float>(tile);
    const int count = n - i < W ? static_cast<int>(n - i) : W;
    for (int j = 0; j < count; ++j) z[index[i + j]] = tile[j];
  }
}

}  // namespace front::cpu::FRONT_ISA
