// Planning a vector that is transformed alone, its own points in the vector lanes: one of few, or one so long that with
// others it leaves the core's cache. Pure host data.
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

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

// Per vector of complex points: to load and store the values in their order, the twiddles, the transposition, the
// pairs.
constexpr double kAlonePointCost = 60;
// Plans that cost no more than this beside the cheapest are the same: the one with the least difference of its factors
// has the smallest scratch and the most units for threads.
constexpr double kAloneSame = 1.02;
// Of vectors that are transformed together and leave the core's cache: 2 to 7 from 65536 values on (Cascade Lake).
constexpr double kTogetherFar = 3;

// rows and columns have no prime factors above 7.
inline AlonePlan alone_of(int64_t rows, int64_t columns, int64_t compute_bytes, int64_t width) {
  AlonePlan plan{2 * rows * columns, rows, columns, plan_dft(rows, compute_bytes), plan_dft(columns, compute_bytes)};
  const int64_t downs = (columns + width - 1) / width, across = (rows + width - 1) / width;
  const auto vectors = static_cast<double>(downs * rows + across * columns) / 2;
  plan.cost = static_cast<double>(downs) * plan.down.cost + static_cast<double>(across) * plan.across.cost +
              kAlonePointCost * vectors;
  return plan;
}

}  // namespace plan_detail

inline AlonePlan plan_alone(int64_t n, int64_t compute_bytes, const Machine& machine) {
  using namespace plan_detail;
  const int64_t width = machine.vector_bytes / compute_bytes, points = n / 2;
  AlonePlan none;
  none.n = n;
  int64_t rest = n % 2 == 0 ? points : 0;
  for (int64_t p : {2, 3, 5, 7})
    while (rest > 0 && rest % p == 0) rest /= p;
  if (rest != 1) return none;
  std::vector<AlonePlan> plans;
  for (int64_t divisor = 2; divisor * divisor <= points; ++divisor)
    if (points % divisor == 0)
      for (int64_t rows : {divisor, points / divisor})
        plans.push_back(alone_of(rows, points / rows, compute_bytes, width));
  double least = 0;
  for (const AlonePlan& plan : plans) least = least == 0 ? plan.cost : std::min(least, plan.cost);
  for (auto plan = plans.rbegin(); plan != plans.rend(); ++plan)  // the last ones are the nearest to a square
    if (plan->cost <= kAloneSame * least) return *plan;
  return none;
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
