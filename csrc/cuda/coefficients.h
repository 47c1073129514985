// The side of the coefficients: the real split fused into the last stage of the forward transform, and, as its
// transpose, into the first stage of the inverse. Coefficients go to and from memory through the tile: tile.h.
//
// With Z the spectrum of the `points` = n / 2 complex points, z = Z_q and w = Z_{points-q}, and c_q the norm's factor
// times exp(-i pi q / 2n), the sequence's own spectrum gives c_q V_q = P_q z + Q_q conj(w), and
//     X_q = Re(c_q V_q),   X_{n-q} = -Im(c_q V_q),   X_0 = p (z.x + z.y), X_{n/2} = p' (z.x - z.y) from Z_0.
// The table holds (Re P, Im P, Re Q, Im Q) of q = 0 .. points-1, and for Factors one entry more; at q = 0, where w = z,
// it is such that the same expressions give X_0 and, in place of X_n, X_{n/2}: P = (1 - i) (p + p') / 2, Q = (1 + i) (p
// - p') / 2 up to signs. For odd n the points are the sequence itself and the table holds c_q: X_q = Re(c_q Z_q).
#pragma once

#include "axis.h"
#include "memory.h"

namespace front::cuda {

// Places in the tile of the coefficients of a pair of butterflies, of which each is a constant distance from one of
// these: q = low[b] + r span, and n - q = high[b] + (2 R - 1 - r) span, of butterfly b = 0, 1 and output r.
template <class A>
struct TilePlaces {
  u32 low[2], high[2];  // indices
  int low_place[2], high_place[2];
  u32 lane;

  FRONT_DEVICE TilePlaces(u32 j, u32 mirror, bool alone, u32 lane_) : lane(lane_) {
    constexpr u32 span = A::span(A::stages - 1);
    low[0] = j, low[1] = mirror;
    high[0] = alone ? span : mirror, high[1] = alone ? mirror : j;
    unrolled<0, 2>([&](auto index) {
      constexpr int b = decltype(index)::value;
      low_place[b] = A::tile_at(low[b], lane);
      if constexpr (A::share == 1) high_place[b] = A::tile_at(high[b], lane);
    });
  }
};

// Which coefficients a pair of butterflies can give: from n / share up none is kept. The least that output r of
// butterfly b gives:
template <class A>
FRONT_CONSTEXPR bool gives(int b, int r) {
  const int span = A::span(A::stages - 1), least = r * span + (b == 0 ? 0 : span / 2);
  return A::share == 1 || least * A::share < A::n;
}

// The split's factors P_q, Q_q of all q that are j + r n / 2R or r n / 2R - j, from those of j alone: the table need
// not be read for every q, which would be as much as the data. With c = (P + Q) / 2 and d = (P - Q) / 2 of q,
//     c_{q + x} = c_q exp(-i pi x / 2n),   d_{q + x} = d_q exp(-5 i pi x / 2n),   c_{-q} = conj(c_q),   d_{-q} =
//     -conj(d_q).
// Entry `points` of the table holds what follows from these for j = 0, whose own entry is special.
template <class A, int R>
struct Factors {
  using Real = typename A::Real;
  using Point = typename A::Point;
  static constexpr int step = A::points / R;
  Point c, d;
  Quad<Real> first;  // of q = 0

  static FRONT_DEVICE const Quad<Real>* entries(const void* table) { return static_cast<const Quad<Real>*>(table); }

