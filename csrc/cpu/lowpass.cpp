#include "passes.h"

namespace front::cpu {
namespace {

Tensor lowpass(const Tensor& x, std::vector<int64_t> k) {
  const Types types = types_of("lowpass", x, Result(std::nullopt));
  const auto sizes = check_matrix("lowpass", x);
  check_pair("lowpass", "k", k);
  check_kept("lowpass", "k[0]", k[0], sizes.end()[-2]);
  check_kept("lowpass", "k[1]", k[1], sizes.end()[-1]);
  const Tensor out = empty(x, sizes, types.out);
  resize2(x, k[0], k[1], out, Norm{}, types);
  return out;
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) { m.impl("lowpass", TORCH_BOX(&front::cpu::lowpass)); }
