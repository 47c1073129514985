// Loads and stores in the storage types: one element, or four neighbours at once.
#pragma once

#include "args.h"
#include "block.h"

namespace front::cuda {

template <class S>
struct Storage {
  using type = S;
};

// Whether kernels that compute in Real take every storage type. A test that has Real alone says so before it names a
// kernel (tests/emulate.py), which then compiles in three quarters of the time.
template <class Real>
struct AnyStorage {
  static constexpr bool value = true;
};

// f(Storage<type>{}): the type is the same for all threads, so this is one branch, not divergence.
template <class Real, class F>
FRONT_DEVICE void with_type(Type type, F f) {
  if constexpr (!AnyStorage<Real>::value) {
    if (type == (sizeof(Real) == 8 ? Type::f64 : Type::f32)) f(Storage<Real>{});
  } else if (type == Type::f32)
    f(Storage<float>{});
  else if (type == Type::bf16)
    f(Storage<Bfloat>{});
  else if (type == Type::f16)
    f(Storage<Half>{});
  else if constexpr (sizeof(Real) == 8)  // float64 is never computed in float32
    f(Storage<double>{});
}

template <class Real, class S, class B>
FRONT_DEVICE Real load_one(const B& block, const S* p) {
  return Convert<Real, S>::from(block.load(p));
}

template <class Real, class S, class B>
FRONT_DEVICE void store_one(const B& block, S* p, Real v) {
  block.store(p, Convert<Real, S>::to(v));
}

template <class Real, class S, class B>
FRONT_DEVICE Quad<Real> load_quad(const B& block, const S* p) {
  if constexpr (sizeof(S) == 8) {  // 16 bytes is the most that one instruction moves
    const auto a = block.load(reinterpret_cast<const Complex<S>*>(p));
    const auto b = block.load(reinterpret_cast<const Complex<S>*>(p) + 1);
    return {Real(a.x), Real(a.y), Real(b.x), Real(b.y)};
  } else {
    const auto q = block.load(reinterpret_cast<const Quad<S>*>(p));
    return {Convert<Real, S>::from(q.x), Convert<Real, S>::from(q.y), Convert<Real, S>::from(q.z),
            Convert<Real, S>::from(q.w)};
  }
}

template <class Real, class S, class B>
FRONT_DEVICE void store_quad(const B& block, S* p, Quad<Real> v) {
  if constexpr (sizeof(S) == 8) {
    block.store(reinterpret_cast<Complex<S>*>(p), Complex<S>{S(v.x), S(v.y)});
    block.store(reinterpret_cast<Complex<S>*>(p) + 1, Complex<S>{S(v.z), S(v.w)});
  } else {
    block.store(reinterpret_cast<Quad<S>*>(p), Quad<S>{Convert<Real, S>::to(v.x), Convert<Real, S>::to(v.y),
                                                       Convert<Real, S>::to(v.z), Convert<Real, S>::to(v.w)});
  }
}

// Index in x of element i of Makhoul's order: the even elements up, the odd ones down.
FRONT_CONSTEXPR i64 makhoul(i64 i, i64 n) { return 2 * i < n ? 2 * i : 2 * (n - i) - 1; }

}  // namespace front::cuda
