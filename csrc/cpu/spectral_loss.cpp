#include <algorithm>

#include "passes.h"
#include "spectral.h"

namespace front::cpu {
namespace {

using Decay = std::optional<std::vector<double>>;

std::string indexed(const char* name, size_t i) { return std::string(name) + "[" + std::to_string(i) + "]"; }

void check_decay(const char* op, const Decay& decay) {
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

// x [..., m, n]: one for each matrix. grad: null, or of x's shape.
void append(std::vector<SpectralMatrix>& matrices, const Tensor& x, const Tensor* grad, int64_t k0, int64_t k1,
            Types types, bool standardize, const Decay& decay, double scale) {
  const auto sizes = sizes_of(x);
  const size_t row = sizes.size() - 2, column = sizes.size() - 1;
  SpectralMatrix p{};
  p.type = p.grad_type = types.in;
  p.m = sizes[row], p.n = sizes[column], p.k0 = k0, p.k1 = k1;
  p.row = x.strides()[row], p.column = x.strides()[column];
  if (decay) p.decay0 = (*decay)[0], p.decay1 = (*decay)[1];
  p.standardize = standardize;
  p.scale = scale;
  if (grad) {
    p.grad_type = dtype_of("spectral_grad_many_", "grads' dtype", grad->scalar_type());
    p.grad_row = grad->strides()[row], p.grad_column = grad->strides()[column];
  }
  for_each_matrix(x, grad, [&](int64_t at, int64_t grad_at) {
    p.x = static_cast<const char*>(x.const_data_ptr()) + at * size_of(p.type);
    p.grad = grad ? static_cast<char*>(grad->mutable_data_ptr()) + grad_at * size_of(p.grad_type) : nullptr;
    matrices.push_back(p);
  });
}

Tensor total(std::vector<SpectralMatrix>& matrices, bool apart, const Tensor& like, DType type) {
  run_spectral(matrices.data(), static_cast<int64_t>(matrices.size()), apart, torch_executor());
  double loss = 0;
  for (const SpectralMatrix& p : matrices) loss += p.loss;
  const Tensor out = empty(like, {}, type);
  if (type == DType::f64)
    *static_cast<double*>(out.mutable_data_ptr()) = loss;
  else
    *static_cast<float*>(out.mutable_data_ptr()) = static_cast<float>(loss);
  return out;
}

Tensor spectral_loss(const Tensor& x, std::vector<int64_t> k, bool standardize) {
  const Types types = types_of("spectral_loss", x);
  const auto sizes = check_matrix("spectral_loss", x);
  check_pair("spectral_loss", "k", k);
  check_kept("spectral_loss", "k[0]", k[0], sizes.end()[-2]);
  check_kept("spectral_loss", "k[1]", k[1], sizes.end()[-1]);
  std::vector<SpectralMatrix> matrices;
  append(matrices, x, nullptr, k[0], k[1], types, standardize, {}, 0);
  return total(matrices, true, x, types.compute);
}

void check_grad(const char* op, const Tensor& grad, const Tensor& x, Types types, size_t i) {
  const auto found = sizes_of(grad), sizes = sizes_of(x);
  const std::string name = indexed("grads", i);
  if (found != sizes)
    fail(op, name, " must have shape ", shape_string(sizes), ", as xs has, got ", shape_string(found));
  const DType type = dtype_of(op, (name + "'s dtype").c_str(), grad.scalar_type());
  if (type != types.in && type != types.compute)
    fail(op, name, "'s dtype must be ", dtype_name(x.scalar_type()), " or ", dtype_name(scalar_type_of(types.compute)),
         ", got ", dtype_name(grad.scalar_type()));
  if (!grad.is_cpu()) fail(op, name, " must be on the CPU, as xs is");
  check_distinct(op, name.c_str(), grad);
}

// Whether no gradient shares memory with another one; with an x none may.
bool check_apart(const char* op, const std::vector<Tensor>& grads, const std::vector<Tensor>& xs) {
  struct Extent {
    const char *begin, *end;
    bool written;
    size_t index;
  };
  std::vector<Extent> all;
  const auto add = [&](const std::vector<Tensor>& tensors, bool written) {
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (tensors[i].numel() == 0) continue;
      const auto [begin, end] = extent(tensors[i]);
      all.push_back({begin, end, written, i});
    }
  };
  add(grads, true);
  add(xs, false);
  std::sort(all.begin(), all.end(), [](const Extent& a, const Extent& b) { return a.begin < b.begin; });
  bool apart = true;
  const Extent *reaches = nullptr, *written = nullptr;  // of those before: the furthest, and of the gradients
  for (const Extent& e : all) {
    const Extent* other = e.written ? reaches : written;
    if (other && other->end > e.begin) {
      apart = false;
      if (e.written != other->written && e.begin == other->begin)
        fail(op, indexed("grads", e.written ? e.index : other->index), " must not share memory with ",
             indexed("xs", e.written ? other->index : e.index));
    }
    if (!reaches || e.end > reaches->end) reaches = &e;
    if (e.written && (!written || e.end > written->end)) written = &e;
  }
  return apart;
}

Tensor run_many(const char* op, const std::vector<Tensor>* grads, const std::vector<Tensor>& xs,
                const std::vector<int64_t>& ks, double scale, bool standardize, const Decay& decay) {
  if (xs.empty()) fail(op, "xs must not be empty");
  if (grads && grads->size() != xs.size())
    fail(op, "grads must have one tensor for each of xs (", xs.size(), "), got ", grads->size());
  if (ks.size() != 2 * xs.size())
    fail(op, "ks must have 2 elements (rows, columns) for each of xs (", 2 * xs.size(), "), got ", ks.size());
  check_decay(op, decay);
  DType type = DType::f32;
  std::vector<SpectralMatrix> matrices;
  for (size_t i = 0; i < xs.size(); ++i) {
    if (!xs[i].is_cpu()) fail(op, "xs must be on one device, but ", i, " is not on the CPU");
    const Types types = types_of(op, xs[i]);
    const auto sizes = check_matrix(op, xs[i]);
    check_kept(op, indexed("ks", 2 * i), ks[2 * i], sizes.end()[-2]);
    check_kept(op, indexed("ks", 2 * i + 1), ks[2 * i + 1], sizes.end()[-1]);
    if (grads) check_grad(op, (*grads)[i], xs[i], types, i);
    if (types.compute == DType::f64) type = DType::f64;
    append(matrices, xs[i], grads ? &(*grads)[i] : nullptr, ks[2 * i], ks[2 * i + 1], types, standardize, decay, scale);
  }
  return total(matrices, !grads || check_apart(op, *grads, xs), xs[0], type);
}

Tensor spectral_loss_many(std::vector<Tensor> xs, std::vector<int64_t> ks, bool standardize, Decay decay) {
  return run_many("spectral_loss_many", nullptr, xs, ks, 0, standardize, decay);
}

Tensor spectral_grad_many_(std::vector<Tensor> grads, std::vector<Tensor> xs, std::vector<int64_t> ks, double scale,
                           bool standardize, Decay decay) {
  return run_many("spectral_grad_many_", &grads, xs, ks, scale, standardize, decay);
}

std::vector<Tensor> spectral_grad_many(const Tensor& scale, std::vector<Tensor> xs, std::vector<int64_t> ks,
                                       bool standardize, Decay decay) {
  std::vector<Tensor> grads;
  for (const Tensor& x : xs) {
    grads.push_back(empty(x, sizes_of(x), types_of("_spectral_grad_many", x).out));
    torch::stable::zero_(grads.back());
  }
  const double value = dtype_of("_spectral_grad_many", "scale's dtype", scale.scalar_type()) == DType::f64
                           ? *static_cast<const double*>(scale.const_data_ptr())
                           : static_cast<double>(*static_cast<const float*>(scale.const_data_ptr()));
  run_many("_spectral_grad_many", &grads, xs, ks, value, standardize, decay);
  return grads;
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("spectral_loss", TORCH_BOX(&front::cpu::spectral_loss));
  m.impl("spectral_loss_many", TORCH_BOX(&front::cpu::spectral_loss_many));
  m.impl("spectral_grad_many_", TORCH_BOX(&front::cpu::spectral_grad_many_));
  m.impl("_spectral_grad_many", TORCH_BOX(&front::cpu::spectral_grad_many));
}
