// The spectral loss in the passes of the transform: moments of x where it is loaded, and in place of storing the
// low-pass, the residual and its blend into gradients. Between the two, small kernels of one block per matrix, or few.
#pragma once

#include "rows.h"

#ifndef __CUDACC__
#include <cmath>
using std::exp, std::expm1, std::sqrt;
#endif

namespace front::cuda {

template <class Real>
struct Terms {
  Real factor, slope, mean, shift;
};
template <class Real, class B>
FRONT_DEVICE Real shift_of(const B& block, const SpectralArgs& args, u32 matrix) {
  return Real(block.load(args.terms + 4 * static_cast<i64>(matrix) + 3));
}
template <class Real, class B>
FRONT_DEVICE Terms<Real> terms_of(const B& block, const SpectralArgs& args, u32 matrix) {
  const double* p = args.terms + 4 * static_cast<i64>(matrix);
  return {Real(block.load(p)), Real(block.load(p + 1)), Real(block.load(p + 2)), Real(block.load(p + 3))};
}

// Two sums of a thread.
template <class Real>
struct Sum {
  Real x = 0, y = 0;
};
template <class B, class Real>
using Sums = typename B::template Registers<Sum<Real>>;

// f(sum over the block's threads), in its first thread; always in the same order.
template <class B, class Each, class F>
FRONT_DEVICE void add_up(const B& block, const SpectralArgs& args, Each& sums, F f) {
  const auto scratch = block.template shared<Complex<double>>(static_cast<u32>(args.scratch), B::threads);
  typename B::template Registers<Complex<double>> own;
  constexpr int count = B::threads % 32 == 0 ? B::threads / 32 : B::threads;
  block.last("widened", [&](int t) { own[t] = {double(sums[t].x), double(sums[t].y)}; });
  if constexpr (B::threads % 32 == 0)
    block.warps("sums of warps", own, [&](int warp, Complex<double> sum) { scratch.write(warp, sum); });
  else
    block.each("sums", [&](int t) { scratch.write(t, own[t]); });
  block.each("sum", [&](int t) {
    if (t != 0) return;
    Complex<double> sum = scratch.read(0);
    for (int i = 1; i < count; ++i) sum = sum + scratch.read(i);
    f(sum);
  });
}

// Values are x - shift as they are loaded, so that a mean far above the deviation costs no digits.
template <class B, class Real>
struct Measured {
  Real shift;
  Sums<B, Real>& sums;

  struct Seen {
    Real shift;
    Sum<Real>& sum;
    FRONT_DEVICE Real operator()(Real v) const {
      v -= shift;
      sum.x += v, sum.y += v * v;
      return v;
    }
    FRONT_DEVICE Quad<Real> operator()(Quad<Real> q) const {
      const Seen& one = *this;
      return {one(q.x), one(q.y), one(q.z), one(q.w)};
    }
  };
  FRONT_DEVICE Seen of(int t) const { return {shift, sums[t]}; }
};

// Instead of storing a value v: with r = x - shift - v, gradient += factor r + slope (x - mean). X, S: the storage
// types of x and of gradients; as constants, or the code would be as long as all pairs of them.
template <class B, class Real, class X, class S>
struct Blended {
  const SpectralArgs& spectral;
  Terms<Real> terms;
  Sums<B, Real>& sums;

  struct Lane {
    const SpectralArgs& args;
    const Terms<Real>& terms;
    Sum<Real>& sum;
    S* y;
    const X* x;

