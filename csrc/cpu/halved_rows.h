// Half the rows (Halving): the transform across the rows begins with a filter (decimate.h), and it commutes with the
// transform along them. Where it comes first, on the way in, half as many rows are transformed, and half as much lies
// between the passes. Included only by axis_isa.cpp (see simd.h).
#pragma once

#include "decimate.h"

namespace front::cpu::FRONT_ISA {

// Some columns of the W lanes of a block, filtered but not yet transposed.
struct Strip {
  Vector<float>* lanes;
  int64_t begin, end;  // the columns that it holds
  int stride;          // vectors from lane to lane; not a power of two
};

constexpr int kAhead = 64;  // elements of a row
// Vectors of each row that are read together: a line, or half of one. Rows that lie a multiple of 4096 bytes apart take
// each other's place in the innermost cache, so that a line would have to be fetched again for its second half. No
// registers for more.
constexpr int kOfLine = FRONT_VECTOR_BYTES < kLineBytes ? 2 : 1;
constexpr int kTogether = 4;  // lanes whose sums are registers while the rows stream by
constexpr int kCopyStride = kCopiedStrip / kLanes<float> + 1;
// Where several lots of lanes share rows; vectors of a line were not tried.
constexpr bool kCanCopy = kOfLine > 1 && kLanes<float> > kTogether;
// Whether copies of shared rows are faster than the rows: those that take each other's place would come from farther
// caches again and again (4096 x 4096 -> 1024 x 1024 on Zen 3: 0.80 of the time); for others copies cost more than they
// save (1.16 of the time).
inline bool copies_rows(int64_t stride_bytes) { return kCanCopy && stride_bytes % 2048 == 0; }

// The lanes of a strip, `kTogether` at a time. With copies each row is read once, and what lanes share with those
// before comes from the copy. What lies beyond the last lane are rows again.
template <int kHalfTaps, bool kCopies, class In>
void fill_strip(const In* x, const Halving& halving, int64_t first, Strip& strip) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1, kShared = 2 * kReach, kRows = 2 * kTogether + kShared;
  constexpr int kStride = kCopies ? kCopyStride : kStrip / W + 1;
  static_assert((kCopies ? 3 * W + kShared : W) * kStride <= kStrip + W);  // the scratch (axis.cpp)
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(halving.filter[t]);
  const auto tap = [&](int t) FRONT_INLINED { return h[t < kHalfTaps ? kReach - t : t - kHalfTaps]; };
  const int64_t n = strip.end - strip.begin, whole = n / (kOfLine * W) * kOfLine * W;
  const auto row = [&](int i) {  // that lane 0 is made of first, and the next ones
    int64_t r = 2 * first - kReach + i;
    if (r < 0) r = -1 - r;
    if (r >= halving.rows) r = 2 * halving.rows - 1 - r;
    return x + r * halving.stride + strip.begin;
  };
  const auto load_new = [](const In* p) FRONT_INLINED {
    __builtin_prefetch(p + kAhead, 0, 2);
    return load<float>(p);
  };
  strip.stride = kStride;
  Vector<float>* const copies = strip.lanes + W * kStride;
  if (kCopies)
    for (int i = 0; i < kShared; ++i)
      for (int64_t c = 0; c < whole; c += W) copies[i * kStride + c / W] = load_new(row(i) + c);
  for (int lane = 0; lane < W; lane += kTogether) {
    const In* from[kRows];
    for (int r = kCopies ? kShared : 0; r < kRows; ++r) from[r] = row(2 * lane + r);
    Vector<float>*out = strip.lanes + lane * kStride, *copied = copies + 2 * lane * kStride;
    for (int64_t c = 0; c < whole; c += kOfLine * W, out += kOfLine, copied += kOfLine) {
      Vector<float> sum[kTogether][kOfLine];
#pragma GCC unroll 32
      for (int r = 0; r < kRows; ++r)
        for (int v = 0; v < kOfLine; ++v) {
          const bool is_new = r >= kShared;
          Vector<float> read;
          if (kCopies && !is_new)
            read = copied[r * kStride + v];
          else if (v == 0 && is_new)
            read = load_new(from[r] + c);
          else
            read = load<float>(from[r] + c + v * W);
          if (kCopies && is_new) copied[r * kStride + v] = read;
#pragma GCC unroll 4
          for (int l = 0; l < kTogether; ++l) {
            const int t = r - 2 * l;
            if (t == 0)
              sum[l][v] = tap(t) * read;
            else if (t > 0 && t < 2 * kHalfTaps)
              sum[l][v] += tap(t) * read;
          }
        }
      for (int l = 0; l < kTogether; ++l)
        for (int v = 0; v < kOfLine; ++v) out[v + l * kStride] = sum[l][v];
    }
  }
  for (int64_t c = whole; c < n; c += W)  // the rest of the last strip
    for (int l = 0; l < W; ++l) {
      Vector<float> sum{};
      for (int t = 0; t < 2 * kHalfTaps; ++t) {
        const auto read = load_some<float>(row(2 * l + t) + c, n - c < W ? static_cast<int>(n - c) : W);
        sum = t == 0 ? tap(t) * read : sum + tap(t) * read;
      }
      strip.lanes[l * kStride + c / W] = sum;
    }
}

// Columns [begin, begin + n) of lanes [first, first + W) -> z[index[i]]; x: row 0 of the matrix, of `columns`.
template <int kHalfTaps, class In>
void load_halved(const In* x, int64_t columns, int64_t begin, int64_t n, const Halving& halving, int64_t first,
                 const int32_t* index, Vector<float>* z, Strip& strip) {
  constexpr int W = kLanes<float>;
  for (int64_t i = 0; i < n; i += W) {
    if (begin + i >= strip.end) {
      const bool copies = copies_rows(halving.stride * static_cast<int64_t>(sizeof(In)));
      const int64_t most = copies ? kCopiedStrip : kStrip;
      strip.begin = begin + i, strip.end = strip.begin + most < columns ? strip.begin + most : columns;
      if (kCanCopy && copies)
        fill_strip<kHalfTaps, kCanCopy>(x, halving, first, strip);
      else
        fill_strip<kHalfTaps, false>(x, halving, first, strip);
    }
    Vector<float> tile[W];
    for (int l = 0; l < W; ++l) tile[l] = strip.lanes[l * strip.stride + (begin + i - strip.begin) / W];
    transpose<float>(tile);
    const int count = n - i < W ? static_cast<int>(n - i) : W;
    for (int j = 0; j < count; ++j) z[index[i + j]] = tile[j];
  }
}

}  // namespace front::cpu::FRONT_ISA
