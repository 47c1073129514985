// What kernels read besides the data: twiddles of the stages and factors of the real split. Computed in double with
// angles reduced exactly, stored in the compute type.
#pragma once

#include <cmath>
#include <complex>
#include <cstdint>
#include <tuple>
#include <utility>
#include <vector>

#include "../params.h"
#include "plan.h"

namespace front::cuda {

// exp(-2 pi i q / d).
inline std::complex<double> unit(int64_t q, int64_t d) {
  q %= d;
  const int64_t octant = 8 * q / d;
  const int64_t folded = octant % 2 == 0 ? 8 * q - octant * d : (octant + 1) * d - 8 * q;
  const double x = 6.283185307179586476925286766559 * static_cast<double>(folded) / static_cast<double>(8 * d);
  double c = std::cos(x), s = std::sin(x);
  if (octant == 1 || octant == 2 || octant == 5 || octant == 6) std::swap(c, s);
  return {octant >= 2 && octant <= 5 ? -c : c, octant < 4 ? -s : s};
}

template <class T>
void put(std::vector<T>& table, std::complex<double> z) {
  table.push_back(static_cast<T>(z.real()));
  table.push_back(static_cast<T>(z.imag()));
}

// For every stage after the first, of radix R and span S: rows r = 1 .. R-1 of exp(-2 pi i r k / RS), k = 0 .. S-1.
template <class T>
std::vector<T> twiddle_table(const std::vector<int64_t>& radices) {
  std::vector<T> table;
  int64_t span = 1;
  for (size_t s = 0; s < radices.size(); ++s) {
    for (int64_t r = 1; s > 0 && r < radices[s]; ++r)
      for (int64_t k = 0; k < span; ++k) put(table, unit(r * k, radices[s] * span));
    span *= radices[s];
  }
  if (table.empty()) put(table, 1);  // an address that may be read
  return table;
}

// coefficients.h says what it holds. `scale` is the norm's, relative to orthonormal coefficients.
template <class T>
std::vector<T> split_table(int64_t n, Scale scale) {
  std::vector<T> table;
  const double length = static_cast<double>(n);
  const double first = scale.first * std::sqrt(1 / length), other = scale.other * std::sqrt(2 / length);
  if (n % 2 != 0) {
    for (int64_t q = 0; q < n; ++q) put(table, (q ? other : first) * unit(q, 4 * n));
    return table;
  }
  const double middle = other * std::sqrt(0.5);
  put(table, {(first + middle) / 2, -(first + middle) / 2});
  put(table, {(first - middle) / 2, (first - middle) / 2});
  for (int64_t q = 1; q < n / 2; ++q) {
    const std::complex<double> c = 0.5 * other * unit(q, 4 * n), d = std::complex<double>(0, -1) * c * unit(q, n);
    put(table, c + d);
    put(table, c - d);
  }
  put(table, {0.5 * other, -0.5 * other});  // coefficients.h's Factors
  put(table, {0.5 * other, 0.5 * other});
  return table;
}

// exp(-pi i j^2 / n): Bluestein's chirp.
inline std::complex<double> chirp(int64_t j, int64_t n) {
  return unit(static_cast<int64_t>(static_cast<__int128>(j) * j % (2 * n)), 2 * n);
}

// DFT in double of a power of two many points, by halves. root[j] = exp(-2 pi i j / root.size()).
inline void exact_dft(const std::complex<double>* x, int64_t stride, int64_t n,
                      const std::vector<std::complex<double>>& root, std::complex<double>* y) {
  if (n == 1) {
    *y = *x;
    return;
  }
  const int64_t half = n / 2, step = static_cast<int64_t>(root.size()) / n;
  exact_dft(x, 2 * stride, half, root, y);
  exact_dft(x + stride, 2 * stride, half, root, y + half);
  for (int64_t k = 0; k < half; ++k) {
    const std::complex<double> a = y[k], b = root[k * step] * y[k + half];
    y[k] = a + b, y[k + half] = a - b;
  }
}

// Spectrum of the conjugate chirp over the length of the convolution, in the order that large.h leaves spectra in.
template <class T>
std::vector<T> spectrum_table(int64_t n, int64_t rows, int64_t columns) {
  const int64_t length = rows * columns;
  std::vector<std::complex<double>> root(length), conjugate(length), spectrum(length);
  for (int64_t j = 0; j < length; ++j) root[j] = unit(j, length);
  for (int64_t j = 0; j < n; ++j) {
    conjugate[j] = std::conj(chirp(j, n)) / static_cast<double>(length);
    if (j > 0) conjugate[length - j] = conjugate[j];
  }
  exact_dft(conjugate.data(), 1, length, root, spectrum.data());
  std::vector<T> table;
  table.reserve(2 * length);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < columns; ++c) put(table, spectrum[r + rows * c]);
  return table;
}

// A table by what it depends on: what a cache of tables on a device is keyed by.
struct Table {
  enum class Kind { none, twiddles, split, chirp, spectrum, roots };
  Kind kind = Kind::none;
  std::vector<int64_t> numbers;
  double first = 1, other = 1;
  int64_t real_bytes = 4;

  static Table twiddles(std::vector<int64_t> radices, int64_t real_bytes) {
    return {Kind::twiddles, std::move(radices), 1, 1, real_bytes};
  }
  static Table split(int64_t n, Scale scale, int64_t real_bytes) {
    return {Kind::split, {n}, scale.first, scale.other, real_bytes};
  }
  static Table chirp(int64_t n, int64_t real_bytes) { return {Kind::chirp, {n}, 1, 1, real_bytes}; }
  static Table spectrum(int64_t n, int64_t rows, int64_t columns, int64_t real_bytes) {
    return {Kind::spectrum, {n, rows, columns}, 1, 1, real_bytes};
  }
  // Every step-th root of order n.
  static Table roots(int64_t n, int64_t step, int64_t count, int64_t real_bytes) {
    return {Kind::roots, {n, step, count}, 1, 1, real_bytes};
  }

  bool operator<(const Table& b) const {
    return std::tie(kind, numbers, first, other, real_bytes) <
           std::tie(b.kind, b.numbers, b.first, b.other, b.real_bytes);
  }

  std::vector<char> build() const { return real_bytes == 8 ? bytes<double>() : bytes<float>(); }

 private:
  template <class T>
  std::vector<T> values() const {
    std::vector<T> table;
    switch (kind) {
      case Kind::twiddles:
        return twiddle_table<T>(numbers);
      case Kind::split:
        return split_table<T>(numbers[0], {first, other});
      case Kind::spectrum:
        return spectrum_table<T>(numbers[0], numbers[1], numbers[2]);
      case Kind::chirp:
        for (int64_t j = 0; j < numbers[0]; ++j) put(table, cuda::chirp(j, numbers[0]));
        return table;
      case Kind::roots:
        for (int64_t j = 0; j < numbers[2]; ++j) put(table, unit(j * numbers[1], numbers[0]));
        return table;
      default:
        return table;
    }
  }
  template <class T>
  std::vector<char> bytes() const {
    const std::vector<T> table = values<T>();
    const auto* data = reinterpret_cast<const char*>(table.data());
    return {data, data + table.size() * sizeof(T)};
  }
};

}  // namespace front::cuda