    // What is added to the gradient.
    FRONT_DEVICE Real added(Real value, Real low) const {
      value -= terms.shift;
      const Real r = value - low;
      sum.x += r * r;
      return terms.factor * r + terms.slope * (value - terms.mean);
    }
    FRONT_DEVICE void one(const B& block, i64 element, Real low) const {
      const Real more = added(load_one<Real>(block, x + along_offset(element, args.x_along, args.x_four)), low);
      if (!args.write) return;
      S* p = y + along_offset(element, args.axis.out_along, args.axis.out_four);
      store_one(block, p, load_one<Real>(block, p) + more);
    }
    template <class T>
    FRONT_DEVICE Quad<Real> load(const B& block, const T* p, bool quads, i64 along) const {
      if (quads) return load_quad<Real>(block, p);
      return {load_one<Real>(block, p), load_one<Real>(block, p + along), load_one<Real>(block, p + 2 * along),
              load_one<Real>(block, p + 3 * along)};
    }
    FRONT_DEVICE Quad<Real> x_at(const B& block, i64 i) const {
      return load(block, x + i * args.x_four, args.x_quads, args.x_along);
    }
    FRONT_DEVICE Quad<Real> y_at(const B& block, i64 step, i64 i) const {
      return load(block, y + i * step, args.axis.out_quads, args.axis.out_along);
    }
    FRONT_DEVICE Quad<Real> added(Quad<Real> value, Quad<Real> low) const {
      return {added(value.x, low.x), added(value.y, low.y), added(value.z, low.z), added(value.w, low.w)};
    }
    FRONT_DEVICE void put(const B& block, i64 step, i64 i, Quad<Real> g, Quad<Real> more) const {
      const Plain::Lane<S> lane{y, args.axis};
      lane.four(block, step, i, Quad<Real>{g.x + more.x, g.y + more.y, g.z + more.z, g.w + more.w});
    }
    FRONT_DEVICE void four(const B& block, i64 step, i64 i, Quad<Real> low) const {
      const Quad<Real> more = added(x_at(block, i), low);
      if (args.write) put(block, step, i, y_at(block, step, i), more);
    }
    // NOTE: all loads before the first store, which could be to the same memory for all that the compiler knows.
    FRONT_DEVICE void fours(const B& block, i64 step, i64 i, Quad<Real> a, i64 j, Quad<Real> b) const {
      const Quad<Real> xa = x_at(block, i), xb = x_at(block, j);
      if (args.write) {
        const Quad<Real> ga = y_at(block, step, i), gb = y_at(block, step, j);
        put(block, step, i, ga, added(xa, a));
        put(block, step, j, gb, added(xb, b));
      } else {
        added(xa, a), added(xb, b);
      }
    }
  };

  FRONT_DEVICE const X* x_of(const Place& place, i64 lane) const {
    return static_cast<const X*>(spectral.x[place.matrix]) + lane * spectral.x_lane;
  }
  FRONT_DEVICE S* y_of(const AxisArgs& axis, const Place& place, i64 lane) const {
    return static_cast<S*>(axis.out[place.matrix]) + out_offset(axis, place.batch, lane);
  }
  template <class R, class F>
  FRONT_DEVICE void lane(const AxisArgs& axis, const Place& place, i64 lane, int t, F f) const {
    f(Lane{spectral, terms, sums[t], y_of(axis, place, lane), x_of(place, lane)});
  }

