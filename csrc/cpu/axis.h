// The CPU engine's interface: one pass over one axis. Whatever computes it can be replaced behind run_axis.
#pragma once

#include "../params.h"
#include "../plan.h"

namespace front::cpu {

// Transforms every lane of `pass`; throws std::bad_alloc or std::invalid_argument (FRONT_CPU_ISA), nothing else.
void run_axis(const AxisPass& pass, const Executor& executor);
void run_axis(const AxisPass& pass, const Executor& executor, const Machine& machine);  // as if on that machine

// The instruction set in use and the caches, for plans.
Machine machine(int64_t threads);

// The instruction set in use: "avx512", "avx2" or "generic". FRONT_CPU_ISA forces one and throws
// std::invalid_argument if the machine or the build lacks it.
const char* isa_name();

}  // namespace front::cpu
