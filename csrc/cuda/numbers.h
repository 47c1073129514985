// Complex numbers, roots of unity at compile time, and the conversions of the storage types.
#pragma once

#include "platform.h"

namespace front::cuda {

template <class T>
struct alignas(2 * sizeof(T)) Complex {
  T x, y;
};

template <class T>
struct alignas(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) Quad {  // moved in pieces of at most 16 bytes
  T x, y, z, w;
};

template <class T>
FRONT_DEVICE Complex<T> operator+(Complex<T> a, Complex<T> b) {
  return {a.x + b.x, a.y + b.y};
}
template <class T>
FRONT_DEVICE Complex<T> operator-(Complex<T> a, Complex<T> b) {
  return {a.x - b.x, a.y - b.y};
}
template <class T>
FRONT_DEVICE Complex<T> operator*(Complex<T> a, Complex<T> b) {
  return {a.x * b.x - a.y * b.y, a.x * b.y + a.y * b.x};
}
template <class T>
FRONT_DEVICE Complex<T> conjugate(Complex<T> a) {
  return {a.x, -a.y};
}

namespace roots {

struct Root {
  double c, s;
};

constexpr double kPi = 3.14159265358979323846;

// cos and sin of 2 pi q / d, 0 <= 8 q <= d: the series needs few terms and cancels nothing.
FRONT_CONSTEXPR Root first_octant(int q, int d) {
  const double x = 2 * kPi * q / d, xx = x * x;
  double c = 0, s = 0;
  for (int i = 20; i >= 2; i -= 2) {  // Horner, from the smallest term
    c = xx / ((i - 1) * i) * (1 - c);
    s = xx / (i * (i + 1)) * (1 - s);
  }
  return {1 - c, x * (1 - s)};
}

// exp(-2 pi i q / d), the angle reduced exactly.
FRONT_CONSTEXPR Root root(int q, int d) {
  q %= d;
  if (q < 0) q += d;
  Root r{};
  const int octant = 8 * q / d;
  const int folded = octant % 2 == 0 ? 8 * q - octant * d : (octant + 1) * d - 8 * q;  // eighths of the distance
  const Root near = first_octant(folded, 8 * d);
  const bool swap = octant == 1 || octant == 2 || octant == 5 || octant == 6;
  r.c = swap ? near.s : near.c;
  r.s = swap ? near.c : near.s;
  if (octant >= 2 && octant <= 5) r.c = -r.c;
  if (octant < 4) r.s = -r.s;
  return r;
}

}  // namespace roots

// a exp(-2 pi i Q / D); multiples of an eighth of a turn cost no or two products.
template <int Q, int D, class T>
FRONT_DEVICE Complex<T> rotate(Complex<T> a) {
  constexpr int q = (Q % D + D) % D;
  if constexpr (q == 0)
    return a;
  else if constexpr (4 * q == D)
    return {a.y, -a.x};
  else if constexpr (2 * q == D)
    return {-a.x, -a.y};
  else if constexpr (4 * q == 3 * D)
    return {-a.y, a.x};
  else {
    constexpr roots::Root r = roots::root(q, D);
    constexpr T c = static_cast<T>(r.c), s = static_cast<T>(r.s);
    if constexpr (8 * q == D)
      return {(a.x + a.y) * c, (a.y - a.x) * c};
    else if constexpr (8 * q == 3 * D)
      return {(a.y - a.x) * -c, (a.x + a.y) * c};
    else
      return {a.x * c - a.y * s, a.x * s + a.y * c};
  }
}

// Storage types. float16 and bfloat16 are moved as bits and converted here; rounding is to nearest, ties to even.
struct Half {
  u16 bits;
};
struct Bfloat {
  u16 bits;
};

template <class T, class S>
struct Convert {
  static FRONT_DEVICE T from(S v) { return static_cast<T>(v); }
  static FRONT_DEVICE S to(T v) { return static_cast<S>(v); }
};

FRONT_DEVICE float float_of(Bfloat v) {
#ifdef __CUDACC__
  return __uint_as_float(static_cast<u32>(v.bits) << 16);
#else
  const u32 bits = static_cast<u32>(v.bits) << 16;
  float f;
  __builtin_memcpy(&f, &bits, 4);
  return f;
#endif
}

FRONT_DEVICE Bfloat bfloat_of(float v) {
#ifdef __CUDACC__
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return {bits};
#else
  u32 bits;
  __builtin_memcpy(&bits, &v, 4);
  if (v != v) return {0x7fff};  // what the device's instruction makes of every NaN
  return {static_cast<u16>((bits + 0x7fff + (bits >> 16 & 1)) >> 16)};
#endif
}

FRONT_DEVICE float float_of(Half v) {
#ifdef __CUDACC__
  float f;
  asm("cvt.f32.f16 %0, %1;" : "=f"(f) : "h"(v.bits));
  return f;
#else
  _Float16 h;
  __builtin_memcpy(&h, &v.bits, 2);
  return static_cast<float>(h);
#endif
}

FRONT_DEVICE Half half_of(float v) {
#ifdef __CUDACC__
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
  return {bits};
#else
  const auto h = static_cast<_Float16>(v);
  Half bits;
  __builtin_memcpy(&bits.bits, &h, 2);
  return bits;
#endif
}

// NOTE: float64 reaches the narrow types through float32, as torch's own conversion does.
template <class T>
struct Convert<T, Half> {
  static FRONT_DEVICE T from(Half v) { return static_cast<T>(float_of(v)); }
  static FRONT_DEVICE Half to(T v) { return half_of(static_cast<float>(v)); }
};
template <class T>
struct Convert<T, Bfloat> {
  static FRONT_DEVICE T from(Bfloat v) { return static_cast<T>(float_of(v)); }
  static FRONT_DEVICE Bfloat to(T v) { return bfloat_of(static_cast<float>(v)); }
};

}  // namespace front::cuda
