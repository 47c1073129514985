// What tests of single passes share: buffers, layouts, element types, and transforms by definition.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <map>
#include <new>
#include <vector>

#include "cpu/axis.h"

using front::AxisPass;
using front::Direction;
using front::DType;

// On a cache line, as tensors are: what is streamed must be.
template <class T>
struct Aligned {
  using value_type = T;
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
using Buffer = std::vector<unsigned char, Aligned<unsigned char>>;

constexpr unsigned char kSentinel = 0x5a;
inline int passed = 0, failed = 0;

// cos(pi q / 2n) for q < 4n.
inline const double* cosines(int64_t n) {
  static std::map<int64_t, std::vector<double>> tables;
  std::vector<double>& table = tables[n];
  if (table.empty())
    for (int64_t q = 0; q < 4 * n; ++q)
      table.push_back(std::cos(static_cast<double>(q) * M_PI / (2 * static_cast<double>(n))));
  return table.data();
}

// Not what is tested here, and most of what is computed.
#define FRONT_UNCHECKED __attribute__((no_sanitize("address", "undefined")))

inline FRONT_UNCHECKED bool intact(const unsigned char* y, const unsigned char* written, int64_t size, int64_t bytes) {
  for (int64_t i = 0; i < size; ++i)
    for (int64_t b = written[i] ? bytes : 0; b < bytes; ++b)
      if (y[i * bytes + b] != kSentinel) return false;
  return true;
}

inline FRONT_UNCHECKED void by_definition(bool forward, int64_t n, int64_t kept, const double* table, const double* x,
                                          double* y) {
  for (int64_t u = 0; u < kept; ++u) {
    const double scale = std::sqrt((u ? 2.0 : 1.0) / static_cast<double>(n));
    double sum = 0;
    for (int64_t i = 0, q = u; i < n; ++i) {
      if (forward)
        sum += table[q] * x[i];
      else
        y[i] += scale * table[q] * x[u];
      q += 2 * u;
      if (q >= 4 * n) q -= 4 * n;
    }
    if (forward) y[u] = scale * sum;
  }
}

// Kept coefficients of x, or the values of zero-padded coefficients x, orthonormal, by definition.
inline std::vector<double> by_definition(Direction direction, int64_t n, int64_t kept, const std::vector<double>& x) {
  const bool forward = direction == Direction::forward;
  std::vector<double> y(forward ? kept : n, 0.0);
  by_definition(forward, n, kept, cosines(n), x.data(), y.data());
  return y;
}

// Which is contiguous; panels as in params.h; vectors: elements adjacent whatever the gap, each transformed alone.
enum class Kind { axis_inside, lanes_inside, panels, vectors };

struct Layout {
  int64_t axis_stride, panel, width, lane_stride, batch_stride, size;  // in elements; size: exactly what is touched

  front::Along along() const { return panel ? front::Along{1, width, panel} : front::Along{axis_stride, 0, 0}; }
  int64_t at(int64_t batch, int64_t lane, int64_t i) const {
    return batch * batch_stride + lane * lane_stride + (panel ? i / width * panel + i % width : i * axis_stride);
  }
};

inline Layout layout(int64_t length, int64_t lanes, int64_t batch, Kind kind, int64_t gap, DType type) {
  Layout l{};
  l.width = front::kLineBytes / front::size_of(type);
  if (kind == Kind::panels) {
    l.lane_stride = l.width;
    l.panel = lanes * l.width + gap;
    l.batch_stride = (length + l.width - 1) / l.width * l.panel;
  } else {
    const bool inside = kind != Kind::lanes_inside;
    const int64_t apart = kind == Kind::vectors ? 0 : gap;
    l.axis_stride = inside ? 1 + apart : lanes + gap;
    l.lane_stride = inside ? length * (1 + apart) + gap : 1;
    l.batch_stride = (inside ? lanes * l.lane_stride : length * l.axis_stride) + gap;
  }
  l.size = l.at(batch - 1, lanes - 1, length - 1) + 1;
  return l;
}

// Element types by their memory format; the conversions here are slow and plain on purpose.
inline double get(const Buffer& v, int64_t i, DType t) {
  if (t == DType::f64 || t == DType::f32) {
    double d = 0;
    float f = 0;
    t == DType::f64 ? std::memcpy(&d, &v[8 * i], 8) : std::memcpy(&f, &v[4 * i], 4);
    return t == DType::f64 ? d : static_cast<double>(f);
  }
  uint16_t h = 0;
  std::memcpy(&h, &v[2 * i], 2);
  const double sign = h & 0x8000 ? -1 : 1;
  const int fraction_bits = t == DType::f16 ? 10 : 7, bias = t == DType::f16 ? 15 : 127;
  const int exponent = (h & 0x7fff) >> fraction_bits, fraction = h & ((1 << fraction_bits) - 1);
  const double mantissa = std::ldexp(fraction, -fraction_bits) + (exponent ? 1 : 0);
  return sign * std::ldexp(mantissa, (exponent ? exponent : 1) - bias);
}

inline void put(Buffer& v, int64_t i, DType t, int64_t sixteenths) {  // exact in every type
  const double d = static_cast<double>(sixteenths) / 16;
  const float f = static_cast<float>(d);
  if (t == DType::f64) return void(std::memcpy(&v[8 * i], &d, 8));
  if (t == DType::f32) return void(std::memcpy(&v[4 * i], &f, 4));
  uint16_t h = 0;
  if (sixteenths != 0) {
    int exponent = 0;
    const double mantissa = std::frexp(std::fabs(d), &exponent) * 2;  // 1 <= mantissa < 2
    const int fraction_bits = t == DType::f16 ? 10 : 7, bias = t == DType::f16 ? 15 : 127;
    h = static_cast<uint16_t>((exponent - 1 + bias) << fraction_bits);
    h = static_cast<uint16_t>(h + std::lround(std::ldexp(mantissa - 1, fraction_bits)));
    if (d < 0) h |= 0x8000;
  }
  std::memcpy(&v[2 * i], &h, 2);
}
