// Conversions of elements, one by one and by vectors. Included only by axis_isa.cpp (see vectors.h).
#pragma once

#include "vectors.h"

namespace front::cpu::FRONT_ISA {

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

FRONT_INLINE float to_float(float x) { return x; }
FRONT_INLINE double to_float(double x) { return x; }
FRONT_INLINE float to_float(BFloat16 x) { return bit_cast<float>(uint32_t{x.bits} << 16); }
FRONT_INLINE float to_float(Half x) {
  const uint32_t sign = uint32_t{x.bits & 0x8000u} << 16, rest = x.bits & 0x7fffu;
  // Integer arithmetic and normal floats only, so that flushing float32 subnormals to zero (set_flush_denormal) leaves
  // float16's, which are normal in float32, alone.
  const uint32_t subnormal = bit_cast<uint32_t>(static_cast<float>(static_cast<int32_t>(rest)) * 0x1p-24f);
  const uint32_t bits = rest >= 0x7c00u ? (rest << 13) | 0x7f800000u : (rest << 13) + 0x38000000u;
  return bit_cast<float>((rest < 0x400u ? subnormal : bits) | sign);
}

template <class To>
FRONT_INLINE To round_to(double x);
template <class To>
FRONT_INLINE To round_to(float x);
template <>
FRONT_INLINE float round_to<float>(float x) {
  return x;
}
template <>
FRONT_INLINE double round_to<double>(float x) {
  return x;
}
template <>
FRONT_INLINE float round_to<float>(double x) {
  return static_cast<float>(x);
}
template <>
FRONT_INLINE double round_to<double>(double x) {
  return x;
}
template <>
FRONT_INLINE BFloat16 round_to<BFloat16>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1)) >> 16;  // to nearest, ties to even
  return {static_cast<uint16_t>(x != x ? (bits >> 16) | 0x40u : rounded)};
}
template <>
FRONT_INLINE Half round_to<Half>(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x), sign = (bits >> 16) & 0x8000u, magnitude = bits & 0x7fffffffu;
  uint32_t half;
  if (magnitude > 0x7f800000u) {
    half = 0x7e00u;  // NaN
  } else if (magnitude >= 0x477ff000u) {
    half = 0x7c00u;  // rounds to infinity: at least 65520
  } else if (magnitude < 0x38800000u) {
    // Subnormal: adding 0.5 makes the float addition itself round to a multiple of 2^-24, ties to even.
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
  } else {
    half = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1)) >> 13;
  }
  return {static_cast<uint16_t>(half | sign)};
}
// Through float with the last bit made sticky (round to odd), so that the second rounding is the only one.
FRONT_INLINE float round_to_odd(double x) {
  const float nearest = static_cast<float>(x);
  if (static_cast<double>(nearest) == x || x != x) return nearest;
  uint32_t bits = bit_cast<uint32_t>(nearest);
  const double magnitude = x < 0 ? -x : x, got = nearest < 0 ? -static_cast<double>(nearest) : nearest;
  if (got > magnitude) --bits;  // truncate towards zero
  return bit_cast<float>(bits | 1);
}
template <>
FRONT_INLINE BFloat16 round_to<BFloat16>(double x) {
  return round_to<BFloat16>(round_to_odd(x));
}
template <>
FRONT_INLINE Half round_to<Half>(double x) {
  return round_to<Half>(round_to_odd(x));
}

// bfloat16 is common enough for code of its own: the compiler does not find these vectors in the scalar functions.
typedef uint32_t Bits32 __attribute__((vector_size(FRONT_VECTOR_BYTES)));
typedef uint16_t Bits16 __attribute__((vector_size(FRONT_VECTOR_BYTES / 2)));
typedef float Floats __attribute__((vector_size(FRONT_VECTOR_BYTES / 2)));  // as many as doubles in a vector

// NOTE: GCC makes two conversions of halves of a __builtin_convertvector to wider elements, and takes the halves apart
// and puts them together through memory: an inverse of 4096 x 4096 took 1.1 times as long with it.
FRONT_INLINE Bits32 extend(Bits16 bits) {
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)
  return bit_cast<Bits32>(_mm512_maskz_cvtepu16_epi32(0xffff, bit_cast<__m256i>(bits)));
