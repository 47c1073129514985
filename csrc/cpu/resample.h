// Complex DFTs of any length n, resampled from DFTs of a smooth length m >= n. Included only by axis_isa.cpp (see
// vectors.h).
//
// X_k = sum_j z_j exp(-2 pi i j k / n), with |j| <= n / 2 since j counts modulo n, is a function of k / n without steep
// parts: `taps` values on the grid l / (2 m) around it are enough, X_k = sum_l phi(2 m k / n - l) Y_l, where Y is the
// DFT of 2 m points of z_j / Phi(j / (2 m)) and phi Kaiser and Bessel's window, Phi its transform (the nonuniform FFT
// of Dutt and Rokhlin). What of z_j appears at the other side of Phi's main lobe is 6e-10 of it (plan.h). More than
// half of the 2 m points are zeros, so that even l and odd ones are two DFTs of m points.
#pragma once

#include "fft.h"
#include "halves.h"

namespace front::cpu::FRONT_ISA {

// dft.n points -> their DFT; `spare` holds 2 dft.fft.n of them. The outermost stage of the DFTs reads the points, and
// is computed in double.
inline void resample(Complex<float>* points, const ResampledView& dft, Complex<float>* spare) {
  constexpr int kTaps = plan_detail::kResampleTaps / 2;  // of even l, and of odd
  const int64_t n = dft.n, m = dft.fft.n, positive = (n + 1) / 2;
  const int outermost = dft.fft.stages - 1;  // not the innermost: n is more than any radix
  const StageView<double>& st = dft.outermost;
  const auto grid = [&](Complex<float>* y, auto radix, auto scaled) FRONT_INLINED {
    for (int which = 0; which < kHalves<double, float>; ++which) {
      const Part<double, float> z(points, which), to(y, which);
      stage_between<radix, true>(
          st,
          [&](int64_t i) FRONT_INLINED {
            const int64_t j = i < positive ? i : i + n - m;  // the others begin after the padding
            return i < positive || j >= positive ? scaled(j, z.load_point(j)) : Complex<double>::zero();
          },
          [&](int64_t i, Complex<double> x) FRONT_INLINED { to.store_point(i, x); });
    }
    for (int64_t i = 0; i < m; i += st.span) run_stages_back(y + i, dft.fft, outermost);
  };
  const auto with_radix = [&](auto radix) {
    grid(spare, radix, [&](int64_t j, Complex<double> x) FRONT_INLINED {
      const Vector<double> scale = splat(dft.scale[j]);
      return Complex<double>{x.re * scale, x.im * scale};
    });
    grid(spare + m, radix, [&](int64_t j, Complex<double> x) FRONT_INLINED { return times(x, dft.turned + 2 * j); });
  };
  with_butterfly(st.radix, with_radix, [] { __builtin_trap(); });  // smooth lengths have no other radices
  for (int64_t k = 0; k < n; ++k) {
    const float* taps = dft.taps + 2 * kTaps * k;
    Complex<float> sum[2];
    for (int odd = 0; odd < 2; ++odd, taps += kTaps) {
      const Complex<float>* y = spare + odd * m;
      const int32_t* slot = dft.slots + dft.first[2 * k + odd];
      // The small ones first: less is rounded.
      constexpr int kOrder[] = {0, 4, 1, 3, 2};
      static_assert(kTaps == 5);
      sum[odd] = Complex<float>::zero();
      for (int t : kOrder) {
        const Complex<float>& x = y[slot[t]];
        const Vector<float> w = splat(taps[t]);
        sum[odd].re += w * x.re, sum[odd].im += w * x.im;
      }
    }
    points[k] = sum[0] + sum[1];
  }
}

}  // namespace front::cpu::FRONT_ISA