  template <class B>
  FRONT_DEVICE void load(const B& block, const void* table, u32 j) {
    const auto f = block.table(entries(table) + static_cast<int>(j == 0 ? A::points : j));
    c = {(f.x + f.z) * Real(0.5), (f.y + f.w) * Real(0.5)}, d = {(f.x - f.z) * Real(0.5), (f.y - f.w) * Real(0.5)};
    first = f;
    if (j == 0) first = block.table(entries(table));
  }
  // Of q = j + r step.
  template <int r>
  FRONT_DEVICE Quad<Real> after() const {
    if constexpr (r == 0) return first;  // of j != 0 no other than its own
    const Point p = rotate<r, 8 * R>(c), q = rotate<5 * r, 8 * R>(d);
    return {p.x + q.x, p.y + q.y, p.x - q.x, p.y - q.y};
  }
  // Of q = r step - j.
  template <int r>
  FRONT_DEVICE Quad<Real> before() const {
    const Point p = rotate<r, 8 * R>(conjugate(c)), q = rotate<5 * r, 8 * R>(conjugate(d));
    return {p.x - q.x, p.y - q.y, p.x + q.x, p.y + q.y};
  }
};

// Whether coefficient q, less than Bound, has a place in the tile. A whole tile has one for every coefficient that the
// kernel's share lets be kept, so mostly there is nothing to ask.
template <class A, bool Whole, u32 Bound>
FRONT_DEVICE bool in_tile(u32 q, u32 kept) {
  if constexpr (!Whole) return q < kept;
  return Bound <= A::most_kept || q < A::most_kept;
}

// Coefficients of output r of butterfly b, Z_q = z with its mirror w, into the tile; those not kept are not formed.
template <class A, bool Whole, int b, int r, class Tile, class F>
FRONT_DEVICE void put_coefficients(Tile tile, const TilePlaces<A>& places, u32 kept, typename A::Point z,
                                   typename A::Point w, F factors) {
  using Real = typename A::Real;
  constexpr int last = A::stages - 1, R = A::radix(last), span = A::span(last);
  const u32 q = places.low[b] + r * span;
  if constexpr (!A::even) {
    const auto c = factors();
    if (in_tile<A, Whole, (r + 1) * span>(q, kept))
      tile.write(A::template tile_after<r * span>(places.low[b], places.lane, places.low_place[b]),
                 c.x * z.x - c.y * z.y);
  } else if constexpr (gives<A>(b, r)) {
    // NOTE: computed whether it is kept or not, and only then written or not: branches would keep the loads apart.
    const Quad<Real> f = factors();
    if (in_tile<A, Whole, (r + 1) * span>(q, kept))
      tile.write(A::template tile_after<r * span>(places.low[b], places.lane, places.low_place[b]),
                 f.x * z.x - f.y * z.y + f.z * w.x + f.w * w.y);
    // With half of the coefficients or fewer kept, those from n / 2 up are not, whatever q.
    if constexpr (A::share == 1) {
      constexpr u32 offset = (2 * R - 1 - r) * span;
      const Real x = f.z * w.y - f.w * w.x - f.y * z.x - f.x * z.y;
      u32 to = places.high[b] + offset;
      int place = A::template tile_after<offset>(places.high[b], places.lane, places.high_place[b]);
      if constexpr (b == 0 && r == 0)  // that of q = 0 is coefficient n / 2, not n
        if (q == 0) to = A::points, place = A::tile_at(A::points, places.lane);
      if (in_tile<A, Whole, A::n>(to, kept)) tile.write(place, x);
    }
  }
}

// Points -> last stage -> coefficients in the tile. A thread takes butterfly j and its mirror span - j, so that it has
// z and w of all its coefficients; j = 0 mirrors itself and is taken together with span / 2, which does too.
template <class A, bool Whole, class B, class Points, class Tile>
FRONT_DEVICE void split_spectrum(const B& block, const AxisArgs& args, const Place& place, int first, Points points,
                                 Tile tile) {
  using Point = typename A::Point;
  constexpr int last = A::stages - 1, R = A::radix(last), span = A::span(last);
  constexpr int work = A::even ? span / 2 + span % 2 : span;
  constexpr int per_thread = (work + A::threads_per_lane - 1) / A::threads_per_lane;
  constexpr bool rotated = A::even && span % 2 == 0;
  struct Values {
    Point a[R], shifted[R];  // of the mirror: gather
    Factors<A, R> of_j, of_mirror;
  };
  const auto* twiddles = static_cast<const Point*>(args.twiddles);
  const u32 kept = static_cast<u32>(args.kept), live = place.template live<A>(first);

  const auto transform = [&](u32 group, u32 j, Values& v) {
    if constexpr (rotated) {
      v.of_j.load(block, args.split, j);
      v.of_mirror = v.of_j;
      if (j == 0) v.of_mirror.load(block, args.split, span / 2);
    }
    if constexpr (A::even && span % 2 == 0) {
      gather_pair<A>(block, points, group * A::padded, j, twiddles, v.a, v.shifted);
    } else {
      gather<A, false>(block, points, group * A::padded, j, j, twiddles, v.a);
      if constexpr (A::even)
        if (j != 0) gather<A, true>(block, points, group * A::padded, span - j, j, twiddles, v.shifted);
    }
  };
  const auto put = [&](u32 group, u32 j, const Values& v) {
    const bool alone = j == 0;
    const TilePlaces<A> places(j, alone ? span / 2 : span - j, alone, first + group);
    const auto b = [&](int r) { return v.shifted[(r + 1) % R]; };
    unrolled<0, R>([&](auto index) {
      constexpr int r = decltype(index)::value, mirror = R - 1 - r, self = (R - r) % R;
      const auto entry = [&](u32 low) {
        return block.table(static_cast<const Quad<typename A::Real>*>(args.split) + static_cast<int>(low) + r * span);
      };
      if constexpr (!A::even) {
        put_coefficients<A, Whole, 0, r>(tile, places, kept, v.a[r], v.a[r], [&] {
          return block.table(static_cast<const Point*>(args.split) + static_cast<int>(j) + r * span);
        });
      } else {
        put_coefficients<A, Whole, 0, r>(tile, places, kept, v.a[r], alone ? v.a[self] : b(mirror), [&] {
          if constexpr (rotated)
            return v.of_j.template after<r>();
          else
            return entry(places.low[0]);
        });
        if (span % 2 == 0 || !alone)
          put_coefficients<A, Whole, 1, r>(tile, places, kept, b(r), alone ? b(mirror) : v.a[mirror], [&] {
            if constexpr (rotated)
              return v.of_mirror.template before<r + 1>();
            else
              return entry(places.low[1]);
          });
      }
    });
  };

  if constexpr (A::overlaid) {
    typename B::template Registers<Values[per_thread]> values;
    block.each("split", [&](int t) {
      if (A::group_of(t) >= live) return;
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = A::thread_of(t) + decltype(index)::value * A::threads_per_lane;
        if (j < work) transform(A::group_of(t), j, values[t][decltype(index)::value]);
      });
    });
    block.each("split", [&](int t) {
      if (A::group_of(t) >= live) return;
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = A::thread_of(t) + decltype(index)::value * A::threads_per_lane;
        if (j < work) put(A::group_of(t), j, values[t][decltype(index)::value]);
      });
    });
  } else {
    block.each("split", [&](int t) {
      if (A::group_of(t) >= live) return;
      FRONT_NO_UNROLL
      for (u32 j = A::thread_of(t); j < work; j += A::threads_per_lane) {
        Values v;
        transform(A::group_of(t), j, v);
        put(A::group_of(t), j, v);
      }
    });
  }
}

