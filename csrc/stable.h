// What the ops need of torch, through its stable ABI. The only header below csrc that knows tensors on the CPU side.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cstdlib>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "checks.h"
#include "pages.h"
#include "params.h"

namespace front {

using torch::stable::Tensor;
using ScalarType = torch::headeronly::ScalarType;

// A `str` argument. NOTE: the stable headers' own conversion to std::string (torch 2.10 to 2.13) never frees the
// string that it allocates, about 100 bytes a call, so `norm` is read through the C shim.
struct NormName {
  std::string value;
};

inline std::vector<int64_t> to_vector(torch::headeronly::IntHeaderOnlyArrayRef a) { return {a.begin(), a.end()}; }
inline std::vector<int64_t> sizes_of(const Tensor& x) { return to_vector(x.sizes()); }

// torch's Python names; types that torch may add print under their C++ name.
inline const char* dtype_name(ScalarType t) {
  switch (t) {
    case ScalarType::Byte:
      return "uint8";
    case ScalarType::Char:
      return "int8";
    case ScalarType::Short:
      return "int16";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    case ScalarType::UInt16:
      return "uint16";
    case ScalarType::UInt32:
      return "uint32";
    case ScalarType::UInt64:
      return "uint64";
    case ScalarType::Bool:
      return "bool";
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::ComplexHalf:
      return "complex32";
    case ScalarType::ComplexFloat:
      return "complex64";
    case ScalarType::ComplexDouble:
      return "complex128";
    case ScalarType::Float8_e5m2:
      return "float8_e5m2";
    case ScalarType::Float8_e4m3fn:
      return "float8_e4m3fn";
    case ScalarType::Float8_e5m2fnuz:
      return "float8_e5m2fnuz";
    case ScalarType::Float8_e4m3fnuz:
      return "float8_e4m3fnuz";
    default:
      return torch::headeronly::toString(t);
  }
}

inline DType dtype_of(const char* op, const char* argument, ScalarType t) {
  switch (t) {
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Double:
      return DType::f64;
    default:
      fail(op, argument, " must be float16, bfloat16, float32 or float64, got ", dtype_name(t));
  }
}

inline ScalarType scalar_type_of(DType t) {
  switch (t) {
    case DType::f16:
      return ScalarType::Half;
    case DType::bf16:
      return ScalarType::BFloat16;
    case DType::f32:
      return ScalarType::Float;
    default:
      return ScalarType::Double;
  }
}

struct Types {
  DType in, compute, out;
};

// Where a result goes: into a new tensor, of a dtype if one is named, or into one that is given.
struct Result {
  std::optional<ScalarType> dtype;
  const Tensor* given = nullptr;

