#include "passes.h"

namespace front::cpu {
namespace {

Tensor crop(const Tensor& x, const std::vector<int64_t>& k, const NormName& norm, const Result& result) {
  const Types types = types_of("dct_crop", x, result);
  const auto sizes = check_matrix("dct_crop", x);
  check_pair("dct_crop", "k", k);
  check_kept("dct_crop", "k[0]", k[0], sizes.end()[-2]);
  check_kept("dct_crop", "k[1]", k[1], sizes.end()[-1]);
  const Norm scale = parse_norm("dct_crop", norm.value);
  Tensor out = make_result("dct_crop", x, matrix_sizes(sizes, k[0], k[1]), types.out, result);
  forward2({unshared(x, out)}, {out}, scale, types);
  return out;
}

Tensor dct_crop(const Tensor& x, std::vector<int64_t> k, const NormName& norm, std::optional<ScalarType> out_dtype) {
  return crop(x, k, norm, out_dtype);
}

void dct_crop_out(const Tensor& x, std::vector<int64_t> k, const NormName& norm, const Tensor& out) {
  crop(x, k, norm, out);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("dct_crop", TORCH_BOX(&front::cpu::dct_crop));
  m.impl("dct_crop.out", TORCH_BOX(&front::cpu::dct_crop_out));
}