#elif FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
  return bit_cast<Bits32>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(bits)));
#else
  return __builtin_convertvector(bits, Bits32);
#endif
}
// Of numbers below 2^16. NOTE: GCC masks before it packs, and packs each half by itself.
FRONT_INLINE Bits16 lower_halves(Bits32 bits) {
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)
  return bit_cast<Bits16>(_mm512_maskz_cvtepi32_epi16(0xffff, bit_cast<__m512i>(bits)));
#elif FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
  const __m256i both = bit_cast<__m256i>(bits);
  return bit_cast<Bits16>(_mm_packus_epi32(_mm256_castsi256_si128(both), _mm256_extracti128_si256(both, 1)));
#else
  return __builtin_convertvector(bits, Bits16);
#endif
}
// Two halves of a vector, put together in registers: what is stored by halves and loaded as a whole waits for both to
// have reached the cache (bfloat16 around the caches: 4096 x 4096 in full took 1.1 times as long).
FRONT_INLINE Bits32 join(Bits16 lower, Bits16 upper) {
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)
  const __m512i twice = _mm512_maskz_broadcast_i64x4(0xff, bit_cast<__m256i>(lower));
  return bit_cast<Bits32>(_mm512_maskz_inserti64x4(0xff, twice, bit_cast<__m256i>(upper), 1));
#elif FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
  return bit_cast<Bits32>(_mm256_set_m128i(bit_cast<__m128i>(upper), bit_cast<__m128i>(lower)));
#else
  struct {
    Bits16 lower, upper;
  } both{lower, upper};
  return bit_cast<Bits32>(both);
#endif
}
FRONT_INLINE Vector<double> to_doubles(Floats x) {
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)
  return bit_cast<Vector<double>>(_mm512_maskz_cvtps_pd(0xff, bit_cast<__m256>(x)));
#elif FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
  return bit_cast<Vector<double>>(_mm256_cvtps_pd(bit_cast<__m128>(x)));
#else
  return __builtin_convertvector(x, Vector<double>);
#endif
}

// Half's own instructions; unlike those of float's, they do not flush subnormals (set_flush_denormal).
#if (FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)) || (FRONT_VECTOR_BYTES == 32 && defined(__F16C__))
constexpr bool kConvertsHalf = true;
FRONT_INLINE Vector<float> widen_half(Bits16 bits) {
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)
  return bit_cast<Vector<float>>(_mm512_maskz_cvtph_ps(0xffff, bit_cast<__m256i>(bits)));
#else
  return bit_cast<Vector<float>>(_mm256_cvtph_ps(bit_cast<__m128i>(bits)));
#endif
}
FRONT_INLINE Bits16 narrow_half(Vector<float> v) {
  constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512F__)
  return bit_cast<Bits16>(_mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(v), kNearest));
#else
  return bit_cast<Bits16>(_mm256_cvtps_ph(bit_cast<__m256>(v), kNearest));
#endif
}
#else
constexpr bool kConvertsHalf = false;  // and the two are not called
Vector<float> widen_half(Bits16 bits);
Bits16 narrow_half(Vector<float> v);
#endif
template <class T, class Other>
constexpr bool kHalf = kConvertsHalf && std::is_same_v<T, float> && std::is_same_v<Other, Half>;

FRONT_INLINE Vector<float> widen(Bits16 bits) { return bit_cast<Vector<float>>(extend(bits) << 16); }
// To nearest, ties to even, in the upper half. A NaN is cut, so that it does not overflow: as the result of arithmetic
// it is quiet, which its upper half says.
FRONT_INLINE Bits32 rounded_bits(Vector<float> v) {
  const Bits32 bits = bit_cast<Bits32>(v), is_number = bit_cast<Bits32>(v == v);
  return bits + (is_number & (0x7fff + ((bits >> 16) & 1)));
}
FRONT_INLINE Bits16 narrow(Vector<float> v) { return lower_halves(rounded_bits(v) >> 16); }

