// The contract of the spectral loss of lists, the same for every device.
#pragma once

#include <algorithm>
#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "tensors.h"

namespace front {

using SpectralDecay = std::optional<std::vector<double>>;

inline std::string indexed(const char* name, size_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

inline void check_decay(const char* op, const SpectralDecay& decay) {
  if (!decay) return;
  if (decay->size() != 2) fail(op, "decay must have 2 elements (rows, columns), got ", decay->size());
  for (size_t d = 0; d < 2; ++d)
    if (!((*decay)[d] >= 0) || std::isinf((*decay)[d]))
      fail(op, indexed("decay", d), " must be finite and at least 0, got ", (*decay)[d]);
}

// Calls f(offset in x, offset in grad) for every matrix of the batch.
template <class F>
void for_each_matrix(const Tensor& x, const Tensor* grad, F f) {
  const auto sizes = x.sizes(), strides = x.strides();
  const auto batch = static_cast<int64_t>(sizes.size()) - 2;
  int64_t count = 1;
  for (int64_t d = 0; d < batch; ++d) count *= sizes[d];
  for (int64_t i = 0; i < count; ++i) {
    int64_t at = 0, grad_at = 0, rest = i;
    for (int64_t d = batch; d-- > 0;) {
      at += rest % sizes[d] * strides[d];
      if (grad) grad_at += rest % sizes[d] * grad->strides()[d];
      rest /= sizes[d];
    }
    f(at, grad_at);
  }
}

inline bool same_device(const Tensor& a, const Tensor& b) {
  return a.is_cpu() ? b.is_cpu() : !b.is_cpu() && a.get_device_index() == b.get_device_index();
}

inline void check_grad(const char* op, const Tensor& grad, const Tensor& x, Types types, size_t i) {
  const auto found = sizes_of(grad), sizes = sizes_of(x);
  const std::string name = indexed("grads", i);
  if (found != sizes)
    fail(op, name, " must have shape ", shape_string(sizes), ", as ", indexed("xs", i), " has, got ",
         shape_string(found));
  const DType type = dtype_of(op, name, grad);
  if (type != types.in && type != types.compute) {
    const std::string own = dtype_name(x.scalar_type()), other = dtype_name(scalar_type_of(types.compute));
    fail(op, name, "'s dtype must be ", own == other ? own : own + " or " + other, ", got ",
         dtype_name(scalar_type_of(type)));
  }
  if (!same_device(grad, x)) fail(op, name, " must be on the device of ", indexed("xs", i));
  check_distinct(op, name.c_str(), grad);
}

// Whether no gradient shares memory with another one; with an x none may.
inline bool check_apart(const char* op, const std::vector<Tensor>& grads, const std::vector<Tensor>& xs) {
  struct Extent {
    const char *begin, *end;
    const Tensor* tensor;
    bool written;
    size_t index;
  };
  std::vector<Extent> all;
  const auto add = [&](const std::vector<Tensor>& tensors, bool written) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].numel() == 0) continue;
      const auto [begin, end] = extent(tensors[i]);
      all.push_back({begin, end, &tensors[i], written, i});
    }
  };
  add(grads, true);
  add(xs, false);
  std::sort(all.begin(), all.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  bool apart = true;
  std::vector<Extent> before;  // of those before, what reaches this one
  for (const Extent& e : all) {
    before.erase(
        std::remove_if(before.begin(), before.end(), [&](const Extent& other) { return other.end <= e.begin; }),
        before.end());
    for (const Extent& other : before) {
      if (!(e.written || other.written) || interleaved(*e.tensor, *other.tensor)) continue;
      apart = false;
      if (e.written != other.written)
        fail(op, indexed("grads", e.written ? e.index : other.index), " must not share memory with ",
             indexed("xs", e.written ? other.index : e.index));
    }
    before.push_back(e);
  }
  return apart;
}

// Throws for what the lists may not be; grads: null if there are none.
inline void check_spectral(const char* op, const std::vector<Tensor>* grads, const std::vector<Tensor>& xs,
                           const std::vector<int64_t>& ks, const SpectralDecay& decay) {
  if (xs.empty()) fail(op, "xs must not be empty");
  if (grads && grads->size() != xs.size())
    fail(op, "grads must have one tensor for each of xs (", xs.size(), "), got ", grads->size());
  if (ks.size() != 2 * xs.size())
    fail(op, "ks must have 2 elements (rows, columns) for each of xs (", 2 * xs.size(), "), got ", ks.size());
  check_decay(op, decay);
  for (size_t i = 0; i < xs.size(); ++i) {
    if (!same_device(xs[i], xs[0])) fail(op, "xs must be on one device, but ", i, " is not where the first one is");
    const std::string name = indexed("xs", i);
    const Types types = types_of(op, xs[i], {}, name);
    const auto sizes = check_matrix(op, xs[i], name);
    check_kept(op, indexed("ks", 2 * i), ks[2 * i], sizes.end()[-2], name);
    check_kept(op, indexed("ks", 2 * i + 1), ks[2 * i + 1], sizes.end()[-1], name);
    if (grads) check_grad(op, (*grads)[i], xs[i], types, i);
  }
}

}  // namespace front
