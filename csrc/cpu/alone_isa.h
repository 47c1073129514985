// The steps of a vector that is transformed alone. Included only by axis_isa.cpp (see vectors.h).
//
// Forward: Makhoul's order v, two real numbers as one complex point (values_in); the DFT of the points as a matrix in
// four steps: DFTs down W columns at a time, twiddles and an in-register transposition as they are stored, DFTs across
// W rows at a time, whose results lie in natural order; the coefficients of a point and its mirror (coefficients_out).
// Inverse is the transpose. Its DFT is the same one on points with re and im exchanged: the caller exchanges the
// arrays.
#pragma once

#include "alone.h"
#include "fft.h"

namespace front::cpu::FRONT_ISA {

template <class T>
using LaneIndices = std::make_integer_sequence<int, kLanes<T>>;

// Elements 0, 2, 4 ... of a and b, or 1, 3, 5 ...; the opposite: a0 b0 a1 b1 ..., its first or second half; backwards.
template <int Odd, class V, int... I>
FRONT_INLINE V every_second(V a, V b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, (2 * I + Odd)...);
}
template <int Half, class V, int... I>
FRONT_INLINE V zip(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int W = sizeof...(I);
  return __builtin_shufflevector(a, b, (I % 2 * W + Half * W / 2 + I / 2)...);
}
template <class V, int... I>
FRONT_INLINE V backwards(V a, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, a, (static_cast<int>(sizeof...(I)) - 1 - I)...);
}

// Where v_m lies among the n values.
FRONT_INLINE int64_t value_at(int64_t m, int64_t n) { return 2 * m < n ? 2 * m : 2 * (n - 1 - m) + 1; }

// Points j and points - 1 - j are the values 4 j .. 4 j + 3. kIn: values -> points; else the opposite.
template <bool kIn, class Value, class T>
void move_values(const AloneStep<T>& s, Value* x, int64_t begin, int64_t end) {
  constexpr int W = kLanes<T>;
  constexpr LaneIndices<T> all{};
  const int64_t n = s.view.n, points = s.view.points;
  for (int64_t j = begin * W; j < end * W; j += W) {
    const int64_t mirror = points - j - W;
    if (j + W <= points / 2) {
      if constexpr (kIn) {
        Vector<T> v[4];
        for (int i = 0; i < 4; ++i) v[i] = load<T>(x + 4 * j + i * W);
        const auto even = every_second<0>(v[0], v[1], all), odd = every_second<1>(v[0], v[1], all);
        const auto even2 = every_second<0>(v[2], v[3], all), odd2 = every_second<1>(v[2], v[3], all);
        store<T>(s.re + j, every_second<0>(even, even2, all));
        store<T>(s.im + j, every_second<1>(even, even2, all));
        store<T>(s.im + mirror, backwards(every_second<0>(odd, odd2, all), all));
        store<T>(s.re + mirror, backwards(every_second<1>(odd, odd2, all), all));
      } else {
        const auto a = load<T>(s.re + j), c = load<T>(s.im + j);
        const auto b = backwards(load<T>(s.im + mirror), all), d = backwards(load<T>(s.re + mirror), all);
        const Vector<T> even[2] = {zip<0>(a, c, all), zip<1>(a, c, all)};
        const Vector<T> odd[2] = {zip<0>(b, d, all), zip<1>(b, d, all)};
        for (int i = 0; i < 2; ++i) {
          store<T>(x + 4 * j + 2 * i * W, zip<0>(even[i], odd[i], all));
          store<T>(x + 4 * j + (2 * i + 1) * W, zip<1>(even[i], odd[i], all));
        }
      }
      continue;
    }
    for (int64_t one = j; one < (points + 1) / 2; ++one)
      for (int half = 0; half < 2; ++half)
        for (int part = 0; part < 2; ++part) {
          const int64_t p = half ? points - 1 - one : one;
          T& point = (part ? s.im : s.re)[p];
          Value& value = x[value_at(2 * p + part, n)];
          if constexpr (kIn)
            point = static_cast<T>(to_float(value));
          else
            value = round_to<Value>(point);
        }
  }
}