// Places in the tile of the coefficients that butterfly j of the first stage needs: each a constant distance from that
// of j or of count - j.
template <class A>
struct TakePlaces {
  u32 index[2];
  int place[2];
  u32 lane, kept;

  FRONT_DEVICE TakePlaces(u32 j, u32 lane_, u32 kept_) : lane(lane_), kept(kept_) {
    index[0] = j, index[1] = A::points / A::radix(0) - j;
    place[0] = A::tile_at(index[0], lane), place[1] = A::tile_at(index[1], lane);
  }
  // Coefficient index[Which] + Offset.
  template <bool Whole, int Which, u32 Offset, class Tile>
  FRONT_DEVICE typename A::Real take(Tile tile) const {
    constexpr u32 bound = Offset + A::points / A::radix(0) + Which;  // count - j can be count
    typename A::Real x = 0;
    if (in_tile<A, Whole, bound>(index[Which] + Offset, kept))
      x = tile.read(A::template tile_after<Offset>(index[Which], lane, place[Which]));
    return x;
  }
};

// conj(W_q) of the transposed split, q = j + r count, from the coefficients of a lane.
template <class A, bool Whole, int r, class B, class Tile>
FRONT_DEVICE typename A::Point take_coefficients(const B& block, Tile tile, const TakePlaces<A>& places,
                                                 const Factors<A, A::radix(0)>& factors, const void* table) {
  using Real = typename A::Real;
  constexpr int count = A::points / A::radix(0), offset = r * count;
  const int j = static_cast<int>(places.index[0]);
  if constexpr (!A::even) {
    const auto c = block.table(static_cast<const typename A::Point*>(table) + j + offset);
    const Real x = places.template take<Whole, 0, offset>(tile);
    return {c.x * x, c.y * x};
  } else {
    constexpr bool high = A::share == 1;
    constexpr bool low = offset * A::share < A::n, mirrored = (A::points - (offset + count - 1)) * A::share < A::n;
    constexpr int mirror = A::points - offset - count;  // points - q = mirror + (count - j)
    Real re = 0, im = 0;
    if constexpr (low) {
      const Quad<Real> f = factors.template after<r>();
      const Real x = places.template take<Whole, 0, offset>(tile);
      re = f.x * x, im = f.y * x;
      if constexpr (high) {  // coefficient n - q
        const Real y = places.template take<Whole, 1, A::points + mirror>(tile);
        re -= f.y * y, im += f.x * y;
      }
    }
    if constexpr (mirrored) {
      const Quad<Real> f = factors.template before<A::radix(0) - r>();
      const Real x = places.template take<Whole, 1, mirror>(tile);
      re += f.z * x, im -= f.w * x;
      if constexpr (high) {  // coefficient n - m
        const Real y = places.template take<Whole, 0, A::points + offset>(tile);
        re -= f.w * y, im -= f.z * y;
      }
    }
    if constexpr (r == 0)
      if (j == 0) {
        const Quad<Real> f = factors.first;
        const Real x = (f.x + f.z) * places.template take<Whole, 0, 0>(tile);
        const Real y = high ? (f.x - f.z) * places.template take<Whole, 0, high ? A::points : 0>(tile) : Real(0);
        return {x + y, y - x};
      }
    return {re, im};
  }
}

