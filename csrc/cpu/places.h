// Where the fused step (pairs.h) writes coefficients, forward, and reads them, inverse; and where the innermost stage
// finds, or leaves, the values. Included only by axis_isa.cpp (see vectors.h).
#pragma once

#include "block.h"
#include "halves.h"
#include "mirrors.h"
#include "tables.h"

namespace front::cpu::FRONT_ISA {

// What a block reads, and writes, in the order in which it uses it (UseOrder): vectors, `stride` elements after each
// other. first is null where it has been, or will be, copied to or from the work array.
template <class T>
struct Source {
  const T* first;
  int64_t stride, ahead;  // ahead: how many vectors are asked for ahead

  FRONT_INLINE Source from(int64_t vector) const { return {first + vector * stride, stride, ahead}; }
};
template <class T>
struct Sink {
  T* first;
  int64_t stride;
  bool around_caches;  // vectors that are whole, aligned lines

  FRONT_INLINE Sink from(int64_t vector) const { return {first + vector * stride, stride, around_caches}; }
};

// Where coefficient q half + r of a forward transform goes: to its place in the work array, or elsewhere, `stride`
// elements after each other, around the caches if they are whole, aligned lines. beside(g): where those of the g-th
// block beside it go.
template <class T>
struct InWork {
  static constexpr bool kBeside = false;  // of one block
  Vector<T>* first;
  int64_t half;

  FRONT_INLINE void store(int64_t q, int64_t r, Vector<T> x) const { first[pair_part(q, half) + 2 * r] = x; }
  FRONT_INLINE InWork beside(int) const { return *this; }
};
template <class T, bool kAround>
struct Elsewhere {
  static constexpr bool kBeside = true;
  T* first;
  int64_t half, stride;

  FRONT_INLINE void store(int64_t q, int64_t r, Vector<T> x) const {
    T* at = first + (q * half + r) * stride;
    if constexpr (kAround)
      stream_bytes(at, &x);
    else
      FRONT_ISA::store<T>(at, x);
  }
  FRONT_INLINE Elsewhere beside(int g) const { return {first + g * kLanes<T>, half, stride}; }
};
// Where an inverse's coefficient q half + r comes from, in parts of C (halves.h): from there, or each from where the
// one used before it ends.
template <class T>
struct FromWork {
  Complex<T>* z;
  int64_t half;

  template <class C>
  FRONT_INLINE void load(int64_t q, int64_t r, Vector<C>* x) {
    for (int h = 0; h < kHalves<C, T>; ++h) x[h] = Part<C, T>(z, h).load(pair_part(q, half) + 2 * r);
  }
};
template <class T>
struct InOrder {
  Source<T> next;

  template <class C>
  FRONT_INLINE void load(int64_t, int64_t, Vector<C>* x) {
    if (next.ahead) __builtin_prefetch(next.first + next.ahead * next.stride);
    for (int h = 0; h < kHalves<C, T>; ++h) x[h] = FRONT_ISA::load<C>(next.first + h * kLanes<C>);
    next.first += next.stride;
  }
};
// What the caller says of where a forward transform's coefficients go.
template <class T>
struct Place {
  T* first;  // null: the work array
  int64_t stride;
  bool around_caches;
};

template <class T>
FRONT_INLINE InWork<T> in_work(const AxisView<T>& axis, Complex<T>* z) {
  return {reinterpret_cast<Vector<T>*>(z), axis.half};
}

}  // namespace front::cpu::FRONT_ISA
