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
  static constexpr int most_kept = N / Share > 1 ? N / Share : 1;  // rows of the tile
  static constexpr int threads = Together * ThreadsPerLane, points = even ? N / 2 : N, stages = sizeof...(Radices);
  static_assert((Radices * ... * 1) == points, "the radices' product is the length");
  static_assert(Lanes % Together == 0 && (!Overlaid || Lanes == Together));

  // Which of the lanes that are together a thread works on, and as which of its threads. NOTE: one lane is spelled out,
  // since the compiler does not know that thread < threads.
  static FRONT_DEVICE u32 group_of(u32 thread) { return Together == 1 ? 0 : thread / ThreadsPerLane; }
  static FRONT_DEVICE u32 thread_of(u32 thread) { return Together == 1 ? thread : thread % ThreadsPerLane; }

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
  // bank. NOTE: places are int, since what is added to one can then become part of an instruction's address: unsigned
  // numbers may wrap. Numbers that are divided are unsigned, since that is a shift.
  static constexpr u32 group = 128 / sizeof(Point);
  static FRONT_DEVICE int at(u32 i) { return static_cast<int>(i + i / group); }
  // Where the last stage finds its points: without such places, if the stage before writes whole groups anyway; for
  // then neither they nor the mirrored reads of the split, which begin at any place, share a bank.
  static FRONT_CONSTEXPR bool last_is_dense() {
    if constexpr (stages > 2) return span(stages - 2) % static_cast<int>(group) == 0;
    return false;
  }
  static FRONT_DEVICE int last_at(u32 i) { return last_is_dense() ? static_cast<int>(i) : at(i); }
  // Of a lane; such that the same point of several lanes falls on different banks, for a warp of which each has few
  // threads.
  static FRONT_CONSTEXPR u32 padded_points() {
    u32 p = points - 1 + (points - 1) / group + 1;
    if (Together > 1) {
      const u32 apart = ThreadsPerLane < group ? ThreadsPerLane : Together < group ? group / Together : 1;
      while (p % group != apart % group) ++p;
    }
    return p;
  }
  static constexpr u32 padded = padded_points();
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
  static FRONT_DEVICE int tile_at(u32 q, u32 lane) {
    if constexpr (Lanes == 1 || turn == 0)
      return static_cast<int>(q * Lanes + lane);
    else
      return static_cast<int>(q * Lanes + (lane ^ reversed(q / turn % Lanes)));
  }

  // Places at a constant distance, at(i + Offset) and so on, from the place of i: an addition of a constant, which
  // costs nothing, wherever there is no carry into the gaps or the turn. i % group < Bound.
  template <u32 Offset, u32 Bound = group>
  static FRONT_DEVICE int at_after(u32 i, int placed) {
    if constexpr (Offset % group + Bound <= group)
      return placed + static_cast<int>(Offset + Offset / group);
    else
      return at(i + Offset);
  }
  template <u32 Offset, u32 Bound = group>
  static FRONT_DEVICE int last_after(u32 i, int placed) {
    if constexpr (last_is_dense())
      return placed + static_cast<int>(Offset);
    else
      return at_after<Offset, Bound>(i, placed);
  }
  static constexpr u32 tile_period = Lanes == 1 || turn == 0 ? 1 : turn * Lanes;  // of the turns
  template <u32 Offset>
  static FRONT_DEVICE int tile_after(u32 q, u32 lane, int placed) {
    if constexpr (Offset % tile_period == 0)
      return placed + static_cast<int>(Offset * Lanes);
    else
      return tile_at(q + Offset, lane);
  }
  // Bound of a place within its group that is a multiple of `step`.
  static FRONT_CONSTEXPR u32 bound_of_multiples(u32 step) {
    return step % group == 0 ? 1 : group % step == 0 ? group - step + 1 : group;
  }
};

FRONT_DEVICE i64 in_offset(const AxisArgs& args, i64 batch, i64 lane) {
  return batch * args.in_batch + (lane >> 2) * args.in_lane_four + (lane & 3) * args.in_lane;
}
FRONT_DEVICE i64 out_offset(const AxisArgs& args, i64 batch, i64 lane) {
  return batch * args.out_batch + (lane >> 2) * args.out_lane_four + (lane & 3) * args.out_lane;
}
// Of element i of a lane.
FRONT_DEVICE i64 along_offset(i64 i, i64 along, i64 four) { return (i >> 2) * four + (i & 3) * along; }

