// The op schemas of namespace `front`, and nothing else. docs/DESIGN.md says what each one computes.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(front, m) {
  m.def("dct(Tensor x, SymInt? k=None, int dim=-1, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def("idct(Tensor x, SymInt? size=None, int dim=-1, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def("dct2(Tensor x, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def("idct2(Tensor x, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def("dct_crop(Tensor x, SymInt[2] k, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def("dct_crop.square(Tensor x, SymInt k, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def("idct_pad(Tensor x, SymInt[2] size, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def("idct_pad.square(Tensor x, SymInt size, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor");
  m.def(
      "dct_resize(Tensor x, SymInt[2] size, *, SymInt[2]? k=None, str norm=\"ortho\", ScalarType? out_dtype=None) "
      "-> Tensor");
  m.def("lowpass(Tensor x, SymInt[2] k) -> Tensor");

  m.def("dct2.out(Tensor x, *, str norm=\"ortho\", Tensor(a!) out) -> ()");
  m.def("idct2.out(Tensor x, *, str norm=\"ortho\", Tensor(a!) out) -> ()");
  m.def("dct_crop.out(Tensor x, SymInt[2] k, *, str norm=\"ortho\", Tensor(a!) out) -> ()");
  m.def("idct_pad.out(Tensor x, SymInt[2] size, *, str norm=\"ortho\", Tensor(a!) out) -> ()");
  m.def(
      "dct_resize.out(Tensor x, SymInt[2] size, *, SymInt[2]? k=None, str norm=\"ortho\", Tensor(a!) out) "
      "-> ()");

  m.def("dct_crop_many(Tensor[] xs, SymInt[2] k, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor[]");
  m.def("idct_pad_many(Tensor[] xs, SymInt[2] size, *, str norm=\"ortho\", ScalarType? out_dtype=None) -> Tensor[]");

  m.def("dct2_(Tensor(a!) x, *, str norm=\"ortho\") -> ()");
  m.def("idct2_(Tensor(a!) x, *, str norm=\"ortho\") -> ()");
  m.def("dct_crop_(Tensor(a!) x, SymInt[2] k, *, str norm=\"ortho\") -> ()");
  m.def("idct_pad_(Tensor(a!) x, SymInt[2] k, *, str norm=\"ortho\") -> ()");
  m.def("lowpass_(Tensor(a!) x, SymInt[2] k) -> ()");

  m.def("spectral_loss(Tensor x, SymInt[2] k, *, bool standardize=False) -> Tensor");
  m.def(
      "spectral_loss_many(Tensor[] xs, SymInt[] ks, *, bool standardize=False, float[]? decay=None) "
      "-> Tensor");
  m.def(
      "spectral_grad_many_(Tensor(a!)[] grads, Tensor[] xs, SymInt[] ks, float scale, *, bool standardize=False, "
      "float[]? decay=None) -> Tensor");

  // private: the backward of spectral_loss_many, the gradients times `scale`
  m.def(
      "_spectral_grad_many(Tensor scale, Tensor[] xs, SymInt[] ks, *, bool standardize=False, float[]? decay=None) "
      "-> Tensor[]");
  // private: its two halves, for losses that couple matrices or split one. Of every matrix its coefficients, [k0, k1]
  // or [m, k1] of the rows alone, of x - shift, and (mean, energy, constant, shift); then grads (or none) += factor r +
  // slope (x - mean) with r = x - shift - idct_pad(coefficients), where terms are (factor, slope, mean, shift), and the
  // sums of r^2.
  m.def("_spectral_crop(Tensor[] xs, SymInt[2] k, bool only_rows=False) -> (Tensor, Tensor)");
  m.def(
      "_spectral_residual_(Tensor(a!)[] grads, Tensor[] xs, Tensor coefficients, Tensor terms, bool only_rows=False) "
      "-> Tensor");

  // private: for each of xs the place of the first one that it and its gradient (grads may be empty) are like, in
  // shape, strides, dtype, device and k
  m.def("_spectral_alike(Tensor[] grads, Tensor[] xs, SymInt[] ks) -> int[]");
  // private: whether no two gradients share memory; throws if one does with one of xs
  m.def("_spectral_apart(Tensor[] grads, Tensor[] xs) -> bool");
  // private: the CUDA engine's losses of all matrices, float64; grads (or none) += scale times the gradients, and times
  // what scale_at has, if it has something.
  m.def(
      "_cuda_spectral_(Tensor(a!)[] grads, Tensor[] xs, SymInt[] ks, float scale, Tensor[] scale_at, bool standardize, "
      "float[]? decay) -> Tensor");

  // private: whether it takes matrices of sizes (m, n, k0, k1) and strides (row, column); types: params.h's DType of x,
  // of compute and of gradients
  m.def("_cuda_spectral_fits(int[] sizes, int[] strides, int[] types, int[] hardware) -> bool");

  // private: the CUDA engine. direction: params.h's Direction; k0, k1: what a resize keeps.
  m.def("_cuda_matrices(Tensor[] xs, Tensor(a!)[] outs, int direction, SymInt k0, SymInt k1, str norm) -> ()");
  m.def("_cuda_axis(Tensor x, Tensor(a!) out, int direction, int dim, str norm) -> ()");
  m.def("_cuda_force_plan(int[] plan, int[] radices, int fours) -> ()");   // plan.h's plan_of and Fours
  m.def("_cuda_plans_forced() -> int");                                    // how often that was called
  m.def("_cuda_hardware(int index) -> (int, int, int, int, int)");         // plan.h's Hardware
  m.def("_cuda_image(str name, str source, int architecture) -> Tensor");  // machine code of a kernel, as bytes

  m.def("_cpu_empty_cache() -> ()");                // private: frees the retained workspace
  m.def("_cpu_isa() -> str");                       // private: which instruction set runs
  m.def("_cpu_machine() -> (int, int, int, int)");  // private: what plans depend on, plan.h's Machine
}
