// front_kernels._C: what was built, and the planner. No tensors.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <string>

#include "../alone_plan.h"
#include "../checks.h"
#include "../plan.h"
#include "cuda.h"

namespace py = pybind11;

namespace {

void check_axis(const char* name, int64_t n, const char* kept_name, int64_t kept) {
  if (n < 1 || n > front::kMaxAxis)
    throw py::value_error(std::string(name) + " must be between 1 and " + std::to_string(front::kMaxAxis) + ", got " +
                          std::to_string(n));
  if (kept < 1 || kept > n)
    throw py::value_error(std::string(kept_name) + " must be between 1 and " + std::to_string(n) + ", got " +
                          std::to_string(kept));
}

py::dict axis_dict(const front::AxisPlan& p) {
  py::dict plan;
  plan["n"] = p.n;
  plan["kept"] = p.kept;
  plan["algorithm"] = p.dense ? "dense" : front::name(p.dft);
  plan["decimation"] = p.filter ? p.filter->factor : 1;
  plan["taps"] = p.filter ? p.filter->taps : 0;
  plan["fused"] = p.fused();
  plan["split"] = p.split;
  plan["dft_length"] = p.dft.n;
  plan["smooth_length"] = p.dft.smooth;
  plan["radices"] = p.dft.radices;
  plan["cost"] = p.cost;
  plan["text"] = front::to_string(p);
  return plan;
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Build information and the planner of front_kernels.";

  m.def("build_info", [] {
    py::dict info;
    info["version"] = FRONT_VERSION;
    info["compiler"] = FRONT_COMPILER;
    info["torch_target"] = FRONT_TORCH_TARGET;
    info["torch_built_with"] = FRONT_TORCH_BUILT_WITH;
    info["cpu_isas"] = std::vector<std::string>{FRONT_CPU_ISAS};
    info["cuda"] = FRONT_CUDA_BUILT == 1;
    info["cuda_architectures"] = FRONT_CUDA_BUILT == 1 ? FRONT_CUDA_ARCHS : "";
    return info;
  });

  m.def(
      "plan_axis",
      [](int64_t n, int64_t kept, int64_t compute_bytes) {
        check_axis("n", n, "kept", kept);
        return axis_dict(front::plan_axis(n, kept, compute_bytes));
      },
      py::arg("n"), py::arg("kept"), py::arg("compute_bytes") = 4,
      "How an axis of length n, of which `kept` coefficients matter, is transformed.");

  m.def(
      "plan_alone",
      [](int64_t n, int64_t kept, int64_t lanes, int64_t compute_bytes, std::array<int64_t, 4> machine) {
        check_axis("n", n, "kept", kept);
        const front::Machine m{machine[0], machine[1], machine[2], machine[3]};
        const front::AlonePlan p = front::plan_alone(n, compute_bytes, m);
        const front::AxisPlan together = front::plan_axis(n, kept, compute_bytes);
        return py::make_tuple(p.rows, p.columns, front::alone_is_faster(p, together, lanes, compute_bytes, m));
      },
      py::arg("n"), py::arg("kept"), py::arg("lanes"), py::arg("compute_bytes"), py::arg("machine"),
      "(rows, columns, chosen): of n / 2 points as a matrix, if a vector can be transformed alone, else 0; and whether "
      "`lanes` of them are, by `dct` and `idct` along adjacent elements.");

  m.def(
      "plan_matrix",
      [](bool forward, int64_t rows, int64_t columns, int64_t k0, int64_t k1, int64_t element_bytes,
         std::array<int64_t, 4> machine) {
        check_axis("rows", rows, "k0", k0);
        check_axis("columns", columns, "k1", k1);
        const int64_t compute_bytes = element_bytes == 8 ? 8 : 4;
        const front::MatrixShape shape{forward,       rows,          columns, k0,    k1,   element_bytes,
                                       compute_bytes, element_bytes, false,   false, true, columns};
        const front::MatrixPlan p = front::plan_matrix(shape, {machine[0], machine[1], machine[2], machine[3]});
        py::dict plan;
        plan["order"] = p.order == front::Order::rows_first ? "rows first" : "columns first";
        plan["row_decimation"] = p.filter ? p.filter->factor : 1;
        plan["workspace_bytes"] = p.workspace * compute_bytes;
        plan["rows"] = axis_dict(p.rows);
        plan["columns"] = axis_dict(p.columns);
        plan["rows_us"] = p.rows_us;
        plan["columns_us"] = p.columns_us;
        return plan;
      },
      py::arg("forward"), py::arg("rows"), py::arg("columns"), py::arg("k0"), py::arg("k1"), py::arg("element_bytes"),
      py::arg("machine"),
      "How a rows x columns matrix, of which the k0 x k1 corner matters, is transformed. machine: vector bytes, bytes "
      "of "
      "a core's cache, of the shared one, threads.");

  bind_cuda(m);
}
