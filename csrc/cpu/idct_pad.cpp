#include "passes.h"

namespace front::cpu {
namespace {

Tensor pad(const Tensor& x, const std::vector<int64_t>& size, const NormName& norm, const Result& result) {
  const Types types = types_of("idct_pad", x, result);
  const auto sizes = check_matrix("idct_pad", x);
  check_pair("idct_pad", "size", size);
  check_size("idct_pad", "size[0]", size[0], sizes.end()[-2]);
  check_size("idct_pad", "size[1]", size[1], sizes.end()[-1]);
  const Norm scale = parse_norm("idct_pad", norm.value);
  Tensor out = make_result("idct_pad", x, matrix_sizes(sizes, size[0], size[1]), types.out, result);
  inverse2({unshared(x, out)}, {out}, scale, types);
  return out;
}

Tensor idct_pad(const Tensor& x, std::vector<int64_t> size, const NormName& norm, std::optional<ScalarType> out_dtype) {
  return pad(x, size, norm, out_dtype);
}

void idct_pad_out(const Tensor& x, std::vector<int64_t> size, const NormName& norm, const Tensor& out) {
  pad(x, size, norm, out);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("idct_pad", TORCH_BOX(&front::cpu::idct_pad));
  m.impl("idct_pad.out", TORCH_BOX(&front::cpu::idct_pad_out));
}
