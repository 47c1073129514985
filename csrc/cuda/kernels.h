// The kernels of one axis, and the macros that make an entry point of one plan. csrc/cuda/source.h writes the text.
#pragma once

#include "coefficients.h"
#include "large.h"
#include "rows.h"
#include "spectral.h"
#include "tile.h"

namespace front::cuda {

// Values along the axis -> points in shared memory -> the first `kept` coefficients, in the tile.
template <class A, class B, class Tile, class Values>
FRONT_DEVICE void forward_lanes(const B& block, const AxisArgs& args, const Place& place, Tile tile,
                                const Values& values) {
  const auto points = block.template shared<typename A::Point>(0, A::padded * A::together);
  const auto* twiddles = static_cast<const typename A::Point*>(args.twiddles);
  FRONT_NO_UNROLL
  for (int first = 0; first < A::lanes && first < place.lanes; first += A::together) {
    load_rows<A>(block, args, place, first, points, values);
    middle_stages<A, 1, A::stages - 1>(block, points, place.template live<A>(first), twiddles);
    split_spectrum<A, true>(block, args, place, first, points, tile);
  }
}

template <class A, class B>
FRONT_DEVICE auto tile_of(const B& block) {
  return block.template shared<typename A::Real>(A::tile_offset, A::most_kept * A::lanes);
}

// in: values along the axis; out: the first `kept` coefficients.
template <class A, class B>
FRONT_DEVICE void forward_axis(const B& block, const AxisArgs& args) {
  const auto tile = tile_of<A>(block);
  const Place place = place_of<A>(block, args);
  forward_lanes<A>(block, args, place, tile, Plain{});
  store_tile<A>(block, args, place, tile);
}

// The transpose of forward_axis, step by step backwards, up to the values.
template <class A, class B, class Values>
FRONT_DEVICE void inverse_lanes(const B& block, const AxisArgs& args, const Place& place, const Values& values) {
  const auto points = block.template shared<typename A::Point>(0, A::padded * A::together);
  const auto tile = tile_of<A>(block);
  const auto* twiddles = static_cast<const typename A::Point*>(args.twiddles);
  load_tile<A>(block, args, place, tile);
  FRONT_NO_UNROLL
  for (int first = 0; first < A::lanes && first < place.lanes; first += A::together) {
    values.template prefetch<A>(block, args, place, first);
    merge_spectrum<A, true>(block, args, place, args.split, first, points, tile);
    middle_stages<A, 1, A::stages - 1>(block, points, place.template live<A>(first), twiddles);
    store_rows<A>(block, args, place, first, points, twiddles, values);
  }
}

// in: `kept` coefficients; out: values along the axis.
template <class A, class B>
FRONT_DEVICE void inverse_axis(const B& block, const AxisArgs& args) {
  inverse_lanes<A>(block, args, place_of<A>(block, args), Plain{});
}

// in: values; out: values of another length with the same `kept` coefficients, which never leave the block. Both axes
// have the same lanes, all together and overlaid.
template <class A, class Back, class B>
FRONT_DEVICE void resize_axis(const B& block, const AxisArgs& args) {
  static_assert(A::overlaid && Back::overlaid && A::lanes == Back::lanes && A::threads == Back::threads);
  const auto points = block.template shared<typename A::Point>(0, A::padded * A::together);
  const auto back = block.template shared<typename A::Point>(0, Back::padded * Back::together);
  const auto tile = block.template shared<typename A::Real>(0, static_cast<u32>(args.kept) * A::lanes);
  const auto* twiddles = static_cast<const typename A::Point*>(args.twiddles);
  const auto* twiddles_back = static_cast<const typename A::Point*>(args.twiddles_back);
  const Place place = place_of<A>(block, args);
  load_rows<A>(block, args, place, 0, points, Plain{});
  middle_stages<A, 1, A::stages - 1>(block, points, place.template live<A>(0), twiddles);
  split_spectrum<A, false>(block, args, place, 0, points, tile);
  merge_spectrum<Back, false>(block, args, place, args.split_back, 0, back, tile);
  middle_stages<Back, 1, Back::stages - 1>(block, back, place.template live<A>(0), twiddles_back);
  store_rows<Back>(block, args, place, 0, back, twiddles_back, Plain{});
}

// forward_axis of x - shift, and the moments of what it reads.
template <class A, class B>
FRONT_DEVICE void measure_axis(const B& block, const SpectralArgs& args) {
  using Real = typename A::Real;
  const auto tile = tile_of<A>(block);
  const Place place = place_of<A>(block, args.axis);
  Sums<B, Real> sums;
  forward_lanes<A>(block, args.axis, place, tile, Measured<B, Real>{shift_of<Real>(block, args, place.matrix), sums});
  add_up(block, args, sums, [&](Complex<double> sum) {
    block.store(args.moments + 2 * block.index(), sum.x);
    block.store(args.moments + 2 * block.index() + 1, sum.y);
  });
  store_tile<A>(block, args.axis, place, tile);
}

// inverse_axis, whose values become the residual: in gradients, and its square's sum.
template <class A, class X, class S, class B>
FRONT_DEVICE void residual_axis(const B& block, const SpectralArgs& args) {
  using Real = typename A::Real;
  const Place place = place_of<A>(block, args.axis);
  Sums<B, Real> sums;
  inverse_lanes<A>(block, args.axis, place,
                   Blended<B, Real, X, S>{args, terms_of<Real>(block, args, place.matrix), sums});
  add_up(block, args, sums, [&](Complex<double> sum) { block.store(args.squares + block.index(), sum.x); });
}

// All steps for matrices of one row: there and back in one block, the coefficients in its tile.
template <class A, class X, class S, class B>
FRONT_DEVICE void row_axis(const B& block, const SpectralArgs& args) {
  static_assert(A::lanes == 1, "each lane is another matrix");
  using Real = typename A::Real;
  const auto points = block.template shared<typename A::Point>(0, A::padded);
  const auto tile = tile_of<A>(block);
  const auto* twiddles = static_cast<const typename A::Point*>(args.axis.twiddles);
  const Place place = place_of<A>(block, args.axis);
  find_shift<Real>(block, args, place.matrix);
  Sums<B, Real> moments;
  const Measured<B, Real> measured{shift_of<Real>(block, args, place.matrix), moments};
  forward_lanes<A>(block, args.axis, place, tile, measured);
  Complex<double> sums{0, 0};
  add_up(block, args, moments, [&](Complex<double> sum) { sums = sum; });
  Sums<B, double> kept;
  block.each("weigh", [&](int t) {
    for (u32 q = t; q < static_cast<u32>(A::most_kept); q += B::threads) {
      const int at = A::tile_at(q, 0);
      tile.write(at, q < args.axis.kept ? Real(weighed(args, 0, q, tile.read(at), kept[t])) : Real(0));
    }
  });
  add_up(block, args, kept, [&](Complex<double> sum) { store_terms<Real>(block, args, place.matrix, sums, sum); });
  Sums<B, Real> squares;
  const Blended<B, Real, X, S> blended{args, terms_of<Real>(block, args, place.matrix), squares};
  merge_spectrum<A, true>(block, args.axis, place, args.axis.split, 0, points, tile);
  middle_stages<A, 1, A::stages - 1>(block, points, 1, twiddles);
  store_rows<A>(block, args.axis, place, 0, points, twiddles, blended);
  add_up(block, args, squares, [&](Complex<double> sum) { store_loss(block, args, place.matrix, sum.x); });
}

}  // namespace front::cuda

// FRONT_KERNEL(name, threads, blocks per multiprocessor, argument type, call): an entry point. `call` sees `block`
// and `args`.
#ifdef __CUDACC__
#define FRONT_KERNEL(NAME, THREADS, BLOCKS, ARGS, ...)                                                    \
  extern "C" __global__ void __launch_bounds__(THREADS, BLOCKS) NAME(const __grid_constant__ ARGS args) { \
    const front::cuda::Block<THREADS> block;                                                              \
    __VA_ARGS__;                                                                                          \
  }
#else
#define FRONT_KERNEL(NAME, THREADS, BLOCKS, ARGS, ...)                                       \
  extern "C" void NAME(const ARGS* pointer, front::cuda::i64 first, front::cuda::i64 blocks, \
                       front::cuda::EmulatorReport* report) {                                \
    const ARGS& args = *pointer;                                                             \
    front::cuda::Emulation emulation(*report);                                               \
    const front::cuda::Block<THREADS> block{&emulation};                                     \
    for (front::cuda::i64 i = first; i < first + blocks; ++i) {                              \
      emulation.start_block(i);                                                              \
      __VA_ARGS__;                                                                           \
    }                                                                                        \
  }
#endif
