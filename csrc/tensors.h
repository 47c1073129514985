// Ops as passes: what a kernel is told of tensors, the same for every device.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "stable.h"

namespace front {

// One axis of `in` transformed into `out`, which has the same shape but for that axis.
inline AxisPass new_axis_pass(Direction direction, Norm norm, int64_t n, int64_t kept, int64_t dim, const Tensor& in,
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
  pass.in_along = {in_strides[dim], 0, 0};
  pass.out_along = {out_strides[dim], 0, 0};
  for (int64_t d = 0; d < static_cast<int64_t>(sizes.size()); ++d)
    if (d != dim) {
      pass.lanes[pass.lane_dims++] = {sizes[d], in_strides[d], out_strides[d]};
      if ((direction == Direction::inverse ? out_strides : in_strides)[d] == 1 && sizes[d] > 1) pass.row = sizes[d];
    }
  return pass;
}

inline std::vector<int64_t> with_size(std::vector<int64_t> sizes, int64_t dim, int64_t size) {
  sizes[dim] = size;
  return sizes;
}

inline std::vector<int64_t> matrix_sizes(std::vector<int64_t> sizes, int64_t rows, int64_t columns) {
  sizes.end()[-2] = rows;
  sizes.end()[-1] = columns;
  return sizes;
}

// What the three kinds of transform have in common: tensors, layouts, types. All xs have one shape and one layout, and
// so have all outs; the lists are not empty.
inline MatrixPass new_matrix_pass(Direction direction, const Tensor& x, const Tensor& out, Types types) {
  MatrixPass pass{};
  pass.direction = direction;
  pass.in_type = types.in;
  pass.compute_type = types.compute;
  pass.out_type = types.out;
  const auto sizes = x.sizes();
  const auto in = x.strides(), out_strides = out.strides();
  const size_t rank = sizes.size();
  pass.in_row = in[rank - 2];
  pass.in_column = in[rank - 1];
  pass.out_row = out_strides[rank - 2];
  pass.out_column = out_strides[rank - 1];
  for (size_t d = 0; d + 2 < rank; ++d) pass.batch[pass.batch_dims++] = {sizes[d], in[d], out_strides[d]};
  return pass;
}

inline bool same_layout(const Tensor& a, const Tensor& b) {
  const auto as = a.strides(), bs = b.strides();
  return std::equal(as.begin(), as.end(), bs.begin(), bs.end());
}

// First and one past the last byte of a tensor's elements.
inline std::pair<const char*, const char*> extent(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  int64_t low = 0, high = 0;
  for (size_t d = 0; d < sizes.size(); ++d) (strides[d] < 0 ? low : high) += (sizes[d] - 1) * strides[d];
  const auto* data = static_cast<const char*>(x.const_data_ptr());
  const auto element = static_cast<int64_t>(x.element_size());
  return {data + low * element, data + (high + 1) * element};
}

// Whether two tensors provably share no element although their extents overlap: for some stride, every address of the
// one lies in another part of that stride's period than every address of the other. So do slices of one larger tensor.
inline bool interleaved(const Tensor& a, const Tensor& b) {
  const auto part = [](const Tensor& x, int64_t period) -> std::pair<int64_t, int64_t> {  // begin and length
    const auto sizes = x.sizes(), strides = x.strides();
    const auto element = static_cast<int64_t>(x.element_size());
    int64_t low = 0, high = 0;
    for (size_t d = 0; d < sizes.size(); ++d)
      if (strides[d] * element % period) (strides[d] < 0 ? low : high) += (sizes[d] - 1) * strides[d];
    const auto address = static_cast<int64_t>(reinterpret_cast<intptr_t>(x.const_data_ptr())) + low * element;
    return {address % period, (high - low + 1) * element};
  };
  for (const Tensor* x : {&a, &b}) {
    const auto sizes = x->sizes(), strides = x->strides();
    for (size_t d = 0; d < sizes.size(); ++d) {
      const int64_t period = std::abs(strides[d]) * static_cast<int64_t>(x->element_size());
      if (sizes[d] < 2 || period == 0) continue;
      const auto [first, length] = part(a, period);
      const auto [second, other] = part(b, period);
      const int64_t ahead = (second - first + period) % period;  // from a's part to b's
      if (length <= ahead && ahead + other <= period) return true;
    }
  }
  return false;
}

// Matrices are transformed one after the other. If a result overlaps the input of another one, x is copied first; a
// matrix and its own result may share memory.
inline Tensor unshared(const Tensor& x, const Tensor& out) {
  const auto sizes = x.sizes();
  int64_t matrices = 1;
  for (size_t d = 0; d + 2 < sizes.size(); ++d) matrices *= sizes[d];
  if (matrices < 2 || x.numel() == 0 || out.numel() == 0) return x;
  const auto a = extent(x), b = extent(out);
  if (a.second <= b.first || b.second <= a.first) return x;
  // Each matrix in the place of its own result, or the other way round, and no two of either kind meet (of results
  // check_out has made sure).
  const auto size = sizes_of(x), result = sizes_of(out);
  const bool larger = size.end()[-2] >= result.end()[-2] && size.end()[-1] >= result.end()[-1];
  const bool smaller = size.end()[-2] <= result.end()[-2] && size.end()[-1] <= result.end()[-1];
  const bool at_one_place = x.const_data_ptr() == out.const_data_ptr() && same_layout(x, out);
  if (at_one_place && x.element_size() == out.element_size() && (larger || smaller) && distinct(x)) return x;
  return torch::stable::clone(x);
}

// Transforms all xs -> outs, each list of one shape, by what describe(x, out) says; those of one layout go together in
// a run(pass).
template <class Describe, class Run>
void run_all(const std::vector<Tensor>& xs, const std::vector<Tensor>& outs, Describe describe, Run run) {
  std::vector<bool> done(xs.size());
  for (size_t first = 0; first < xs.size(); ++first) {
    if (done[first]) continue;
    std::vector<const void*> in;
    std::vector<void*> out;
    for (size_t i = first; i < xs.size(); ++i) {
      if (done[i] || !same_layout(xs[i], xs[first]) || !same_layout(outs[i], outs[first])) continue;
      done[i] = true;
      in.push_back(xs[i].const_data_ptr());
      out.push_back(outs[i].mutable_data_ptr());
    }
    MatrixPass pass = describe(xs[first], outs[first]);
    pass.in = in.data();
    pass.out = out.data();
    pass.count = static_cast<int64_t>(in.size());
    run(pass);
  }
}

// xs [..., m, n] -> outs [..., k0, k1]. The sizes come from the tensors.
template <class Run>
void forward_matrices(const std::vector<Tensor>& xs, const std::vector<Tensor>& outs, Norm norm, Types types, Run run) {
  run_all(
      xs, outs,
      [&](const Tensor& x, const Tensor& out) {
        MatrixPass pass = new_matrix_pass(Direction::forward, x, out, types);
        const auto sizes = sizes_of(x), kept = sizes_of(out);
        pass.m = sizes.end()[-2], pass.n = sizes.end()[-1];
        pass.k0 = kept.end()[-2], pass.k1 = kept.end()[-1];
        pass.columns = norm_scale(norm, pass.m, Direction::forward);
        pass.rows = norm_scale(norm, pass.n, Direction::forward);
        return pass;
      },
      run);
}

// xs [..., k0, k1] -> outs [..., m, n].
template <class Run>
void inverse_matrices(const std::vector<Tensor>& xs, const std::vector<Tensor>& outs, Norm norm, Types types, Run run) {
  run_all(
      xs, outs,
      [&](const Tensor& x, const Tensor& out) {
        MatrixPass pass = new_matrix_pass(Direction::inverse, x, out, types);
        const auto kept = sizes_of(x), sizes = sizes_of(out);
        pass.m = sizes.end()[-2], pass.n = sizes.end()[-1];
        pass.k0 = kept.end()[-2], pass.k1 = kept.end()[-1];
        pass.columns = norm_scale(norm, pass.m, Direction::inverse);
        pass.rows = norm_scale(norm, pass.n, Direction::inverse);
        return pass;
      },
      run);
}

// x [..., m, n] -> k0 x k1 coefficients, in the compute type -> out [..., m', n'].
template <class Run>
void resize_matrices(const Tensor& x, int64_t k0, int64_t k1, const Tensor& out, Norm norm, Types types, Run run) {
  run_all(
      {x}, {out},
      [&](const Tensor& from, const Tensor& to) {
        MatrixPass pass = new_matrix_pass(Direction::resize, from, to, types);
        const auto in_sizes = sizes_of(from), out_sizes = sizes_of(to);
        pass.m = in_sizes.end()[-2], pass.n = in_sizes.end()[-1];
        pass.size0 = out_sizes.end()[-2], pass.size1 = out_sizes.end()[-1];
        pass.k0 = k0, pass.k1 = k1;
        pass.columns = norm_scale(norm, pass.m, Direction::forward);
        pass.rows = norm_scale(norm, pass.n, Direction::forward);
        pass.columns_back = norm_scale(norm, pass.size0, Direction::inverse);
        pass.rows_back = norm_scale(norm, pass.size1, Direction::inverse);
        return pass;
      },
      run);
}

// The first rows and columns of each matrix, as a view.
inline Tensor corner(Tensor x, int64_t rows, int64_t columns) {
  const int64_t rank = x.dim();
  Tensor upper = torch::stable::narrow(x, rank - 2, 0, rows);
  return torch::stable::narrow(upper, rank - 1, 0, columns);
}

inline std::vector<int64_t> check_matrix(const char* op, const Tensor& x, std::string_view name = "x") {
  auto sizes = sizes_of(x);
  check_rank(op, sizes, 2, name);
  check_axis(op, sizes, static_cast<int64_t>(sizes.size()) - 2, name);
  check_axis(op, sizes, static_cast<int64_t>(sizes.size()) - 1, name);
  return sizes;
}

}  // namespace front
