// The DCT-II of columns by definition, for few coefficients, while their rows stream by. What dense.h computes, in the
// same order, of blocks that lie side by side: their rows are read in long pieces, once, and nothing is kept of them
// but sums. Included only by axis_isa.cpp (see simd.h).
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
    for (int64_t i = begin; i < begin + pairs; ++i) {
      const In *first = x + i * stride, *last = x + (n - 1 - i) * stride;
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

}  // namespace front::cpu::FRONT_ISA
