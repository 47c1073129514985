#include "passes.h"

namespace front::cpu {
namespace {

Tensor dct_crop(const Tensor& x, std::vector<int64_t> k, const NormName& norm, std::optional<ScalarType> out_dtype) {
  const Types types = types_of("dct_crop", x, out_dtype);
  const auto sizes = check_matrix("dct_crop", x);
  check_pair("dct_crop", "k", k);
  check_kept("dct_crop", "k[0]", k[0], sizes.end()[-2]);
  check_kept("dct_crop", "k[1]", k[1], sizes.end()[-1]);
  return forward2(x, k[0], k[1], parse_norm("dct_crop", norm.value), types);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) { m.impl("dct_crop", TORCH_BOX(&front::cpu::dct_crop)); }
