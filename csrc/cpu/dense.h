// The DCT-II of W lanes by definition, for few coefficients: X_u = sum_i b_u(i) (x_i +- x_{n-1-i}) over the first half
// of the lane, + for even u. The work array holds the pairs (x_i, x_{n-1-i}), the middle value with a zero where n is
// odd, then the coefficients. Included only by axis_isa.cpp (see vectors.h).
#pragma once

#include "simd.h"
#include "tables.h"

namespace front::cpu::FRONT_ISA {

constexpr int kBlock = plan_detail::kDenseBlock;

// sums[u] += b_u(i) pair_i over pairs [begin, end). Sums of a few are summed in turn, and their sums: rounding errors
// grow with the longest chain.
template <int kChain, class T>
FRONT_INLINE void add_products(const Vector<T>* pairs, const T* basis, int64_t begin, int64_t end, Vector<T>* sums) {
  if constexpr (kChain > 1) {
    constexpr int64_t kPiece = kChain == 3 ? kSummedPieces * kSummedPairs : kSummedPairs;
    for (int64_t i = begin; i < end; i += kPiece) {
      Vector<T> piece[kBlock] = {};
      add_products<kChain - 1, T>(pairs, basis, i, end - i < kPiece ? end : i + kPiece, piece);
      for (int u = 0; u < kBlock; ++u) sums[u] += piece[u];
    }
  } else {
    for (int64_t i = begin; i < end; ++i)
      for (int u = 0; u < kBlock; ++u) sums[u] += splat(basis[i * kBlock + u]) * pairs[2 * i + u % 2];
  }
}

template <class T>
void dense_forward(const AxisView<T>& axis, Vector<T>* z) {
  const int64_t half = axis.half;
  for (int64_t i = 0; i < axis.n / 2; ++i) {
    const Vector<T> a = z[2 * i], b = z[2 * i + 1];
    z[2 * i] = a + b, z[2 * i + 1] = a - b;
  }
  if (axis.n % 2 != 0) z[axis.n] = T(0) * z[axis.n - 1];  // NaN and Inf reach every coefficient
  const T* basis = axis.combine;
  for (int64_t k = 0; k < axis.kept; k += kBlock, basis += half * kBlock) {
    Vector<T> sums[kBlock] = {};
    add_products<3, T>(z, basis, 0, half, sums);
    for (int u = 0; u < kBlock && k + u < axis.kept; ++u) z[2 * half + k + u] = sums[u];
  }
}

// even[r][g] and odd[r][g] += what the coefficients of block g make of pair r of those at `basis`. x: coefficients of
// the first block, `stride` from block to block; kept: whole blocks of kBlock, kSummedCoefficients at most.
template <int kPairs, int kTogether, class T>
FRONT_INLINE void add_coefficients(const Vector<T>* x, int64_t stride, int64_t kept, const T* basis, int64_t half,
                                   Vector<T> (&even)[kPairs][kTogether], Vector<T> (&odd)[kPairs][kTogether]) {
  for (int64_t k = 0; k < kept; k += kBlock, basis += half * kBlock)
    for (int u = 0; u < kBlock; u += 2) {
      Vector<T> a[kTogether], b[kTogether];
      for (int g = 0; g < kTogether; ++g) a[g] = x[g * stride + k + u], b[g] = x[g * stride + k + u + 1];
      for (int r = 0; r < kPairs; ++r)
        for (int g = 0; g < kTogether; ++g) {
          even[r][g] += splat(basis[r * kBlock + u]) * a[g];
          odd[r][g] += splat(basis[r * kBlock + u + 1]) * b[g];
        }
    }
}

// The exact transpose. Of every kSummedCoefficients a sum of its own.
template <class T>
void dense_inverse(const AxisView<T>& axis, Vector<T>* z) {
  const int64_t half = axis.half, kept = dense_coefficients(axis.kept);
  Vector<T>* x = z + 2 * half;
  for (int64_t k = axis.kept; k < kept; ++k) x[k] = Vector<T>{};
  const auto add = [&](auto pairs, int64_t k, int64_t i) FRONT_INLINED {
    const int64_t count = kept - k < kSummedCoefficients ? kept - k : kSummedCoefficients;
    Vector<T> even[pairs][1] = {}, odd[pairs][1] = {};
    add_coefficients<pairs, 1, T>(x + k, 0, count, axis.combine + k * half + i * kBlock, half, even, odd);
    for (int r = 0; r < pairs; ++r, ++i) {
      z[2 * i] = k ? z[2 * i] + even[r][0] : even[r][0];
      z[2 * i + 1] = k ? z[2 * i + 1] + odd[r][0] : odd[r][0];
    }
  };
  for (int64_t k = 0; k < kept; k += kSummedCoefficients) {
    int64_t i = 0;
    for (; i + 4 <= half; i += 4) add(Constant<4>{}, k, i);
    for (; i < half; ++i) add(Constant<1>{}, k, i);
  }
  for (int64_t i = 0; i < half; ++i) {
    const Vector<T> even = z[2 * i], odd = z[2 * i + 1];
    z[2 * i] = even + odd, z[2 * i + 1] = even - odd;
  }
}

}  // namespace front::cpu::FRONT_ISA
