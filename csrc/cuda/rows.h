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

// What a pass does with values besides transforming them: nothing as they are loaded, and storing them in the end.
// spectral.h has others.
struct Plain {
  struct Seen {
    template <class V>
    FRONT_DEVICE V operator()(V v) const {
      return v;
    }
  };
  FRONT_DEVICE Seen of(int) const { return {}; }
  template <class A, class B>
  FRONT_DEVICE void prefetch(const B&, const AxisArgs&, const Place&, int) const {}

  template <class S>
  struct Lane {
    S* y;
    const AxisArgs& args;
    template <class Real, class B>
    FRONT_DEVICE void one(const B& block, i64 element, Real v) const {
      store_one(block, y + along_offset(element, args.out_along, args.out_four), v);
    }
    // Fours number i and j of the lane, `step` elements from four to four.
    template <class Real, class B>
    FRONT_DEVICE void fours(const B& block, i64 step, i64 i, Quad<Real> a, i64 j, Quad<Real> b) const {
      four(block, step, i, a);
      four(block, step, j, b);
    }
    template <class Real, class B>
    FRONT_DEVICE void four(const B& block, i64 step, i64 i, Quad<Real> q) const {
      S* p = y + i * step;
      if (args.out_quads) {
        store_quad(block, p, q);
      } else {
        store_one(block, p, q.x), store_one(block, p + args.out_along, q.y);
        store_one(block, p + 2 * args.out_along, q.z), store_one(block, p + 3 * args.out_along, q.w);
      }
    }
  };
  // f(Lane) for a lane, of thread t.
  template <class Real, class F>
  FRONT_DEVICE void lane(const AxisArgs& args, const Place& place, i64 lane, int, F f) const {
    with_type<Real>(args.out_type, [&](auto storage) {
      using S = typename decltype(storage)::type;
      f(Lane<S>{static_cast<S*>(args.out[place.matrix]) + out_offset(args, place.batch, lane), args});
    });
  }
};

// The inputs of butterfly `pair` of the first stage and of its mirror; x: the lane.
template <class A, class S, class B, class Seen>
FRONT_DEVICE void load_pair(const B& block, const S* x, const AxisArgs& args, u32 pair, Seen seen,
                            typename A::Point (&a)[A::radix(0)], typename A::Point (&b)[A::radix(0)]) {
  using Real = typename A::Real;
  constexpr i64 R = A::radix(0), count = A::points / R;
  const i64 along = args.in_along;
  const auto four = [&](const S* p) -> Quad<Real> {
    return {load_one<Real>(block, p), load_one<Real>(block, p + along), load_one<Real>(block, p + 2 * along),
            load_one<Real>(block, p + 3 * along)};
  };
  const auto quad = [&](const S* p) { return load_quad<Real>(block, p); };
  const auto fill = [&](i64 step, auto load) {
    const S *first = x + static_cast<i64>(pair) * step, *last = x + (count - 1 - static_cast<i64>(pair)) * step;
    unrolled<0, R / 2>([&](auto index) {
      constexpr int r = decltype(index)::value;
      const Quad<Real> up = seen(load(first + r * count * step)), down = seen(load(last + r * count * step));
      a[r] = {up.x, up.z}, b[R - 1 - r] = {up.w, up.y};
      b[r] = {down.x, down.z}, a[R - 1 - r] = {down.w, down.y};
    });
    if constexpr (R % 2 != 0) {
      const Quad<Real> up = seen(load(first + R / 2 * count * step));
      a[R / 2] = {up.x, up.z}, b[R / 2] = {up.w, up.y};
    }
  };
  // NOTE: the choice stands outside of the loop over loads, so that all loads are under way before the first is used.
  if (!args.in_quads)
    fill(args.in_four, four);
  else if (args.in_four == 4)
    fill(4, quad);
  else
    fill(args.in_four, quad);
}

// Which lane of those together, and as which of its threads, a thread serves on the values' side: where neighbouring
// lanes lie together, as in the intermediate, neighbouring threads take them.
struct ValueSide {
  u32 group, thread;
};
template <class A>
FRONT_DEVICE ValueSide value_side_of(u32 t, i64 along, i64 four, i64 lane) {
  if (A::together > 1 && (four != 4 * along || (lane == 1 && along != 1))) return {t % A::together, t / A::together};
  return {A::group_of(t), A::thread_of(t)};
}

// Asks for the next row while this one is computed: to the second-level cache, which costs neither registers nor shared
// memory.
template <class A, class S, class B>
FRONT_DEVICE void prefetch_row(const B& block, const S* x, u32 thread) {
  constexpr u32 line = 128 / sizeof(S);
  FRONT_UNROLL(4)
  for (u32 i = thread * line; i < static_cast<u32>(A::n); i += A::threads_per_lane * line) block.prefetch(x + i);
}

