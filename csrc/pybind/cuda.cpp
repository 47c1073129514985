// The CUDA planner for Python: which launches compute something, with their source and arguments. No GPU is needed.
#include "cuda.h"

#include <pybind11/stl.h>

#include <array>
#include <cstring>
#include <optional>

#include "../checks.h"
#include "../cuda/passes.h"

namespace py = pybind11;
using namespace front;

namespace {

py::bytes table_bytes(const cuda::Table& table) {
  const std::vector<char> bytes = table.build();
  return {bytes.data(), bytes.size()};
}

// Tables are listed with the offset of the pointer to them in the arguments.
py::dict launch_dict(cuda::Launch l) {
  py::dict d;
  d["name"] = l.kernel->name;
  d["source"] = l.kernel->source;
  d["blocks"] = l.blocks;
  d["threads"] = l.threads;
  d["shared_bytes"] = l.shared;
  d["args"] = py::bytes(l.bytes(), l.size());
  // A function: they take longer than all the rest.
  d["tables"] = py::cpp_function([l]() mutable {
    py::list tables;
    for (const auto& [table, offset] : cuda::table_slots(l)) tables.append(py::make_tuple(offset, table_bytes(*table)));
    return tables;
  });
  return d;
}

// types: of input, compute and output, if they are the same for all.
py::tuple launches(const std::vector<cuda::Launch>& all, int64_t workspace_bytes,
                   std::optional<std::array<int, 3>> types = std::nullopt) {
  py::list list;
  for (const cuda::Launch& l : all) {
    py::dict d = launch_dict(l);
    if (types) d["types"] = *types;
    list.append(d);
  }
  return py::make_tuple(list, workspace_bytes);
}

Norm norm_named(const std::string& name) { return parse_norm("plan", name); }

}  // namespace

