// Half the length where at most a quarter of the coefficients is kept, in float32: by a filter of filters.h, y_j =
// sum_t h_t (x_{2j-t} + x_{2j+1+t}), which keeps DCT-II's symmetry exactly. Its aliases are too small to matter, and
// the table divides by its response (tables.cpp). The inverse runs the transpose. Included only by axis_isa.cpp.
#pragma once

#include "block.h"
#include "tables.h"

namespace front::cpu::FRONT_ISA {

constexpr int kChunk = 128;  // values at a time: a multiple of every run (Along) and vector
constexpr int64_t kMostTogether = most_side_by_side(FRONT_VECTOR_BYTES);  // work arrays
constexpr bool kManyRegisters = FRONT_VECTOR_BYTES >= plan_detail::kManyRegistersBytes;

// Where loads and stores of a chunk find its elements.
struct Count {
  int32_t at[kChunk];
  constexpr Count() : at() {
    for (int i = 0; i < kChunk; ++i) at[i] = i;
  }
};
constexpr Count kInOrder;

// One output of the filter; at: x_{2j}.
template <int kHalfTaps>
FRONT_INLINE Vector<float> filtered(const Vector<float>* h, const Vector<float>* at) {
  constexpr int kReach = kHalfTaps - 1;
  Vector<float> sum = h[kReach] * (at[-kReach] + at[1 + kReach]);
#pragma GCC unroll 32
  for (int t = kReach - 1; t >= 0; --t) sum += h[t] * (at[-t] + at[1 + t]);  // the large ones last
  return sum;
}

// n values of every lane, which load(begin, count, index, works) brings, filtered -> n / 2 at index[j] of the work
// arrays.
template <int kHalfTaps, class Load>
void decimate(int64_t n, const float* filter, const int32_t* index, Works<float> works, Load load) {
  // u[i] = x[begin - 2 kReach + i]
  constexpr int kReach = kHalfTaps - 1, kBefore = 2 * kReach, kStride = kBefore + kChunk + kReach;
  constexpr int kOutputs = kManyRegisters ? 4 : 1;
  Vector<float> chunk[kMostTogether * kStride], h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(filter[t]);
  int64_t j = 0;
  for (int64_t begin = 0; begin < n; begin += kChunk) {
    const int64_t count = n - begin < kChunk ? n - begin : kChunk;
    const bool last = begin + count == n;
    load(begin, count, kInOrder.at, Works<float>{chunk + kBefore, kStride, works.count});
    const int64_t end = last ? n / 2 : (begin + count - kReach) / 2;  // what lacks values of the next chunk waits
    for (int g = 0; g < works.count; ++g) {
      Vector<float>* u = chunk + g * kStride;
      if (begin == 0)
        for (int i = 0; i < kBefore; ++i) u[kBefore - 1 - i] = u[kBefore + i];
      if (last)
        for (int i = 0; i < kReach; ++i) u[kBefore + count + i] = u[kBefore + count - 1 - i];
      Vector<float>* y = works[g];
      int64_t q = j;
      // Several at a time, so that a value that they share is loaded once, where there are registers for it.
      for (; kOutputs > 1 && q + kOutputs <= end; q += kOutputs) {
        Vector<float> x[2 * (kOutputs + kReach)];
        const Vector<float>* const from = u + kBefore - begin + 2 * q - kReach;
#pragma GCC unroll 32
        for (int i = 0; i < 2 * (kOutputs + kReach); ++i) x[i] = from[i];
#pragma GCC unroll 4
        for (int l = 0; l < kOutputs; ++l) y[index[q + l]] = filtered<kHalfTaps>(h, x + kReach + 2 * l);
      }
      for (; q < end; ++q) y[index[q]] = filtered<kHalfTaps>(h, u + kBefore - begin + 2 * q);
      for (int i = 0; i < kBefore && !last; ++i) u[i] = u[count + i];
    }
    j = end;
  }
}

// The transpose: n / 2 values at index[j] of the work arrays -> n of every lane, which store(begin, count, index,
// works) takes away.
template <int kHalfTaps, class Store>
void interpolate(int64_t n, const float* filter, const int32_t* index, Works<float> works, Store store) {
  constexpr int kHalf = kChunk / 2, kEdge = kHalfTaps / 2;
  const int64_t half = n / 2;
  Vector<float> chunk[kMostTogether * kChunk], v[kHalf + 2 * kEdge], h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(filter[t]);
  for (int64_t begin = 0; begin < half; begin += kHalf) {
    const int64_t count = half - begin < kHalf ? half - begin : kHalf;
    for (int g = 0; g < works.count; ++g) {
      for (int64_t i = -kEdge; i < count + kEdge; ++i) {
        const int64_t j = begin + i;
        v[kEdge + i] = works[g][index[j < 0 ? -1 - j : j < half ? j : 2 * half - 1 - j]];
      }
      Vector<float>* x = chunk + g * kChunk;
      for (int64_t i = 0; i < count; ++i) {
        const Vector<float>* y = v + kEdge + i;
        Vector<float> even{}, odd{};
        for (int t = kHalfTaps; t-- > 0;) {
          const int at = t % 2 == 0 ? t / 2 : -(t + 1) / 2;
          even += h[t] * y[at], odd += h[t] * y[-at];
        }
        x[2 * i] = even, x[2 * i + 1] = odd;
      }
    }
    store(2 * begin, 2 * count, kInOrder.at, Works<float>{chunk, kChunk, works.count});
  }
}

// f(place in kFilters), a constant, of the filter of so many taps: of factor 2, or, kRows, of any that rows are
// decimated by.
template <bool kRows, int kPlace = 0, class F>
void with_filter(int taps, F f) {
  if constexpr (kPlace == sizeof plan_detail::kFilters / sizeof *plan_detail::kFilters) {
    __builtin_trap();
  } else {
    constexpr plan_detail::Filter kFilter = plan_detail::kFilters[kPlace];
    constexpr bool kNarrow = FRONT_VECTOR_BYTES <= plan_detail::kNarrowBytes;
    static_assert(kFilter.shortest >= 4 * kFilter.taps);  // reflected once
    if constexpr (kRows ? !kNarrow || kFilter.taps <= plan_detail::kMostNarrowTaps : kFilter.factor == 2)
      if (taps == kFilter.taps) return f(Constant<kPlace>{});
    with_filter<kRows, kPlace + 1>(taps, f);
  }
}

}  // namespace front::cpu::FRONT_ISA
