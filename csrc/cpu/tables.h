// Everything about an axis that does not depend on the data: twiddles, permutations, combine coefficients. Computed in
// double (angles reduced exactly, as integer fractions of a turn), stored in the compute type T, immutable afterwards.
// Kernels see only the `View`s: plain pointers, so that code built for one instruction set never instantiates a
// container that the linker could share with code for another.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "../params.h"
#include "dfts.h"

namespace front::cpu {

template <class T>
struct AxisView {
  bool dense, streamed;
  int64_t length;                // of what is transformed: n, or less after the filter
  int taps;                      // of the filter; 0: none
  const T* filter;               // its second half
  bool fused;                    // AxisPlan::fused
  int64_t n, kept, split, half;  // half: length of each complex DFT; dense: of the folded lane
  DftView<T> dft;
  ResampledView resampled;  // if it is there: instead of `dft`
  // Real numbers of the work array of split * half complex ones.
  const int32_t* forward_in;      // where the forward transform's input i must lie [length]
  const int32_t* inverse_out;     // where the inverse's output i is left [length]
  const int32_t* coefficient_at;  // where coefficient k is left, and must lie for the inverse [kept]
  const T* combine;               // even n: [kept][split][4], odd n: [kept][2]
  const double* wide_combine;     // not null: the inverse's fused step is computed in double, with these instead of
  const double* wide_twiddles;    // `combine` and of the last stage's twiddles
  int64_t work;                   // complex numbers per lane: split * half, plus Bluestein's or resampling's; dense.h
};

template <class T>
class AxisTables {
 public:
  // Of plan.dft, the one that it is by; of a dense plan none.
  AxisTables(const AxisPlan& plan, Scale scale, std::shared_ptr<const DftTables<T>> dft,
             std::shared_ptr<const ResampledTables> resampled = nullptr);
  AxisView<T> view() const;
  int64_t bytes() const;

 private:
  void fill_dense(Scale scale);
  void fill_fft(Scale scale);
  template <class C>
  void fill_combine(Scale scale, const std::vector<double>& filter, std::vector<C>& combine) const;

  AxisPlan plan_;
  std::shared_ptr<const DftTables<T>> dft_;
  std::shared_ptr<const ResampledTables> resampled_;
  std::vector<T> combine_, filter_;
  std::vector<double> wide_combine_, wide_twiddles_;
  std::vector<int32_t> forward_in_, inverse_out_, coefficient_at_;
};

// The second half of a filter's taps, which lives as long as the process.
const float* filter_half(const plan_detail::Filter& filter);

// The tables of a mixed radix or Bluestein's, cached by length.
template <class T>
std::shared_ptr<const DftTables<T>> dft_tables(const DftPlan& plan);

// Cached, the DFT's part by length alone; the least recently used go first once a cache exceeds its limit, and what
// exceeds the limit by itself is not kept. At most 40 MiB of axes per compute type, and as much of their DFTs, and
// resampled ones.
// wide: for an inverse that may compute its fused step in double. streams: for a pass whose rows may stream by.
// filter: by which the values have been, or will be, decimated; null: by none, or as the plan says.
template <class T>
std::shared_ptr<const AxisTables<T>> axis_tables(int64_t n, int64_t kept, Scale scale, bool wide = false,
                                                 Streams streams = Streams::no,
                                                 const plan_detail::Filter* filter = nullptr);

// In what order a transform uses its elements: the i-th one is element element()[i]; where they are copied in that
// order, it goes to, or comes from, place()[i] of the work array. Rows can be transformed in any order: taken in this
// one, the transform across them finds, or leaves, its elements one after the other, and copies none. Null for an axis
// without a fused step (pairs.h) or, of values, without a stage before it.
class UseOrder {
 public:
  enum class Of : int32_t { values_in, values_out, coefficients_in };

  static UseOrder of_coefficients(const AxisPlan& plan);
  static UseOrder of_values(const AxisPlan& plan, const int32_t* slots, bool in);
  const int32_t* element() const { return element_.empty() ? nullptr : element_.data(); }
  const int32_t* place() const { return place_.empty() ? nullptr : place_.data(); }
  int64_t bytes() const;

 private:
  std::vector<int32_t> element_, place_;
};

// Cached as the axes are, by (n, kept).
template <class T>
std::shared_ptr<const UseOrder> use_order(int64_t n, int64_t kept, UseOrder::Of of);

}  // namespace front::cpu