// Where a block works.
struct Place {
  i64 first_lane;
  int lanes;  // of this block: fewer at the end
  u32 matrix, batch;

  // Of the lanes that are in shared memory from `first` on, those that exist.
  template <class A>
  FRONT_DEVICE u32 live(int first) const {
    return A::together == 1 ? 1 : lanes - first < A::together ? lanes - first : A::together;
  }
};

template <class A, class B>
FRONT_DEVICE Place place_of(const B& block, const AxisArgs& args) {
  // A launch has less than 2^31 blocks.
  const u32 b = static_cast<u32>(block.index()), across = static_cast<u32>(args.lane_blocks);
  const u32 rest = b / across, batch = static_cast<u32>(args.batch);
  const i64 first = static_cast<i64>(b % across) * A::lanes, left = args.lanes - first;
  return {first, static_cast<int>(left < A::lanes ? left : A::lanes), rest / batch, rest % batch};
}

// Stage S, shared memory to shared memory. All points are read before any is written: that is Stockham's price for
// natural order, and what the registers are for.
template <class A, int S, bool Looped, class B, class Points>
FRONT_DEVICE void middle_stage(const B& block, Points points, u32 live, const typename A::Point* twiddles) {
  using Point = typename A::Point;
  constexpr int R = A::radix(S), span = A::span(S), count = A::points / R;
  constexpr int per_thread = (count + A::threads_per_lane - 1) / A::threads_per_lane;
  constexpr bool exact = count % A::threads_per_lane == 0;
  struct Values {
    Point v[per_thread][R];
  };
  typename B::template Registers<Values> values;
  if constexpr (Looped) block.clear(values);
  block.each("stage", [&](int t) {
    const u32 group = A::group_of(t), thread = A::thread_of(t);
    const int base = group * A::padded;
    if (group >= live) return;
    unrolled<0, per_thread>([&](auto index) {
      const u32 j = thread + decltype(index)::value * A::threads_per_lane;
      if (!exact && j >= count) return;
      Point* v = values[t].v[decltype(index)::value];
      const Point* w = twiddles + A::twiddles(S) + static_cast<int>(j % span);
      const int from = S == A::stages - 1 ? A::last_at(j) : A::at(j);
      unrolled<0, R>([&](auto inner) {
        constexpr int r = decltype(inner)::value;
        if constexpr (S == A::stages - 1)
          v[r] = points.read(base + A::template last_after<r * count>(j, from));
        else
          v[r] = points.read(base + A::template at_after<r * count>(j, from));
        if constexpr (r > 0 && span > 1) v[r] = v[r] * block.table(w + (r - 1) * span);
      });
      butterfly<R>(v);
    });
  });
  block.each("stage", [&](int t) {
    const u32 group = A::group_of(t), thread = A::thread_of(t);
    const int base = group * A::padded;
    if (group >= live) return;
    unrolled<0, per_thread>([&](auto index) {
      const u32 j = thread + decltype(index)::value * A::threads_per_lane;
      if (!exact && j >= count) return;
      constexpr u32 bound = span < A::group && A::group % span == 0 && span * R % A::group == 0 ? span : A::group;
      const u32 to = j / span * (span * R) + j % span;
      const int place = S == A::stages - 2 ? A::last_at(to) : A::at(to);
      unrolled<0, R>([&](auto inner) {
        constexpr int r = decltype(inner)::value;
        const Point v = values[t].v[decltype(index)::value][r];
        if constexpr (S == A::stages - 2)
          points.write(base + A::template last_after<r * span, bound>(to, place), v);
        else
          points.write(base + A::template at_after<r * span, bound>(to, place), v);
      });
    });
  });
}

// Stages Begin to End - 1, of the first `live` lanes that are in shared memory. NOTE: Looped, for a loop around them in
// which `live` is not known: what a thread without a lane leaves undefined would else be kept from one turn to the
// next, in registers of its own for every stage.
template <class A, int Begin, int End, bool Looped = false, class B, class Points>
FRONT_DEVICE void middle_stages(const B& block, Points points, u32 live, const typename A::Point* twiddles) {
  if constexpr (Begin < End) {
    middle_stage<A, Begin, Looped>(block, points, live, twiddles);
    middle_stages<A, Begin + 1, End, Looped>(block, points, live, twiddles);
  }
}

