// Energy outside the low-frequency corner of matrices, and its gradient, without a full spectrum. Torch-free.
#pragma once

#include "../params.h"

namespace front::cpu {

// One matrix, and what is kept of it.
struct SpectralMatrix {
  const void* x;
  DType type;
  int64_t m, n, k0, k1;
  int64_t row, column;  // strides
  bool only_rows;       // coefficients are of the rows alone, [m, k1], untransformed along the columns; else [k0, k1]

  DType compute() const { return type == DType::f64 ? DType::f64 : DType::f32; }
};

struct Spread {
  double shift = 0;             // about where the values lie: as _spectral_definition.py's typical_value
  double mean = 0, energy = 0;  // energy: sum of (x - mean)^2
  bool constant = false;        // std <= 8 eps |shift|
};

// x -> coefficients of x - shift (contiguous, in the compute type), in one read. Throws as run_matrices does, as do all
// of these.
Spread read_coefficients(const SpectralMatrix& matrix, void* coefficients, const Executor& executor);

// grad += factor r + slope (x - mean), r = x - shift - (what the coefficients give, zero-padded); no grad: null data.
// Returns the sum of r^2.
struct SpectralGrad {
  void* data;
  DType type;  // x's or the compute type
  int64_t row, column;
  double factor, slope, mean, shift;
};
double add_residual(const SpectralMatrix& matrix, const void* coefficients, const SpectralGrad& grad,
                    const Executor& executor);

// With C = D_m x D_n^T (orthonormal) and w = exp(-decay0 u / m - decay1 v / n) inside the k0 x k1 corner, 0 outside:
// E = sum (1 - w) C^2, whose gradient is 2 (x - D_m^T (w C) D_n). Standardised: of (x - mean) / s, s = std + 1e-8.
// A constant matrix has loss 0 and gradient 0.
struct SpectralLoss {
  SpectralMatrix matrix;
  SpectralGrad grad;  // += scale dE/dx; only where it lies is given
  double decay0, decay1;
  bool standardize;
  double scale;
  double loss;  // the result
};

// `apart`: no two gradients share memory, so that they may be added to at once.
void run_spectral(SpectralLoss* losses, int64_t count, bool apart, const Executor& executor);

}  // namespace front::cpu
