// Planning a vector that is transformed alone, its own points in the vector lanes: one of few, or one so long that with
// others it leaves the core's cache. Pure host data.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan.h"

namespace front {

// A DCT-II (or its transpose) of even length n as one complex DFT of n / 2 = rows x columns points: DFTs of length
// `rows` down the columns of the points as a matrix, twiddles, DFTs of length `columns` across its rows.
struct AlonePlan {
  int64_t n = 0, rows = 0, columns = 0;  // rows == 0: there is none
  DftPlan down, across;
  double cost = 0;  // vector operations
};

namespace plan_detail {

// Per vector of complex points, besides the DFTs: to load and store the values in their order, the twiddles, the
// transposition, the pairs.
constexpr double kAlonePointCost = 60;
// Of vectors that are transformed together and leave the core's cache: 2 to 7 from 65536 values on (Cascade Lake).
constexpr double kTogetherFar = 3;

// 0: not by mixed radix alone.
inline double alone_cost(const AlonePlan& p, int64_t width) {
  const int64_t downs = (p.columns + width - 1) / width, across = (p.rows + width - 1) / width;
  return static_cast<double>(downs) * p.down.cost + static_cast<double>(across) * p.across.cost +
         kAlonePointCost * static_cast<double>(downs * p.rows + across * p.columns) / 2;
}

}  // namespace plan_detail

inline AlonePlan plan_alone(int64_t n, int64_t compute_bytes, const Machine& machine) {
  using namespace plan_detail;
  const int64_t width = machine.vector_bytes / compute_bytes;
  AlonePlan best;
  best.n = n;
  if (n % 2 != 0) return best;
  const int64_t points = n / 2;
  const auto smooth = [](const DftPlan& dft) {
    return !dft.smooth && std::none_of(dft.radices.begin(), dft.radices.end(), is_generic);
  };
  for (int64_t divisor = 2; divisor * divisor <= points; ++divisor) {
    if (points % divisor != 0) continue;
    AlonePlan plan;
    plan.n = n;
    plan.rows = divisor, plan.columns = points / divisor;
    if (factorize(plan.rows).empty() || factorize(plan.columns).empty()) continue;
    plan.down = plan_dft(plan.rows, compute_bytes), plan.across = plan_dft(plan.columns, compute_bytes);
    if (!smooth(plan.down) || !smooth(plan.across)) continue;
    for (int turned = 0; turned < 2; ++turned) {
      if (turned) std::swap(plan.rows, plan.columns), std::swap(plan.down, plan.across);
      plan.cost = alone_cost(plan, width);
      if (!best.rows || plan.cost < best.cost) best = plan;
    }
  }
  return best;
}

// Whether `lanes` vectors are faster so, one after the other, than together, as many at a time as a vector has lanes.
inline bool alone_is_faster(const AlonePlan& alone, const AxisPlan& together, int64_t lanes, int64_t compute_bytes,
                            const Machine& machine) {
  const int64_t width = machine.vector_bytes / compute_bytes, blocks = (lanes + width - 1) / width;
  const bool far = together.length() * machine.vector_bytes > machine.own_cache;
  const double cost = static_cast<double>(blocks) * together.cost * (far ? plan_detail::kTogetherFar : 1);
  return alone.rows && static_cast<double>(lanes) * alone.cost < cost;
}

}  // namespace front
