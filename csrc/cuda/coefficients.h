// The side of the coefficients: the real split fused into the last stage of the forward transform, and, as its
// transpose, into the first stage of the inverse; and the tile through which coefficients go to and from memory.
//
// With Z the spectrum of the `points` = n / 2 complex points, z = Z_q and w = Z_{points-q}, and c_q the norm's factor
// times exp(-i pi q / 2n), the sequence's own spectrum gives c_q V_q = P_q z + Q_q conj(w), and
//     X_q = Re(c_q V_q),   X_{n-q} = -Im(c_q V_q),   X_0 = p (z.x + z.y), X_{n/2} = p' (z.x - z.y) from Z_0.
// The table holds (Re P, Im P, Re Q, Im Q) of q = 0 .. points-1, and (p, p', 0, 0) at q = 0. For odd n the points are
// the sequence itself and the table holds c_q: X_q = Re(c_q Z_q).
#pragma once

#include "axis.h"
#include "memory.h"

namespace front::cuda {

// Coefficients that Z_q and its mirror give, into the tile; those not kept are not formed. Least: the least q there is.
template <class A, int Least, class B, class Tile>
FRONT_DEVICE void put_coefficients(const B& block, Tile tile, u32 lane, u32 kept, u32 q, typename A::Point z,
                                   typename A::Point w, const void* table) {
  using Real = typename A::Real;
  if constexpr (!A::even) {
    if (q < kept) {
      const auto c = block.table(static_cast<const typename A::Point*>(table) + q);
      tile.write(A::tile_at(q, lane), c.x * z.x - c.y * z.y);
    }
  } else {
    // With half of the coefficients or fewer kept, those from n / 2 up are not, whatever q.
    constexpr bool low = Least < (A::n + A::share - 1) / A::share, high = A::share == 1;
    if (q == 0) {
      const auto f = block.table(static_cast<const Quad<Real>*>(table));
      tile.write(A::tile_at(0, lane), f.x * (z.x + z.y));
      if (high && A::points < kept) tile.write(A::tile_at(A::points, lane), f.y * (z.x - z.y));
      return;
    }
    const bool below = low && q < kept, above = high && A::n - q < kept;
    if (!below && !above) return;
    const auto f = block.table(static_cast<const Quad<Real>*>(table) + q);
    if (below) tile.write(A::tile_at(q, lane), f.x * z.x - f.y * z.y + f.z * w.x + f.w * w.y);
    if (above) tile.write(A::tile_at(A::n - q, lane), f.w * w.x * Real(-1) - f.y * z.x - f.x * z.y + f.z * w.y);
  }
}

// Points -> last stage -> coefficients in the tile. A thread takes butterfly j and its mirror span - j, so that it has
// z and w of all its coefficients; j = 0 mirrors itself and is taken together with span / 2, which does too.
template <class A, class B, class Points, class Tile>
FRONT_DEVICE void split_spectrum(const B& block, const AxisArgs& args, int first, Points points, Tile tile) {
  using Point = typename A::Point;
  constexpr int last = A::stages - 1, R = A::radix(last), span = A::span(last);
  constexpr int work = A::even ? span / 2 + span % 2 : span;
  constexpr int per_thread = (work + A::threads_per_lane - 1) / A::threads_per_lane;
  struct Values {
    Point a[R], b[R];
  };
  const auto* twiddles = static_cast<const Point*>(args.twiddles);
  const u32 kept = static_cast<u32>(args.kept);

  const auto gather = [&](u32 base, u32 j, Point(&v)[R]) {
    unrolled<0, R>([&](auto index) {
      constexpr int r = decltype(index)::value;
      v[r] = points.read(base + A::last_at(j + r * span));
      if constexpr (r > 0 && span > 1) v[r] = v[r] * block.table(twiddles + A::twiddles(last) + (r - 1) * span + j);
    });
    butterfly<R>(v);
  };
  const auto transform = [&](u32 group, u32 j, Values& v) {
    gather(group * A::padded, j, v.a);
    if constexpr (A::even)
      if (span % 2 == 0 || j != 0) gather(group * A::padded, j != 0 ? span - j : span / 2, v.b);
  };
  const auto put = [&](u32 group, u32 j, const Values& v) {
    const u32 lane = first + group;
    unrolled<0, R>([&](auto index) {
      constexpr int r = decltype(index)::value, mirror = R - 1 - r, self = (R - r) % R;
      if constexpr (!A::even) {
        put_coefficients<A, r * span>(block, tile, lane, kept, j + r * span, v.a[r], v.a[r], args.split);
      } else {
        const bool alone = j == 0;
        constexpr int least = r * span, least_mirrored = r * span + span / 2;  // of a's and b's frequencies
        if constexpr (A::share == 1 || least * A::share < A::n)
          put_coefficients<A, least>(block, tile, lane, kept, j + r * span, v.a[r], alone ? v.a[self] : v.b[mirror],
                                     args.split);
        if constexpr (A::share == 1 || least_mirrored * A::share < A::n)
          if (span % 2 == 0 || !alone)
            put_coefficients<A, least_mirrored>(block, tile, lane, kept, (alone ? span / 2 : span - j) + r * span,
                                                v.b[r], alone ? v.b[mirror] : v.a[mirror], args.split);
      }
    });
  };

  if constexpr (A::overlaid) {
    typename B::template Registers<Values[per_thread]> values;
    block.each("split", [&](int t) {
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = t % A::threads_per_lane + decltype(index)::value * A::threads_per_lane;
        if (j < work) transform(t / A::threads_per_lane, j, values[t][decltype(index)::value]);
      });
    });
    block.each("split", [&](int t) {
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = t % A::threads_per_lane + decltype(index)::value * A::threads_per_lane;
        if (j < work) put(t / A::threads_per_lane, j, values[t][decltype(index)::value]);
      });
    });
  } else {
    block.each("split", [&](int t) {
      FRONT_NO_UNROLL
      for (u32 j = t % A::threads_per_lane; j < work; j += A::threads_per_lane) {
        Values v;
        transform(t / A::threads_per_lane, j, v);
        put(t / A::threads_per_lane, j, v);
      }
    });
  }
}

