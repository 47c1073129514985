// The launches of a transform through memory (large.h).
#pragma once

#include "passes.h"

namespace front::cuda {

namespace passes_detail {

// Bytes of points at a time, in steps of all multiprocessors: about what the second-level cache holds; at least one
// lane.
constexpr int64_t kPointsPerMultiprocessor = int64_t{512} << 10;
// Of all blocks that take one lane after the other; and how many each takes at least, so that few wait at the end.
constexpr int64_t kLoopPointsLimit = int64_t{1} << 30, kLoopLanes = 4;

inline void check_large(int64_t n) {
  if (n <= (n % 2 == 0 ? kLongestLarge : kLongestLargeOdd)) return;
  std::ostringstream s;
  s << "front: the CUDA engine transforms axes of at most " << kLongestLarge << " elements, odd ones of at most "
    << kLongestLargeOdd << "; got " << n << ". Move x to the CPU for longer ones";
  throw std::invalid_argument(s.str());
}

inline void check_steps(const LargePlan& plan) {
  if (!plan.down.radices.empty() && !plan.along.radices.empty()) return;
  std::ostringstream s;
  s << "front: a step of an axis of " << plan.n << " elements does not fit this GPU's shared memory. Move x to the CPU";
  throw std::invalid_argument(s.str());
}

}  // namespace passes_detail

// Passes through memory run one after the other: the points of one take the place of those before, if they fit there.
inline int64_t Passes::reserve_points(int64_t elements) {
  if (elements > points_elements_) points_ = reserve(elements), points_elements_ = elements;
  return points_;
}

inline void Passes::add_large(const Pass& p) {
  using namespace passes_detail;
  check_large(p.n);
  const FoundLarge& found = find_large(p.n, real_bytes_, hardware_);
  const LargePlan& plan = found.plan;
  check_steps(plan);
  const int64_t length = plan.length(), lane_bytes = 2 * length * real_bytes_;
  const int64_t lanes_per_matrix = p.lanes * p.batch;
  const int64_t total_lanes = lanes_per_matrix * std::min<int64_t>(p.count, kMatrices);
  const int64_t at_once = std::max<int64_t>(1, kPointsPerMultiprocessor * hardware_.multiprocessors / lane_bytes);
  // Steps of their own use all multiprocessors, however few lanes there are, and the cache; but of many lanes they are
  // many launches, and there each block can take lanes of its own.
  const int64_t blocks = plan.loop_down.blocks * hardware_.multiprocessors;
  const bool loop = !plan.loop_down.radices.empty() && total_lanes > at_once && total_lanes >= kLoopLanes * blocks &&
                    blocks * lane_bytes <= kLoopPointsLimit;
  const int64_t offset = reserve_points(2 * length * (loop ? blocks : std::min(at_once, total_lanes)));

  Launch launch;
  LargeArgs& a = launch.args.emplace<LargeArgs>();
  a.n = p.n, a.sequence = plan.sequence, a.length = length, a.columns = plan.columns();
  a.convolve = plan.convolve, a.inverse = p.direction == Direction::inverse;
  a.points = workspace_ + offset * real_bytes_;
  launch.split = Table::split(p.n, p.scale, real_bytes_);
  launch.coarse = Table::roots(length, 1 << 12, divide_up(length, 1 << 12), real_bytes_);
  launch.fine = Table::roots(length, 1, 1 << 12, real_bytes_);
  if (plan.convolve) {
    launch.chirp = Table::chirp(plan.sequence, real_bytes_);
    launch.spectrum = Table::spectrum(plan.sequence, plan.rows(), plan.columns(), real_bytes_);
  }
  const auto push = [&](const Kernel* kernel, int64_t per_lane, int64_t threads) -> Launch& {
    launches.push_back(launch);
    launches.back().kernel = kernel;
    launches.back().blocks = per_lane * a.count;
    launches.back().threads = threads;
    return launches.back();
  };
  const auto push_step = [&](const Kernel* kernel, const AxisPlan& step, int64_t across, const Table& twiddles) {
    Launch& next = push(kernel, divide_up(across, step.lanes), step.threads());
    next.shared = step.point_bytes();
    next.twiddles = twiddles;
  };
  for (int64_t first = 0; first < p.count; first += kMatrices) {
    const int64_t matrices = std::min<int64_t>(kMatrices, p.count - first);
    a.axis = arguments(p, first, matrices);
    const int64_t total = lanes_per_matrix * matrices;
    if (loop) {
      a.first_lane = 0, a.count = total, a.together = blocks;
      Launch next = launch;
      next.kernel = found.through();
      next.blocks = std::min(blocks, total), next.threads = plan.loop_down.threads();
      next.shared = std::max(plan.loop_down.point_bytes(), plan.loop_along.point_bytes());
      next.twiddles = found.down_twiddles, next.twiddles_back = found.along_twiddles;
      launches.push_back(std::move(next));
      continue;
    }
    for (a.first_lane = 0; a.first_lane < total; a.first_lane += at_once) {
      a.count = std::min<int64_t>(at_once, total - a.first_lane);
      const int64_t unpacked = a.inverse ? plan.sequence : p.kept;
      push(found.pack(), divide_up(length, kPackThreads), kPackThreads);
      push_step(found.down(true), plan.down, plan.columns(), found.down_twiddles);
      push_step(found.along(), plan.along, plan.rows(), found.along_twiddles);
      if (plan.convolve) push_step(found.down(false), plan.down, plan.columns(), found.down_twiddles);
      push(found.unpack(), divide_up(unpacked, kPackThreads), kPackThreads);
    }
  }
}

}  // namespace front::cuda
