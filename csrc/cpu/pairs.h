// Even lengths: the DFTs of the packed subsequences, and between their results and the coefficients. Included only by
// axis_isa.cpp (see vectors.h).
//
// Point `a` of each subsequence's spectrum and its mirror b = half - a hold all that the coefficients k with
// k % half = a or b depend on, and as many real numbers as there are such coefficients at most: a pair is read once and
// its coefficients replace it. Coefficient k = q half + r then is real number q / 2 * 2 half + q % 2 + 2 r of the
// work array.
//
// The last stage of a DFT turns the points k + j span, j = 0..R-1, into the results at the same places, whose mirrors
// are those of span - k. So where AxisPlan::fused, both sets are transformed in registers, and the coefficients are all
// that is stored, in the work array or straight in the result: a pass over the points is saved. The inverse does the
// opposite in its first stage.
#pragma once

#include "bluestein.h"
#include "places.h"
#include "tables.h"

namespace front::cpu::FRONT_ISA {

template <class T>
FRONT_INLINE const StageView<T>& last_stage(const AxisView<T>& axis) {
  return axis.dft.fft.stage[axis.dft.fft.stages - 1];
}

template <class C, class T>
FRONT_INLINE const C* combine_table(const AxisView<T>& axis) {
  if constexpr (std::is_same_v<C, T>)
    return axis.combine;
  else
    return axis.wide_combine;
}
template <class C, class T>
FRONT_INLINE const C* last_twiddles(const AxisView<T>& axis) {
  if constexpr (std::is_same_v<C, T>)
    return last_stage(axis).twiddles;
  else
    return axis.wide_twiddles;
}

template <int kSplit>
constexpr int kMostParts = kSplit ? kSplit : plan_detail::kLargestSplit;

// The coefficients of a pair of points of every subsequence, which `p` and `m` hold.
template <int kSplit, Runs kRuns, class T, class Places>
FRONT_INLINE void combine_pair(const AxisView<T>& axis, Pair pair, const Complex<T>* p, const Complex<T>* m,
                               const Places& out) {
  const int64_t split = kSplit ? kSplit : axis.split, half = axis.half;
  for_coefficients<kRuns>(pair, half, axis.kept, [&](int64_t q, int64_t k, bool mirrored) FRONT_INLINED {
    const T* c = axis.combine + 4 * split * k;
    const auto sum = [&](int64_t s) FRONT_INLINED {
      const Complex<T>&u = mirrored ? m[s] : p[s], &v = mirrored ? p[s] : m[s];
      const T* at = c + 4 * s;
      return (splat(at[0]) * u.re + splat(at[2]) * u.im) + (splat(at[1]) * v.re + splat(at[3]) * v.im);
    };
    Vector<T> x = sum(0);
    for (int64_t s = 1; s < split; ++s) x += sum(s);
    out.store(q, mirrored ? pair.b : pair.a, x);
  });
}

// The transpose of `combine_pair`: points with re and im exchanged, `kHalves` vectors of C for each. The numbers of the
// table are the same for both.
template <int kSplit, Runs kRuns, class C, class T, class From>
FRONT_INLINE void spread_pair(const AxisView<T>& axis, Pair pair, From& from, Complex<C>* p, Complex<C>* m) {
  constexpr int H = kHalves<C, T>;
  const int64_t split = kSplit ? kSplit : axis.split, half = axis.half;
  Complex<C> at_a[H * kMostParts<kSplit>], at_b[H * kMostParts<kSplit>];
  for (int64_t i = 0; i < H * split; ++i) at_a[i] = at_b[i] = Complex<C>::zero();
  for_coefficients<kRuns>(pair, half, axis.kept, [&](int64_t q, int64_t k, bool mirrored) FRONT_INLINED {
    const C* c = combine_table<C>(axis) + 4 * split * k;
    Vector<C> x[H];
    from.template load<C>(q, mirrored ? pair.b : pair.a, x);
    for (int64_t s = 0; s < split; ++s, c += 4)
      for (int h = 0; h < H; ++h) {
        const int64_t i = H * s + h;
        Complex<C>&u = mirrored ? at_b[i] : at_a[i], &v = mirrored ? at_a[i] : at_b[i];
        u.im += splat(c[0]) * x[h], u.re += splat(c[2]) * x[h];
        v.im += splat(c[1]) * x[h], v.re += splat(c[3]) * x[h];
      }
  });
  for (int64_t i = 0; i < H * split; ++i) {
    if (pair.itself) at_a[i] = at_b[i] = at_a[i] + at_b[i];
    p[i] = at_a[i], m[i] = at_b[i];
  }
}

// The last stage of each subsequence's DFT, and the coefficients. Of blocks side by side in turn, butterfly by
// butterfly: what they store in a row follows each other, and a line of memory that is written by itself takes longer
// (around the caches, 64 MiB by columns of 4096 x 4096 on Zen 5: 4.6 ms, two lines each 2.4, four 1.6).
template <int R, int kSplit, Runs kRuns, class T, class Places>
void last_stage_and_pairs(const AxisView<T>& view, Works<T> works, Places out) {
  const AxisView<T> axis = view;  // a copy, that no store can change
  const StageView<T> stage = last_stage(axis);
  const int64_t span = stage.span;
  const auto transform = [&](const Complex<T>* z, int64_t k, Complex<T>* points) FRONT_INLINED {
    for (int s = 0; s < kSplit; ++s) {
      Complex<T> y[R];
      for (int j = 0; j < R; ++j) y[j] = z[s * axis.half + k + j * span];
      if (k != 0) turn<R>(y, stage.twiddles + 2 * (R - 1) * k);
      Butterfly<R>::run(y);
      for (int j = 0; j < R; ++j) points[j * kSplit + s] = y[j];
    }
  };
  for_butterflies(span, [&](int64_t k, auto mirrors) FRONT_INLINED {
    constexpr bool kOthers = mirrors == Mirrors::others;
    for (int g = 0; g < (Places::kBeside ? works.count : 1); ++g) {
      const Complex<T>* z = points_of(works, g);
      const Places to = out.beside(g);
      Complex<T> p[R * kSplit], m[R * kSplit];
      transform(z, k, p);
      if (kOthers) transform(z, span - k, m);
      for_mirrors<R, mirrors>(k, span, [&](Pair pair, int i, int j) FRONT_INLINED {
        combine_pair<kSplit, kRuns>(axis, pair, p + i * kSplit, (kOthers ? m : p) + j * kSplit, to);
      });
    }
  });
}

// Its transpose: the coefficients' points, and the first stage of DFTs by decimation in frequency. Computed in C, whose
// vectors hold a part of the lanes each.
template <int R, int kSplit, Runs kRuns, class C, class T, class From>
void pairs_and_first_stage(const AxisView<T>& view, From from, Complex<T>* work) {
  constexpr int H = kHalves<C, T>;
  const AxisView<T> axis = view;
  const int64_t span = last_stage(axis).span;
  const C* twiddles = last_twiddles<C>(axis);
  const auto transform = [&](int64_t k, const Complex<C>* points) FRONT_INLINED {
    for (int s = 0; s < kSplit; ++s)
      for (int h = 0; h < H; ++h) {
        Complex<C> y[R];
        for (int j = 0; j < R; ++j) y[j] = points[H * (j * kSplit + s) + h];
        Butterfly<R>::run(y);
        if (k != 0) turn<R>(y, twiddles + 2 * (R - 1) * k);
        Part<C, T> z(work, h);
        for (int j = 0; j < R; ++j) z.store_point(s * axis.half + k + j * span, y[j]);
      }
  };
  for_butterflies(span, [&](int64_t k, auto mirrors) FRONT_INLINED {
    constexpr bool kOthers = mirrors == Mirrors::others;
    Complex<C> p[H * R * kSplit], m[H * R * kSplit];
    for_mirrors<R, mirrors>(k, span, [&](Pair pair, int i, int j) FRONT_INLINED {
      spread_pair<kSplit, kRuns>(axis, pair, from, p + H * i * kSplit, (kOthers ? m : p) + H * j * kSplit);
    });
    transform(k, p);
    if (kOthers) transform(span - k, m);
  });
}

// Any split and radix: the pairs by themselves.
template <int kSplit, class T>
void combine_pairs(const AxisView<T>& axis, Complex<T>* z) {
  const int64_t split = kSplit ? kSplit : axis.split, half = axis.half;
  Complex<T> p[kMostParts<kSplit>], m[kMostParts<kSplit>];
  for (int64_t a = 0; 2 * a <= half; ++a) {
    const int64_t b = a ? half - a : 0;
    if (a >= axis.kept && b >= axis.kept) continue;
    for (int64_t s = 0; s < split; ++s) p[s] = z[s * half + a], m[s] = z[s * half + b];
    combine_pair<kSplit, Runs::any>(axis, {a, b, a == b}, p, m, in_work(axis, z));
  }
}

template <int kSplit, class T>
void spread_pairs(const AxisView<T>& axis, Complex<T>* z) {
  const int64_t split = kSplit ? kSplit : axis.split, half = axis.half;
  Complex<T> p[kMostParts<kSplit>], m[kMostParts<kSplit>];
  FromWork<T> from{z, half};
  for (int64_t a = 0; 2 * a <= half; ++a) {
    const int64_t b = a ? half - a : 0;
    spread_pair<kSplit, Runs::any>(axis, {a, b, a == b}, from, p, m);
    for (int64_t s = 0; s < split; ++s) {
      z[s * half + a] = p[s];
      if (a != b) z[s * half + b] = m[s];
    }
  }
}

// f(radix of the last stage, split, runs), all constants, of an axis that is AxisPlan::fused. With kWhole, runs that
// are whole have code of their own.
template <bool kWhole, class T, class F>
void with_fused(const AxisView<T>& axis, F f) {
  const auto with_runs = [&](auto radix, auto split, auto runs, auto whole) {
    if constexpr (kWhole)
      if (axis.kept % axis.half == 0) return f(radix, split, whole);
    f(radix, split, runs);
  };
  const auto with_radix = [&](auto radix) {
    constexpr Constant<Runs::one> kOne;
    constexpr Constant<Runs::one_whole> kOneWhole;
    if constexpr (radix > 2 && radix < 8)
      if (axis.split == 2) return with_runs(radix, Constant<2>{}, kOne, kOneWhole);
    if (axis.kept <= axis.half)
      with_runs(radix, Constant<1>{}, kOne, kOneWhole);
    else
      with_runs(radix, Constant<1>{}, Constant<Runs::two>{}, Constant<Runs::two_whole>{});
  };
  for_fused_radix(last_stage(axis).radix, with_radix);
}

template <class T>
void innermost_stage_from(const Source<T>& in, Complex<T>* z, int32_t radix, int64_t count) {
  const int64_t stride = in.stride, ahead = in.ahead * stride;
  const auto run = [&](auto ask) FRONT_INLINED {
    const auto load_point = [&](int64_t i) FRONT_INLINED {
      const T* at = in.first + 2 * i * stride;
      if (ask) __builtin_prefetch(at + ahead), __builtin_prefetch(at + stride + ahead);
      return Complex<T>{load<T>(at), load<T>(at + stride)};
    };
    const auto store_point = [&](int64_t i, Complex<T> y) FRONT_INLINED { z[i] = y; };
    with_butterfly(
        radix, [&](auto r) { innermost_stage<r, T>(count, load_point, store_point); }, [] { __builtin_trap(); });
  };
  if (ahead)
    run(Constant<true>{});
  else
    run(Constant<false>{});
}

template <class T>
void innermost_stage_to(const Complex<T>* z, int32_t radix, int64_t count, const Sink<T>& out) {
  const int64_t stride = out.stride;
  const auto run = [&](auto around) FRONT_INLINED {
    const auto put = [&](T* at, Vector<T> x) FRONT_INLINED {
      if constexpr (around)
        stream_bytes(at, &x);
      else
        store<T>(at, x);
    };
    const auto load_point = [&](int64_t i) FRONT_INLINED { return z[i]; };
    const auto store_point = [&](int64_t i, Complex<T> x) FRONT_INLINED {
      T* at = out.first + 2 * i * stride;
      put(at, x.im), put(at + stride, x.re);  // they are exchanged
    };
    with_butterfly(
        radix, [&](auto r) { innermost_stage<r, T>(count, load_point, store_point); }, [] { __builtin_trap(); });
  };
  if constexpr (kWholeLine<T>)
    if (out.around_caches) return run(Constant<true>{});
  run(Constant<false>{});
}

// The DFTs and the coefficients of an axis that is fused; in(g): where the values of block g come from.
template <class T, class In, class Places>
void forward_fused(const AxisView<T>& axis, Works<T> works, const In& in, const Places& out) {
  const FftView<T>& fft = axis.dft.fft;
  with_fused<std::is_same_v<T, float>>(axis, [&](auto radix, auto split, auto runs) {
    for (int g = 0; fft.stages > 1 && g < works.count; ++g) {
      Complex<T>* const first = points_of(works, g);
      const Source<T> from = in(g);
      for (int64_t j = 0; j < split * radix; ++j) {
        Complex<T>* const z = first + j * last_stage(axis).span;
        if (from.first)
          run_stages(z, fft, fft.stages - 1, [&](Complex<T>* y, const StageView<T>& st, int64_t count) {
            innermost_stage_from(from.from(2 * (y - first)), y, st.radix, count);
          });
        else
          run_stages(z, fft, fft.stages - 1);
      }
    }
    last_stage_and_pairs<radix, split, runs>(axis, works, out);
  });
}

// The transpose, on points with re and im exchanged.
template <class T>
void inverse_fused(const AxisView<T>& axis, Complex<T>* z, const Source<T>& in, const Sink<T>& out) {
  const auto inverse_in = [&](auto wide) {
    using C = std::conditional_t<wide, double, T>;
    const FftView<T>& fft = axis.dft.fft;
    with_fused<wide>(axis, [&](auto radix, auto split, auto runs) {
      if (in.first)
        pairs_and_first_stage<radix, split, runs, C>(axis, InOrder<T>{in}, z);
      else
        pairs_and_first_stage<radix, split, runs, C>(axis, FromWork<T>{z, axis.half}, z);
      for (int64_t j = 0; fft.stages > 1 && j < split * radix; ++j) {
        Complex<T>* const part = z + j * last_stage(axis).span;
        if (out.first)
          run_stages_back(part, fft, fft.stages - 1, [&](Complex<T>* y, const StageView<T>& st, int64_t count) {
            innermost_stage_to(y, st.radix, count, out.from(2 * (y - z)));
          });
        else
          run_stages_back(part, fft, fft.stages - 1);
      }
    });
  };
  if constexpr (std::is_same_v<T, float>)
    if (axis.wide_combine) return inverse_in(Constant<true>{});
  inverse_in(Constant<false>{});
}

// f(split) with the common ones as constants.
template <class F>
void with_split(int64_t split, F f) {
  switch (split) {
    case 1:
      return f(Constant<1>{});
    case 2:
      return f(Constant<2>{});
    case 3:
      return f(Constant<3>{});
    case 4:
      return f(Constant<4>{});
    default:
      return f(Constant<0>{});
  }
}

// The DFTs, and the coefficients in place of their results; or, fused, at another place: only then of several blocks.
template <class T, class In>
void forward_pairs(const AxisView<T>& axis, Works<T> works, const In& in, Place<T> place) {
  Complex<T>* z = points_of(works, 0);
  if (!axis.fused) {
    run_dfts(axis, z);
    return with_split(axis.split, [&](auto split) { combine_pairs<split>(axis, z); });
  }
  if (!place.first) return forward_fused(axis, works, in, in_work(axis, z));
  if constexpr (kWholeLine<T>)
    if (place.around_caches)
      return forward_fused(axis, works, in, Elsewhere<T, true>{place.first, axis.half, place.stride});
  forward_fused(axis, works, in, Elsewhere<T, false>{place.first, axis.half, place.stride});
}

// The transpose, on points with re and im exchanged.
template <class T>
void inverse_pairs(const AxisView<T>& axis, Complex<T>* z, const Source<T>& in, const Sink<T>& out) {
  if (axis.fused) return inverse_fused(axis, z, in, out);
  with_split(axis.split, [&](auto split) { spread_pairs<split>(axis, z); });
  run_dfts_back(axis, z);
}

}  // namespace front::cpu::FRONT_ISA
