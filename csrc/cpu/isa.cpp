#include "../stable.h"
#include "axis.h"

namespace front::cpu {
namespace {

std::string cpu_isa() { return isa_name(); }

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CompositeExplicitAutograd, m) { m.impl("_cpu_isa", TORCH_BOX(&front::cpu::cpu_isa)); }
