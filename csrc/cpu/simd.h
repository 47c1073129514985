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

#if FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
// A mask of the first `count` elements.
template <class Int>
FRONT_INLINE __m256i first_of(int count) {
  constexpr int W = 32 / sizeof(Int);
  Int mask[W];
  for (int l = 0; l < W; ++l) mask[l] = l < count ? -1 : 0;
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(mask));
}
#endif

// The first `count` of them, zeros after; nothing beyond is touched.
template <class T, class In>
FRONT_INLINE Vector<T> load_some(const In* p, int count) {
  In some[kLanes<T>] = {};
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(In) * kLanes<T> == 64 && sizeof(In) == 4)
    return bit_cast<Vector<T>>(_mm512_maskz_loadu_epi32(static_cast<__mmask16>((1u << count) - 1), p));
  else if constexpr (sizeof(In) * kLanes<T> == 64 && sizeof(In) == 8)
    return bit_cast<Vector<T>>(_mm512_maskz_loadu_epi64(static_cast<__mmask8>((1u << count) - 1), p));
  else if constexpr (sizeof(In) * kLanes<T> == 32 && sizeof(In) == 2)
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(some),
                        _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << count) - 1), p));
  else
#elif FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
  if constexpr (sizeof(In) * kLanes<T> == 32 && sizeof(In) == 4)
    return bit_cast<Vector<T>>(_mm256_maskload_epi32(reinterpret_cast<const int*>(p), first_of<int32_t>(count)));
  else if constexpr (sizeof(In) * kLanes<T> == 32 && sizeof(In) == 8)
    return bit_cast<Vector<T>>(_mm256_maskload_epi64(reinterpret_cast<const long long*>(p), first_of<int64_t>(count)));
  else
#endif
    for (int l = 0; l < count; ++l) some[l] = p[l];
  return load<T>(some);
}
template <class T, class Out>
FRONT_INLINE void store_some(Out* p, Vector<T> v, int count) {
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512BW__) && defined(__AVX512VL__)
  const auto mask = static_cast<__mmask16>((1u << count) - 1);
  if constexpr (sizeof(Out) * kLanes<T> == 64 && sizeof(Out) == 4)
    return _mm512_mask_storeu_epi32(p, mask, bit_cast<__m512i>(v));
  else if constexpr (sizeof(Out) * kLanes<T> == 64 && sizeof(Out) == 8)
    return _mm512_mask_storeu_epi64(p, static_cast<__mmask8>(mask), bit_cast<__m512i>(v));
#elif FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
  if constexpr (sizeof(Out) * kLanes<T> == 32 && sizeof(Out) == 4)
    return _mm256_maskstore_epi32(reinterpret_cast<int*>(p), first_of<int32_t>(count), bit_cast<__m256i>(v));
  else if constexpr (sizeof(Out) * kLanes<T> == 32 && sizeof(Out) == 8)
    return _mm256_maskstore_epi64(reinterpret_cast<long long*>(p), first_of<int64_t>(count), bit_cast<__m256i>(v));
#endif
  Out some[kLanes<T>];
  store<T>(some, v);
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512BW__) && defined(__AVX512VL__)
  if constexpr (sizeof(Out) * kLanes<T> == 32 && sizeof(Out) == 2)
    return _mm256_mask_storeu_epi16(p, mask, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(some)));
#endif
  for (int l = 0; l < count; ++l) p[l] = some[l];
}

// W elements that lie in runs of Run, each from p + at[its first lane] on.
constexpr int kShortestRun = 4;
template <int Bytes>
struct Raw {
  typedef uint8_t type __attribute__((vector_size(Bytes)));
};
template <int Bytes, int... I>
FRONT_INLINE auto joined(typename Raw<Bytes>::type a, typename Raw<Bytes>::type b, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(a, b, I...);
}
template <int Half, int Bytes, int... I>
FRONT_INLINE auto half_of(typename Raw<Bytes>::type v, std::integer_sequence<int, I...>) {
  return __builtin_shufflevector(v, v, (Half * Bytes / 2 + I)...);
}
template <int Count, int Run, class In>
FRONT_INLINE typename Raw<Count * sizeof(In)>::type load_raw(const In* p, const int64_t* at) {
  constexpr int kBytes = Count * sizeof(In);
  if constexpr (Count == Run) {
    typename Raw<kBytes>::type v;
    std::memcpy(&v, p + at[0], sizeof v);
    return v;
  } else {
    return joined<kBytes / 2>(load_raw<Count / 2, Run>(p, at), load_raw<Count / 2, Run>(p, at + Count / 2),
                              std::make_integer_sequence<int, kBytes>{});
  }
}
template <int Count, int Run, class Out>
FRONT_INLINE void store_raw(Out* p, const int64_t* at, typename Raw<Count * sizeof(Out)>::type v) {
  constexpr int kBytes = Count * sizeof(Out);
  if constexpr (Count == Run) {
    std::memcpy(p + at[0], &v, sizeof v);
  } else {
    using Indices = std::make_integer_sequence<int, kBytes / 2>;
    store_raw<Count / 2, Run>(p, at, half_of<0, kBytes>(v, Indices{}));
    store_raw<Count / 2, Run>(p, at + Count / 2, half_of<1, kBytes>(v, Indices{}));
  }
}
template <class T, int Run, class In>
FRONT_INLINE Vector<T> load_runs(const In* p, const int64_t* at) {
  In all[kLanes<T>];
  const auto raw = load_raw<kLanes<T>, Run>(p, at);
  std::memcpy(all, &raw, sizeof all);
  return load<T>(all);
}
template <class T, int Run, class Out>
FRONT_INLINE void store_runs(Out* p, const int64_t* at, Vector<T> v) {
  Out all[kLanes<T>];
  store<T>(all, v);
  typename Raw<sizeof all>::type raw;
  std::memcpy(&raw, all, sizeof all);
  store_raw<kLanes<T>, Run>(p, at, raw);
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