#if FRONT_VECTOR_BYTES == 64 && defined(__AVX512BW__)
constexpr bool kRoundsWords = true;
// The same of the upper and the lower halves of two vectors' numbers, in half of the instructions: up where what is cut
// is more than half, or half of an odd number. Of NaNs only those are cut that would overflow.
FRONT_INLINE Bits32 rounded_words(__m512i upper, __m512i lower) {
  constexpr int kLowerOrBoth = 0xf8;  // a | (b & c)
  const __m512i odd = _mm512_ternarylogic_epi32(lower, upper, _mm512_set1_epi16(1), kLowerOrBoth);
  const __mmask32 more = _mm512_cmpgt_epu16_mask(odd, _mm512_set1_epi16(static_cast<int16_t>(0x8000)));
  const __m512i ones = _mm512_set1_epi16(-1);
  const __m512i magnitude = _mm512_or_si512(upper, _mm512_set1_epi16(static_cast<int16_t>(0x8000)));
  const __mmask32 up = _mm512_mask_cmpneq_epi16_mask(more, magnitude, ones);
  return bit_cast<Bits32>(_mm512_mask_sub_epi16(upper, up, upper, ones));
}
struct Words {
  int16_t lower[32], upper[32];
  constexpr Words() : lower(), upper() {
    for (int i = 0; i < 32; ++i) lower[i] = static_cast<int16_t>(2 * i), upper[i] = static_cast<int16_t>(2 * i + 1);
  }
};
alignas(64) constexpr Words kWords;  // of two vectors, one after the other
FRONT_INLINE Bits32 rounded_halves(Vector<float> first, Vector<float> second) {
  const __m512i a = bit_cast<__m512i>(first), b = bit_cast<__m512i>(second);
  return rounded_words(_mm512_permutex2var_epi16(a, _mm512_load_si512(kWords.upper), b),
                       _mm512_permutex2var_epi16(a, _mm512_load_si512(kWords.lower), b));
}
#else
constexpr bool kRoundsWords = false;  // and this is not called
Bits32 rounded_halves(Vector<float> first, Vector<float> second);
#endif

// Two bfloat16 in each element, the earlier one in the lower half, as memory has them: neighbours along an axis are
// transposed as one.
template <class T, class Other>
constexpr bool kInPairs = std::is_same_v<T, float> && std::is_same_v<Other, BFloat16>;

FRONT_INLINE void widen_pairs(Bits32 pairs, Vector<float>* first, Vector<float>* second) {
  *first = bit_cast<Vector<float>>(pairs << 16);
  *second = bit_cast<Vector<float>>(pairs & 0xffff0000u);
}
FRONT_INLINE Bits32 narrow_pairs(Vector<float> first, Vector<float> second) {
  return rounded_bits(first) >> 16 | (rounded_bits(second) & 0xffff0000u);
}

// Whether there is one instruction or a few for all elements of a vector, to half as many bytes: to_half_vector.
template <class T, class Out>
constexpr bool kNarrows = (std::is_same_v<T, float> && std::is_same_v<Out, BFloat16>) || kHalf<T, Out> ||
                          (std::is_same_v<T, double> && std::is_same_v<Out, float>);
template <class T, class Out>
FRONT_INLINE Bits16 to_half_vector(Vector<T> v) {
  if constexpr (std::is_same_v<Out, BFloat16>)
    return narrow(v);
  else if constexpr (std::is_same_v<Out, Half>)
    return narrow_half(v);
  else
    return bit_cast<Bits16>(__builtin_convertvector(v, Floats));
}
// Two vectors in one.
template <class T, class Out>
FRONT_INLINE Bits32 to_vector(Vector<T> first, Vector<T> second) {
  if constexpr (std::is_same_v<Out, BFloat16> && kRoundsWords) return rounded_halves(first, second);
#if FRONT_VECTOR_BYTES == 32 && defined(__AVX2__)
  if constexpr (std::is_same_v<Out, BFloat16>) {  // what is packed comes by quarters: first, second, first, second
    const Bits32 a = rounded_bits(first) >> 16, b = rounded_bits(second) >> 16;
    const __m256i quarters = _mm256_packus_epi32(bit_cast<__m256i>(a), bit_cast<__m256i>(b));
    return bit_cast<Bits32>(_mm256_permute4x64_epi64(quarters, _MM_SHUFFLE(3, 1, 2, 0)));
  }
#endif
  return join(to_half_vector<T, Out>(first), to_half_vector<T, Out>(second));
}

}  // namespace front::cpu::FRONT_ISA