// Values -> first stage -> points in shared memory, for lanes first, first + 1, ... of the block.
template <class A, class B, class Points, class Values>
FRONT_DEVICE void load_rows(const B& block, const AxisArgs& args, const Place& place, int first, Points points,
                            const Values& values) {
  using Real = typename A::Real;
  using Point = typename A::Point;
  constexpr int R = A::radix(0), count = A::points / R;
  constexpr bool paired = A::even && A::stages > 1 && count % 2 == 0;
  constexpr int work = paired ? count / 2 : count;
  block.each("load rows", [&](int t) {
    const ValueSide side = value_side_of<A>(t, args.in_along, args.in_four, args.in_lane);
    const int base = side.group * A::padded;
    if (side.group >= place.template live<A>(first)) return;
    const i64 lane = place.first_lane + first + side.group, offset = in_offset(args, place.batch, lane);
    if constexpr (A::lanes > A::together)
      if (args.in_quads && args.in_four == 4 && first + A::together + static_cast<int>(side.group) < place.lanes)
        with_type<Real>(args.in_type, [&](auto storage) {
          using S = typename decltype(storage)::type;
          const i64 next = in_offset(args, place.batch, lane + A::together);
          prefetch_row<A>(block, static_cast<const S*>(args.in[place.matrix]) + next, side.thread);
        });
    FRONT_NO_UNROLL
    for (u32 i = side.thread; i < work; i += A::threads_per_lane) {
      if constexpr (paired) {
        with_type<Real>(args.in_type, [&](auto storage) {
          using S = typename decltype(storage)::type;
          const S* x = static_cast<const S*>(args.in[place.matrix]) + offset;
          Point a[R], b[R];
          load_pair<A>(block, x, args, i, values.of(t), a, b);
          butterfly<R>(a);
          butterfly<R>(b);
          write_first<A>(points, base, i, a);
          write_first<A>(points, base, count - 1 - i, b);
        });
      } else {
        Point a[R];
        with_type<Real>(args.in_type, [&](auto storage) {
          using S = typename decltype(storage)::type;
          const S* x = static_cast<const S*>(args.in[place.matrix]) + offset;
          const auto value = [&](i64 element) {
            return values.of(t)(
                load_one<Real>(block, x + along_offset(makhoul(element, A::n), args.in_along, args.in_four)));
          };
          unrolled<0, R>([&](auto index) {
            const u32 m = i + decltype(index)::value * count;
            if constexpr (A::even)
              a[decltype(index)::value] = {value(2 * m), value(2 * m + 1)};
            else
              a[decltype(index)::value] = {value(m), Real(0)};
          });
        });
        if constexpr (A::stages > 1) butterfly<R>(a);  // a single stage is the last one, which follows
        write_first<A>(points, base, i, a);
      }
    }
  });
}

// Points in shared memory -> last stage -> values. The points are those of the conjugate spectrum.
template <class A, class B, class Points, class Values>
FRONT_DEVICE void store_rows(const B& block, const AxisArgs& args, const Place& place, int first, Points points,
                             const typename A::Point* twiddles, const Values& values) {
  using Real = typename A::Real;
  using Point = typename A::Point;
  constexpr int last = A::stages - 1, R = A::radix(last), span = A::span(last);
  constexpr bool paired = A::even && span % 2 == 0;
  constexpr int work = paired ? span / 2 : span;
  block.each("store rows", [&](int t) {
    const ValueSide side = value_side_of<A>(t, args.out_along, args.out_four, args.out_lane);
    const int base = side.group * A::padded;
    if (side.group >= place.template live<A>(first)) return;
    const i64 own = place.first_lane + first + side.group;
    FRONT_NO_UNROLL
    for (u32 i = side.thread; i < work; i += A::threads_per_lane) {
      if constexpr (paired) {
        // The mirror's twiddles are the conjugates of those of i + 1, its outputs shifted: see gather.
        Point a[R], shifted[R];
        gather<A, false>(block, points, base, i, i, twiddles, a);
        gather<A, true>(block, points, base, span - 1 - i, i + 1, twiddles, shifted);
        const auto b = [&](int r) { return shifted[(r + 1) % R]; };
        values.template lane<Real>(args, place, own, t, [&](const auto& lane) {
          const auto quad = [](Point z, Point mirror) { return Quad<Real>{z.x, -mirror.y, -z.y, mirror.x}; };
          const i64 up = i, down = span - 1 - static_cast<i64>(i);
          const auto all = [&](i64 step) {
            unrolled<0, R / 2>([&](auto index) {
              constexpr int r = decltype(index)::value;
              constexpr i64 after = static_cast<i64>(r) * span;
              lane.fours(block, step, up + after, quad(a[r], b(R - 1 - r)), down + after, quad(b(r), a[R - 1 - r]));
            });
            if constexpr (R % 2 != 0)
              lane.four(block, step, up + R / 2 * static_cast<i64>(span), quad(a[R / 2], b(R / 2)));
          };
          if (args.out_quads && args.out_four == 4)
            all(4);
          else
            all(args.out_four);
        });
      } else {
        Point a[R];
        gather<A, false>(block, points, base, i, i, twiddles, a);
        values.template lane<Real>(args, place, own, t, [&](const auto& lane) {
          unrolled<0, R>([&](auto index) {
            constexpr int r = decltype(index)::value;
            const u32 m = i + r * span;
            if constexpr (A::even)
              lane.one(block, makhoul(2 * m, A::n), a[r].x), lane.one(block, makhoul(2 * m + 1, A::n), -a[r].y);
            else
              lane.one(block, makhoul(m, A::n), a[r].x);
          });
        });
      }
    }
  });
}

}  // namespace front::cuda
