// Complex DFT of W independent lanes, in place: z[j] holds point j of every lane. Decimation in time, and in frequency,
// its transpose, for convolutions and inverses: stages pass over what stays in the innermost cache, longer transforms
// recurse. Included only by axis_isa.cpp (see vectors.h).
#pragma once

#include "simd.h"
#include "tables.h"

namespace front::cpu::FRONT_ISA {

template <class T>
FRONT_INLINE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.re + b.re, a.im + b.im};
}
template <class T>
FRONT_INLINE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.re - b.re, a.im - b.im};
}
template <class T>
FRONT_INLINE Complex<T> minus_i(Complex<T> a) {
  return {a.im, -a.re};
}
template <class T>
FRONT_INLINE Complex<T> plus_i(Complex<T> a) {
  return {-a.im, a.re};
}
template <class T>
FRONT_INLINE Complex<T> times(Complex<T> a, Vector<T> re, Vector<T> im) {
  return {a.re * re - a.im * im, a.re * im + a.im * re};
}
template <class T>
FRONT_INLINE Complex<T> times(Complex<T> a, const T* w) {
  return times(a, splat(w[0]), splat(w[1]));
}

// y_k = sum_j exp(-2 pi i j k / R) y_j, in registers.
template <int R>
struct Butterfly;

template <>
struct Butterfly<2> {
  template <class T>
  FRONT_INLINE static void run(Complex<T>* y) {
    const auto a = y[0], b = y[1];
    y[0] = a + b, y[1] = a - b;
  }
};

template <>
struct Butterfly<3> {
  template <class T>
  FRONT_INLINE static void run(Complex<T>* y) {
    const Vector<T> s = splat(T(0.86602540378443864676));
    const auto sum = y[1] + y[2], dif = minus_i(y[1] - y[2]);
    const Complex<T> mid{y[0].re - T(0.5) * sum.re, y[0].im - T(0.5) * sum.im}, turn{s * dif.re, s * dif.im};
    y[0] = y[0] + sum, y[1] = mid + turn, y[2] = mid - turn;
  }
};

template <>
struct Butterfly<4> {
  template <class T>
  FRONT_INLINE static void run(Complex<T>* y) {
    const auto a = y[0] + y[2], b = y[0] - y[2], c = y[1] + y[3], d = minus_i(y[1] - y[3]);
    y[0] = a + c, y[1] = b + d, y[2] = a - c, y[3] = b - d;
  }
};

template <>
struct Butterfly<8> {
  template <class T>
  FRONT_INLINE static void run(Complex<T>* y) {
    Complex<T> even[4] = {y[0], y[2], y[4], y[6]}, odd[4] = {y[1], y[3], y[5], y[7]};
    Butterfly<4>::run(even);
    Butterfly<4>::run(odd);
    const Vector<T> h = splat(T(0.70710678118654752440));  // exp(-i pi / 4) = h (1 - i)
    odd[1] = {h * (odd[1].re + odd[1].im), h * (odd[1].im - odd[1].re)};
    odd[2] = minus_i(odd[2]);
    odd[3] = {h * (odd[3].im - odd[3].re), -h * (odd[3].re + odd[3].im)};
    for (int k = 0; k < 4; ++k) y[k] = even[k] + odd[k], y[k + 4] = even[k] - odd[k];
  }
};

// The prime factor algorithm of Good: 3 and 4 have no common divisor, so that with the inputs 4 a + 3 b and the outputs
// k = c mod 3 = d mod 4 nothing is multiplied between the two.
template <>
struct Butterfly<12> {
  template <class T>
  FRONT_INLINE static void run(Complex<T>* y) {
    Complex<T> rows[3][4];
#pragma GCC unroll 3
    for (int a = 0; a < 3; ++a) {
#pragma GCC unroll 4
      for (int b = 0; b < 4; ++b) rows[a][b] = y[(4 * a + 3 * b) % 12];
      Butterfly<4>::run(rows[a]);
    }
#pragma GCC unroll 4
    for (int d = 0; d < 4; ++d) {
      Complex<T> column[3] = {rows[0][d], rows[1][d], rows[2][d]};
      Butterfly<3>::run(column);
#pragma GCC unroll 3
      for (int c = 0; c < 3; ++c) y[(4 * c + 9 * d) % 12] = column[c];
    }
  }
};

