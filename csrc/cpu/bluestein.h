// Complex DFTs of any length, by convolution (Bluestein). Included only by axis_isa.cpp (see vectors.h).
//
// jk = (j^2 + k^2 - (k - j)^2) / 2: the DFT is the convolution of z_j c_j with the conjugate of the chirp c_j =
// exp(-pi i j^2 / n), times c_k. Padded with zeros to 2 m >= 2 n points it is cyclic, and its even and its odd
// frequencies are two DFTs of m points, of z_j c_j and of z_j c_j w^j with w = exp(-pi i / m); only the first half of
// the result matters, where the two inverse DFTs are added, one of them times w^-k.
#pragma once

#include "fft.h"
#include "resample.h"

namespace front::cpu::FRONT_ISA {

// The cyclic convolution of z with the sequence whose DFT is `kernel`, in place, on the first `end` stages. Decimation
// in frequency leaves slot order, and decimation in time begins with it: no point moves, and a part that stays near is
// transformed, multiplied and transformed back at once. The inverse DFT is the DFT with re and im exchanged before and
// after; they are left exchanged.
template <class T>
void convolve(Complex<T>* z, const FftView<T>& fft, int end, const T* kernel) {
  const StageView<T>& last = fft.stage[end - 1];
  const int64_t length = last.radix * last.span;
  if (end > near_stages(fft)) {
    run_stage<true>(z, last, 1);
    for (int64_t j = 0; j < length; j += last.span) convolve(z + j, fft, end - 1, kernel + 2 * j);
    run_stage(z, last, 1);
    return;
  }
  run_stages_back(z, fft, end);
  for (int64_t j = 0; j < length; ++j) {
    const auto y = times(z[j], kernel + 2 * j);
    z[j] = Complex<T>{y.im, y.re};
  }
  run_stages(z, fft, end);
}

// dft.n points -> their DFT; `spare` holds dft.fft.n and dft.n of them. The outermost stage, first and last of a
// convolution, reads and writes the points themselves, so that none of their products is stored before it.
template <class T>
void bluestein(Complex<T>* z, const DftView<T>& dft, Complex<T>* spare) {
  const int64_t n = dft.n, m = dft.fft.n;
  const int outermost = dft.fft.stages - 1;  // not the innermost: n is more than any radix
  const StageView<T>& st = dft.fft.stage[outermost];
  Complex<T>* even = spare + m;  // the even frequencies' share of the result
  const auto convolution = [&](int odd, auto radix, auto store) FRONT_INLINED {
    const T *before = dft.chirp + 2 * n * odd, *after = dft.chirp + 4 * n * odd;
    stage_between<radix, true>(
        st, [&](int64_t j) FRONT_INLINED { return j < n ? times(z[j], before + 2 * j) : Complex<T>::zero(); },
        [&](int64_t j, Complex<T> x) FRONT_INLINED { spare[j] = x; });
    for (int64_t j = 0; j < m; j += st.span) convolve(spare + j, dft.fft, outermost, dft.kernel + 2 * (m * odd + j));
    stage_between<radix, false>(
        st, [&](int64_t k) FRONT_INLINED { return spare[k]; },
        [&](int64_t k, Complex<T> x) FRONT_INLINED {
          if (k < n) store(k, times(Complex<T>{x.im, x.re}, after + 2 * k));
        });
  };
  const auto with_radix = [&](auto radix) {
    convolution(0, radix, [&](int64_t k, Complex<T> x) FRONT_INLINED { even[k] = x; });
    convolution(1, radix, [&](int64_t k, Complex<T> x) FRONT_INLINED { z[k] = even[k] + x; });
  };
  with_butterfly(st.radix, with_radix, [] { __builtin_trap(); });  // smooth lengths have no other radices
}

// Whether its DFTs are made from others, of a smooth length.
template <class T>
bool by_smooth(const AxisView<T>& axis) {
  return std::is_same_v<T, float> ? axis.resampled.n != 0 : axis.dft.chirp != nullptr;
}

// The DFT of every subsequence: slot order for mixed radix, else natural -> natural order.
template <class T>
void run_dfts(const AxisView<T>& axis, Complex<T>* z) {
  Complex<T>* spare = z + axis.split * axis.half;
  for (int64_t s = 0; s < axis.split; ++s, z += axis.half) {
    if (!by_smooth(axis))
      run_stages(z, axis.dft.fft, axis.dft.fft.stages);
    else if constexpr (std::is_same_v<T, float>)
      resample(z, axis.resampled, spare);
    else
      bluestein(z, axis.dft, spare);
  }
}

// The same from natural order to what `run_dfts` begins with.
template <class T>
void run_dfts_back(const AxisView<T>& axis, Complex<T>* z) {
  const FftView<T>& fft = axis.dft.fft;
  if (by_smooth(axis)) return run_dfts(axis, z);
  for (int64_t s = 0; s < axis.split; ++s) run_stages_back(z + s * axis.half, fft, fft.stages);
}

}  // namespace front::cpu::FRONT_ISA
