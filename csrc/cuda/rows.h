// The side of the values: Makhoul's order fused into the first stage of the forward transform, and, as its transpose,
// into the last stage of the inverse.
//
// With z[m] = v[2m] + i v[2m+1] of Makhoul's v, four neighbours x[4m..4m+3] are z[m] = (x[4m], x[4m+2]) and its mirror
// z[points-1-m] = (x[4m+3], x[4m+1]). A thread takes butterfly j and its mirror, so one load of four serves both and
// every byte is moved once, in order.
#pragma once

#include "axis.h"
#include "memory.h"

namespace front::cuda {

// The inputs of butterfly `pair` of the first stage and of its mirror; x: the lane.
template <class A, class S, class B>
FRONT_DEVICE void load_pair(const B& block, const S* x, i64 along, bool quads, u32 pair,
                            typename A::Point (&a)[A::radix(0)], typename A::Point (&b)[A::radix(0)]) {
  using Real = typename A::Real;
  constexpr int R = A::radix(0), count = A::points / R;
  const auto four = [&](u32 m) -> Quad<Real> {
    const S* p = x + static_cast<i64>(4 * m) * along;
    return {load_one<Real>(block, p), load_one<Real>(block, p + along), load_one<Real>(block, p + 2 * along),
            load_one<Real>(block, p + 3 * along)};
  };
  const auto fill = [&](auto load) {
    unrolled<0, R / 2>([&](auto index) {
      constexpr int r = decltype(index)::value;
      const Quad<Real> up = load(pair + r * count), down = load(count - 1 - pair + r * count);
      a[r] = {up.x, up.z}, b[R - 1 - r] = {up.w, up.y};
      b[r] = {down.x, down.z}, a[R - 1 - r] = {down.w, down.y};
    });
    if constexpr (R % 2 != 0) {
      const Quad<Real> up = load(pair + R / 2 * count);
      a[R / 2] = {up.x, up.z}, b[R / 2] = {up.w, up.y};
    }
  };
  // NOTE: the choice stands outside of the loop over loads, so that all loads are under way before the first is used.
  if (quads)
    fill([&](u32 m) { return load_quad<Real>(block, x + 4 * m); });
  else
    fill(four);
}

// Values -> first stage -> points in shared memory, for lanes first, first + 1, ... of the block.
template <class A, class B, class Points>
FRONT_DEVICE void load_rows(const B& block, const AxisArgs& args, const Place& place, int first, Points points) {
  using Real = typename A::Real;
  using Point = typename A::Point;
  constexpr int R = A::radix(0), count = A::points / R;
  constexpr bool paired = A::even && A::stages > 1 && count % 2 == 0;
  constexpr int work = paired ? count / 2 : count;
  block.each("load rows", [&](int t) {
    const u32 group = t / A::threads_per_lane, base = group * A::padded;
    const i64 lane = first + group;
    const bool live = lane < place.lanes;
    const i64 offset = place.batch * args.in_batch + (place.first_lane + lane) * args.in_lane;
    FRONT_NO_UNROLL
    for (u32 i = t % A::threads_per_lane; i < work; i += A::threads_per_lane) {
      if constexpr (paired) {
        Point a[R]{}, b[R]{};
        if (live)
          with_type<Real>(args.in_type, [&](auto storage) {
            using S = typename decltype(storage)::type;
            const S* x = static_cast<const S*>(args.in[place.matrix]) + offset;
            load_pair<A>(block, x, args.in_along, args.in_quads, i, a, b);
          });
        butterfly<R>(a);
        butterfly<R>(b);
        unrolled<0, R>([&](auto index) {
          constexpr int r = decltype(index)::value;
          points.write(base + A::at(i * R + r), a[r]);
          points.write(base + A::at((count - 1 - i) * R + r), b[r]);
        });
      } else {
        Point a[R]{};
        if (live)
          with_type<Real>(args.in_type, [&](auto storage) {
            using S = typename decltype(storage)::type;
            const S* x = static_cast<const S*>(args.in[place.matrix]) + offset;
            unrolled<0, R>([&](auto index) {
              const u32 m = i + decltype(index)::value * count;
              Point& z = a[decltype(index)::value];
              if constexpr (A::even)
                z = {load_one<Real>(block, x + makhoul(2 * m, A::n) * args.in_along),
                     load_one<Real>(block, x + makhoul(2 * m + 1, A::n) * args.in_along)};
              else
                z = {load_one<Real>(block, x + makhoul(m, A::n) * args.in_along), Real(0)};
            });
          });
        if constexpr (A::stages > 1) butterfly<R>(a);  // a single stage is the last one, which follows
        unrolled<0, R>([&](auto index) {
          constexpr int r = decltype(index)::value;
          points.write(base + A::at(A::stages > 1 ? i * R + r : i + r * count), a[r]);
        });
      }
    }
  });
}

// Points in shared memory -> last stage -> values. The points are those of the conjugate spectrum.
template <class A, class B, class Points>
FRONT_DEVICE void store_rows(const B& block, const AxisArgs& args, const Place& place, int first, Points points,
                             const typename A::Point* twiddles) {
  using Real = typename A::Real;
  using Point = typename A::Point;
  constexpr int last = A::stages - 1, R = A::radix(last), span = A::span(last);
  constexpr bool paired = A::even && span % 2 == 0;
  constexpr int work = paired ? span / 2 : span;
  block.each("store rows", [&](int t) {
    const u32 group = t / A::threads_per_lane, base = group * A::padded;
    const i64 lane = first + group;
    if (lane >= place.lanes) return;
    const i64 offset = place.batch * args.out_batch + (place.first_lane + lane) * args.out_lane;
    const auto gather = [&](u32 j, Point(&v)[R]) {
      unrolled<0, R>([&](auto index) {
        constexpr int r = decltype(index)::value;
        v[r] = points.read(base + A::last_at(j + r * span));
        if constexpr (r > 0 && span > 1) v[r] = v[r] * block.table(twiddles + A::twiddles(last) + (r - 1) * span + j);
      });
      butterfly<R>(v);
    };
    FRONT_NO_UNROLL
    for (u32 i = t % A::threads_per_lane; i < work; i += A::threads_per_lane) {
      if constexpr (paired) {
        Point a[R], b[R];
        gather(i, a);
        gather(span - 1 - i, b);
        with_type<Real>(args.out_type, [&](auto storage) {
          using S = typename decltype(storage)::type;
          S* y = static_cast<S*>(args.out[place.matrix]) + offset;
          const auto put = [&](u32 m, Point z, Point mirror) {
            const Quad<Real> q{z.x, -mirror.y, -z.y, mirror.x};
            if (args.out_quads) {
              store_quad(block, y + 4 * m, q);
            } else {
              S* p = y + static_cast<i64>(4 * m) * args.out_along;
              store_one(block, p, q.x), store_one(block, p + args.out_along, q.y);
              store_one(block, p + 2 * args.out_along, q.z), store_one(block, p + 3 * args.out_along, q.w);
            }
          };
          unrolled<0, R / 2>([&](auto index) {
            constexpr int r = decltype(index)::value;
            put(i + r * span, a[r], b[R - 1 - r]);
            put(span - 1 - i + r * span, b[r], a[R - 1 - r]);
          });
          if constexpr (R % 2 != 0) put(i + R / 2 * span, a[R / 2], b[R / 2]);
        });
      } else {
        Point a[R];
        gather(i, a);
        with_type<Real>(args.out_type, [&](auto storage) {
          using S = typename decltype(storage)::type;
          S* y = static_cast<S*>(args.out[place.matrix]) + offset;
          unrolled<0, R>([&](auto index) {
            constexpr int r = decltype(index)::value;
            const u32 m = i + r * span;
            if constexpr (A::even) {
              store_one(block, y + makhoul(2 * m, A::n) * args.out_along, a[r].x);
              store_one(block, y + makhoul(2 * m + 1, A::n) * args.out_along, -a[r].y);
            } else {
              store_one(block, y + makhoul(m, A::n) * args.out_along, a[r].x);
            }
          });
        });
      }
    }
  });
}

}  // namespace front::cuda
