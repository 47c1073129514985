// Transforms that do not fit shared memory, or whose length has a large prime factor: a complex DFT in memory, in two
// steps; a length that has no radices becomes a convolution (Bluestein) of a power of two.
#pragma once

#include "plan.h"

namespace front::cuda {

struct LargePlan {
  int64_t n = 1, sequence = 1;  // transform length; points of its complex sequence
  bool convolve = false;
  AxisPlan down, along;  // the steps: DFTs of `rows` points down the columns, and of `columns` points along the rows
  AxisPlan loop_down, loop_along;  // the same in blocks of as many threads, for all steps in one kernel
  int64_t rows() const { return down.points(); }
  int64_t columns() const { return along.points(); }
  int64_t length() const { return rows() * columns(); }
};

namespace plan_detail {

constexpr int64_t kLongestStep = 4096;                  // points: several of them together in shared memory
constexpr int64_t kLoopThreads = 256, kMostLanes = 32;  // of a block with all steps

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

// Both steps in one block: 256 threads, more only where a DFT of the longest needs them. No radices: it does not fit.
inline void plan_loop(LargePlan& plan, int64_t real_bytes, const Hardware& h) {
  int64_t threads = kLoopThreads, registers = 0, shared = 0;
  for (AxisPlan* p : {&plan.loop_down, &plan.loop_along}) {
    *p = p == &plan.loop_down ? plan.down : plan.along;
    const int64_t least = std::max(usual_threads(p->points()), kLoopThreads / kMostLanes);
    const int64_t found = choose_threads(*p, least, points_in_registers(real_bytes));
    for (p->threads_per_lane = 1; p->threads_per_lane < found;) p->threads_per_lane *= 2;
    threads = std::max(threads, p->threads_per_lane);
    // No stage holds two butterflies, as those at the ends of an axis do, and sm_100's compiler needs no more.
    for (const int64_t r : p->radices) {
      const int64_t each = (p->points() / r + p->threads_per_lane - 1) / p->threads_per_lane;
      const int64_t held = each * r + (r > 8 && smallest_factor(r) == r ? r / 4 : 0);
      registers = std::max(registers, std::min(kMostRegisters, (kOtherRegisters + held * real_bytes / 2 + 7) / 8 * 8));
    }
  }
  for (AxisPlan* p : {&plan.loop_down, &plan.loop_along}) {
    p->lanes = p->together = threads / p->threads_per_lane;
    shared = std::max(shared, p->point_bytes());
  }
  const int64_t blocks = std::min<int64_t>(2, resident_blocks(threads, registers, shared, h));
  for (AxisPlan* p : {&plan.loop_down, &plan.loop_along}) {
    p->registers = registers, p->blocks = blocks;
    if (blocks < 1 || shared > h.shared_per_block || threads > kThreads) p->radices.clear();
  }
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
  if (!plan.down.radices.empty() && !plan.along.radices.empty()) plan_loop(plan, real_bytes, h);
  return plan;
}

}  // namespace front::cuda
