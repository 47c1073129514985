// The tile, in which the coefficients of all lanes of a block are collected on their way from and to memory.
#pragma once

#include "axis.h"
#include "memory.h"

namespace front::cuda {

// Moves the tile's lanes that exist, in the order in which they lie in memory: use(q, lane, place, get(q, lane,
// place)). A thread gets a few before it uses the first, so that their ways through memory overlap.
template <class A, class Get, class Use>
FRONT_DEVICE void over_tile(const Place& place, u32 kept, bool lanes_adjacent, u32 t, Get get, Use use) {
  constexpr int kBatch = 8;
  const auto along = [&](u32 lane, u32 first, auto step) {
    constexpr u32 Step = decltype(step)::value;
    FRONT_NO_UNROLL
    for (u32 q = first; q < kept; q += kBatch * Step) {
      // Steps later, where the turns repeat, a place is a constant distance away.
      constexpr u32 over = Step % A::tile_period,
                    repeat = over != 0 && A::tile_period % over == 0 ? A::tile_period / over : 1;
      int at[repeat];
      unrolled<0, static_cast<int>(repeat)>(
          [&](auto u) { at[decltype(u)::value] = A::tile_at(q + decltype(u)::value * Step, lane); });
      const auto place_of_step = [&](auto u) {
        constexpr u32 steps = decltype(u)::value, whole = steps / repeat * repeat;
        return A::template tile_after<whole * Step>(q + (steps - whole) * Step, lane, at[steps - whole]);
      };
      typename A::Real v[kBatch];
      unrolled<0, kBatch>([&](auto u) {
        const u32 i = q + decltype(u)::value * Step;
        if (i < kept) v[decltype(u)::value] = get(i, lane, place_of_step(u));
      });
      unrolled<0, kBatch>([&](auto u) {
        const u32 i = q + decltype(u)::value * Step;
        if (i < kept) use(i, lane, place_of_step(u), v[decltype(u)::value]);
      });
    }
  };
  if (lanes_adjacent) {
    if constexpr (A::threads % A::lanes == 0) {  // a thread stays in its lane
      if (t % A::lanes < static_cast<u32>(place.lanes)) along(t % A::lanes, t / A::lanes, Int<A::threads / A::lanes>{});
    } else {
      FRONT_NO_UNROLL
      for (u32 i = t; i < kept * A::lanes; i += A::threads) {
        const u32 q = i / A::lanes, lane = i % A::lanes;
        const int at = A::tile_at(q, lane);
        if (lane < static_cast<u32>(place.lanes)) use(q, lane, at, get(q, lane, at));
      }
    }
  } else {
    FRONT_NO_UNROLL
    for (u32 lane = 0; lane < static_cast<u32>(place.lanes); ++lane) along(lane, t, Int<A::threads>{});
  }
}

// The same where four lanes lie together: use(q, lane, place of each, get(q, lane, place of each)), fours of lanes.
template <class A, class Get, class Use>
FRONT_DEVICE void over_tile_fours(const Place& place, u32 kept, u32 t, Get get, Use use) {
  constexpr int kBatch = 4;
  FRONT_NO_UNROLL
  for (u32 lane = 0; lane < static_cast<u32>(place.lanes); lane += 4) {
    FRONT_NO_UNROLL
    for (u32 q = t; q < kept; q += kBatch * A::threads) {
      Quad<typename A::Real> v[kBatch];
      const auto each = [&](auto f) {
        unrolled<0, kBatch>([&](auto u) {
          constexpr u32 steps = decltype(u)::value;
          const u32 i = q + steps * A::threads;
          if (i >= kept) return;
          int at[4];
          unrolled<0, 4>([&](auto l) {
            at[decltype(l)::value] = A::template tile_after<steps * A::threads>(
                q, lane + decltype(l)::value, A::tile_at(q, lane + decltype(l)::value));
          });
          f(i, at, v[steps]);
        });
      };
      each([&](u32 i, const int (&at)[4], Quad<typename A::Real>& x) { x = get(i, lane, at); });
      each([&](u32 i, const int (&at)[4], Quad<typename A::Real>& x) { use(i, lane, at, x); });
    }
  }
}

template <class A, class B, class Tile>
FRONT_DEVICE void store_tile(const B& block, const AxisArgs& args, const Place& place, Tile tile) {
  using Real = typename A::Real;
  const u32 kept = static_cast<u32>(args.kept);
  block.last("store coefficients", [&](int t) {
    if constexpr (A::lanes % 4 == 0)
      if (args.out_lane_quads) {
        Real* y = static_cast<Real*>(args.out[place.matrix]) + out_offset(args, place.batch, place.first_lane);
        over_tile_fours<A>(
            place, kept, t,
            [&](u32, u32 lane, const int (&at)[4]) -> Quad<Real> {
              const int live = place.lanes - static_cast<int>(lane);
              return {tile.read(at[0]), live > 1 ? tile.read(at[1]) : Real(0), live > 2 ? tile.read(at[2]) : Real(0),
                      live > 3 ? tile.read(at[3]) : Real(0)};
            },
            [&](u32 q, u32 lane, const int (&)[4], Quad<Real> v) {
              store_quad(block, y + (lane / 4) * args.out_lane_four + q * args.out_along, v);
            });
        return;
      }
    with_type<Real>(args.out_type, [&](auto storage) {
      using S = typename decltype(storage)::type;
      S* y = static_cast<S*>(args.out[place.matrix]);
      over_tile<A>(
          place, kept, args.out_along != 1, t, [&](u32, u32, int at) { return tile.read(at); },
          [&](u32 q, u32 lane, int, Real v) {
            store_one(block, y + out_offset(args, place.batch, place.first_lane + lane) + q * args.out_along, v);
          });
    });
  });
}

template <class A, class B, class Tile>
FRONT_DEVICE void load_tile(const B& block, const AxisArgs& args, const Place& place, Tile tile) {
  using Real = typename A::Real;
  const u32 kept = static_cast<u32>(args.kept);
  block.each("load coefficients", [&](int t) {
    if constexpr (A::lanes % 4 == 0)
      if (args.in_lane_quads) {
        const Real* x =
            static_cast<const Real*>(args.in[place.matrix]) + in_offset(args, place.batch, place.first_lane);
        over_tile_fours<A>(
            place, A::most_kept, t,
            [&](u32 q, u32 lane, const int (&)[4]) -> Quad<Real> {
              if (q >= kept) return {0, 0, 0, 0};
              const Real* p = x + (lane / 4) * args.in_lane_four + q * args.in_along;
              const int live = place.lanes - static_cast<int>(lane);  // no more were written
              if (live >= 4) return load_quad<Real>(block, p);
              return {block.load(p), live > 1 ? block.load(p + 1) : Real(0), live > 2 ? block.load(p + 2) : Real(0),
                      Real(0)};
            },
            [&](u32, u32, const int (&at)[4], Quad<Real> v) {
              tile.write(at[0], v.x), tile.write(at[1], v.y), tile.write(at[2], v.z), tile.write(at[3], v.w);
            });
        return;
      }
    with_type<Real>(args.in_type, [&](auto storage) {
      using S = typename decltype(storage)::type;
      const S* x = static_cast<const S*>(args.in[place.matrix]);
      over_tile<A>(
          place, A::most_kept, args.in_along != 1, t,
          [&](u32 q, u32 lane, int) {
            const S* p = x + in_offset(args, place.batch, place.first_lane + lane);
            return q < kept ? load_one<Real>(block, p + q * args.in_along) : Real(0);
          },
          [&](u32, u32, int at, Real v) { tile.write(at, v); });
    });
  });
}

}  // namespace front::cuda
