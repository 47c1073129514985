// Private ops about the engine itself.
#include <tuple>

#include "../stable.h"
#include "axis.h"
#include "memory.h"

namespace front::cpu {
namespace {

std::string cpu_isa() { return isa_name(); }

std::tuple<int64_t, int64_t, int64_t, int64_t> cpu_machine() {
  const Machine m = machine(torch_executor().threads);
  return {m.vector_bytes, m.own_cache, m.shared_cache, m.threads};
}

void cpu_empty_cache() { free_retained_workspace(); }

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CompositeExplicitAutograd, m) {
  m.impl("_cpu_isa", TORCH_BOX(&front::cpu::cpu_isa));
  m.impl("_cpu_machine", TORCH_BOX(&front::cpu::cpu_machine));
  m.impl("_cpu_empty_cache", TORCH_BOX(&front::cpu::cpu_empty_cache));
}
