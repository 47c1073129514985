#include "passes.h"

namespace front::cpu {
namespace {

Norm check(const char* op, const Tensor& x, const std::vector<int64_t>& k, const NormName& norm,
           const char* name = "x") {
  const auto sizes = check_matrix(op, x, name);
  check_pair(op, "k", k);
  check_kept(op, "k[0]", k[0], sizes.end()[-2], name);
  check_kept(op, "k[1]", k[1], sizes.end()[-1], name);
  return parse_norm(op, norm.value);
}

Tensor crop(const Tensor& x, const std::vector<int64_t>& k, const NormName& norm, const Result& result) {
  const Types types = types_of("dct_crop", x, result);
  const Norm scale = check("dct_crop", x, k, norm);
  Tensor out = make_result("dct_crop", x, matrix_sizes(sizes_of(x), k[0], k[1]), types.out, result);
  forward2({unshared(x, out)}, {out}, scale, types);
  return out;
}

Tensor dct_crop(const Tensor& x, std::vector<int64_t> k, const NormName& norm, std::optional<ScalarType> out_dtype) {
  return crop(x, k, norm, out_dtype);
}

void dct_crop_out(const Tensor& x, std::vector<int64_t> k, const NormName& norm, const Tensor& out) {
  crop(x, k, norm, out);
}

void dct_crop_(const Tensor& x, std::vector<int64_t> k, const NormName& norm) {
  const Types types = types_of("dct_crop_", x);
  const Norm scale = check("dct_crop_", x, k, norm);
  check_distinct("dct_crop_", "x", x);
  forward2({x}, {corner(x, k[0], k[1])}, scale, types);
}

std::vector<Tensor> dct_crop_many(std::vector<Tensor> xs, std::vector<int64_t> k, const NormName& norm,
                                  std::optional<ScalarType> out_dtype) {
  if (xs.empty()) return {};
  const Types types = types_of("dct_crop_many", xs[0], out_dtype, "xs[0]");
  const Norm scale = check("dct_crop_many", xs[0], k, norm, "xs[0]");
  check_alike("dct_crop_many", xs);
  std::vector<Tensor> outs;
  for (const Tensor& x : xs) outs.push_back(empty(x, matrix_sizes(sizes_of(x), k[0], k[1]), types.out));
  forward2(xs, outs, scale, types);
  return outs;
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("dct_crop", TORCH_BOX(&front::cpu::dct_crop));
  m.impl("dct_crop.out", TORCH_BOX(&front::cpu::dct_crop_out));
  m.impl("dct_crop_", TORCH_BOX(&front::cpu::dct_crop_));
  m.impl("dct_crop_many", TORCH_BOX(&front::cpu::dct_crop_many));
}
