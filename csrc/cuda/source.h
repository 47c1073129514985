// The names of kernels, and their source text: a few lines that instantiate the headers for one plan. The build writes
// those compiled ahead with it, the run-time compiler gets it, and so does the emulator's g++.
#pragma once

#include <string>

#include "plan.h"

namespace front::cuda {

struct Kernel {
  std::string name, source;  // source: without the #include of kernels.h
};

namespace source_detail {

inline std::string axis_name(const AxisPlan& p) {
  std::ostringstream s;
  s << (p.real_bytes == 4 ? "f32" : "f64") << "_n" << p.n << "_s" << p.share << "_r";
  for (size_t i = 0; i < p.radices.size(); ++i) s << (i ? "x" : "") << p.radices[i];
  s << "_l" << p.lanes << (p.overlaid ? "o" : "t") << p.together << "x" << p.threads_per_lane << "_b" << p.blocks;
  return s.str();
}

inline std::string axis_type(const AxisPlan& p) {
  std::ostringstream s;
  s << "front::cuda::Axis<" << (p.real_bytes == 4 ? "float" : "double") << ", " << p.n << ", " << p.share << ", "
    << p.lanes << ", " << p.together << ", " << p.threads_per_lane << ", " << (p.overlaid ? "true" : "false");
  for (int64_t r : p.radices) s << ", " << r;
  s << ">";
  return s.str();
}

inline std::string entry(const std::string& name, const AxisPlan& p, const char* arguments, const std::string& call) {
  std::ostringstream s;
  s << "FRONT_KERNEL(" << name << ", " << p.threads() << ", " << p.blocks << ", front::cuda::" << arguments
    << ",\n             (front::cuda::" << call << "(block, args)))\n";
  return s.str();
}

}  // namespace source_detail

inline Kernel axis_kernel(Direction direction, const AxisPlan& p) {
  using namespace source_detail;
  const std::string what = direction == Direction::forward ? "forward" : "inverse";
  const std::string name = "front_" + what + "_" + axis_name(p);
  return {name, entry(name, p, "AxisArgs", what + "_axis<" + axis_type(p) + ">")};
}

// The same for the spectral loss: measured forward; "residual", blended, of x and gradients of two types, on the way
// back; or "row", both.
inline Kernel measure_kernel(const AxisPlan& p) {
  using namespace source_detail;
  const std::string name = "front_measure_" + axis_name(p);
  return {name, entry(name, p, "SpectralArgs", "measure_axis<" + axis_type(p) + ">")};
}
inline Kernel blended_kernel(const std::string& what, const AxisPlan& p, DType x, DType grad) {
  using namespace source_detail;
  constexpr const char *names[] = {"f16", "bf16", "f32", "f64"}, *types[] = {"Half", "Bfloat", "float", "double"};
  const auto in = static_cast<size_t>(x), out = static_cast<size_t>(grad);
  const auto type = [](const char* t) { return std::string(t[0] < 'a' ? "front::cuda::" : "") + t; };
  const std::string name = "front_" + what + "_" + names[in] + "_" + names[out] + "_" + axis_name(p);
  return {name, entry(name, p, "SpectralArgs",
                      what + "_axis<" + axis_type(p) + ", " + type(types[in]) + ", " + type(types[out]) + ">")};
}

// What stands between its passes: "shift", "weigh", "terms" or "loss".
inline Kernel spectral_kernel(const std::string& step, int64_t real_bytes) {
  const std::string real = real_bytes == 4 ? "float" : "double", name = "front_spectral_" + step + "_" + real;
  return {name, "FRONT_KERNEL(" + name + ", front::cuda::kPackThreads, 4, front::cuda::SpectralArgs, " +
                    "(front::cuda::spectral_" + step + "<" + real + ">(block, args)))\n"};
}

inline Kernel resize_kernel(const ResizePlan& r) {
  using namespace source_detail;
  const std::string name = "front_resize_" + axis_name(r.there) + "_to_" + axis_name(r.back);
  return {name, entry(name, r.there, "AxisArgs",
                      "resize_axis<" + axis_type(r.there) + ",\n                 " + axis_type(r.back) + ">")};
}

// The steps of a transform through memory (large.h).
inline Kernel down_kernel(const AxisPlan& p, bool factors) {
  using namespace source_detail;
  const std::string name = std::string("front_down_") + (factors ? "factors_" : "") + axis_name(p);
  return {name, entry(name, p, "LargeArgs", "step_down<" + axis_type(p) + (factors ? ", true>" : ", false>"))};
}
inline Kernel along_kernel(const AxisPlan& p, bool convolve) {
  using namespace source_detail;
  const std::string name = std::string("front_along_") + (convolve ? "convolve_" : "") + axis_name(p);
  return {name, entry(name, p, "LargeArgs", "step_along<" + axis_type(p) + (convolve ? ", true>" : ", false>"))};
}
inline Kernel through_kernel(const AxisPlan& down, const AxisPlan& along, bool convolve) {
  using namespace source_detail;
  const std::string name =
      std::string("front_through_") + (convolve ? "convolve_" : "") + axis_name(down) + "_" + axis_name(along);
  return {name, entry(name, down, "LargeArgs",
                      "through_memory<" + axis_type(down) + ",\n                 " + axis_type(along) +
                          (convolve ? ", true>" : ", false>"))};
}
inline Kernel pack_kernel(int64_t real_bytes) {
  const std::string real = real_bytes == 4 ? "float" : "double", name = "front_pack_" + real;
  return {name, "FRONT_KERNEL(" + name + ", front::cuda::kPackThreads, 4, front::cuda::LargeArgs, (front::cuda::pack<" +
                    real + ">(block, args)))\n"};
}
inline Kernel unpack_kernel(int64_t real_bytes) {
  const std::string real = real_bytes == 4 ? "float" : "double", name = "front_unpack_" + real;
  return {name, "FRONT_KERNEL(" + name +
                    ", front::cuda::kPackThreads, 4, front::cuda::LargeArgs, (front::cuda::unpack<" + real +
                    ">(block, args)))\n"};
}

}  // namespace front::cuda
