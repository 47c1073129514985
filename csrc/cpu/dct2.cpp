#include "passes.h"

namespace front::cpu {
namespace {

Tensor dct2(const Tensor& x, const NormName& norm, std::optional<ScalarType> out_dtype) {
  const Types types = types_of("dct2", x, out_dtype);
  const auto sizes = check_matrix("dct2", x);
  return forward2(x, sizes.end()[-2], sizes.end()[-1], parse_norm("dct2", norm.value), types);
}

Tensor idct2(const Tensor& x, const NormName& norm, std::optional<ScalarType> out_dtype) {
  const Types types = types_of("idct2", x, out_dtype);
  const auto sizes = check_matrix("idct2", x);
  return inverse2(x, sizes.end()[-2], sizes.end()[-1], parse_norm("idct2", norm.value), types);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("dct2", TORCH_BOX(&front::cpu::dct2));
  m.impl("idct2", TORCH_BOX(&front::cpu::idct2));
}