  Result() = default;  // a new tensor of x's dtype
  Result(std::optional<ScalarType> out_dtype) : dtype(out_dtype) {}
  Result(const Tensor& out) : given(&out) {}
};

inline DType dtype_of(const char* op, const std::string& name, const Tensor& x) {
  ScalarType found{};
  try {
    found = x.scalar_type();
  } catch (const std::exception&) {  // the stable ABI does not know every dtype
    fail(op, name, "'s dtype must be float16, bfloat16, float32 or float64");
  }
  return dtype_of(op, (name + "'s dtype").c_str(), found);
}

inline Types types_of(const char* op, const Tensor& x, const Result& result = {}, const std::string& name = "x") {
  const DType in = dtype_of(op, name, x);
  const DType out = result.given   ? dtype_of(op, "out", *result.given)
                    : result.dtype ? dtype_of(op, "out_dtype", *result.dtype)
                                   : in;
  return {in, in == DType::f64 || out == DType::f64 ? DType::f64 : DType::f32, out};
}

inline Tensor empty(const Tensor& like, const std::vector<int64_t>& sizes, DType type) {
  try {
    const Tensor made = torch::stable::new_empty(like, sizes, scalar_type_of(type));
    if (made.is_cpu()) prefer_huge_pages(made.mutable_data_ptr(), static_cast<size_t>(made.numel()) * size_of(type));
    return made;
  } catch (const std::exception&) {  // its message names torch's C call, not the cause
    double bytes = static_cast<double>(size_of(type));
    for (int64_t size : sizes) bytes *= static_cast<double>(size);
    std::ostringstream s;
    s << "front: cannot allocate " << bytes / (1 << 30) << " GiB for a " << dtype_name(scalar_type_of(type))
      << " tensor of shape " << shape_string(sizes);
    throw std::runtime_error(s.str());
  }
}

// Whether every element has an address of its own. An axis whose stride steps over all that the others reach can share
// none; of two others it is a question of common multiples; three that interleave are taken not to be distinct.
inline bool distinct(const Tensor& x) {
  const auto sizes = x.sizes(), strides = x.strides();
  std::vector<std::pair<int64_t, int64_t>> axes;  // stride and size
  for (size_t d = 0; d < sizes.size(); ++d) {
    if (sizes[d] == 0) return true;
    if (sizes[d] > 1) axes.push_back({std::abs(strides[d]), sizes[d]});
  }
  std::sort(axes.begin(), axes.end());
  int64_t reach = 0;
  for (const auto& [stride, size] : axes) reach += stride * (size - 1);
  for (; !axes.empty(); axes.pop_back()) {
    const auto [stride, size] = axes.back();
    reach -= stride * (size - 1);
    if (stride <= reach || stride == 0) break;
  }
  if (axes.size() != 2 || axes[0].first == 0) return axes.empty();
  const auto [small, few] = axes[0];
  const auto [large, many] = axes[1];
  const int64_t common = std::gcd(small, large);
  return large / common >= few || small / common >= many;
}

// What is written to must not overlap itself.
inline void check_distinct(const char* op, const char* name, const Tensor& x) {
  if (!distinct(x))
    fail(op, name, " must not overlap itself, as shape ", shape_string(sizes_of(x)), " with strides ",
         shape_string(to_vector(x.strides())), " may");
}

// Lists: tensors of one shape and one dtype.
inline void check_alike(const char* op, const std::vector<Tensor>& xs) {
  for (size_t i = 1; i < xs.size(); ++i) {
    const auto first = sizes_of(xs[0]), found = sizes_of(xs[i]);
    if (found != first)
      fail(op, "xs must have one shape, got ", shape_string(first), " at 0 and ", shape_string(found), " at ", i);
    if (xs[i].scalar_type() != xs[0].scalar_type())
      fail(op, "xs must have one dtype, got ", dtype_name(xs[0].scalar_type()), " at 0 and ",
           dtype_name(xs[i].scalar_type()), " at ", i);
    if (!xs[i].is_cpu()) fail(op, "xs must be on one device, but ", i, " is not on the CPU");
  }
}

inline Tensor make_result(const char* op, const Tensor& x, const std::vector<int64_t>& sizes, DType type,
                          const Result& result) {
  if (!result.given) return empty(x, sizes, type);
  const Tensor& out = *result.given;
  const auto found = sizes_of(out);
  if (found != sizes) fail(op, "out must have shape ", shape_string(sizes), ", got ", shape_string(found));
  if (!out.is_cpu()) fail(op, "out must be on the CPU, as x is");
  check_distinct(op, "out", out);
  return out;
}

// torch's thread pool and torch.get_num_threads().
inline Executor torch_executor() {
  return {[](int64_t count, int64_t grain, ParallelBody body, void* context) {
            torch::stable::parallel_for(0, count, grain,
                                        [&](int64_t begin, int64_t end) { body(begin, end, context); });
          },
          static_cast<int64_t>(torch::stable::get_num_threads())};
}

}  // namespace front

template <>
struct torch::stable::detail::ToImpl<front::NormName> {
  static front::NormName call(StableIValue value, uint64_t, bool) {
    StringHandle handle = to<StringHandle>(value);
    size_t length = 0;
    const char* data = nullptr;
    TORCH_ERROR_CODE_CHECK(torch_string_length(handle, &length));
    TORCH_ERROR_CODE_CHECK(torch_string_c_str(handle, &data));
    front::NormName name{std::string(data, length)};
    TORCH_ERROR_CODE_CHECK(torch_delete_string(handle));
    return name;
  }
};
