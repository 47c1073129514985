#include "passes.h"

namespace front::cpu {
namespace {

Tensor idct_pad(const Tensor& x, std::vector<int64_t> size, const NormName& norm, std::optional<ScalarType> out_dtype) {
  const Types types = types_of("idct_pad", x, out_dtype);
  const auto sizes = check_matrix("idct_pad", x);
  check_pair("idct_pad", "size", size);
  check_size("idct_pad", "size[0]", size[0], sizes.end()[-2]);
  check_size("idct_pad", "size[1]", size[1], sizes.end()[-1]);
  return inverse2(x, size[0], size[1], parse_norm("idct_pad", norm.value), types);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) { m.impl("idct_pad", TORCH_BOX(&front::cpu::idct_pad)); }