// DFTs of length `rows` of blocks of W columns, times w^(row of the result, column); the results as rows.
template <class T>
void dfts_down(const AloneStep<T>& s, int64_t begin, int64_t end, Complex<T>* z) {
  constexpr int W = kLanes<T>;
  const AloneView<T>& v = s.view;
  for (int64_t b = begin; b < end; ++b) {
    const int64_t column = b * W, count = v.columns - column < W ? v.columns - column : W;
    for (int64_t p = 0; p < v.rows; ++p)
      z[v.down_slot[p]] = {load<T>(s.re + p * v.columns + column), load<T>(s.im + p * v.columns + column)};
    run_stages(z, v.down, v.down.stages);
    const T* turn = v.blocks + 2 * b * v.rows;
    for (int64_t q = 0; q < v.rows; q += W) {
      Vector<T> re[W], im[W];
      for (int i = 0; i < W; ++i) {
        if (q + i >= v.rows) {
          re[i] = im[i] = Vector<T>{};
          continue;
        }
        const T* lane = v.lanes + 2 * W * (q + i);
        const auto y = times(times(z[q + i], turn + 2 * (q + i)), load<T>(lane), load<T>(lane + W));
        re[i] = y.re, im[i] = y.im;
      }
      transpose<T>(re);
      transpose<T>(im);
      for (int64_t i = 0; i < count; ++i) {
        store<T>(s.cross_re + (column + i) * s.pitch + q, re[i]);
        store<T>(s.cross_im + (column + i) * s.pitch + q, im[i]);
      }
    }
  }
}

// DFTs of length `columns` of blocks of W rows; point row + rows * k of the result is number k of a row.
template <class T>
void dfts_across(const AloneStep<T>& s, int64_t begin, int64_t end, Complex<T>* z) {
  constexpr int W = kLanes<T>;
  const AloneView<T>& v = s.view;
  for (int64_t row = begin * W; row < end * W && row < v.rows; row += W) {
    for (int64_t l = 0; l < v.columns; ++l)
      z[v.across_slot[l]] = {load<T>(s.cross_re + l * s.pitch + row), load<T>(s.cross_im + l * s.pitch + row)};
    run_stages(z, v.across, v.across.stages);
    const int count = static_cast<int>(v.rows - row < W ? v.rows - row : W);
    for (int64_t k = 0; k < v.columns; ++k) {
      T *re = s.re + v.rows * k + row, *im = s.im + v.rows * k + row;
      if (count == W)
        store<T>(re, z[k].re), store<T>(im, z[k].im);
      else
        store_some<T>(re, z[k].re, count), store_some<T>(im, z[k].im, count);
    }
  }
}

// W coefficients from `begin` on, of which there are `kept`; those beyond are zeros, or are not stored.
template <class T, class In>
FRONT_INLINE Vector<T> load_kept(const In* x, int64_t begin, int64_t kept) {
  if (begin + kLanes<T> <= kept) return load<T>(x + begin);
  return begin < kept ? load_some<T>(x + begin, static_cast<int>(kept - begin)) : Vector<T>{};
}
template <class T, class Out>
FRONT_INLINE void store_kept(Out* y, int64_t begin, int64_t kept, Vector<T> x) {
  if (begin + kLanes<T> <= kept)
    store<T>(y + begin, x);
  else if (begin < kept)
    store_some<T>(y + begin, x, static_cast<int>(kept - begin));
}

// Of the points k .. k + W - 1: exp(-pi i k / 2 n) times `scale`, and exp(-2 pi i k / n).
template <class T>
FRONT_INLINE void turns_of(const AloneView<T>& v, int64_t block, T scale, Complex<T>* theta, Complex<T>* root) {
  constexpr int W = kLanes<T>;
  const T* at = v.block_turns + 4 * block;
  const T theta_scaled[2] = {at[0] * scale, at[1] * scale};
  *theta = times(Complex<T>(load<T>(v.turns), load<T>(v.turns + W)), theta_scaled);
  *root = times(Complex<T>(load<T>(v.turns + 2 * W), load<T>(v.turns + 3 * W)), at + 2);
}

template <class T>
constexpr T kRootHalf = T(0.70710678118654752440);

