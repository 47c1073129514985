// Transforms through memory: the complex sequence of every lane as a matrix [rows][columns] of points, j = i columns +
// c.
//
//   pack     values or coefficients -> points, in natural order
//   down     DFT over i, for every column c; times exp(-2 pi i c k / length)
//   along    DFT over c, for every row k: the spectrum, frequency k + rows q at [k][q]
//   unpack   points -> coefficients or values
//
// Each step is a kernel, of as many lanes as the workspace has points for. Or, of many lanes, one kernel does all
// steps: a block takes a lane, with points of its own, and then another (through_memory). A convolution multiplies by
// the chirp while packing and unpacking, and goes back the way it came: `along` multiplies by the kernel's spectrum,
// conjugates and transforms again, and a second `down`, without factors, ends in natural order; conj(DFT(conj ...)) is
// the inverse DFT, so the points are then conjugate. As everywhere, the inverse transform is the transpose of the
// forward one: other ends, the same DFT.
#pragma once

#include "axis.h"
#include "memory.h"

namespace front::cuda {

constexpr int kFineBits = 12;

// exp(-2 pi i e / length) from two tables: exact to one rounding more than one table of all.
template <class Real, class B>
FRONT_DEVICE Complex<Real> root_of_length(const B& block, const LargeArgs& args, i64 e) {
  const auto* coarse = static_cast<const Complex<Real>*>(args.coarse);
  const auto* fine = static_cast<const Complex<Real>*>(args.fine);
  return block.table(coarse + (e >> kFineBits)) * block.table(fine + (e & ((1 << kFineBits) - 1)));
}

// A lane's own side: pointers to its first value in and out.
struct Lane {
  i64 matrix, in, out;  // which matrix; offsets
};
FRONT_DEVICE Lane lane_of(const AxisArgs& axis, i64 index) {
  const i64 lane = index % axis.lanes, rest = index / axis.lanes, batch = rest % axis.batch;
  return {rest / axis.batch, in_offset(axis, batch, lane), out_offset(axis, batch, lane)};
}

// conj(W_q) of the transposed real split from coefficients in memory, as take_coefficients does from a tile.
template <class Real, class B, class F>
FRONT_DEVICE Complex<Real> merge_point(const B& block, const LargeArgs& args, i64 q, F coefficient) {
  if (args.n % 2 != 0) {
    const auto c = block.table(static_cast<const Complex<Real>*>(args.axis.split) + q);
    const Real x = coefficient(q);
    return {c.x * x, c.y * x};
  }
  const auto* f = static_cast<const Quad<Real>*>(args.axis.split);
  const auto c = block.table(f + q);
  if (q == 0) {
    const Real x = (c.x + c.z) * coefficient(0), y = (c.x - c.z) * coefficient(args.sequence);
    return {x + y, y - x};
  }
  const i64 m = args.sequence - q;
  const auto d = block.table(f + m);
  const Real x = coefficient(q), y = coefficient(args.n - q), v = coefficient(m), w = coefficient(args.n - m);
  return {c.x * x - c.y * y + d.z * v - d.w * w, c.y * x + c.x * y - d.w * v - d.z * w};
}

// Point j of the lane `index`, in the place `local`.
template <class Real, class B>
FRONT_DEVICE void pack_point(const B& block, const LargeArgs& args, i64 index, i64 local, i64 j) {
  const AxisArgs& axis = args.axis;
  const Lane lane = lane_of(axis, index);
  Complex<Real> z{0, 0};
  if (j < args.sequence) {
    with_type<Real>(axis.in_type, [&](auto storage) {
      using S = typename decltype(storage)::type;
      const S* x = static_cast<const S*>(axis.in[lane.matrix]) + lane.in;
      const auto value = [&](i64 i) { return load_one<Real>(block, x + along_offset(i, axis.in_along, axis.in_four)); };
      if (args.inverse)
        z = merge_point<Real>(block, args, j, [&](i64 q) { return q < axis.kept ? value(q) : Real(0); });
      else if (args.n % 2 != 0)
        z = {value(makhoul(j, args.n)), Real(0)};
      else
        z = {value(makhoul(2 * j, args.n)), value(makhoul(2 * j + 1, args.n))};
    });
    if (args.convolve) z = z * block.table(static_cast<const Complex<Real>*>(args.chirp) + j);
  }
  block.store(static_cast<Complex<Real>*>(args.points) + local * args.length + j, z);
}
template <class Real, class B>
FRONT_DEVICE void pack(const B& block, const LargeArgs& args) {
  const i64 per_lane = divide_up(args.length, kPackThreads);
  block.last("pack", [&](int t) {
    const i64 local = block.index() / per_lane, j = block.index() % per_lane * kPackThreads + t;
    if (j < args.length) pack_point<Real>(block, args, args.first_lane + local, local, j);
  });
}

// Coefficient j, or values 2j and 2j + 1 (of an odd length: j) of Makhoul's order.
template <class Real, class B>
FRONT_DEVICE void unpack_point(const B& block, const LargeArgs& args, i64 index, i64 local, i64 j) {
  const AxisArgs& axis = args.axis;
  const Lane lane = lane_of(axis, index);
  const auto* points = static_cast<const Complex<Real>*>(args.points) + local * args.length;
  const auto spectrum = [&](i64 q) {
    if (args.convolve)
      return conjugate(block.load(points + q)) * block.table(static_cast<const Complex<Real>*>(args.chirp) + q);
    const i64 rows = args.length / args.columns;
    return block.load(points + q % rows * args.columns + q / rows);
  };
  with_type<Real>(axis.out_type, [&](auto storage) {
    using S = typename decltype(storage)::type;
    S* y = static_cast<S*>(axis.out[lane.matrix]) + lane.out;
    const auto put = [&](i64 i, Real v) { store_one(block, y + along_offset(i, axis.out_along, axis.out_four), v); };
    if (args.inverse) {
      const auto z = spectrum(j);
      if (args.n % 2 != 0) {
        put(makhoul(j, args.n), z.x);
      } else {
        put(makhoul(2 * j, args.n), z.x);
        put(makhoul(2 * j + 1, args.n), -z.y);
      }
      return;
    }
    if (args.n % 2 != 0) {
      const auto c = block.table(static_cast<const Complex<Real>*>(axis.split) + j), z = spectrum(j);
      put(j, c.x * z.x - c.y * z.y);
      return;
    }
    const auto* f = static_cast<const Quad<Real>*>(axis.split);
    const i64 half = args.sequence, q = j <= half ? j : args.n - j;
    const auto z = spectrum(q % half);
    if (q % half == 0) {
      const auto c = block.table(f);
      put(j, q == 0 ? (c.x + c.z) * (z.x + z.y) : (c.x - c.z) * (z.x - z.y));
      return;
    }
    const auto w = spectrum(half - q);
    const auto c = block.table(f + q);
    if (j < half)
      put(j, c.x * z.x - c.y * z.y + c.z * w.x + c.w * w.y);
    else
      put(j, c.z * w.y - c.w * w.x - c.y * z.x - c.x * z.y);
  });
}
FRONT_DEVICE i64 unpacked(const LargeArgs& args) { return args.inverse ? args.sequence : args.axis.kept; }
template <class Real, class B>
FRONT_DEVICE void unpack(const B& block, const LargeArgs& args) {
  const i64 work = unpacked(args), per_lane = divide_up(work, kPackThreads);
  block.last("unpack", [&](int t) {
    const i64 local = block.index() / per_lane, j = block.index() % per_lane * kPackThreads + t;
    if (j < work) unpack_point<Real>(block, args, args.first_lane + local, local, j);
  });
}

// How many DFTs a lane has in a step.
FRONT_DEVICE i64 across_of(const LargeArgs& args, bool down) {
  return down ? args.columns : args.length / args.columns;
}

// Which of them: of the lane in the place `local`, A::lanes from `first` on.
struct Dfts {
  i64 local, first;