// The outputs of butterfly i of the first stage.
template <class A, class Points>
FRONT_DEVICE void write_first(Points points, int base, u32 i, const typename A::Point* v) {
  constexpr u32 R = A::radix(0), count = A::points / R;
  if constexpr (A::stages == 1) {
    const int to = A::at(i);
    unrolled<0, static_cast<int>(R)>([&](auto index) {
      constexpr u32 r = decltype(index)::value;
      points.write(base + A::template at_after<r * count>(i, to), v[r]);
    });
  } else {
    const int to = A::at(i * R);
    unrolled<0, static_cast<int>(R)>([&](auto index) {
      constexpr u32 r = decltype(index)::value;
      points.write(base + A::template at_after<r, A::bound_of_multiples(R)>(i * R, to), v[r]);
    });
  }
}

// f(r, twiddle) for r = 1 .. R - 1 of a butterfly whose first twiddle is at w. Of many only those of r = 1, 2, 3, 4, 8,
// 12 ... are loaded and the others are products of two, which rounds once more: tables that are read in full do not
// stay in the first-level cache beside the data that streams by.
template <class A, int R, int span, class B, class F>
FRONT_DEVICE void for_twiddles(const B& block, const typename A::Point* w, F f) {
  using Point = typename A::Point;
  if constexpr (R < 8) {
    unrolled<1, R>([&](auto r) { f(r, block.table(w + (decltype(r)::value - 1) * span)); });
  } else {
    Point low[4];
    unrolled<1, 4>([&](auto r) {
      low[decltype(r)::value] = block.table(w + (decltype(r)::value - 1) * span);
      f(r, low[decltype(r)::value]);
    });
    unrolled<1, (R + 3) / 4>([&](auto quarter) {
      constexpr int first = 4 * decltype(quarter)::value;
      const Point high = block.table(w + (first - 1) * span);
      f(Int<first>{}, high);
      unrolled<1, 4>([&](auto r) {
        constexpr int i = decltype(r)::value;
        if constexpr (first + i < R) f(Int<first + i>{}, high * low[i]);
      });
    });
  }
}

// A butterfly of the last stage, whose points begin at `from`: j itself or, as its Mirror, span - j, whose output r is
// v[(r + 1) % R]. The mirror's twiddles are exp(-2 pi i (span - j) r / points) = exp(-2 pi i r / R) times the conjugate
// of those of j: the first factor shifts the outputs by one, and half of the table serves both.
template <class A, bool Mirror, class B, class Points>
FRONT_DEVICE void gather(const B& block, Points points, int base, u32 from, u32 j, const typename A::Point* twiddles,
                         typename A::Point* v) {
  constexpr int last = A::stages - 1, R = A::radix(last), span = A::span(last);
  const int place = A::last_at(from);
  unrolled<0, R>([&](auto index) {
    constexpr int r = decltype(index)::value;
    v[r] = points.read(base + A::template last_after<r * span>(from, place));
  });
  if constexpr (span > 1)
    for_twiddles<A, R, span>(block, twiddles + A::twiddles(last) + static_cast<int>(j),
                             [&](auto index, typename A::Point w) {
                               typename A::Point& z = v[decltype(index)::value];
                               z = z * (Mirror ? conjugate(w) : w);
                             });
  butterfly<R>(v);
}

// Both, of the same j, with the twiddles loaded once. j = 0 has none, and its mirror here is span / 2.
template <class A, class B, class Points>
FRONT_DEVICE void gather_pair(const B& block, Points points, int base, u32 j, const typename A::Point* twiddles,
                              typename A::Point* v, typename A::Point* shifted) {
  constexpr int last = A::stages - 1, R = A::radix(last), span = A::span(last);
  const bool alone = j == 0;
  const u32 mirror = alone ? span / 2 : span - j, of = alone ? span / 2 : j;
  const int place = A::last_at(j), mirror_place = A::last_at(mirror);
  unrolled<0, R>([&](auto index) {
    constexpr int r = decltype(index)::value;
    v[r] = points.read(base + A::template last_after<r * span>(j, place));
    shifted[r] = points.read(base + A::template last_after<r * span>(mirror, mirror_place));
  });
  for_twiddles<A, R, span>(block, twiddles + A::twiddles(last) + static_cast<int>(of),
                           [&](auto index, typename A::Point w) {
                             constexpr int r = decltype(index)::value;
                             const typename A::Point z = v[r] * w;
                             v[r].x = alone ? v[r].x : z.x, v[r].y = alone ? v[r].y : z.y;
                             shifted[r] = shifted[r] * conjugate(w);
                           });
  butterfly<R>(v);
  butterfly<R>(shifted);
}

}  // namespace front::cuda
