// One axis as constants: the geometry that a plan fixes at compile time, and the stages in the middle of the transform.
#pragma once

#include "args.h"
#include "block.h"
#include "butterfly.h"

namespace front::cuda {

// A DCT-II of n values, or its transpose, of which at most the first n / Share coefficients matter, as a complex DFT of
// `points` = n / 2 (n odd: n) points in stages of the given radices (Stockham's: in natural order in and out).
// A block has `Lanes` lanes, of which `Together` are in shared memory at a time, each with ThreadsPerLane threads.
// The coefficients of all its lanes are collected in a tile, through which they go to memory in whole sectors; with
// Overlaid the tile takes the place of the points (then Together = Lanes).
template <class Real_, int N, int Share, int Lanes, int Together, int ThreadsPerLane, bool Overlaid, int... Radices>
struct Axis {
  using Real = Real_;
  using Point = Complex<Real>;
  static constexpr int n = N, share = Share, lanes = Lanes, together = Together, threads_per_lane = ThreadsPerLane;
  static constexpr bool overlaid = Overlaid, even = N % 2 == 0;
  static constexpr int threads = Together * ThreadsPerLane, points = even ? N / 2 : N, stages = sizeof...(Radices);
  static_assert((Radices * ... * 1) == points, "the radices' product is the length");
  static_assert(Lanes % Together == 0 && (!Overlaid || Lanes == Together));

  static FRONT_CONSTEXPR int radix(int s) {
    constexpr int r[] = {Radices...};
    return r[s];
  }
  static FRONT_CONSTEXPR int span(int s) {  // length of the sub-transforms that stage s combines
    int product = 1;
    for (int i = 0; i < s; ++i) product *= radix(i);
    return product;
  }
  static FRONT_CONSTEXPR int twiddles(int s) {  // where stage s' twiddles begin
    int offset = 0;
    for (int i = 1; i < s; ++i) offset += (radix(i) - 1) * span(i);
    return offset;
  }

  // Points are stored with one unused place after every 128 bytes, so that strides of a power of two do not fall on one
  // bank.
  static constexpr u32 group = 128 / sizeof(Point);
  static FRONT_CONSTEXPR u32 at(u32 i) { return i + i / group; }
  // Where the last stage finds its points: without such places, if the stage before writes whole groups anyway; for
  // then neither they nor the mirrored reads of the split, which begin at any place, share a bank.
  static FRONT_CONSTEXPR u32 last_at(u32 i) {
    if constexpr (stages > 2)
      if constexpr (span(stages - 2) % static_cast<int>(group) == 0) return i;
    return at(i);
  }
  static constexpr u32 padded = points - 1 + (points - 1) / group + 1;
  static constexpr u32 point_bytes = padded * Together * sizeof(Point);
  static constexpr u32 tile_offset = Overlaid ? 0 : (point_bytes + 15) / 16 * 16;

  // Place of coefficient q of a lane in the tile: rows of lanes, turned so that no two share a bank of as many
  // neighbours along the axis as a warp has, of one lane or of several: by the reversed bits of the row's number.
  static constexpr u32 turn = 128 / sizeof(Real) / Lanes;
  static FRONT_DEVICE u32 reversed(u32 k) {
    u32 r = 0;
    for (u32 bit = 1; bit < Lanes; bit *= 2) r = 2 * r + (k / bit & 1);
    return r;
  }
  static FRONT_DEVICE u32 tile_at(u32 q, u32 lane) {
    if constexpr (Lanes == 1 || turn == 0)
      return q * Lanes + lane;
    else
      return q * Lanes + (lane ^ reversed(q / turn % Lanes));
  }
};

// Where a block works.
struct Place {
  i64 first_lane, lanes;  // of this block
  i64 matrix, batch;
};

template <class A, class B>
FRONT_DEVICE Place place_of(const B& block, const AxisArgs& args) {
  const i64 b = block.index(), rest = b / args.lane_blocks, first = b % args.lane_blocks * A::lanes;
  const i64 left = args.lanes - first;
  return {first, left < A::lanes ? left : A::lanes, rest / args.batch, rest % args.batch};
}

// Stage S, shared memory to shared memory. All points are read before any is written: that is Stockham's price for
// natural order, and what the registers are for.
template <class A, int S, class B, class Points>
FRONT_DEVICE void middle_stage(const B& block, Points points, const typename A::Point* twiddles) {
  using Point = typename A::Point;
  constexpr int R = A::radix(S), span = A::span(S), count = A::points / R;
  constexpr int per_thread = (count + A::threads_per_lane - 1) / A::threads_per_lane;
  constexpr bool exact = count % A::threads_per_lane == 0;
  struct Values {
    Point v[per_thread][R];
  };
  typename B::template Registers<Values> values;
  block.each("stage", [&](int t) {
    const u32 base = t / A::threads_per_lane * A::padded, thread = t % A::threads_per_lane;
    unrolled<0, per_thread>([&](auto index) {
      const u32 j = thread + decltype(index)::value * A::threads_per_lane, k = j % span;
      if (!exact && j >= count) return;
      Point* v = values[t].v[decltype(index)::value];
      unrolled<0, R>([&](auto inner) {
        constexpr int r = decltype(inner)::value;
        v[r] = points.read(base + (S == A::stages - 1 ? A::last_at(j + r * count) : A::at(j + r * count)));
        if constexpr (r > 0 && span > 1) v[r] = v[r] * block.table(twiddles + A::twiddles(S) + (r - 1) * span + k);
      });
      butterfly<R>(v);
    });
  });
  block.each("stage", [&](int t) {
    const u32 base = t / A::threads_per_lane * A::padded, thread = t % A::threads_per_lane;
    unrolled<0, per_thread>([&](auto index) {
      const u32 j = thread + decltype(index)::value * A::threads_per_lane;
      if (!exact && j >= count) return;
      const u32 to = j / span * (span * R) + j % span;
      unrolled<0, R>([&](auto inner) {
        constexpr int r = decltype(inner)::value;
        const u32 place = S == A::stages - 2 ? A::last_at(to + r * span) : A::at(to + r * span);
        points.write(base + place, values[t].v[decltype(index)::value][r]);
      });
    });
  });
}

// Stages Begin to End - 1.
template <class A, int Begin, int End, class B, class Points>
FRONT_DEVICE void middle_stages(const B& block, Points points, const typename A::Point* twiddles) {
  if constexpr (Begin < End) {
    middle_stage<A, Begin>(block, points, twiddles);
    middle_stages<A, Begin + 1, End>(block, points, twiddles);
  }
}

}  // namespace front::cuda
