// front_kernels._C: what was built, and the planner. No tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include "../checks.h"
#include "../plan.h"

namespace py = pybind11;

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information and the planner of front_kernels.";

  m.def("build_info", [] {
    py::dict info;
    info["version"] = FRONT_VERSION;
    info["compiler"] = FRONT_COMPILER;
    info["torch_target"] = FRONT_TORCH_TARGET;
    info["torch_built_with"] = FRONT_TORCH_BUILT_WITH;
    info["cpu_isas"] = std::vector<std::string>{FRONT_CPU_ISAS};
    info["cuda"] = false;
    return info;
  });

  m.def(
      "plan_axis",
      [](int64_t n, int64_t kept) {
        if (n < 1 || n > front::kMaxAxis)
          throw py::value_error("n must be between 1 and " + std::to_string(front::kMaxAxis) + ", got " +
                                std::to_string(n));
        if (kept < 1 || kept > n)
          throw py::value_error("kept must be between 1 and " + std::to_string(n) + ", got " + std::to_string(kept));
        const front::AxisPlan p = front::plan_axis(n, kept);
        py::dict plan;
        plan["n"] = p.n;
        plan["kept"] = p.kept;
        plan["split"] = p.split;
        plan["dft_length"] = p.dft.n;
        plan["algorithm"] = p.dense ? "dense" : p.dft.conv ? "bluestein" : "mixed radix";
        plan["convolution_length"] = p.dft.conv;
        plan["radices"] = p.dft.radices;
        plan["cost"] = p.cost;
        plan["text"] = front::to_string(p);
        return plan;
      },
      py::arg("n"), py::arg("kept"), "How an axis of length n, of which `kept` coefficients matter, is transformed.");
}
