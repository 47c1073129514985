// Ops as passes of the CPU engine.
#pragma once

#include "../tensors.h"
#include "alone.h"
#include "axis.h"
#include "matrix.h"

namespace front::cpu {

inline void run_pass(Direction direction, Norm norm, int64_t n, int64_t kept, int64_t dim, const Tensor& in,
                     const Tensor& out, Types types) {
  const AxisPass pass = new_axis_pass(direction, norm, n, kept, dim, in, out, types);
  if (!run_alone(pass, torch_executor())) run_axis(pass, torch_executor());
}

inline void run(const MatrixPass& pass) { run_matrices(pass, torch_executor()); }

inline void forward2(const std::vector<Tensor>& xs, const std::vector<Tensor>& outs, Norm norm, Types types) {
  forward_matrices(xs, outs, norm, types, run);
}

inline void inverse2(const std::vector<Tensor>& xs, const std::vector<Tensor>& outs, Norm norm, Types types) {
  inverse_matrices(xs, outs, norm, types, run);
}

inline void resize2(const Tensor& x, int64_t k0, int64_t k1, const Tensor& out, Norm norm, Types types) {
  resize_matrices(unshared(x, out), k0, k1, out, norm, types, run);
}

}  // namespace front::cpu
