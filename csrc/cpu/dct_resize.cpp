#include <algorithm>

#include "passes.h"

namespace front::cpu {
namespace {

Tensor resize(const Tensor& x, const std::vector<int64_t>& size, const std::optional<std::vector<int64_t>>& k,
              const NormName& norm, const Result& result) {
  const Types types = types_of("dct_resize", x, result);
  const auto sizes = check_matrix("dct_resize", x);
  check_pair("dct_resize", "size", size);
  check_length("dct_resize", "size[0]", size[0]);
  check_length("dct_resize", "size[1]", size[1]);
  int64_t k0 = std::min(sizes.end()[-2], size[0]), k1 = std::min(sizes.end()[-1], size[1]);
  if (k) {
    check_pair("dct_resize", "k", *k);
    check_at_least_one("dct_resize", "k[0]", (*k)[0]);
    check_at_least_one("dct_resize", "k[1]", (*k)[1]);
    k0 = std::min(k0, (*k)[0]);
    k1 = std::min(k1, (*k)[1]);
  }
  const Norm scale = parse_norm("dct_resize", norm.value);
  Tensor out = make_result("dct_resize", x, matrix_sizes(sizes, size[0], size[1]), types.out, result);
  resize2(x, k0, k1, out, scale, types);
  return out;
}

Tensor dct_resize(const Tensor& x, std::vector<int64_t> size, std::optional<std::vector<int64_t>> k,
                  const NormName& norm, std::optional<ScalarType> out_dtype) {
  return resize(x, size, k, norm, out_dtype);
}

void dct_resize_out(const Tensor& x, std::vector<int64_t> size, std::optional<std::vector<int64_t>> k,
                    const NormName& norm, const Tensor& out) {
  resize(x, size, k, norm, out);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("dct_resize", TORCH_BOX(&front::cpu::dct_resize));
  m.impl("dct_resize.out", TORCH_BOX(&front::cpu::dct_resize_out));
}
