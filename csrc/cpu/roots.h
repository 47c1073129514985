// Roots of unity in double, for tables.
#pragma once

#include <complex>
#include <cstdint>
#include <vector>

namespace front::cpu {

constexpr double kPi = 3.14159265358979323846;

using ComplexDouble = std::complex<double>;

// exp(-2 pi i num / den), the angle reduced exactly.
ComplexDouble unit(int64_t num, int64_t den);

template <class T>
T* put(T* at, ComplexDouble z) {
  *at++ = static_cast<T>(z.real());
  *at++ = static_cast<T>(z.imag());
  return at;
}

// exp(-2 pi i j k / (radix span)), j = 1..radix-1, for k = 0..span-1.
template <class T>
T* fill_twiddles(int32_t radix, int64_t span, T* at) {
  for (int64_t k = 0; k < span; ++k)
    for (int32_t j = 1; j < radix; ++j) at = put(at, unit(j * k, radix * span));
  return at;
}

template <class V>
int64_t bytes_of(const std::vector<V>& v) {
  return static_cast<int64_t>(v.capacity() * sizeof(V));
}

}  // namespace front::cpu
