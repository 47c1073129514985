#include "passes.h"

namespace front::cpu {
namespace {

Norm check(const char* op, const Tensor& x, const std::vector<int64_t>& size, const NormName& norm,
           const char* name = "x") {
  const auto sizes = check_matrix(op, x, name);
  check_pair(op, "size", size);
  check_size(op, "size[0]", size[0], sizes.end()[-2], name);
  check_size(op, "size[1]", size[1], sizes.end()[-1], name);
  return parse_norm(op, norm.value);
}

Tensor pad(const Tensor& x, const std::vector<int64_t>& size, const NormName& norm, const Result& result) {
  const Types types = types_of("idct_pad", x, result);
  const Norm scale = check("idct_pad", x, size, norm);
  Tensor out = make_result("idct_pad", x, matrix_sizes(sizes_of(x), size[0], size[1]), types.out, result);
  inverse2({unshared(x, out)}, {out}, scale, types);
  return out;
}

Tensor idct_pad(const Tensor& x, std::vector<int64_t> size, const NormName& norm, std::optional<ScalarType> out_dtype) {
  return pad(x, size, norm, out_dtype);
}

void idct_pad_out(const Tensor& x, std::vector<int64_t> size, const NormName& norm, const Tensor& out) {
  pad(x, size, norm, out);
}

void idct_pad_(const Tensor& x, std::vector<int64_t> k, const NormName& norm) {
  const Types types = types_of("idct_pad_", x);
  const auto sizes = check_matrix("idct_pad_", x);
  check_pair("idct_pad_", "k", k);
  check_kept("idct_pad_", "k[0]", k[0], sizes.end()[-2]);
  check_kept("idct_pad_", "k[1]", k[1], sizes.end()[-1]);
  const Norm scale = parse_norm("idct_pad_", norm.value);
  check_distinct("idct_pad_", "x", x);
  inverse2({corner(x, k[0], k[1])}, {x}, scale, types);
}

std::vector<Tensor> idct_pad_many(std::vector<Tensor> xs, std::vector<int64_t> size, const NormName& norm,
                                  std::optional<ScalarType> out_dtype) {
  if (xs.empty()) return {};
  const Types types = types_of("idct_pad_many", xs[0], out_dtype, "xs[0]");
  const Norm scale = check("idct_pad_many", xs[0], size, norm, "xs[0]");
  check_alike("idct_pad_many", xs);
  std::vector<Tensor> outs;
  for (const Tensor& x : xs) outs.push_back(empty(x, matrix_sizes(sizes_of(x), size[0], size[1]), types.out));
  inverse2(xs, outs, scale, types);
  return outs;
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("idct_pad", TORCH_BOX(&front::cpu::idct_pad));
  m.impl("idct_pad.out", TORCH_BOX(&front::cpu::idct_pad_out));
  m.impl("idct_pad_", TORCH_BOX(&front::cpu::idct_pad_));
  m.impl("idct_pad_many", TORCH_BOX(&front::cpu::idct_pad_many));
}
