// Both axes of matrices, as passes over one axis with an M x k1 intermediate between them. Torch-free.
#pragma once

#include "../params.h"
#include "../plan.h"

namespace front::cpu {

// Transforms every matrix of `pass`, rows or columns first (plan_matrix), with an intermediate of at most M x k1.
// Within a matrix all of the input is read before any of the output is written. Throws as run_axis does.
void run_matrices(const MatrixPass& pass, const Executor& executor);

// By `plan`, one of those that plan_matrix compares, instead: to time it (bench/native/plans.cpp). Forward and inverse,
// of float32 or float64, without `measure` and `residual`.
void run_matrices(const MatrixPass& pass, const Executor& executor, const MatrixPlan& plan);

// What the plan of `pass` depends on.
MatrixShape shape_of(const MatrixPass& pass);

}  // namespace front::cpu
