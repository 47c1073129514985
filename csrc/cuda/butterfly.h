// DFTs of constant length in registers.
#pragma once

#include "numbers.h"

namespace front::cuda {

// How a composite length is split: 16 = 4 x 4, 28 = 7 x 4, 12 = 3 x 4; a prime gives 1.
FRONT_CONSTEXPR int first_factor(int r) {
  if (r == 8) return 2;
  if (r % 4 == 0) return r / 4;
  for (int p = 2; p * p <= r; ++p)
    if (r % p == 0) return r / p;
  return 1;
}

// Which points are not known to be zero, as bits. Zeros cost nothing, so that padding does not.
FRONT_CONSTEXPR u64 all_points(int r) { return r >= 64 ? ~u64{0} : (u64{1} << r) - 1; }
FRONT_CONSTEXPR bool has(u64 mask, int i) { return mask >> i & 1; }
// Of every step-th point from `first`.
FRONT_CONSTEXPR u64 every(u64 mask, int first, int step, int count) {
  u64 sub = 0;
  for (int i = 0; i < count; ++i) sub |= u64{has(mask, first + step * i)} << i;
  return sub;
}

// a + b and a - b, where A and B tell whether a and b can differ from zero.
template <bool A, bool B, class T>
FRONT_DEVICE Complex<T> sum(Complex<T> a, Complex<T> b) {
  if constexpr (A && B)
    return a + b;
  else if constexpr (B)
    return b;
  else
    return a;
}
template <bool A, bool B, class T>
FRONT_DEVICE Complex<T> difference(Complex<T> a, Complex<T> b) {
  if constexpr (A && B)
    return a - b;
  else if constexpr (B)
    return {-b.x, -b.y};
  else
    return a;
}

template <int R, u64 Mask, class T>
FRONT_DEVICE void butterfly(Complex<T>* v);

// Odd prime: pairs v_i +- v_{R-i}; (R - 1)^2 fused products.
template <int R, u64 Mask, class T>
FRONT_DEVICE void odd_butterfly(Complex<T>* v) {
  constexpr int H = (R - 1) / 2;
  Complex<T> plus[H], minus[H], total = v[0];
  const Complex<T> first = v[0];
  unrolled<0, H>([&](auto index) {
    constexpr int i = decltype(index)::value;
    constexpr bool a = has(Mask, i + 1), b = has(Mask, R - 1 - i);
    plus[i] = sum<a, b>(v[i + 1], v[R - 1 - i]);
    minus[i] = difference<a, b>(v[i + 1], v[R - 1 - i]);
    if constexpr (a || b) total = total + plus[i];
  });
  unrolled<1, H + 1>([&](auto index) {
    constexpr int k = decltype(index)::value;
    Complex<T> even = first, odd = {0, 0};
    unrolled<0, H>([&](auto inner) {
      constexpr int i = decltype(inner)::value;
      if constexpr (has(Mask, i + 1) || has(Mask, R - 1 - i)) {
        constexpr roots::Root r = roots::root((i + 1) * k, R);
        constexpr T c = static_cast<T>(r.c), s = static_cast<T>(r.s);
        even.x += plus[i].x * c;
        even.y += plus[i].y * c;
        odd.x += minus[i].y * s;
        odd.y += minus[i].x * s;
      }
    });
    v[k] = {even.x - odd.x, even.y + odd.y};
    v[R - k] = {even.x + odd.x, even.y - odd.y};
  });
  v[0] = total;
}

// Which of the B transforms of every B-th point have an input that can differ from zero.
FRONT_CONSTEXPR u64 nonzero_columns(u64 mask, int a, int b) {
  u64 columns = 0;
  for (int i = 0; i < b; ++i) columns |= u64{every(mask, i, b, a) != 0} << i;
  return columns;
}

// The A points I, I + B, ... of R = A B: transformed and rotated.
template <int R, u64 Mask, int I, class T>
FRONT_DEVICE void column(Complex<T>* v) {
  constexpr int A = first_factor(R), B = R / A;
  Complex<T> u[A];
  unrolled<0, A>([&](auto index) { u[decltype(index)::value] = v[B * decltype(index)::value + I]; });
  butterfly<A, every(Mask, I, B, A)>(u);
  unrolled<0, A>([&](auto index) {
    v[B * decltype(index)::value + I] = rotate<decltype(index)::value * I, R>(u[decltype(index)::value]);
  });
}

// R = A B: B transforms of every B-th point, rotations, A transforms.
template <int R, u64 Mask, class T>
FRONT_DEVICE void composite_butterfly(Complex<T>* v) {
  constexpr int A = first_factor(R), B = R / A;
  constexpr u64 columns = nonzero_columns(Mask, A, B);
  unrolled<0, B>([&](auto index) {
    if constexpr (has(columns, decltype(index)::value)) column<R, Mask, decltype(index)::value>(v);
  });
  Complex<T> out[R];
  unrolled<0, A>([&](auto index) {
    constexpr int a = decltype(index)::value;
    Complex<T> u[B];
    unrolled<0, B>([&](auto inner) { u[decltype(inner)::value] = v[B * a + decltype(inner)::value]; });
    butterfly<B, columns>(u);
    unrolled<0, B>([&](auto inner) { out[a + A * decltype(inner)::value] = u[decltype(inner)::value]; });
  });
  unrolled<0, R>([&](auto index) { v[decltype(index)::value] = out[decltype(index)::value]; });
}

// v_k = sum_j v_j exp(-2 pi i j k / R), in place; Mask: the points that may differ from zero, the others hold 0.
template <int R, u64 Mask, class T>
FRONT_DEVICE void butterfly(Complex<T>* v) {
  if constexpr (R == 1 || (Mask & all_points(R)) == 0) {
    return;
  } else if constexpr (R == 2) {
    const Complex<T> a = v[0], b = v[1];
    v[0] = sum<has(Mask, 0), has(Mask, 1)>(a, b);
    v[1] = difference<has(Mask, 0), has(Mask, 1)>(a, b);
  } else if constexpr (R == 4) {
    constexpr bool m0 = has(Mask, 0), m1 = has(Mask, 1), m2 = has(Mask, 2), m3 = has(Mask, 3);
    const Complex<T> a = sum<m0, m2>(v[0], v[2]), b = difference<m0, m2>(v[0], v[2]);
    const Complex<T> c = sum<m1, m3>(v[1], v[3]), d = rotate<1, 4>(difference<m1, m3>(v[1], v[3]));
    v[0] = sum < m0 || m2, m1 || m3 > (a, c);
    v[2] = difference < m0 || m2, m1 || m3 > (a, c);
    v[1] = sum < m0 || m2, m1 || m3 > (b, d);
    v[3] = difference < m0 || m2, m1 || m3 > (b, d);
  } else if constexpr (first_factor(R) == 1) {
    odd_butterfly<R, Mask>(v);
  } else {
    composite_butterfly<R, Mask>(v);
  }
}

template <int R, class T>
FRONT_DEVICE void butterfly(Complex<T>* v) {
  butterfly<R, all_points(R)>(v);
}

}  // namespace front::cuda
