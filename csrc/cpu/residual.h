// What the spectral loss does where a pass loads and stores: sums over the values that come, and, instead of storing
// the values that go, their difference from a matrix. Included only by axis_isa.cpp (see vectors.h).
#pragma once

#include <utility>

#include "block.h"

namespace front::cpu::FRONT_ISA {

// A sum that loses no digits to its length: kRun vectors at a time in the compute type, those in double.
template <class T>
class Sum {
 public:
  static constexpr int kRun = 16;

  FRONT_INLINE void add(Vector<T> v) { run_ += v; }
  FRONT_INLINE void end_run() {
    if constexpr (std::is_same_v<T, double>)
      total_ += run_;
    else
      total_ += half<0>(std::make_integer_sequence<int, kLanes<T> / 2>{}) +
                half<kLanes<T> / 2>(std::make_integer_sequence<int, kLanes<T> / 2>{});
    run_ = Vector<T>{};
  }
  double total() const {
    double sum = 0;
    for (int l = 0; l < kLanes<double>; ++l) sum += total_[l];
    return sum;
  }

 private:
  template <int First, int... I>
  FRONT_INLINE Vector<double> half(std::integer_sequence<int, I...>) const {
    return to_doubles(__builtin_shufflevector(run_, run_, (First + I)...));
  }

  Vector<T> run_{};
  Vector<double> total_{};
};

// n values of each of the first `count` lanes at z[index[i]].
template <class T>
void add_moments(Vector<T>* z, int64_t n, const int32_t* index, int count, const Measure& measure, Moments& moments) {
  Vector<T> from{};  // lanes that are not in use hold zeros, and are to add nothing
  for (int l = 0; l < count; ++l) from[l] = static_cast<T>(measure.shift);
  Sum<T> sum, square;
  for (int64_t begin = 0; begin < n; begin += Sum<T>::kRun) {
    const int64_t end = begin + Sum<T>::kRun < n ? begin + Sum<T>::kRun : n;
    for (int64_t i = begin; i < end; ++i) {
      const Vector<T> d = z[index[i]] - from;
      z[index[i]] = d;
      sum.add(d);
      square.add(d * d);
    }
    sum.end_run();
    square.end_run();
  }
  moments.sum += sum.total();
  moments.square += square.total();
}

// For v = z[index[i]], element i of every lane: with r = x - shift - v, y += factor r + slope (x - mean); y may be
// null. `x` is element 0 of lane 0. Returns the sum of r^2.
template <class In, class Out, class T>
double blend_block(const In* x, Out* y, int64_t n, Along along, const Lanes<T>& lanes, const int32_t* index,
                   const Vector<T>* z, const Residual& residual) {
  constexpr int W = kLanes<T>;
  const auto factor = static_cast<T>(residual.factor), slope = static_cast<T>(residual.slope),
             shift = static_cast<T>(residual.shift);
  // Rounded to T the mean itself would be off by much of a deviation that is far below it.
  const auto mean = static_cast<T>(residual.mean - static_cast<double>(shift));
  const int64_t row = residual.row, column = residual.column;
  Sum<T> squares;
  const auto blend = [&](const In* from, int64_t to, Vector<T> v) {
    const Vector<T> d = load<T>(from) - shift, r = d - v;
    squares.add(r * r);
    if (y) store<T>(y + to, load<T>(y + to) + (factor * r + slope * (d - mean)));
  };
  int64_t i = 0;
  if (in_vectors<T>(along) && column == 1) {
    static_assert(W <= Sum<T>::kRun);
    for (; i + W <= n; i += W) {
      Vector<T> tile[W];
      for (int j = 0; j < W; ++j) tile[j] = z[index[i + j]];
      transpose<T>(tile);
      for (int l = 0; l < lanes.count; ++l) blend(x + l * row + i, lanes.out[l] + offset(along, i), tile[l]);
      squares.end_run();
    }
  } else if (lanes.out_adjacent && lanes.count == W && row == 1) {
    for (; i < n; ++i) {
      blend(x + i * column, lanes.out[0] + offset(along, i), z[index[i]]);
      if (i % Sum<T>::kRun == 0) squares.end_run();
    }
    squares.end_run();
  }
  double rest = 0;
  for (; i < n; ++i) {
    const Vector<T> v = z[index[i]];
    for (int l = 0; l < lanes.count; ++l) {
      const T d = static_cast<T>(to_float(x[l * row + i * column])) - shift, r = d - v[l];
      rest += static_cast<double>(r) * static_cast<double>(r);
      if (!y) continue;
      Out& sum = y[lanes.out[l] + offset(along, i)];
      sum = round_to<Out>(static_cast<T>(to_float(sum)) + (factor * r + slope * (d - mean)));
    }
  }
  return squares.total() + rest;
}

}  // namespace front::cpu::FRONT_ISA
