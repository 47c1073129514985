// Vectors of T, computed with in C, a part at a time: of float lanes a vector of doubles has half. Included only by
// axis_isa.cpp (see vectors.h).
#pragma once

#include "simd.h"

namespace front::cpu::FRONT_ISA {

template <class C, class T>
constexpr int kHalves = sizeof(C) / sizeof(T);

// The real numbers, or complex points, of a work array: part `which` of their lanes.
template <class C, class T>
class Part {
 public:
  FRONT_INLINE Part(Complex<T>* z, int which) : first_(reinterpret_cast<T*>(z) + which * kLanes<C>) {}
  FRONT_INLINE Vector<C> load(int64_t i) const { return FRONT_ISA::load<C>(first_ + i * kLanes<T>); }
  FRONT_INLINE Complex<C> load_point(int64_t i) const { return {load(2 * i), load(2 * i + 1)}; }
  FRONT_INLINE void store_point(int64_t i, Complex<C> x) const {
    store<C>(first_ + 2 * i * kLanes<T>, x.re);
    store<C>(first_ + (2 * i + 1) * kLanes<T>, x.im);
  }

 private:
  T* first_;
};

}  // namespace front::cpu::FRONT_ISA
