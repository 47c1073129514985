#include "passes.h"

namespace front::cpu {
namespace {

Tensor dct(const Tensor& x, std::optional<int64_t> k, int64_t dim, const NormName& norm,
           std::optional<ScalarType> out_dtype) {
  const Types types = types_of("dct", x, out_dtype);
  const auto sizes = sizes_of(x);
  check_rank("dct", sizes, 1);
  dim = check_dim("dct", dim, static_cast<int64_t>(sizes.size()));
  check_axis("dct", sizes, dim);
  const int64_t n = sizes[dim], kept = k.value_or(n);
  check_kept("dct", "k", kept, n);
  const Norm scale = parse_norm("dct", norm.value);
  const Tensor out = empty(x, with_size(sizes, dim, kept), types.out);
  run_pass(Direction::forward, scale, n, kept, dim, x, out, types);
  return out;
}

Tensor idct(const Tensor& x, std::optional<int64_t> size, int64_t dim, const NormName& norm,
            std::optional<ScalarType> out_dtype) {
  const Types types = types_of("idct", x, out_dtype);
  const auto sizes = sizes_of(x);
  check_rank("idct", sizes, 1);
  dim = check_dim("idct", dim, static_cast<int64_t>(sizes.size()));
  check_axis("idct", sizes, dim);
  const int64_t kept = sizes[dim], n = size.value_or(kept);
  check_size("idct", "size", n, kept);
  const Norm scale = parse_norm("idct", norm.value);
  const Tensor out = empty(x, with_size(sizes, dim, n), types.out);
  run_pass(Direction::inverse, scale, n, kept, dim, x, out, types);
  return out;
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("dct", TORCH_BOX(&front::cpu::dct));
  m.impl("idct", TORCH_BOX(&front::cpu::idct));
}