// Which inputs of a butterfly of the first stage can differ from zero: those of the frequencies that are kept, and
// their mirrors.
template <class A>
FRONT_CONSTEXPR u64 nonzero_inputs() {
  const int R = A::radix(0), count = A::points / R;
  if (A::share == 1 || !A::even) return all_points(R);
  u64 mask = 0;
  for (int r = 0; r < R; ++r) {
    const i64 least = static_cast<i64>(r) * count, least_mirrored = A::points - (least + count - 1);
    mask |= u64{least * A::share < A::n || least_mirrored * A::share < A::n} << r;
  }
  return mask;
}

// Coefficients in the tile -> first stage -> points. What is padded is never read or stored: it is known to be zero.
template <class A, bool Whole, class B, class Points, class Tile>
FRONT_DEVICE void merge_spectrum(const B& block, const AxisArgs& args, const Place& place, const void* table, int first,
                                 Points points, Tile tile) {
  using Point = typename A::Point;
  constexpr int R = A::radix(0), count = A::points / R;
  constexpr int per_thread = (count + A::threads_per_lane - 1) / A::threads_per_lane;
  constexpr u64 mask = nonzero_inputs<A>();
  struct Values {
    Point v[R];
  };
  const u32 kept = static_cast<u32>(args.kept), live = place.template live<A>(first);

  const auto take = [&](u32 group, u32 j, Values& values) {
    const TakePlaces<A> places(j, first + group, kept);
    Factors<A, R> factors;
    if constexpr (A::even) factors.load(block, table, j);
    unrolled<0, R>([&](auto index) {
      constexpr int r = decltype(index)::value;
      if constexpr (has(mask, r))
        values.v[r] = take_coefficients<A, Whole, r>(block, tile, places, factors, table);
      else
        values.v[r] = {0, 0};
    });
    if constexpr (A::stages > 1) butterfly<R, mask>(values.v);  // a single stage is the last one, which follows
  };
  const auto put = [&](u32 group, u32 j, const Values& values) {
    write_first<A>(points, group * A::padded, j, values.v);
  };

  if constexpr (A::overlaid) {
    typename B::template Registers<Values[per_thread]> values;
    block.each("merge", [&](int t) {
      if (A::group_of(t) >= live) return;
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = A::thread_of(t) + decltype(index)::value * A::threads_per_lane;
        if (j < count) take(A::group_of(t), j, values[t][decltype(index)::value]);
      });
    });
    block.each("merge", [&](int t) {
      if (A::group_of(t) >= live) return;
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = A::thread_of(t) + decltype(index)::value * A::threads_per_lane;
        if (j < count) put(A::group_of(t), j, values[t][decltype(index)::value]);
      });
    });
  } else {
    block.each("merge", [&](int t) {
      if (A::group_of(t) >= live) return;
      FRONT_NO_UNROLL
      for (u32 j = A::thread_of(t); j < count; j += A::threads_per_lane) {
        Values values;
        take(A::group_of(t), j, values);
        put(A::group_of(t), j, values);
      }
    });
  }
}

}  // namespace front::cuda
