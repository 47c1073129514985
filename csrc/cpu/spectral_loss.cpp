#include <map>
#include <tuple>

#include "../spectral_checks.h"
#include "passes.h"
#include "spectral.h"

namespace front::cpu {
namespace {

using Decay = SpectralDecay;

SpectralMatrix describe(const Tensor& x, int64_t k0, int64_t k1, Types types) {
  const auto sizes = x.sizes(), strides = x.strides();
  const size_t row = sizes.size() - 2, column = sizes.size() - 1;
  return {x.const_data_ptr(), types.in, sizes[row], sizes[column], k0, k1, strides[row], strides[column], false};
}

SpectralGrad describe_grad(const char* op, const Tensor& grad) {
  const auto strides = grad.strides();
  const size_t row = strides.size() - 2, column = strides.size() - 1;
  SpectralGrad found{};
  found.data = grad.mutable_data_ptr();
  found.type = dtype_of(op, "grads' dtype", grad.scalar_type());
  found.row = strides[row], found.column = strides[column];
  return found;
}

// x [..., m, n]: one for each matrix. grad: null, or of x's shape.
void append(std::vector<SpectralLoss>& losses, const Tensor& x, const Tensor* grad, SpectralLoss p) {
  if (grad) p.grad = describe_grad("spectral_grad_many_", *grad);
  const auto* const x_data = static_cast<const char*>(p.matrix.x);
  auto* const grad_data = static_cast<char*>(p.grad.data);
  for_each_matrix(x, grad, [&](int64_t at, int64_t grad_at) {
    p.matrix.x = x_data + at * size_of(p.matrix.type);
    if (grad) p.grad.data = grad_data + grad_at * size_of(p.grad.type);
    losses.push_back(p);
  });
}

Tensor total(std::vector<SpectralLoss>& losses, bool apart, const Tensor& like, DType type) {
  run_spectral(losses.data(), static_cast<int64_t>(losses.size()), apart, torch_executor());
  double loss = 0;
  for (const SpectralLoss& p : losses) loss += p.loss;
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
  std::vector<SpectralLoss> losses;
  append(losses, x, nullptr, {describe(x, k[0], k[1], types), {}, 0, 0, standardize, 0, 0});
  return total(losses, true, x, types.compute);
}

Tensor run_many(const char* op, const std::vector<Tensor>* grads, const std::vector<Tensor>& xs,
                const std::vector<int64_t>& ks, double scale, bool standardize, const Decay& decay) {
  check_spectral(op, grads, xs, ks, decay);
  DType type = DType::f32;
  const double decay0 = decay ? (*decay)[0] : 0, decay1 = decay ? (*decay)[1] : 0;
  std::vector<SpectralLoss> losses;
  for (size_t i = 0; i < xs.size(); ++i) {
    const Types types = types_of(op, xs[i]);
    if (types.compute == DType::f64) type = DType::f64;
    append(losses, xs[i], grads ? &(*grads)[i] : nullptr,
           {describe(xs[i], ks[2 * i], ks[2 * i + 1], types), {}, decay0, decay1, standardize, scale, 0});
  }
  return total(losses, !grads || check_apart(op, *grads, xs), xs[0], type);
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
    grads.push_back(empty(x, sizes_of(x), types_of("_spectral_grad_many", x, {}, indexed("xs", grads.size())).out));
    torch::stable::zero_(grads.back());
  }
  const double value = dtype_of("_spectral_grad_many", "scale's dtype", scale.scalar_type()) == DType::f64
                           ? *static_cast<const double*>(scale.const_data_ptr())
                           : static_cast<double>(*static_cast<const float*>(scale.const_data_ptr()));
  run_many("_spectral_grad_many", &grads, xs, ks, value, standardize, decay);
  return grads;
}

std::tuple<Tensor, Tensor> spectral_crop(std::vector<Tensor> xs, std::vector<int64_t> k, bool only_rows) {
  const char* op = "_spectral_crop";
  if (xs.empty()) fail(op, "xs must not be empty");
  check_pair(op, "k", k);
  check_alike(op, xs);
  const auto count = static_cast<int64_t>(xs.size());
  const Types types = types_of(op, xs[0], {}, "xs[0]");
  const auto sizes = check_matrix(op, xs[0], "xs[0]");
  if (sizes.size() != 2) fail(op, "xs must be matrices, got shape ", shape_string(sizes));
  if (!only_rows) check_kept(op, "k[0]", k[0], sizes[0], "xs[0]");
  check_kept(op, "k[1]", k[1], sizes[1], "xs[0]");
  const int64_t rows = only_rows ? sizes[0] : k[0];
  const Tensor coefficients = empty(xs[0], {count, rows, k[1]}, types.compute);
  const Tensor spreads = empty(xs[0], {count, 4}, DType::f64);
  auto* block = static_cast<char*>(coefficients.mutable_data_ptr());
  auto* spread = static_cast<double*>(spreads.mutable_data_ptr());
  for (const Tensor& x : xs) {
    SpectralMatrix matrix = describe(x, rows, k[1], types);
    matrix.only_rows = only_rows;
    const Spread found = read_coefficients(matrix, block, torch_executor());
    *spread++ = found.mean, *spread++ = found.energy, *spread++ = found.constant, *spread++ = found.shift;
    block += rows * k[1] * size_of(types.compute);
  }
  return {coefficients, spreads};
}

Tensor spectral_residual_(std::vector<Tensor> grads, std::vector<Tensor> xs, const Tensor& coefficients,
                          const Tensor& terms, bool only_rows) {
  const char* op = "_spectral_residual_";
  if (xs.empty()) fail(op, "xs must not be empty");
  check_alike(op, xs);
  const auto count = static_cast<int64_t>(xs.size());
  if (!grads.empty() && grads.size() != xs.size()) fail(op, "grads must be empty or have one for each of xs");
  const Types types = types_of(op, xs[0], {}, "xs[0]");
  const auto sizes = check_matrix(op, xs[0], "xs[0]"), kept = sizes_of(coefficients);
  if (sizes.size() != 2) fail(op, "xs must be matrices, got shape ", shape_string(sizes));
  if (kept.size() != 3 || kept[0] != count || kept[1] < 1 || kept[1] > sizes[0] || kept[2] < 1 || kept[2] > sizes[1] ||
      (only_rows && kept[1] != sizes[0]) || !coefficients.is_contiguous() ||
      dtype_of(op, "coefficients' dtype", coefficients.scalar_type()) != types.compute)
    fail(op, "coefficients must be contiguous, in the compute dtype, and fit xs, got shape ", shape_string(kept));
  if (sizes_of(terms) != std::vector<int64_t>{count, 4} || !terms.is_contiguous() ||
      dtype_of(op, "terms' dtype", terms.scalar_type()) != DType::f64)
    fail(op, "terms must be float64, contiguous, of shape ", shape_string({count, 4}), ", got ",
         shape_string(sizes_of(terms)));
  for (size_t i = 0; i < grads.size(); ++i) check_grad(op, grads[i], xs[i], types, i);
  check_apart(op, grads, xs);
  const Tensor squares = empty(xs[0], {count}, DType::f64);
  const auto* block = static_cast<const char*>(coefficients.const_data_ptr());
  const auto* term = static_cast<const double*>(terms.const_data_ptr());
  for (int64_t i = 0; i < count; ++i, term += 4) {
    SpectralMatrix matrix = describe(xs[i], kept[1], kept[2], types);
    matrix.only_rows = only_rows;
    SpectralGrad grad{};
    if (!grads.empty()) grad = describe_grad(op, grads[i]);
    grad.factor = term[0], grad.slope = term[1], grad.mean = term[2], grad.shift = term[3];
    static_cast<double*>(squares.mutable_data_ptr())[i] = add_residual(matrix, block, grad, torch_executor());
    block += kept[1] * kept[2] * size_of(types.compute);
  }
  return squares;
}

std::vector<int64_t> spectral_alike(std::vector<Tensor> grads, std::vector<Tensor> xs, std::vector<int64_t> ks) {
  std::map<std::vector<int64_t>, int64_t> first;
  std::vector<int64_t> found;
  for (size_t i = 0; i < xs.size(); ++i) {
    std::vector<int64_t> key{ks[2 * i], ks[2 * i + 1]};
    const auto add = [&](const Tensor& t) {
      for (int64_t n : t.sizes()) key.push_back(n);
      for (int64_t n : t.strides()) key.push_back(n);
      const int64_t device = t.is_cpu() ? -1 : t.get_device_index();
      key.insert(key.end(), {static_cast<int64_t>(t.sizes().size()), static_cast<int64_t>(t.scalar_type()), device});
    };
    add(xs[i]);
    if (!grads.empty()) add(grads[i]);
    found.push_back(first.try_emplace(std::move(key), static_cast<int64_t>(i)).first->second);
  }
  return found;
}

bool spectral_apart(std::vector<Tensor> grads, std::vector<Tensor> xs) {
  return check_apart("spectral_grad_many_", grads, xs);
}

}  // namespace
}  // namespace front::cpu

STABLE_TORCH_LIBRARY_IMPL(front, CPU, m) {
  m.impl("spectral_loss", TORCH_BOX(&front::cpu::spectral_loss));
  m.impl("spectral_loss_many", TORCH_BOX(&front::cpu::spectral_loss_many));
  m.impl("spectral_grad_many_", TORCH_BOX(&front::cpu::spectral_grad_many_));
  m.impl("_spectral_crop", TORCH_BOX(&front::cpu::spectral_crop));
  m.impl("_spectral_residual_", TORCH_BOX(&front::cpu::spectral_residual_));
  m.impl("_spectral_grad_many", TORCH_BOX(&front::cpu::spectral_grad_many));
}
STABLE_TORCH_LIBRARY_IMPL(front, CompositeExplicitAutograd, m) {
  m.impl("_spectral_alike", TORCH_BOX(&front::cpu::spectral_alike));
  m.impl("_spectral_apart", TORCH_BOX(&front::cpu::spectral_apart));
}
