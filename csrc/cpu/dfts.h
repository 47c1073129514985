// Complex DFTs: everything that does not depend on the data, as in tables.h.
#pragma once

#include <cstdint>
#include <vector>

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
  int64_t n;       // transform length
  FftView<T> fft;  // of length n, or of the convolution
  // Bluestein, see bluestein.h; null for mixed radix. With m = fft.n and w = exp(-pi i / m):
  const T* chirp;   // c_j = exp(-pi i j^2 / n), c_j w^j and c_j w^-j, [3][n] complex
  const T* kernel;  // DFT of length 2 m of the conjugate chirp, over 2 m: even frequencies, odd, [2][m] in slot order
};

// See resample.h; with m = fft.n. For float alone, what is computed in double is in double.
struct ResampledView {
  int64_t n;  // 0: there is none
  FftView<float> fft;
  StageView<double> outermost;  // of fft
  const double* scale;          // 1 / Phi(j / 2 m), [n]
  const double* turned;         // the same times exp(-pi i j / m), [n] complex, j >= n / 2 being j - n
  const float* taps;            // phi, [n][2][taps / 2]: of even l, and of odd ones
  const int32_t* first;         // where in `slots` the first even and odd l lie, [n][2]
  const int32_t* slots;         // of the points of a DFT, going on with the first ones after the last
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

// A complex DFT of any length: an FFT, and for Bluestein the chirp and its spectrum. Cached by length.
template <class T>
class DftTables {
 public:
  explicit DftTables(const DftPlan& plan);
  DftView<T> view() const;
  const DftPlan& plan() const { return plan_; }
  int64_t slot(int64_t j) const { return fft_.slot()[j]; }  // where input j of a mixed radix must lie
  const int32_t* slots() const { return fft_.slot().data(); }
  int64_t bytes() const;

 private:
  DftPlan plan_;
  Fft<T> fft_;
  std::vector<T> chirp_, kernel_;
};

class ResampledTables {
 public:
  explicit ResampledTables(const DftPlan& plan);
  ResampledView view() const;
  int64_t bytes() const;

 private:
  int64_t n_;
  Fft<float> fft_;
  std::vector<double> twiddles_, scale_, turned_;
  std::vector<float> taps_;
  std::vector<int32_t> first_, slots_;
};

}  // namespace front::cpu