// With E and O the DFTs of the even and the odd elements of v: V_k = E_k + exp(-2 pi i k / n) O_k, V_{k + points} with
// minus; X_k = Re(theta_k V_k), X_{n-k} = -Im(theta_k V_k), theta_k = exp(-pi i k / 2 n), and so of k + points.
template <class Out, class T>
void coefficients_out(const AloneStep<T>& s, Out* y, int64_t begin, int64_t end) {
  constexpr int W = kLanes<T>;
  constexpr LaneIndices<T> all{};
  const int64_t n = s.view.n, points = s.view.points, kept = s.pass->kept;
  for (int64_t b = begin; b < end; ++b) {
    const int64_t k = b * W;
    const bool whole = k > 0 && k + W <= points / 2 + 1;
    Complex<T> z, mirror, theta, root;
    if (whole) {
      const int64_t m = points - k - W + 1;
      z = {load<T>(s.re + k), load<T>(s.im + k)};
      mirror = {backwards(load<T>(s.re + m), all), backwards(load<T>(s.im + m), all)};
    } else {
      z = mirror = Complex<T>::zero();
      for (int i = 0; i < W && k + i <= points / 2; ++i) {
        const int64_t m = k + i ? points - k - i : 0;
        z.re[i] = s.re[k + i], z.im[i] = s.im[k + i], mirror.re[i] = s.re[m], mirror.im[i] = s.im[m];
      }
    }
    turns_of(s.view, b, s.other, &theta, &root);
    const Complex<T> even{z.re + mirror.re, z.im - mirror.im}, odd{z.im + mirror.im, mirror.re - z.re};
    const Complex<T> turned = times(odd, root.re, root.im);
    const Complex<T> near = times(even + turned, theta.re, theta.im), far = times(even - turned, theta.re, theta.im);
    const Vector<T> h = splat(kRootHalf<T>);
    const Vector<T> x[4] = {near.re, h * (far.re + far.im), h * (far.re - far.im), -near.im};
    if (whole) {
      store_kept<T>(y, k, kept, x[0]);
      store_kept<T>(y, points + k, kept, x[1]);
      store_kept<T>(y, points - k - W + 1, kept, backwards(x[2], all));
      store_kept<T>(y, n - k - W + 1, kept, backwards(x[3], all));
      continue;
    }
    for (int i = 0; i < W && k + i <= points / 2; ++i) {
      const int64_t at[4] = {k + i, points + k + i, points - k - i, n - k - i};
      for (int c = 0; c < 4; ++c)
        if (at[c] < kept) y[at[c]] = round_to<Out>(static_cast<T>(x[c][i]));
    }
    if (k == 0) y[0] = round_to<Out>(s.first * (s.re[0] + s.im[0]));
  }
}

template <class In, class T>
void coefficients_in(const AloneStep<T>& s, const In* x, int64_t begin, int64_t end) {
  constexpr int W = kLanes<T>;
  constexpr LaneIndices<T> all{};
  const int64_t n = s.view.n, points = s.view.points, kept = s.pass->kept;
  for (int64_t b = begin; b < end; ++b) {
    const int64_t k = b * W;
    const bool whole = k > 0 && k + W <= points / 2 + 1;
    Vector<T> c[4] = {};
    if (whole) {
      c[0] = load_kept<T>(x, k, kept);
      c[1] = load_kept<T>(x, points + k, kept);
      c[2] = backwards(load_kept<T>(x, points - k - W + 1, kept), all);
      c[3] = backwards(load_kept<T>(x, n - k - W + 1, kept), all);
    } else {
      for (int i = 0; i < W && k + i <= points / 2; ++i) {
        const int64_t at[4] = {k + i, points + k + i, points - k - i, n - k - i};
        for (int j = 0; j < 4; ++j)
          if (at[j] < kept) c[j][i] = static_cast<T>(to_float(x[at[j]]));
      }
    }
    Complex<T> theta, root;
    turns_of(s.view, b, s.other, &theta, &root);
    theta.im = -theta.im;
    const Vector<T> h = splat(kRootHalf<T>);
    Complex<T> near = times(Complex<T>(c[0], -c[3]), theta.re, theta.im);
    if (k == 0) near.re[0] = s.first * static_cast<T>(to_float(x[0])), near.im[0] = 0;
    const Complex<T> far = times(Complex<T>(h * (c[1] + c[2]), h * (c[1] - c[2])), theta.re, theta.im);
    const Complex<T> even = near + far, odd = plus_i(times(near - far, root.re, -root.im));
    const Complex<T> z = even + odd, mirror{even.re - odd.re, odd.im - even.im};
    if (whole) {
      const int64_t m = points - k - W + 1;
      store<T>(s.re + k, z.re), store<T>(s.im + k, z.im);
      store<T>(s.re + m, backwards(mirror.re, all)), store<T>(s.im + m, backwards(mirror.im, all));
      continue;
    }
    for (int i = 0; i < W && k + i <= points / 2; ++i) {
      s.re[k + i] = z.re[i], s.im[k + i] = z.im[i];
      if (k + i > 0) s.re[points - k - i] = mirror.re[i], s.im[points - k - i] = mirror.im[i];
    }
  }
}

}  // namespace front::cpu::FRONT_ISA
