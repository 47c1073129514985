// What differs between nvcc, NVRTC and g++. Device headers include this first and no header of CUDA or the standard
// library, so that NVRTC needs nothing but them.
#pragma once

#ifdef __CUDACC__
#define FRONT_DEVICE __device__ __forceinline__
#define FRONT_CONSTEXPR __host__ __device__ constexpr  // evaluated by the compiler, on either side
#define FRONT_PRAGMA(TEXT) _Pragma(#TEXT)
#define FRONT_UNROLL(N) FRONT_PRAGMA(unroll N)
#define FRONT_NO_UNROLL FRONT_UNROLL(1)
#else
#define FRONT_DEVICE inline
#define FRONT_CONSTEXPR constexpr
#define FRONT_UNROLL(N)
#define FRONT_NO_UNROLL
#endif

namespace front::cuda {

// NOTE: spelled out, not from <cstdint>: NVRTC has no standard headers. Both are LP64 where CUDA runs.
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i64 = long long;
static_assert(sizeof(u16) == 2 && sizeof(u32) == 4 && sizeof(i64) == 8, "LP64");

template <int I>
struct Int {
  static constexpr int value = I;
};

template <int... I>
struct Indices {};
template <int Begin, int Count, int... I>
struct MakeIndices : MakeIndices<Begin, Count - 1, Begin + Count - 1, I...> {};
template <int Begin, int... I>
struct MakeIndices<Begin, 0, I...> {
  using type = Indices<I...>;
};

template <class F, int... I>
FRONT_DEVICE void for_indices(Indices<I...>, F& f) {
  (f(Int<I>{}), ...);
}

// f(Int<Begin>{}), ..., f(Int<End - 1>{}): a loop whose index is a constant in its body.
template <int Begin, int End, class F>
FRONT_DEVICE void unrolled(F f) {
  if constexpr (Begin < End) for_indices(typename MakeIndices<Begin, End - Begin>::type{}, f);
}

FRONT_CONSTEXPR i64 divide_up(i64 a, i64 b) { return (a + b - 1) / b; }

}  // namespace front::cuda
