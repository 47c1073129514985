// The argument contract: every rule about shapes, sizes and names that an op enforces, torch-free. Violations throw
// std::invalid_argument (ValueError in Python); front_kernels/_contract.py says the same for fake tensors.
#pragma once

#include <cmath>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "params.h"

namespace front {

constexpr int64_t kMaxAxis = int64_t{1} << 30;

template <class... Parts>
[[noreturn]] void fail(const char* op, const Parts&... parts) {
  std::ostringstream s;
  s << "front::" << op << ": ";
  (s << ... << parts);
  throw std::invalid_argument(s.str());
}

inline std::string shape_string(const std::vector<int64_t>& sizes) {
  std::ostringstream s;
  s << '[';
  for (size_t i = 0; i < sizes.size(); ++i) s << (i ? ", " : "") << sizes[i];
  s << ']';
  return s.str();
}

// A norm names the scale of the coefficients as in scipy.fft; "adjoint:NAME" is the transpose of the other direction
// under NAME (dct with "adjoint:backward" is the transpose of idct with "backward"), which is what backward passes
// need.
struct Norm {
  enum class Kind : int32_t { ortho, backward, forward } kind = Kind::ortho;
  bool adjoint = false;
};

inline Norm parse_norm(const char* op, std::string_view name) {
  constexpr std::string_view prefix = "adjoint:";
  Norm norm;
  std::string_view base = name;
  if (base.substr(0, prefix.size()) == prefix) norm.adjoint = true, base.remove_prefix(prefix.size());
  if (base == "ortho")
    norm.kind = Norm::Kind::ortho;
  else if (base == "backward")
    norm.kind = Norm::Kind::backward;
  else if (base == "forward")
    norm.kind = Norm::Kind::forward;
  else
    fail(op, "norm must be 'ortho', 'backward' or 'forward', got '", name, "'");
  return norm;
}

// Factors from orthonormal to `norm` coefficients of a length-n axis; the inverse direction divides by them.
inline Scale norm_scale(Norm norm, int64_t n, Direction direction) {
  double first = 1, other = 1;
  const double length = static_cast<double>(n);
  if (norm.kind == Norm::Kind::backward) first = 2 * std::sqrt(length), other = std::sqrt(2 * length);
  if (norm.kind == Norm::Kind::forward) first = 1 / std::sqrt(length), other = 1 / std::sqrt(2 * length);
  const bool divide = (direction == Direction::inverse) != norm.adjoint;
  return divide ? Scale{1 / first, 1 / other} : Scale{first, other};
}

// `x`: what the tensor is called, of a list "xs[0]".
inline void check_rank(const char* op, const std::vector<int64_t>& sizes, int64_t least, std::string_view x = "x") {
  if (static_cast<int64_t>(sizes.size()) < least)
    fail(op, x, " must have at least ", least, least == 1 ? " dimension" : " dimensions", ", got shape ",
         shape_string(sizes));
  if (sizes.size() > kMostDimensions)
    fail(op, x, " must have at most ", kMostDimensions, " dimensions, got ", sizes.size());
}

inline void check_axis(const char* op, const std::vector<int64_t>& sizes, int64_t dim, std::string_view x = "x") {
  const int64_t n = sizes[dim];
  if (n < 1 || n > kMaxAxis)
    fail(op, x, " must have between 1 and ", kMaxAxis, " elements along dim ", dim - static_cast<int64_t>(sizes.size()),
         ", got shape ", shape_string(sizes));
}

inline int64_t check_dim(const char* op, int64_t dim, int64_t rank) {
  if (dim < -rank || dim >= rank) fail(op, "dim must be between ", -rank, " and ", rank - 1, ", got ", dim);
  return dim < 0 ? dim + rank : dim;
}

inline void check_pair(const char* op, const char* name, const std::vector<int64_t>& values) {
  if (values.size() != 2) fail(op, name, " must have 2 elements (rows, columns), got ", shape_string(values));
}

inline void check_kept(const char* op, const std::string& name, int64_t value, int64_t n, std::string_view x = "x") {
  if (value < 1 || value > n) fail(op, name, " must be between 1 and ", n, " (the size of ", x, "), got ", value);
}

inline void check_size(const char* op, const std::string& name, int64_t value, int64_t least,
                       std::string_view x = "x") {
  if (value < least || value > kMaxAxis)
    fail(op, name, " must be between ", least, " (the size of ", x, ") and ", kMaxAxis, ", got ", value);
}

inline void check_length(const char* op, const std::string& name, int64_t value) {
  if (value < 1 || value > kMaxAxis) fail(op, name, " must be between 1 and ", kMaxAxis, ", got ", value);
}

inline void check_at_least_one(const char* op, const std::string& name, int64_t value) {
  if (value < 1) fail(op, name, " must be at least 1, got ", value);
}

}  // namespace front
