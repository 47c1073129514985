// Ops as sequences of axis passes over tensors.
#pragma once

#include "../stable.h"
#include "axis.h"

namespace front::cpu {

// One axis of `in` transformed into `out`, which has the same shape but for that axis.
inline void run_pass(Direction direction, Norm norm, int64_t n, int64_t kept, int64_t dim, const Tensor& in,
                     const Tensor& out, Types types) {
  AxisPass pass{};
  pass.direction = direction;
  pass.n = n;
  pass.kept = kept;
  pass.scale = norm_scale(norm, n, direction);
  pass.in = in.const_data_ptr();
  pass.out = out.mutable_data_ptr();
  pass.in_type = types.in;
  pass.out_type = types.out;
  const auto sizes = in.sizes();
  const auto in_strides = in.strides(), out_strides = out.strides();
  pass.in_stride = in_strides[dim];
  pass.out_stride = out_strides[dim];
  for (int64_t d = 0; d < static_cast<int64_t>(sizes.size()); ++d)
    if (d != dim) pass.lanes[pass.lane_dims++] = {sizes[d], in_strides[d], out_strides[d]};
  run_axis(pass, torch_parallel);
}

inline std::vector<int64_t> with_size(std::vector<int64_t> sizes, int64_t dim, int64_t size) {
  sizes[dim] = size;
  return sizes;
}

// Rows first: the intermediate is M x k1.
inline Tensor forward2(const Tensor& x, int64_t k0, int64_t k1, Norm norm, Types types) {
  const auto sizes = sizes_of(x);
  const int64_t rows = static_cast<int64_t>(sizes.size()) - 2, cols = rows + 1;
  const Tensor mid = empty(x, with_size(sizes, cols, k1), types.compute);
  const Tensor out = empty(x, with_size(with_size(sizes, cols, k1), rows, k0), types.out);
  run_pass(Direction::forward, norm, sizes[cols], k1, cols, x, mid, {types.in, types.compute, types.compute});
  run_pass(Direction::forward, norm, sizes[rows], k0, rows, mid, out, {types.compute, types.compute, types.out});
  return out;
}

// Columns first: the intermediate is M x k1, as in the forward direction whose transpose this is.
inline Tensor inverse2(const Tensor& x, int64_t m, int64_t n, Norm norm, Types types) {
  const auto sizes = sizes_of(x);
  const int64_t rows = static_cast<int64_t>(sizes.size()) - 2, cols = rows + 1;
  const Tensor mid = empty(x, with_size(sizes, rows, m), types.compute);
  const Tensor out = empty(x, with_size(with_size(sizes, rows, m), cols, n), types.out);
  run_pass(Direction::inverse, norm, m, sizes[rows], rows, x, mid, {types.in, types.compute, types.compute});
  run_pass(Direction::inverse, norm, n, sizes[cols], cols, mid, out, {types.compute, types.compute, types.out});
  return out;
}

// The kept coefficients stay in the compute type; nothing larger than them or M x k1 lies between the tensors.
inline Tensor resize2(const Tensor& x, int64_t k0, int64_t k1, int64_t m, int64_t n, Norm norm, Types types) {
  const Tensor kept = forward2(x, k0, k1, norm, {types.in, types.compute, types.compute});
  return inverse2(kept, m, n, norm, {types.compute, types.compute, types.out});
}

inline std::vector<int64_t> check_matrix(const char* op, const Tensor& x) {
  auto sizes = sizes_of(x);
  check_rank(op, sizes, 2);
  check_axis(op, sizes, static_cast<int64_t>(sizes.size()) - 2);
  check_axis(op, sizes, static_cast<int64_t>(sizes.size()) - 1);
  return sizes;
}

}  // namespace front::cpu