  // Those that exist.
  template <class A>
  FRONT_DEVICE u32 live(const LargeArgs& args, bool down) const {
    const i64 left = across_of(args, down) - first;
    return static_cast<u32>(left < A::lanes ? left : A::lanes);
  }
};
template <class A, class B>
FRONT_DEVICE Dfts dfts_of(const B& block, const LargeArgs& args, bool down) {
  const i64 per_lane = divide_up(across_of(args, down), A::lanes);
  return {block.index() / per_lane, block.index() % per_lane * A::lanes};
}

// Points of `A::lanes` neighbouring columns, or rows, from and to memory; f(point, column, index in its DFT) on the
// way.
template <class A, class B, class Points, class F>
FRONT_DEVICE void step_points(const B& block, const LargeArgs& args, Dfts dfts, bool down, bool store, Points points,
                              F f) {
  using Point = typename A::Point;
  const i64 across = across_of(args, down), first = dfts.first;
  Point* base = static_cast<Point*>(args.points) + dfts.local * args.length;
  block.each(store ? "store points" : "load points", [&](int t) {
    FRONT_NO_UNROLL
    for (u32 i = t; i < A::points * A::lanes; i += A::threads) {
      // Neighbouring threads take neighbours in memory.
      const u32 lane = down ? i % A::lanes : i / A::points, j = down ? i / A::lanes : i % A::points;
      const int at = static_cast<int>(lane * A::padded) + A::at(j);
      const bool live = first + lane < across;
      Point* p = base + (down ? j * args.columns + first + lane : (first + lane) * args.columns + j);
      if (store) {
        if (live) block.store(p, f(points.read(at), first + lane, j));
      } else {
        points.write(at, live ? block.load(p) : Point{0, 0});
      }
    }
  });
}

// DFTs down the columns; `factors`: times exp(-2 pi i column k / length).
template <class A, bool Factors, bool Looped = false, class B>
FRONT_DEVICE void dfts_down(const B& block, const LargeArgs& args, Dfts dfts, const void* twiddles) {
  using Point = typename A::Point;
  const auto points = block.template shared<Point>(0, A::padded * A::together);
  const auto same = [](Point z, i64, i64) { return z; };
  step_points<A>(block, args, dfts, true, false, points, same);
  middle_stages<A, 0, A::stages, Looped>(block, points, dfts.template live<A>(args, true),
                                         static_cast<const Point*>(twiddles));
  step_points<A>(block, args, dfts, true, true, points, [&](Point z, i64 column, i64 k) {
    if constexpr (Factors) return z * root_of_length<typename A::Real>(block, args, column * k);
    return z;
  });
}

// DFTs along the rows; of a convolution: there, times the kernel, and back.
template <class A, bool Convolve, bool Looped = false, class B>
FRONT_DEVICE void dfts_along(const B& block, const LargeArgs& args, Dfts dfts, const void* table) {
  using Point = typename A::Point;
  const auto points = block.template shared<Point>(0, A::padded * A::together);
  const auto* twiddles = static_cast<const Point*>(table);
  const auto same = [](Point z, i64, i64) { return z; };
  const u32 live = dfts.template live<A>(args, false);
  step_points<A>(block, args, dfts, false, false, points, same);
  middle_stages<A, 0, A::stages, Looped>(block, points, live, twiddles);
  if constexpr (Convolve) {
    const i64 rows = across_of(args, false), first = dfts.first;
    block.each("convolve", [&](int t) {
      FRONT_NO_UNROLL
      for (u32 i = t; i < A::points * A::lanes; i += A::threads) {
        const u32 lane = i / A::points, j = i % A::points;
        const int at = static_cast<int>(lane * A::padded) + A::at(j);
        if (first + lane >= rows) continue;
        const auto* kernel = static_cast<const Point*>(args.kernel) + (first + lane) * args.columns + j;
        points.write(at, conjugate(points.read(at) * block.table(kernel)));
      }
    });
    middle_stages<A, 0, A::stages, Looped>(block, points, live, twiddles);
    step_points<A>(block, args, dfts, false, true, points, [&](Point z, i64 row, i64 column) {
      return z * root_of_length<typename A::Real>(block, args, row * column);
    });
  } else {
    step_points<A>(block, args, dfts, false, true, points, same);
  }
}

template <class A, bool Factors, class B>
FRONT_DEVICE void step_down(const B& block, const LargeArgs& args) {
  dfts_down<A, Factors>(block, args, dfts_of<A>(block, args, true), args.twiddles);
}
template <class A, bool Convolve, class B>
FRONT_DEVICE void step_along(const B& block, const LargeArgs& args) {
  dfts_along<A, Convolve>(block, args, dfts_of<A>(block, args, false), args.twiddles);
}

// All steps of one lane after the other; each block has the points of one. What it writes to them it reads itself, so
// that a barrier is enough between the steps.
template <class Down, class Along, bool Convolve, class B>
FRONT_DEVICE void through_memory(const B& block, const LargeArgs& args) {
  static_assert(Down::threads == Along::threads && B::threads == Down::threads);
  using Real = typename Down::Real;
  const i64 local = block.index();
  FRONT_NO_UNROLL
  for (i64 lane = local; lane < args.count; lane += args.together) {
    block.each("pack", [&](int t) {
      FRONT_NO_UNROLL
      for (i64 j = t; j < args.length; j += B::threads) pack_point<Real>(block, args, lane, local, j);
    });
    FRONT_NO_UNROLL
    for (i64 first = 0; first < args.columns; first += Down::lanes)
      dfts_down<Down, true, true>(block, args, {local, first}, args.twiddles);
    FRONT_NO_UNROLL
    for (i64 first = 0; first < across_of(args, false); first += Along::lanes)
      dfts_along<Along, Convolve, true>(block, args, {local, first}, args.axis.twiddles_back);
    if constexpr (Convolve) {
      FRONT_NO_UNROLL
      for (i64 first = 0; first < args.columns; first += Down::lanes)
        dfts_down<Down, false, true>(block, args, {local, first}, args.twiddles);
    }
    block.each("unpack", [&](int t) {
      FRONT_NO_UNROLL
      for (i64 j = t; j < unpacked(args); j += B::threads) unpack_point<Real>(block, args, lane, local, j);
    });
  }
}

}  // namespace front::cuda
