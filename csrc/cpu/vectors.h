// Vectors of one instruction set. Included only by axis_isa.cpp, which is compiled once per instruction set with
// FRONT_ISA (a namespace) and FRONT_VECTOR_BYTES set.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "../params.h"

#ifdef __SANITIZE_ADDRESS__  // every copy is checked anew, and compiling takes three times as long
#define FRONT_INLINED
#else
#define FRONT_INLINED __attribute__((always_inline))  // a lambda
#endif
#define FRONT_INLINE inline FRONT_INLINED

namespace front::cpu::FRONT_ISA {

// A value in a type. std::integral_constant is not of this namespace, whose code alone may differ with the instruction
// set.
template <auto kValue>
struct Constant {
  FRONT_INLINE constexpr operator decltype(kValue)() const { return kValue; }
};

template <class T>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef float type __attribute__((vector_size(FRONT_VECTOR_BYTES)));
};
template <>
struct VectorOf<double> {
  typedef double type __attribute__((vector_size(FRONT_VECTOR_BYTES)));
};
template <class T>
using Vector = typename VectorOf<T>::type;
template <class T>
constexpr int kLanes = FRONT_VECTOR_BYTES / sizeof(T);

// NOTE: copied member by member, by hand. GCC copies a plain struct of vectors through memory in 16-byte pieces, which
// no wider load can be forwarded from: with AVX2 that made every stage several times slower.
template <class T>
struct Complex {
  Vector<T> re, im;

  FRONT_INLINE Complex() {}  // unspecified
  FRONT_INLINE Complex(Vector<T> real, Vector<T> imag) : re(real), im(imag) {}
  FRONT_INLINE Complex(const Complex& other) : re(other.re), im(other.im) {}
  FRONT_INLINE Complex& operator=(const Complex& other) {
    re = other.re;
    im = other.im;
    return *this;
  }
  FRONT_INLINE static Complex zero() { return {Vector<T>{}, Vector<T>{}}; }
};

template <class To, class From>
FRONT_INLINE To bit_cast(From x) {
  static_assert(sizeof(To) == sizeof(From));
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

template <class T>
FRONT_INLINE Vector<T> splat(T x) {
  return x - Vector<T>{};
}

}  // namespace front::cpu::FRONT_ISA