// Odd R: outputs k and R - k share the products of the symmetric and antisymmetric parts of the input.
template <int R, class T>
FRONT_INLINE void odd_butterfly(Complex<T>* y, const T (&c)[R / 2 + 1], const T (&s)[R / 2 + 1]) {
  constexpr int H = R / 2;
  Complex<T> sum[H + 1], dif[H + 1], first = y[0], total = y[0];
  for (int j = 1; j <= H; ++j) sum[j] = y[j] + y[R - j], dif[j] = y[j] - y[R - j], total = total + sum[j];
  for (int k = 1; k <= H; ++k) {
    Complex<T> even = first, odd = Complex<T>::zero();
    for (int j = 1; j <= H; ++j) {
      const int q = j * k % R;
      const Vector<T> cq = splat(c[q <= H ? q : R - q]), sq = splat(q <= H ? s[q] : -s[R - q]);
      even.re += cq * sum[j].re, even.im += cq * sum[j].im;
      odd.re += sq * dif[j].re, odd.im += sq * dif[j].im;
    }
    y[k] = even + minus_i(odd), y[R - k] = even + plus_i(odd);
  }
  y[0] = total;
}

template <>
struct Butterfly<5> {
  template <class T>
  FRONT_INLINE static void run(Complex<T>* y) {
    constexpr T c[] = {1, T(0.30901699437494742410), T(-0.80901699437494742410)};
    constexpr T s[] = {0, T(0.95105651629515357212), T(0.58778525229247312917)};
    odd_butterfly<5, T>(y, c, s);
  }
};

template <>
struct Butterfly<7> {
  template <class T>
  FRONT_INLINE static void run(Complex<T>* y) {
    constexpr T c[] = {1, T(0.62348980185873353053), T(-0.22252093395631440429), T(-0.90096886790241912624)};
    constexpr T s[] = {0, T(0.78183148246802980871), T(0.97492791218182360702), T(0.43388373911755812048)};
    odd_butterfly<7, T>(y, c, s);
  }
};

// y_j exp(-2 pi i j k / (R span)); w holds powers 1..R-1.
template <int R, class T>
FRONT_INLINE void turn(Complex<T>* y, const T* w) {
  for (int j = 1; j < R; ++j) y[j] = times(y[j], w + 2 * (j - 1));
}

// One stage of one transform, its points from load(i) and to store(i, point); kTransposed: its transpose, for
// decimation in frequency.
template <int R, bool kTransposed, class T, class Load, class Store>
FRONT_INLINE void stage_between(const StageView<T>& st, Load load, Store store) {
  const int64_t span = st.span;
  Complex<T> y[R];
  for (int j = 0; j < R; ++j) y[j] = load(j * span);  // k = 0: all twiddles are 1
  Butterfly<R>::run(y);
  for (int j = 0; j < R; ++j) store(j * span, y[j]);
  const T* w = st.twiddles + 2 * (R - 1);
  for (int64_t k = 1; k < span; ++k, w += 2 * (R - 1)) {
    for (int j = 0; j < R; ++j) y[j] = load(k + j * span);
    if (!kTransposed) turn<R>(y, w);
    Butterfly<R>::run(y);
    if (kTransposed) turn<R>(y, w);
    for (int j = 0; j < R; ++j) store(k + j * span, y[j]);
  }
}

// Of `count` transforms that lie side by side.
template <int R, bool kTransposed = false, class T>
void stage(Complex<T>* z, const StageView<T>& st, int64_t count) {
  for (int64_t c = 0; c < count; ++c, z += R * st.span)
    stage_between<R, kTransposed>(
        st, [&](int64_t i) FRONT_INLINED { return z[i]; }, [&](int64_t i, Complex<T> y) FRONT_INLINED { z[i] = y; });
}

// The innermost stage, whose twiddles are all 1, of `count` transforms: points from load(i) and to store(i, point).
template <int R, class T, class Load, class Store>
FRONT_INLINE void innermost_stage(int64_t count, Load load, Store store) {
  for (int64_t i = 0; i < R * count; i += R) {
    Complex<T> y[R];
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) y[j] = load(i + j);
    Butterfly<R>::run(y);
#pragma GCC unroll 16
    for (int j = 0; j < R; ++j) store(i + j, y[j]);
  }
}

