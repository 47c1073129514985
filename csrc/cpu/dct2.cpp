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

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("dct2", TORCH_BOX(&front::cpu::dct2));
  m.impl("dct2.out", TORCH_BOX(&front::cpu::dct2_out));
  m.impl("idct2", TORCH_BOX(&front::cpu::idct2));
  m.impl("idct2.out", TORCH_BOX(&front::cpu::idct2_out));
}