void bind_cuda(py::module_& m) {
  m.def(
      "cuda_axis_plan",
      [](int64_t n, int64_t kept, int64_t real_bytes, int64_t lanes, const std::vector<int64_t>& hardware, int fours) {
        const cuda::AxisPlan p =
            cuda::plan_axis(n, kept, real_bytes, lanes, cuda::fours_of(fours), cuda::hardware_of(hardware));
        py::dict d;
        d["n"] = p.n;
        d["radices"] = p.radices;
        d["share"] = p.share;
        d["lanes"] = p.lanes;
        d["together"] = p.together;
        d["threads_per_lane"] = p.threads_per_lane;
        d["threads"] = p.threads();
        d["overlaid"] = p.overlaid;
        d["registers"] = p.registers;
        d["blocks_per_multiprocessor"] = p.blocks;
        d["shared_bytes"] = p.shared_bytes(p.most_kept());
        return d;
      },
      py::arg("n"), py::arg("kept"), py::arg("real_bytes"), py::arg("lanes"), py::arg("hardware"), py::arg("fours") = 0,
      "How an axis is transformed in shared memory; no radices: it is transformed through memory. hardware: "
      "multiprocessors, bytes of shared memory of a block, and of a multiprocessor; registers that its compiler needs "
      "more. fours: what lies in fours, 0 nothing, 1 the lanes, 2 the values.");

  m.def(
      "cuda_axis_kernel",
      [](int direction, const std::vector<int64_t>& plan, const std::vector<int64_t>& radices) {
        const cuda::AxisPlan p = cuda::plan_of(plan, radices);
        const cuda::Kernel k = cuda::axis_kernel(static_cast<Direction>(direction), p);
        return py::make_tuple(k.name, k.source, p.shared_bytes(p.most_kept()));
      },
      py::arg("direction"), py::arg("plan"), py::arg("radices"),
      "Name, source and most shared memory of the kernel of a plan that is not the planner's: plan.h's plan_of.");

  m.def(
      "cuda_force_plan",
      [](const std::vector<int64_t>& plan, const std::vector<int64_t>& radices, int fours) {
        cuda::passes_detail::ForcedPlans::get().set(cuda::plan_of(plan, radices), cuda::fours_of(fours));
      },
      py::arg("plan"), py::arg("radices"), py::arg("fours"),
      "What cuda_matrix_launches and cuda_axis_launches take instead of the planner's choice; without radices: no "
      "more.");

  m.def(
      "cuda_kernels_written", [] { return cuda::passes_detail::KernelOnDemand::written().load(); },
      "Of how many kernels of one axis the launches that were planned so far needed the source.");

  m.def(
      "cuda_large_plan",
      [](int64_t n, int64_t real_bytes, const std::vector<int64_t>& hardware) {
        cuda::passes_detail::check_large(n);
        const cuda::LargePlan p = cuda::plan_large(n, real_bytes, cuda::hardware_of(hardware));
        cuda::passes_detail::check_steps(p);
        py::dict d;
        d["rows"] = p.rows();
        d["columns"] = p.columns();
        d["convolve"] = p.convolve;
        d["loop_blocks"] = p.loop_down.radices.empty() ? 0 : p.loop_down.blocks;
        d["shared_bytes"] = std::max(p.down.point_bytes(), p.along.point_bytes());
        return d;
      },
      py::arg("n"), py::arg("real_bytes"), py::arg("hardware"), "How an axis is transformed through memory.");

  // Matrices at addresses `in`, of `sizes` (m, n, k0, k1, size0, size1) and `strides` (in_row, in_column, out_row,
  // out_column), with batch axes (size, in_stride, out_stride); types: params.h's DType of input, compute and output.
  m.def(
      "cuda_matrix_launches",
      [](int direction, std::array<int64_t, 6> sizes, std::array<int64_t, 4> strides, std::array<int, 3> types,
         const std::string& norm, const std::vector<uintptr_t>& in, const std::vector<uintptr_t>& out,
         const std::vector<std::array<int64_t, 3>>& batch, uintptr_t workspace, const std::vector<int64_t>& hardware,
         int64_t most_workspace) {
        MatrixPass x{};
        x.direction = static_cast<Direction>(direction);
        x.m = sizes[0], x.n = sizes[1], x.k0 = sizes[2], x.k1 = sizes[3], x.size0 = sizes[4], x.size1 = sizes[5];
        x.in_row = strides[0], x.in_column = strides[1], x.out_row = strides[2], x.out_column = strides[3];
        x.in_type = static_cast<DType>(types[0]), x.compute_type = static_cast<DType>(types[1]);
        x.out_type = static_cast<DType>(types[2]);
        const Direction there = x.direction == Direction::inverse ? Direction::inverse : Direction::forward;
        x.columns = norm_scale(norm_named(norm), x.m, there), x.rows = norm_scale(norm_named(norm), x.n, there);
        if (x.direction == Direction::resize) {
          x.columns_back = norm_scale(norm_named(norm), x.size0, Direction::inverse);
          x.rows_back = norm_scale(norm_named(norm), x.size1, Direction::inverse);
        }
        std::vector<const void*> ins;
        std::vector<void*> outs;
        for (uintptr_t p : in) ins.push_back(reinterpret_cast<const void*>(p));
        for (uintptr_t p : out) outs.push_back(reinterpret_cast<void*>(p));
        x.in = ins.data(), x.out = outs.data(), x.count = static_cast<int64_t>(ins.size());
        for (const auto& b : batch) x.batch[x.batch_dims++] = {b[0], b[1], b[2]};
        int64_t bytes = 0;
        const auto all = cuda::matrix_launches(x, cuda::hardware_of(hardware), reinterpret_cast<char*>(workspace),
                                               &bytes, most_workspace);
        return launches(all, bytes, types);
      },
      py::arg("direction"), py::arg("sizes"), py::arg("strides"), py::arg("types"), py::arg("norm"), py::arg("ins"),
      py::arg("outs"), py::arg("batch"), py::arg("workspace"), py::arg("hardware"), py::arg("most_workspace") = 0,
      "The launches of both axes of matrices, and the bytes of workspace that they need; in parts beyond "
      "`most_workspace` bytes, if any are named.");

  m.def(
      "cuda_axis_launches",
      [](int direction, int64_t n, int64_t kept, std::array<int64_t, 2> along, std::array<int, 3> types,
         const std::string& norm, uintptr_t in, uintptr_t out, const std::vector<std::array<int64_t, 3>>& lanes,
         uintptr_t workspace, const std::vector<int64_t>& hardware) {
        AxisPass x{};
        x.direction = static_cast<Direction>(direction);
        x.n = n, x.kept = kept;
        x.scale = norm_scale(norm_named(norm), n, x.direction);
        x.in = reinterpret_cast<const void*>(in), x.out = reinterpret_cast<void*>(out);
        x.in_along = {along[0], 0, 0}, x.out_along = {along[1], 0, 0};
        x.in_type = static_cast<DType>(types[0]), x.out_type = static_cast<DType>(types[2]);
        for (const auto& l : lanes) x.lanes[x.lane_dims++] = {l[0], l[1], l[2]};
        int64_t bytes = 0;
        const auto all = cuda::axis_launches(x, size_of(static_cast<DType>(types[1])), cuda::hardware_of(hardware),
                                             reinterpret_cast<char*>(workspace), &bytes);
        return launches(all, bytes, types);
      },
      py::arg("direction"), py::arg("n"), py::arg("kept"), py::arg("along"), py::arg("types"), py::arg("norm"),
      py::arg("in_"), py::arg("out"), py::arg("lanes"), py::arg("workspace"), py::arg("hardware"),
      "The launches of one axis of a tensor, and the bytes of workspace that they need.");

  // xs and grads (or none) at addresses, of `sizes` (m, n, k0, k1) and `strides` (of x's row and column, of grad's);
  // types: params.h's DType of x, of compute, of grad.
  m.def(
      "cuda_spectral_launches",
      [](std::array<int64_t, 4> sizes, std::array<int64_t, 4> strides, std::array<int, 3> types,
         const std::vector<uintptr_t>& xs, const std::vector<uintptr_t>& grads, std::array<double, 2> decay,
         bool standardize, double scale, uintptr_t losses, uintptr_t workspace, const std::vector<int64_t>& hardware,
         uintptr_t scale_at) {
        cuda::SpectralMatrices x{};
        x.m = sizes[0], x.n = sizes[1], x.k0 = sizes[2], x.k1 = sizes[3];
        x.x_type = static_cast<DType>(types[0]), x.compute_type = static_cast<DType>(types[1]);
        x.grad_type = static_cast<DType>(types[2]);
        x.x_row = strides[0], x.x_column = strides[1], x.grad_row = strides[2], x.grad_column = strides[3];
        std::vector<const void*> in;
        std::vector<void*> out;
        for (uintptr_t p : xs) in.push_back(reinterpret_cast<const void*>(p));
        for (uintptr_t p : grads) out.push_back(reinterpret_cast<void*>(p));
        x.xs = in.data(), x.grads = out.empty() ? nullptr : out.data(), x.count = static_cast<int64_t>(in.size());
        x.decay0 = decay[0], x.decay1 = decay[1], x.standardize = standardize, x.scale = scale;
        x.scale_at = reinterpret_cast<const double*>(scale_at);
        x.losses = reinterpret_cast<double*>(losses);
        int64_t bytes = 0;
        const auto all =
            cuda::spectral_launches(x, cuda::hardware_of(hardware), reinterpret_cast<char*>(workspace), &bytes);
        return launches(all, bytes, types);
      },
      py::arg("sizes"), py::arg("strides"), py::arg("types"), py::arg("xs"), py::arg("grads"), py::arg("decay"),
      py::arg("standardize"), py::arg("scale"), py::arg("losses"), py::arg("workspace"), py::arg("hardware"),
      py::arg("scale_at") = 0,
      "The launches of the spectral loss of matrices and of what it adds to gradients, and the bytes of workspace; "
      "none, if a row does not fit shared memory. scale_at: the address of a factor of the scale, or 0.");

  // Of each matrix: sizes, strides and types as above, and the addresses of x and of its gradient (0: none).
  m.def(
      "cuda_spectral_list_launches",
      [](const std::vector<std::tuple<std::array<int64_t, 4>, std::array<int64_t, 4>, std::array<int, 3>, uintptr_t,
                                      uintptr_t>>& matrices,
         bool apart, std::array<double, 2> decay, bool standardize, double scale, uintptr_t losses, uintptr_t workspace,
         const std::vector<int64_t>& hardware) {
        std::vector<cuda::SpectralMatrix> list;
        for (const auto& [sizes, strides, types, x, grad] : matrices)
          list.push_back({sizes[0], sizes[1], sizes[2], sizes[3], strides[0], strides[1], strides[2], strides[3],
                          static_cast<DType>(types[0]), static_cast<DType>(types[1]), static_cast<DType>(types[2]),
                          reinterpret_cast<const void*>(x), reinterpret_cast<void*>(grad)});
        int64_t bytes = 0;
        const auto all = cuda::spectral_list_launches(list, apart, {decay[0], decay[1], standardize, scale, nullptr},
                                                      reinterpret_cast<double*>(losses), cuda::hardware_of(hardware),
                                                      reinterpret_cast<char*>(workspace), &bytes);
        return launches(all, bytes);
      },
      py::arg("matrices"), py::arg("apart"), py::arg("decay"), py::arg("standardize"), py::arg("scale"),
      py::arg("losses"), py::arg("workspace"), py::arg("hardware"),
      "The same for a list of any matrices; apart: no two gradients share memory.");
}