// Any odd radix, by definition, at half the products (see odd_butterfly).
template <bool kTransposed, class T>
void generic_stage(Complex<T>* z, const StageView<T>& st, int64_t count) {
  constexpr int kMaxHalf = plan_detail::kLargestRadix / 2;
  const int r = st.radix, h = (r - 1) / 2;
  const int64_t span = st.span;
  Complex<T> sum[kMaxHalf], dif[kMaxHalf];
  for (int64_t c = 0; c < count; ++c, z += r * span) {
    const T* w = st.twiddles;
    for (int64_t k = 0; k < span; ++k, w += 2 * (r - 1)) {
      const Complex<T> first = z[k];
      Complex<T> total = first;
      for (int j = 1; j <= h; ++j) {
        Complex<T> a = z[k + j * span], b = z[k + (r - j) * span];
        if (!kTransposed) a = times(a, w + 2 * (j - 1)), b = times(b, w + 2 * (r - j - 1));
        sum[j - 1] = a + b, dif[j - 1] = a - b, total = total + sum[j - 1];
      }
      z[k] = total;
      for (int q = 1; q <= h; ++q) {
        const T *cosine = st.rotations + (q - 1) * h, *sine = cosine + h * h;
        // Two sums of every other term: half the chain of roundings, and of latencies.
        Complex<T> even[2] = {first, Complex<T>::zero()}, odd[2] = {Complex<T>::zero(), Complex<T>::zero()};
        const auto add = [&](int j, int part) {
          const Vector<T> cj = splat(cosine[j]), sj = splat(sine[j]);
          even[part].re += cj * sum[j].re, even[part].im += cj * sum[j].im;
          odd[part].re += sj * dif[j].re, odd[part].im += sj * dif[j].im;
        };
        int j = 0;
        for (; j + 2 <= h; j += 2) add(j, 0), add(j + 1, 1);
        if (j < h) add(j, 1);
        const Complex<T> e = even[0] + even[1], o = odd[0] + odd[1];
        Complex<T> a = e + minus_i(o), b = e + plus_i(o);
        if (kTransposed) a = times(a, w + 2 * (q - 1)), b = times(b, w + 2 * (r - q - 1));
        z[k + q * span] = a, z[k + (r - q) * span] = b;
      }
    }
  }
}

// f(radix), a constant, of those with a butterfly; else otherwise().
template <class F, class Otherwise>
void with_butterfly(int32_t radix, F f, Otherwise otherwise) {
  switch (radix) {
    case 2:
      return f(Constant<2>{});
    case 3:
      return f(Constant<3>{});
    case 4:
      return f(Constant<4>{});
    case 5:
      return f(Constant<5>{});
    case 7:
      return f(Constant<7>{});
    case 8:
      return f(Constant<8>{});
    case 12:
      return f(Constant<12>{});
    default:
      return otherwise();
  }
}

template <bool kTransposed = false, class T>
void run_stage(Complex<T>* z, const StageView<T>& st, int64_t count) {
  if (st.radix == 1) return;
  with_butterfly(
      st.radix, [&](auto radix) { stage<radix, kTransposed>(z, st, count); },
      [&] { generic_stage<kTransposed>(z, st, count); });
}

template <class T>
constexpr int64_t kNearPoints = plan_detail::kNearBytes / sizeof(Complex<T>);

// How many of the innermost stages make transforms that stay near, at least one.
template <class T>
int near_stages(const FftView<T>& fft) {
  int count = 1;
  while (count < fft.stages && fft.stage[count].radix * fft.stage[count].span <= kNearPoints<T>) ++count;
  return count;
}

// Stages [0, end) of one transform of that length. innermost(z, stage, count): the first one of them.
template <class T, class Innermost>
void run_stages(Complex<T>* z, const FftView<T>& fft, int end, Innermost innermost) {
  const StageView<T>& last = fft.stage[end - 1];
  if (end <= near_stages(fft)) {
    const int64_t length = last.radix * last.span;
    innermost(z, fft.stage[0], length / fft.stage[0].radix);
    for (int s = 1; s < end; ++s) {
      const StageView<T>& st = fft.stage[s];
      run_stage(z, st, length / (st.radix * st.span));
    }
    return;
  }
  for (int j = 0; j < last.radix; ++j) run_stages(z + j * last.span, fft, end - 1, innermost);
  run_stage(z, last, 1);
}
template <class T>
void run_stages(Complex<T>* z, const FftView<T>& fft, int end) {
  run_stages(z, fft, end, [](Complex<T>* y, const StageView<T>& st, int64_t count) { run_stage(y, st, count); });
}

// Their transposes in the opposite order: decimation in frequency, whose result is in slot order.
template <class T, class Innermost>
void run_stages_back(Complex<T>* z, const FftView<T>& fft, int end, Innermost innermost) {
  const StageView<T>& last = fft.stage[end - 1];
  if (end <= near_stages(fft)) {
    const int64_t length = last.radix * last.span;
    for (int s = end; --s > 0;) run_stage<true>(z, fft.stage[s], length / (fft.stage[s].radix * fft.stage[s].span));
    innermost(z, fft.stage[0], length / fft.stage[0].radix);
    return;
  }
  run_stage<true>(z, last, 1);
  for (int j = 0; j < last.radix; ++j) run_stages_back(z + j * last.span, fft, end - 1, innermost);
}
template <class T>
void run_stages_back(Complex<T>* z, const FftView<T>& fft, int end) {
  run_stages_back(z, fft, end,
                  [](Complex<T>* y, const StageView<T>& st, int64_t count) { run_stage<true>(y, st, count); });
}

}  // namespace front::cpu::FRONT_ISA
