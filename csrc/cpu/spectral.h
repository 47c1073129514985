// Energy outside the low-frequency corner of matrices, and its gradient, without a full spectrum. Torch-free.
#pragma once

#include "../params.h"

namespace front::cpu {

// With C = D_m x D_n^T (orthonormal) and w = exp(-decay0 u / m - decay1 v / n) inside the k0 x k1 corner, 0 outside:
// E = sum (1 - w) C^2, whose gradient is 2 (x - D_m^T (w C) D_n). Standardised: of (x - mean) / s, s = std + 1e-8.
// A constant matrix (std <= 8 eps |x[0, 0]|) has loss 0 and gradient 0.
struct SpectralMatrix {
  const void* x;
  void* grad;             // += scale dE/dx; null: only the loss
  DType type, grad_type;  // grad has x's type or the compute type
  int64_t m, n, k0, k1;
  int64_t row, column, grad_row, grad_column;  // strides
  double decay0, decay1;
  bool standardize;
  double scale;
  double loss;  // the result
};

// `apart`: no two matrices share memory, so that they may run at once. Throws as run_matrices does.
void run_spectral(SpectralMatrix* matrices, int64_t count, bool apart, const Executor& executor);

}  // namespace front::cpu
