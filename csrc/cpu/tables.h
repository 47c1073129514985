// Everything about an axis that does not depend on the data: twiddles, permutations, combine coefficients. Computed in
// double (angles reduced exactly, as integer fractions of a turn), stored in the compute type T, immutable afterwards.
// Kernels see only the `View`s: plain pointers, so that code built for one instruction set never instantiates a
// container that the linker could share with code for another.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../params.h"
#include "../plan.h"

namespace front::cpu {

template <class T>
struct StageView {
  int32_t radix;
  int64_t span;        // sub-transform length that this stage combines
  const T* twiddles;   // [span] rows of exp(-2 pi i j k / (radix * span)), j = 1..radix-1
  const T* rotations;  // generic radix p: cos and sin of 2 pi q j / p, [2][h][h] for q, j = 1..h = (p-1)/2
};

template <class T>
struct FftView {
  int64_t n;
  int32_t stages;
  const StageView<T>* stage;  // innermost first
};

template <class T>
struct DftView {
  int64_t n;        // transform length
  FftView<T> fft;   // of length n, or of the convolution
  const T* chirp;   // Bluestein: exp(-pi i j^2 / n), [n] complex; null for mixed radix
  const T* kernel;  // Bluestein: DFT of the conjugate chirp, divided by the length, [fft.n] complex in slot order
};

template <class T>
struct AxisView {
  bool dense;
  int64_t length;                // of what is transformed: n, or n / 2 after the filter
  int taps;                      // of decimate.h's filter; 0: none
  const T* filter;               // its second half
  bool fused;                    // AxisPlan::fused
  int64_t n, kept, split, half;  // half: length of each complex DFT; dense: of the folded lane
  DftView<T> dft;
  // Real numbers of the work array of split * half complex ones.
  const int32_t* forward_in;      // where the forward transform's input i must lie [length]
  const int32_t* inverse_out;     // where the inverse's output i is left [length]
  const int32_t* coefficient_at;  // where coefficient k is left, and must lie for the inverse [kept]
  const T* combine;               // even n: [kept][split][4], odd n: [kept][2]
  const double* wide_combine;     // not null: the inverse's fused step is computed in double, with these instead of
  const double* wide_twiddles;    // `combine` and of the last stage's twiddles
  int64_t work;                   // complex numbers per lane: split * half, plus Bluestein's convolution; dense.h
};

// Digit reversal, twiddles and rotations of a mixed-radix FFT.
template <class T>
class Fft {
 public:
  Fft(int64_t n, const std::vector<int32_t>& radices);
  FftView<T> view() const { return {n_, static_cast<int32_t>(stages_.size()), stages_.data()}; }
  const std::vector<int32_t>& slot() const { return slot_; }
  int64_t bytes() const;

 private:
  int64_t n_;
  std::vector<T> values_;
  std::vector<StageView<T>> stages_;
  std::vector<int32_t> slot_;
};

// A complex DFT of any length: an FFT, and for Bluestein the chirp and its spectrum.
template <class T>
class DftTables {
 public:
  explicit DftTables(const DftPlan& plan);
  DftView<T> view() const;
  const DftPlan& plan() const { return plan_; }
  int64_t slot(int64_t j) const { return plan_.conv ? j : fft_.slot()[j]; }  // where input j must lie
  int64_t bytes() const;

 private:
  DftPlan plan_;
  Fft<T> fft_;
  std::vector<T> chirp_, kernel_;
};

template <class T>
class AxisTables {
 public:
  // `dft`: of length plan.dft.n; null for a dense plan.
  AxisTables(const AxisPlan& plan, Scale scale, std::shared_ptr<const DftTables<T>> dft);
  AxisView<T> view() const;
  int64_t bytes() const;

 private:
  void fill_dense(Scale scale);
  void fill_fft(Scale scale);
  template <class C>
  void fill_combine(Scale scale, const std::vector<double>& filter, std::vector<C>& combine) const;

  AxisPlan plan_;
  std::shared_ptr<const DftTables<T>> dft_;
  std::vector<T> combine_, filter_;
  std::vector<double> wide_combine_, wide_twiddles_;
  std::vector<int32_t> forward_in_, inverse_out_, coefficient_at_;
};

// Cached, the DFT's part by length alone; the least recently used go first once a cache exceeds its limit, and what
// exceeds the limit by itself is not kept. At most 64 MiB per compute type. wide: for an inverse that may compute its
// fused step in double.
template <class T>
std::shared_ptr<const AxisTables<T>> axis_tables(int64_t n, int64_t kept, Scale scale, bool wide = false);

}  // namespace front::cpu
