#include "passes.h"

namespace front::cpu {
namespace {

Tensor transform(const char* op, Direction direction, const Tensor& x, const NormName& norm, const Result& result) {
  const Types types = types_of(op, x, result);
  const auto sizes = check_matrix(op, x);
  const Norm scale = parse_norm(op, norm.value);
  Tensor out = make_result(op, x, sizes, types.out, result);
  (direction == Direction::forward ? forward2 : inverse2)({unshared(x, out)}, {out}, scale, types);
  return out;
}

Tensor dct2(const Tensor& x, const NormName& norm, std::optional<ScalarType> out_dtype) {
  return transform("dct2", Direction::forward, x, norm, out_dtype);
}

void dct2_out(const Tensor& x, const NormName& norm, const Tensor& out) {
  transform("dct2", Direction::forward, x, norm, out);
}

Tensor idct2(const Tensor& x, const NormName& norm, std::optional<ScalarType> out_dtype) {
  return transform("idct2", Direction::inverse, x, norm, out_dtype);
}

void idct2_out(const Tensor& x, const NormName& norm, const Tensor& out) {
  transform("idct2", Direction::inverse, x, norm, out);
}

void in_place(const char* op, Direction direction, const Tensor& x, const NormName& norm) {
  const Types types = types_of(op, x);
  check_matrix(op, x);
  const Norm scale = parse_norm(op, norm.value);
  check_distinct(op, "x", x);
  (direction == Direction::forward ? forward2 : inverse2)({x}, {x}, scale, types);
}

void dct2_(const Tensor& x, const NormName& norm) { in_place("dct2_", Direction::forward, x, norm); }

void idct2_(const Tensor& x, const NormName& norm) { in_place("idct2_", Direction::inverse, x, norm); }

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("dct2", TORCH_BOX(&front::cpu::dct2));
  m.impl("dct2.out", TORCH_BOX(&front::cpu::dct2_out));
  m.impl("dct2_", TORCH_BOX(&front::cpu::dct2_));
  m.impl("idct2_", TORCH_BOX(&front::cpu::idct2_));
  m.impl("idct2", TORCH_BOX(&front::cpu::idct2));
  m.impl("idct2.out", TORCH_BOX(&front::cpu::idct2_out));
}
