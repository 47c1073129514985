// Both axes of matrices, as passes over one axis with an M x k1 intermediate between them. Torch-free.
#pragma once

#include "../params.h"

namespace front::cpu {

// Transforms every matrix of `pass`, rows or columns first (plan_matrix), with an intermediate of at most M x k1.
// Within a matrix all of the input is read before any of the output is written. Throws as run_axis does.
void run_matrices(const MatrixPass& pass, const Executor& executor);

}  // namespace front::cpu