  // Asks for what the lanes from `first` on will be blended with, while they are transformed.
  template <class A>
  FRONT_DEVICE void prefetch(const B& block, const AxisArgs& axis, const Place& place, int first) const {
    if (spectral.x_along != 1 || axis.out_along != 1) return;
    block.last("prefetch", [&](int t) {
      if (A::group_of(t) >= place.template live<A>(first)) return;
      const i64 lane = place.first_lane + first + A::group_of(t);
      prefetch_row<A>(block, x_of(place, lane), A::thread_of(t));
      if (spectral.write) prefetch_row<A>(block, static_cast<const S*>(y_of(axis, place, lane)), A::thread_of(t));
    });
  }
};

// About where a matrix' values lie: the mean of the first values of its first row, as many as the largest power of two
// up to 64, so that of equal values it is that value.
template <class Real, class B>
FRONT_DEVICE void find_shift(const B& block, const SpectralArgs& args, i64 matrix) {
  int count = 1;
  while (2 * count <= args.shift_count && count < 64) count *= 2;
  Sums<B, double> sums;
  block.last("first values", [&](int t) {
    for (int i = t; i < count; i += B::threads)
      with_type<Real>(args.x_type, [&](auto storage) {
        using X = typename decltype(storage)::type;
        sums[t].x += double(load_one<Real>(block, static_cast<const X*>(args.x[matrix]) + i * args.shift_along));
      });
  });
  add_up(block, args, sums, [&](Complex<double> sum) {
    block.store(args.terms + 4 * matrix + 3, double(Real(sum.x / count)));  // as it is subtracted
  });
}
template <class Real, class B>
FRONT_DEVICE void spectral_shift(const B& block, const SpectralArgs& args) {
  find_shift<Real>(block, args, block.index());
}

// w C for the coefficient (u, v) with C = value, w = exp(-decay0 u / m - decay1 v / n); what `kept` sums is added.
FRONT_DEVICE double weighed(const SpectralArgs& args, i64 u, i64 v, double value, Sum<double>& sum) {
  const double square = value * value;
  if (args.decay0 == 0 && args.decay1 == 0) {
    if (u + v > 0) sum.x += square;
    return value;
  }
  const double exponent = -(args.decay0 * double(u) / double(args.m) + args.decay1 * double(v) / double(args.n));
  const double w = exp(exponent);
  if (u + v > 0) sum.x += w * square, sum.y += w * -expm1(exponent) * square;
  return w * value;
}

template <class Real, class B>
FRONT_DEVICE void spectral_weigh(const B& block, const SpectralArgs& args) {
  const i64 matrix = block.index() / args.kept_blocks, part = block.index() % args.kept_blocks;
  const i64 size = args.k0 * args.k1, end = (part + 1) * kWeighed < size ? (part + 1) * kWeighed : size;
  Real* c = static_cast<Real*>(args.coefficients) + matrix * size;
  const bool box = args.decay0 == 0 && args.decay1 == 0;
  Sums<B, double> sums;
  block.each("weigh", [&](int t) {
    FRONT_UNROLL(4)
    for (i64 i = part * kWeighed + t; i < end; i += B::threads) {
      const double value = weighed(args, box ? i : i / args.k1, box ? 0 : i % args.k1, block.load(c + i), sums[t]);
      if (!box) block.store(c + i, Real(value));
    }
  });
  add_up(block, args, sums, [&](Complex<double> sum) {
    block.store(args.kept + 2 * block.index(), sum.x);
    block.store(args.kept + 2 * block.index() + 1, sum.y);
  });
}

constexpr double kStdEps = 1e-8;  // what is added to a standard deviation

// NaN stays.
FRONT_DEVICE double not_negative(double v) { return v < 0 ? 0 : v; }

// From the sums of a matrix to the terms of its second pass: one thread's work.
template <class Real, class B>
FRONT_DEVICE void store_terms(const B& block, const SpectralArgs& args, i64 matrix, Complex<double> moments,
                              Complex<double> kept) {
  double* terms = args.terms + 4 * matrix;
  const double count = double(args.m) * double(args.n), others = count > 1 ? count - 1 : 1;
  const double mean = moments.x / count, energy = not_negative(moments.y - moments.x * mean);
  const double std = sqrt(energy / others), s = args.standardize ? std + kStdEps : 1;
  const double shift = block.load(terms + 3), eps = sizeof(Real) == 8 ? 2.220446049250313e-16 : 1.1920928955078125e-7;
  // A matrix this near to constant is, up to a factor of about 1, nowhere larger than in its first row.
  const bool constant = std <= 8 * eps * (shift < 0 ? -shift : shift);
  const double scale = args.scale * (args.scale_at ? block.load(args.scale_at) : 1), factor = 2 * scale / (s * s);
  const double slope = args.standardize ? -factor * not_negative(energy - kept.x) / (s * std * others) : 0;
  block.store(terms, constant ? 0 : factor);
  block.store(terms + 1, constant ? 0 : slope);
  block.store(terms + 2, mean);
  block.store(args.outcome + 2 * matrix, kept.y);
  block.store(args.outcome + 2 * matrix + 1, constant ? 0 : 1 / (s * s));
}
template <class Real, class B>
FRONT_DEVICE void spectral_terms(const B& block, const SpectralArgs& args) {
  const i64 matrix = block.index();
  const auto added = [&](const double* from, i64 blocks, auto f) {
    Sums<B, double> sums;
    block.each("partial sums", [&](int t) {
      for (i64 i = t; i < blocks; i += B::threads) {
        const double* p = from + 2 * (matrix * blocks + i);
        sums[t].x += block.load(p), sums[t].y += block.load(p + 1);
      }
    });
    add_up(block, args, sums, f);
  };
  Complex<double> moments{0, 0};
  added(args.moments, args.moment_blocks, [&](Complex<double> sum) { moments = sum; });
  added(args.kept, args.kept_blocks,
        [&](Complex<double> kept) { store_terms<Real>(block, args, matrix, moments, kept); });
}

template <class B>
FRONT_DEVICE void store_loss(const B& block, const SpectralArgs& args, i64 matrix, double squares) {
  const double over = block.load(args.outcome + 2 * matrix + 1);
  block.store(args.losses + matrix, over == 0 ? 0 : (squares + block.load(args.outcome + 2 * matrix)) * over);
}
template <class Real, class B>
FRONT_DEVICE void spectral_loss(const B& block, const SpectralArgs& args) {
  const i64 matrix = block.index();
  Sums<B, double> sums;
  block.each("partial sums", [&](int t) {
    for (i64 i = t; i < args.square_blocks; i += B::threads)
      sums[t].x += block.load(args.squares + matrix * args.square_blocks + i);
  });
  add_up(block, args, sums, [&](Complex<double> sum) { store_loss(block, args, matrix, sum.x); });
}

}  // namespace front::cuda
