// Transforms that do not fit shared memory, or whose length has a large prime factor: a complex DFT in memory, in two
// steps; a length that has no radices becomes a convolution (Bluestein) of a power of two.
#pragma once

#include "plan.h"

namespace front::cuda {

struct LargePlan {
  int64_t n = 1, sequence = 1;  // transform length; points of its complex sequence
  bool convolve = false;
  AxisPlan down, along;  // the steps: DFTs of `rows` points down the columns, and of `columns` points along the rows
  int64_t rows() const { return down.points(); }
  int64_t columns() const { return along.points(); }
  int64_t length() const { return rows() * columns(); }
};

namespace plan_detail {

constexpr int64_t kLongestStep = 4096;  // points: several of them together in shared memory

inline AxisPlan plan_step(int64_t points, int64_t real_bytes, const Hardware& h) {
  AxisPlan p;
  p.n = 2 * points;  // an axis of that length has as many points
  p.real_bytes = real_bytes;
  p.overlaid = true;
  p.radices = choose_radices(points, true, real_bytes);
  if (p.radices.empty()) return p;
  for (p.lanes = 8; p.lanes >= 1; p.lanes /= 2) {
    p.together = p.lanes;
    p.threads_per_lane = choose_threads(p, points / points_in_registers(real_bytes), points_in_registers(real_bytes));
    p.registers = expected_registers(p, h);
    p.blocks = p.threads() > kThreads ? 0 : resident_blocks(p.threads(), p.registers, p.point_bytes(), h);
    p.blocks = std::min<int64_t>(p.blocks, real_bytes == 4 ? 4 : 2);
    if (p.blocks >= 1 && (p.blocks >= 2 || p.lanes <= 4)) return p;
  }
  p.lanes = p.together = 1;
  p.radices.clear();  // not even one fits
  return p;
}

}  // namespace plan_detail

// n; an even one's convolution then has 2^24 points, both steps kLongestStep. An odd one has as many points as
// elements.
constexpr int64_t kLongestLarge = int64_t{1} << 24, kLongestLargeOdd = int64_t{1} << 23;

inline LargePlan plan_large(int64_t n, int64_t real_bytes, const Hardware& h = {}) {
  using namespace plan_detail;
  LargePlan plan;
  plan.n = n;
  plan.sequence = n % 2 == 0 ? n / 2 : n;
  int64_t rows = 0;
  bool smooth = true;
  for (int64_t rest = plan.sequence; rest > 1;) {
    const int64_t p = smallest_factor(rest);
    smooth = smooth && p <= largest_prime(real_bytes);
    rest /= p;
  }
  if (smooth)  // the factorisation nearest to a square
    for (int64_t r = 2; r * r <= plan.sequence && r <= kLongestStep; ++r)
      if (plan.sequence % r == 0 && plan.sequence / r <= kLongestStep) rows = r;
  plan.convolve = rows == 0;
  int64_t columns = rows ? plan.sequence / rows : 0;
  if (plan.convolve) {
    rows = columns = 2;
    while (rows * columns < 2 * plan.sequence - 1) (rows < columns ? rows : columns) *= 2;
  }
  plan.down = plan_step(rows, real_bytes, h);
  plan.along = plan_step(columns, real_bytes, h);
  return plan;
}

}  // namespace front::cuda
