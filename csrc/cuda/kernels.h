// The kernels of one axis, and the macros that make an entry point of one plan. csrc/cuda/source.h writes the text.
#pragma once

#include "coefficients.h"
#include "large.h"
#include "rows.h"
#include "tile.h"

namespace front::cuda {

// in: values along the axis; out: the first `kept` coefficients.
template <class A, class B>
FRONT_DEVICE void forward_axis(const B& block, const AxisArgs& args) {
  const auto points = block.template shared<typename A::Point>(0, A::padded * A::together);
  const auto tile = block.template shared<typename A::Real>(A::tile_offset, A::most_kept * A::lanes);
  const auto* twiddles = static_cast<const typename A::Point*>(args.twiddles);
  const Place place = place_of<A>(block, args);
  FRONT_NO_UNROLL
  for (int first = 0; first < A::lanes && first < place.lanes; first += A::together) {
    load_rows<A>(block, args, place, first, points);
    middle_stages<A, 1, A::stages - 1>(block, points, place.template live<A>(first), twiddles);
    split_spectrum<A, true>(block, args, place, first, points, tile);
  }
  store_tile<A>(block, args, place, tile);
}

// in: `kept` coefficients; out: values along the axis. The transpose of forward_axis, step by step backwards.
template <class A, class B>
FRONT_DEVICE void inverse_axis(const B& block, const AxisArgs& args) {
  const auto points = block.template shared<typename A::Point>(0, A::padded * A::together);
  const auto tile = block.template shared<typename A::Real>(A::tile_offset, A::most_kept * A::lanes);
  const auto* twiddles = static_cast<const typename A::Point*>(args.twiddles);
  const Place place = place_of<A>(block, args);
  load_tile<A>(block, args, place, tile);
  FRONT_NO_UNROLL
  for (int first = 0; first < A::lanes && first < place.lanes; first += A::together) {
    merge_spectrum<A, true>(block, args, place, args.split, first, points, tile);
    middle_stages<A, 1, A::stages - 1>(block, points, place.template live<A>(first), twiddles);
    store_rows<A>(block, args, place, first, points, twiddles);
  }
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
  load_rows<A>(block, args, place, 0, points);
  middle_stages<A, 1, A::stages - 1>(block, points, place.template live<A>(0), twiddles);
  split_spectrum<A, false>(block, args, place, 0, points, tile);
  merge_spectrum<Back, false>(block, args, place, args.split_back, 0, back, tile);
  middle_stages<Back, 1, Back::stages - 1>(block, back, place.template live<A>(0), twiddles_back);
  store_rows<Back>(block, args, place, 0, back, twiddles_back);
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
