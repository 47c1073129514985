// Vectors in memory, whole and in part, around the caches, and transposed. Included only by axis_isa.cpp (see
// vectors.h).
#pragma once

#include "convert.h"

namespace front::cpu::FRONT_ISA {

// W consecutive elements.
template <class T, class In>
FRONT_INLINE Vector<T> load(const In* p) {
  Vector<T> v;
  if constexpr (sizeof(In) == sizeof(T)) {
    std::memcpy(&v, p, sizeof v);
  } else if constexpr (std::is_same_v<T, float> && std::is_same_v<In, BFloat16>) {
    Bits16 bits;
    std::memcpy(&bits, p, sizeof bits);
    return widen(bits);
  } else if constexpr (kHalf<T, In>) {
    Bits16 bits;
    std::memcpy(&bits, p, sizeof bits);
    return widen_half(bits);
  } else if constexpr (std::is_same_v<T, double> && std::is_same_v<In, float>) {
    Floats half;
    std::memcpy(&half, p, sizeof half);
    return to_doubles(half);
  } else {
    for (int l = 0; l < kLanes<T>; ++l) v[l] = static_cast<T>(to_float(p[l]));
  }
  return v;
}
template <class T, class Out>
FRONT_INLINE void store(Out* p, Vector<T> v) {
  if constexpr (sizeof(Out) == sizeof(T)) {
    std::memcpy(p, &v, sizeof v);
  } else if constexpr (kNarrows<T, Out>) {
    const Bits16 bits = to_half_vector<T, Out>(v);
    std::memcpy(p, &bits, sizeof bits);
  } else {
    for (int l = 0; l < kLanes<T>; ++l) p[l] = round_to<Out>(static_cast<T>(v[l]));
  }
}

// One aligned cache line, written around the caches: the line is not fetched before it is overwritten, and evicts
// nothing. Call stream_fence before another thread may look.
FRONT_INLINE void stream_bytes(void* p, const void* line) {
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)
  _mm512_stream_si512(static_cast<__m512i*>(p), *static_cast<const __m512i*>(line));
#elif defined(__AVX__)
  for (int i = 0; i < 2; ++i) _mm256_stream_si256(static_cast<__m256i*>(p) + i, static_cast<const __m256i*>(line)[i]);
#elif defined(__SSE2__)
  for (int i = 0; i < 4; ++i) _mm_stream_si128(static_cast<__m128i*>(p) + i, static_cast<const __m128i*>(line)[i]);
#else
  std::memcpy(p, line, kLineBytes);
#endif
}

// The same of the W * kVectorsPerLine elements that a line holds.
template <class T, class Out>
constexpr int kVectorsPerLine = kLineBytes / (kLanes<T> * sizeof(Out));

// Of a vector itself.
template <class T>
constexpr bool kWholeLine = kVectorsPerLine<T, T> == 1;

template <class T, class Out>
FRONT_INLINE void stream_line(Out* p, const Vector<T> (&v)[kVectorsPerLine<T, Out>]) {
  alignas(kLineBytes) Out line[kLineBytes / sizeof(Out)];
  if constexpr (kNarrows<T, Out>)
    for (int i = 0; i < kVectorsPerLine<T, Out>; i += 2) {
      const Bits32 two = to_vector<T, Out>(v[i], v[i + 1]);
      std::memcpy(line + i * kLanes<T>, &two, sizeof two);
    }
  else
    for (int i = 0; i < kVectorsPerLine<T, Out>; ++i) store<T>(line + i * kLanes<T>, v[i]);
  stream_bytes(p, line);
}
FRONT_INLINE void stream_fence() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

// The first `count` of them, zeros after; nothing beyond is touched.
template <class T, class In>
FRONT_INLINE Vector<T> load_some(const In* p, int count) {
  In some[kLanes<T>] = {};
  std::memcpy(some, p, static_cast<size_t>(count) * sizeof(In));
  return load<T>(some);
}
template <class T, class Out>
FRONT_INLINE void store_some(Out* p, Vector<T> v, int count) {
  Out some[kLanes<T>];
  store<T>(some, v);
  std::memcpy(p, some, static_cast<size_t>(count) * sizeof(Out));
}

// Interleave the S-element groups of a and b: their first halves, or their second halves.
template <int S, int Half, class V, int... I>
FRONT_INLINE V interleave(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int W = sizeof...(I);
  return __builtin_shufflevector(a, b, (((I / S) % 2) * W + Half * S + (I / (2 * S)) * 2 * S + I % S)...);
}

// In-register transpose of a W x W tile: log2(W) rounds that swap the off-diagonal S x S blocks of each 2S x 2S block.
template <class T, int S = 1>
FRONT_INLINE void transpose(Vector<T> (&v)[kLanes<T>]) {
  constexpr int W = kLanes<T>;
  if constexpr (S < W) {
    using Indices = std::make_integer_sequence<int, W>;
    for (int i = 0; i < W; ++i) {
      if (i & S) continue;
      const Vector<T> a = v[i], b = v[i + S];
      v[i] = interleave<S, 0>(a, b, Indices{});
      v[i + S] = interleave<S, 1>(a, b, Indices{});
    }
    transpose<T, 2 * S>(v);
  }
}

}  // namespace front::cpu::FRONT_ISA
