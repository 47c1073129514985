// The DCT-II of columns by definition, for few coefficients, while their rows stream by, and its transpose. What
// dense.h computes, in the same order, of blocks that lie side by side: their rows are read, or written, in long
// pieces, once, and nothing is kept of them but sums. Included only by axis_isa.cpp (see vectors.h).
#pragma once

#include "dense.h"

namespace front::cpu::FRONT_ISA {

// near[b][u] += sum of b_u(i) pair_i of blocks b = 0..kTogether-1. folded: [pair][block][sum, difference].
template <int kTogether, class T>
FRONT_INLINE void add_piece(const Vector<T>* folded, int blocks, int64_t pairs, const T* basis, Vector<T>* near,
                            int64_t kept) {
  Vector<T> sums[kTogether][kBlock] = {};
  for (int64_t i = 0; i < pairs; ++i, basis += kBlock, folded += 2 * blocks)
    for (int u = 0; u < kBlock; ++u) {
      const Vector<T> b = splat(basis[u]);
      for (int g = 0; g < kTogether; ++g) sums[g][u] += b * folded[2 * g + u % 2];
    }
  for (int g = 0; g < kTogether; ++g)
    for (int u = 0; u < kBlock; ++u) near[g * kept + u] += sums[g][u];
}

// Columns x + i stride of `blocks` blocks side by side -> totals[block][dense_coefficients(axis.kept)]. Both arrays
// together have streamed_vectors(axis.kept) per block.
template <class In, class T>
void stream_forward(const AxisView<T>& axis, const In* x, int64_t stride, int blocks, Vector<T>* totals,
                    Vector<T>* scratch) {
  constexpr int W = kLanes<T>, kTogether = FRONT_VECTOR_BYTES == 64 ? 2 : 1;  // as many sums as registers hold
  const int64_t n = axis.n, half = axis.half, kept = dense_coefficients(axis.kept);
  constexpr int64_t kPairs = kSummedPairs;
  Vector<T>*folded = scratch, *near = scratch + 2 * kPairs * blocks;
  for (int64_t i = 0; i < blocks * kept; ++i) totals[i] = near[i] = Vector<T>{};
  for (int64_t begin = 0; begin < half; begin += kPairs) {
    const int64_t pairs = half - begin < kPairs ? half - begin : kPairs;
    Vector<T>* out = folded;
    const In *first = x + begin * stride, *last = x + (n - 1 - begin) * stride;
    for (int64_t i = begin; i < begin + pairs; ++i, first += stride, last -= stride) {
      const bool middle = 2 * i == n - 1;
      for (int g = 0; g < blocks; g += kBlocksPerLine<T, In>) {
        __builtin_prefetch(first + kPairs * stride + g * W);
        __builtin_prefetch(last - kPairs * stride + g * W);
      }
      for (int g = 0; g < blocks; ++g, out += 2) {
        const Vector<T> a = load<T>(first + g * W), b = load<T>(last + g * W);
        out[0] = middle ? a : a + b;
        out[1] = middle ? T(0) * a : a - b;  // NaN and Inf reach every coefficient
      }
    }
    const T* basis = axis.combine + begin * kBlock;
    for (int64_t k = 0; k < kept; k += kBlock, basis += half * kBlock) {
      int g = 0;
      for (; g + kTogether <= blocks; g += kTogether)
        add_piece<kTogether, T>(folded + 2 * g, blocks, pairs, basis, near + g * kept + k, kept);
      for (; g < blocks; ++g) add_piece<1, T>(folded + 2 * g, blocks, pairs, basis, near + g * kept + k, kept);
    }
    if (begin / kPairs % kSummedPieces != kSummedPieces - 1 && begin + kPairs < half) continue;
    for (int64_t i = 0; i < blocks * kept; ++i) totals[i] += near[i], near[i] = Vector<T>{};
  }
}

// The coefficients x[block][dense_coefficients(axis.kept)] -> rows, a piece at a time: store(first row, how many, where
// the first one's vectors are). values: [block][2 kSummedPairs], rows and then their mirrors.
template <class T, class Store>
FRONT_INLINE void stream_inverse(const AxisView<T>& axis, const Vector<T>* x, int blocks, Vector<T>* values,
                                 Store store) {
  constexpr int kPairs = kSummedPairs, kTogether = 2, kAtOnce = FRONT_VECTOR_BYTES == 64 ? 4 : 2;  // sums in registers
  const int64_t n = axis.n, half = axis.half, kept = dense_coefficients(axis.kept);
  for (int64_t begin = 0; begin < half; begin += kPairs) {
    const int64_t pairs = half - begin < kPairs ? half - begin : kPairs;
    const int64_t mirrors = n - begin - pairs < begin + pairs ? pairs - 1 : pairs;  // the middle row has none
    const auto add = [&](auto at_once, auto together, int64_t i, int g) FRONT_INLINED {
      Vector<T> even[at_once][together] = {}, odd[at_once][together] = {};
      const auto add_some = [&](int64_t k, auto& e, auto& o) FRONT_INLINED {
        const int64_t count = kept - k < kSummedCoefficients ? kept - k : kSummedCoefficients;
        const T* basis = axis.combine + k * half + (begin + i) * kBlock;
        add_coefficients<at_once, together, T>(x + g * kept + k, kept, count, basis, half, e, o);
      };
      add_some(0, even, odd);
      for (int64_t k = kSummedCoefficients; k < kept; k += kSummedCoefficients) {
        Vector<T> more_even[at_once][together] = {}, more_odd[at_once][together] = {};
        add_some(k, more_even, more_odd);
        for (int r = 0; r < at_once; ++r)
          for (int b = 0; b < together; ++b) even[r][b] += more_even[r][b], odd[r][b] += more_odd[r][b];
      }
      for (int b = 0; b < together; ++b) {
        Vector<T>*const rows = values + (g + b) * 2 * kPairs + i, *const mirrored = rows - 2 * i + kPairs + mirrors - 1;
        for (int r = 0; r < at_once; ++r) {
          rows[r] = even[r][b] + odd[r][b];
          if (i + r < mirrors) mirrored[-r] = even[r][b] - odd[r][b];
        }
      }
    };
    const auto add_all = [&](auto together, int g) FRONT_INLINED {
      int64_t i = 0;
      for (; i + kAtOnce <= pairs; i += kAtOnce) add(Constant<kAtOnce>{}, together, i, g);
      for (; i < pairs; ++i) add(Constant<1>{}, together, i, g);
    };
    int g = 0;
    for (; g + kTogether <= blocks; g += kTogether) add_all(Constant<kTogether>{}, g);
    for (; g < blocks; ++g) add_all(Constant<1>{}, g);
    store(begin, pairs, values);
    store(n - begin - mirrors, mirrors, values + kPairs);
  }
}

}  // namespace front::cpu::FRONT_ISA
