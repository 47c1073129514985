#include "passes.h"

namespace front::cpu {
namespace {

Types check(const char* op, const Tensor& x, const std::vector<int64_t>& k) {
  const Types types = types_of(op, x);
  const auto sizes = check_matrix(op, x);
  check_pair(op, "k", k);
  check_kept(op, "k[0]", k[0], sizes.end()[-2]);
  check_kept(op, "k[1]", k[1], sizes.end()[-1]);
  return types;
}

Tensor lowpass(const Tensor& x, std::vector<int64_t> k) {
  const Types types = check("lowpass", x, k);
  const Tensor out = empty(x, sizes_of(x), types.out);
  resize2(x, k[0], k[1], out, Norm{}, types);
  return out;
}

void lowpass_(const Tensor& x, std::vector<int64_t> k) {
  const Types types = check("lowpass_", x, k);
  check_distinct("lowpass_", "x", x);
  resize2(x, k[0], k[1], x, Norm{}, types);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("lowpass", TORCH_BOX(&front::cpu::lowpass));
  m.impl("lowpass_", TORCH_BOX(&front::cpu::lowpass_));
}
