// Ops as sequences of axis passes over tensors.
#pragma once

#include <algorithm>

#include "../stable.h"
#include "axis.h"

namespace front::cpu {

inline AxisPass new_pass(Direction direction, Norm norm, int64_t n, int64_t kept, Types types) {
  AxisPass pass{};
  pass.direction = direction;
  pass.n = n;
  pass.kept = kept;
  pass.scale = norm_scale(norm, n, direction);
  pass.in_type = types.in;
  pass.out_type = types.out;
  return pass;
}

inline void add_lanes(AxisPass& pass, int64_t size, int64_t in_stride, int64_t out_stride) {
  pass.lanes[pass.lane_dims++] = {size, in_stride, out_stride};
}

// One axis of `in` transformed into `out`, which has the same shape but for that axis.
inline void run_pass(Direction direction, Norm norm, int64_t n, int64_t kept, int64_t dim, const Tensor& in,
                     const Tensor& out, Types types) {
  AxisPass pass = new_pass(direction, norm, n, kept, types);
  pass.in = in.const_data_ptr();
  pass.out = out.mutable_data_ptr();
  const auto sizes = in.sizes();
  const auto in_strides = in.strides(), out_strides = out.strides();
  pass.in_stride = in_strides[dim];
  pass.out_stride = out_strides[dim];
  for (int64_t d = 0; d < static_cast<int64_t>(sizes.size()); ++d)
    if (d != dim) add_lanes(pass, sizes[d], in_strides[d], out_strides[d]);
  run_axis(pass, torch_parallel);
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

// The matrix between the two passes, M x k1 per batch entry, as panels of one cache line's width: the row pass writes
// whole lines, and a block of the column pass reads one contiguous piece instead of a line per row, a page apart.
class Panels {
 public:
  // `like` has the batch axes and the device. A matrix narrower than a line is one panel of its own width.
  Panels(const Tensor& like, int64_t rows, int64_t columns, DType type)
      : rows_(rows), columns_(columns), type_(type), width_(std::min(kPanelBytes / size_of(type), columns)) {
    const auto sizes = sizes_of(like);
    for (size_t d = 0; d + 2 < sizes.size(); ++d) batch_.push_back(sizes[d]);
    matrix_ = (columns + width_ - 1) / width_ * panel();
    int64_t count = matrix_;
    for (int64_t size : batch_) count *= size;
    data_ = empty(like, {count}, type);
  }

  // Rows of x -> panels (forward), or panels -> rows of x (inverse).
  void row_pass(AxisPass pass, const Tensor& x) const {
    const bool to_panels = pass.direction == Direction::forward;
    const auto strides = x.strides();
    const size_t rank = batch_.size();
    add_batch(pass, strides, to_panels);
    add(pass, rows_, strides[rank], width_, to_panels);
    pass.in = (to_panels ? x : data_).const_data_ptr();
    pass.out = (to_panels ? data_ : x).mutable_data_ptr();
    (to_panels ? pass.in_stride : pass.out_stride) = strides[rank + 1];
    (to_panels ? pass.out_panel : pass.in_panel) = panel();
    run_axis(pass, torch_parallel);
  }

  // Panels -> columns of x (forward), or columns of x -> panels (inverse). The last panel may be narrower.
  void column_pass(const AxisPass& base, const Tensor& x) const {
    const int64_t whole = columns_ / width_ * width_;
    column_range(base, x, 0, whole);
    column_range(base, x, whole, columns_);
  }

 private:
  using Strides = torch::headeronly::IntHeaderOnlyArrayRef;

  int64_t panel() const { return rows_ * width_; }

  static void add(AxisPass& pass, int64_t size, int64_t outside, int64_t inside, bool to_panels) {
    to_panels ? add_lanes(pass, size, outside, inside) : add_lanes(pass, size, inside, outside);
  }

  void add_batch(AxisPass& pass, Strides strides, bool to_panels) const {
    int64_t inside = matrix_;
    for (size_t d = batch_.size(); d-- > 0; inside *= batch_[d]) add(pass, batch_[d], strides[d], inside, to_panels);
  }

  void column_range(AxisPass pass, const Tensor& x, int64_t begin, int64_t end) const {
    if (begin == end) return;
    const bool to_panels = pass.direction == Direction::inverse;
    const auto strides = x.strides();
    const size_t rank = batch_.size();
    const int64_t column = strides[rank + 1];
    add_batch(pass, strides, to_panels);
    if (end - begin >= width_) add(pass, (end - begin) / width_, width_ * column, panel(), to_panels);
    add(pass, std::min(end - begin, width_), column, 1, to_panels);
    const int64_t there = begin * column * size_of(to_panels ? pass.in_type : pass.out_type);
    const int64_t here = begin / width_ * panel() * size_of(type_);
    pass.in = static_cast<const char*>((to_panels ? x : data_).const_data_ptr()) + (to_panels ? there : here);
    pass.out = static_cast<char*>((to_panels ? data_ : x).mutable_data_ptr()) + (to_panels ? here : there);
    (to_panels ? pass.out_stride : pass.in_stride) = width_;
    (to_panels ? pass.in_stride : pass.out_stride) = strides[rank];
    run_axis(pass, torch_parallel);
  }

  int64_t rows_, columns_;
  DType type_;
  int64_t width_, matrix_;
  std::vector<int64_t> batch_;
  Tensor data_;
};

// Rows first: the intermediate is M x k1. `out` may overlap x: all of x is read before any of it is written.
inline void forward2(const Tensor& x, const Tensor& out, Norm norm, Types types) {
  const auto sizes = sizes_of(x), kept = sizes_of(out);
  const int64_t m = sizes.end()[-2], n = sizes.end()[-1], k0 = kept.end()[-2], k1 = kept.end()[-1];
  const Panels mid(x, m, k1, types.compute);
  mid.row_pass(new_pass(Direction::forward, norm, n, k1, {types.in, types.compute, types.compute}), x);
  mid.column_pass(new_pass(Direction::forward, norm, m, k0, {types.compute, types.compute, types.out}), out);
}

// Columns first: the intermediate is M x k1, as in the forward direction whose transpose this is.
inline void inverse2(const Tensor& x, const Tensor& out, Norm norm, Types types) {
  const auto kept = sizes_of(x), sizes = sizes_of(out);
  const int64_t m = sizes.end()[-2], n = sizes.end()[-1], k0 = kept.end()[-2], k1 = kept.end()[-1];
  const Panels mid(x, m, k1, types.compute);
  mid.column_pass(new_pass(Direction::inverse, norm, m, k0, {types.in, types.compute, types.compute}), x);
  mid.row_pass(new_pass(Direction::inverse, norm, n, k1, {types.compute, types.compute, types.out}), out);
}

// The kept coefficients stay in the compute type; nothing larger than them or M x k1 lies between the tensors.
inline void resize2(const Tensor& x, int64_t k0, int64_t k1, const Tensor& out, Norm norm, Types types) {
  const Tensor kept = empty(x, matrix_sizes(sizes_of(x), k0, k1), types.compute);
  forward2(x, kept, norm, {types.in, types.compute, types.compute});
  inverse2(kept, out, norm, {types.compute, types.compute, types.out});
}

inline std::vector<int64_t> check_matrix(const char* op, const Tensor& x) {
  auto sizes = sizes_of(x);
  check_rank(op, sizes, 2);
  check_axis(op, sizes, static_cast<int64_t>(sizes.size()) - 2);
  check_axis(op, sizes, static_cast<int64_t>(sizes.size()) - 1);
  return sizes;
}

}  // namespace front::cpu