// conj(W_q) of the transposed split, from the coefficients of a lane; Least and Most: bounds of q.
template <class A, int Least, int Most, class B, class Tile>
FRONT_DEVICE typename A::Point take_coefficients(const B& block, Tile tile, u32 lane, u32 kept, u32 q,
                                                 const void* table) {
  using Real = typename A::Real;
  const auto coefficient = [&](u32 i) { return i < kept ? tile.read(A::tile_at(i, lane)) : Real(0); };
  if constexpr (!A::even) {
    if (q >= kept) return {0, 0};
    const auto c = block.table(static_cast<const typename A::Point*>(table) + q);
    const Real x = coefficient(q);
    return {c.x * x, c.y * x};
  } else {
    constexpr bool high = A::share == 1;
    constexpr bool low = Least * A::share < A::n, mirrored = (A::points - Most) * A::share < A::n;
    const auto* f = static_cast<const Quad<Real>*>(table);
    Real re = 0, im = 0;
    if (q == 0) {
      const auto c = block.table(f);
      const Real x = c.x * coefficient(0), y = high ? c.y * coefficient(A::points) : Real(0);
      return {x + y, y - x};
    }
    const u32 m = A::points - q;
    if (low && q < kept) {
      const auto c = block.table(f + q);
      const Real x = coefficient(q), y = high ? coefficient(A::n - q) : Real(0);
      re = c.x * x, im = c.y * x;
      if constexpr (high) re -= c.y * y, im += c.x * y;
    }
    if (mirrored && m < kept) {
      const auto c = block.table(f + m);
      const Real x = coefficient(m), y = high ? coefficient(A::n - m) : Real(0);
      re += c.z * x, im -= c.w * x;
      if constexpr (high) re -= c.w * y, im -= c.z * y;
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
template <class A, class B, class Points, class Tile>
FRONT_DEVICE void merge_spectrum(const B& block, const AxisArgs& args, const void* table, int first, Points points,
                                 Tile tile) {
  using Point = typename A::Point;
  constexpr int R = A::radix(0), count = A::points / R;
  constexpr int per_thread = (count + A::threads_per_lane - 1) / A::threads_per_lane;
  constexpr u64 mask = nonzero_inputs<A>();
  struct Values {
    Point v[R];
  };
  const u32 kept = static_cast<u32>(args.kept);

  const auto take = [&](u32 group, u32 j, Values& values) {
    unrolled<0, R>([&](auto index) {
      constexpr int r = decltype(index)::value;
      if constexpr (has(mask, r))
        values.v[r] = take_coefficients<A, r * count, (r + 1) * count - 1>(block, tile, first + group, kept,
                                                                           j + r * count, table);
      else
        values.v[r] = {0, 0};
    });
    if constexpr (A::stages > 1) butterfly<R, mask>(values.v);  // a single stage is the last one, which follows
  };
  const auto put = [&](u32 group, u32 j, const Values& values) {
    unrolled<0, R>([&](auto index) {
      constexpr int r = decltype(index)::value;
      points.write(group * A::padded + A::at(A::stages > 1 ? j * R + r : j + r * count), values.v[r]);
    });
  };

  if constexpr (A::overlaid) {
    typename B::template Registers<Values[per_thread]> values;
    block.each("merge", [&](int t) {
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = t % A::threads_per_lane + decltype(index)::value * A::threads_per_lane;
        if (j < count) take(t / A::threads_per_lane, j, values[t][decltype(index)::value]);
      });
    });
    block.each("merge", [&](int t) {
      unrolled<0, per_thread>([&](auto index) {
        const u32 j = t % A::threads_per_lane + decltype(index)::value * A::threads_per_lane;
        if (j < count) put(t / A::threads_per_lane, j, values[t][decltype(index)::value]);
      });
    });
  } else {
    block.each("merge", [&](int t) {
      FRONT_NO_UNROLL
      for (u32 j = t % A::threads_per_lane; j < count; j += A::threads_per_lane) {
        Values values;
        take(t / A::threads_per_lane, j, values);
        put(t / A::threads_per_lane, j, values);
      }
    });
  }
}

// f(coefficient, lane) over the tile, in the order in which they lie in memory.
template <class A, class F>
FRONT_DEVICE void over_tile(u32 kept, bool lanes_adjacent, int t, F f) {
  if (lanes_adjacent) {
    FRONT_NO_UNROLL
    for (u32 i = t; i < kept * A::lanes; i += A::threads) f(i / A::lanes, i % A::lanes);
  } else {
    FRONT_NO_UNROLL
    for (u32 lane = 0; lane < A::lanes; ++lane)
      for (u32 q = t; q < kept; q += A::threads) f(q, lane);
  }
}

template <class A, class B, class Tile>
FRONT_DEVICE void store_tile(const B& block, const AxisArgs& args, const Place& place, Tile tile) {
  using Real = typename A::Real;
  block.last("store coefficients", [&](int t) {
    with_type<Real>(args.out_type, [&](auto storage) {
      using S = typename decltype(storage)::type;
      S* y = static_cast<S*>(args.out[place.matrix]) + place.batch * args.out_batch + place.first_lane * args.out_lane;
      over_tile<A>(static_cast<u32>(args.kept), args.out_along != 1, t, [&](u32 q, u32 lane) {
        if (lane < place.lanes)
          store_one(block, y + q * args.out_along + lane * args.out_lane, tile.read(A::tile_at(q, lane)));
      });
    });
  });
}

template <class A, class B, class Tile>
FRONT_DEVICE void load_tile(const B& block, const AxisArgs& args, const Place& place, Tile tile) {
  using Real = typename A::Real;
  block.each("load coefficients", [&](int t) {
    with_type<Real>(args.in_type, [&](auto storage) {
      using S = typename decltype(storage)::type;
      const S* x =
          static_cast<const S*>(args.in[place.matrix]) + place.batch * args.in_batch + place.first_lane * args.in_lane;
      over_tile<A>(static_cast<u32>(args.kept), args.in_along != 1, t, [&](u32 q, u32 lane) {
        const bool live = lane < place.lanes;
        tile.write(A::tile_at(q, lane),
                   live ? load_one<Real>(block, x + q * args.in_along + lane * args.in_lane) : Real(0));
      });
    });
  });
}

}  // namespace front::cuda
