// Which kernel transforms an axis on a GPU: pure host data, printable, testable without a GPU. All constants of the
// choice live here, and in radices.h.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../params.h"
#include "radices.h"

namespace front::cuda {

// What a plan depends on. The defaults are an H100's or H200's.
struct Hardware {
  int64_t multiprocessors = 132;
  int64_t shared_per_block = 227 << 10, shared_per_multiprocessor = 228 << 10;
  int64_t more_registers = 0;  // that its compiler needs than sm_90's
  int64_t threads_per_multiprocessor = 2048;
};

// Its numbers in that order, the first three at least.
inline Hardware hardware_of(const std::vector<int64_t>& numbers) {
  if (numbers.size() < 3 || numbers.size() > 5)
    throw std::invalid_argument("hardware must have 3 to 5 numbers, got " + std::to_string(numbers.size()));
  Hardware h{numbers[0], numbers[1], numbers[2]};
  if (numbers.size() > 3) h.more_registers = numbers[3];
  if (numbers.size() > 4) h.threads_per_multiprocessor = numbers[4];
  return h;
}

// What kernels are compiled ahead for, by compute capability.
inline Hardware hardware_for(int64_t architecture) {
  if (architecture >= 120) return {84, 99 << 10, 100 << 10, 48, 1536};
  if (architecture >= 100) return {148, 227 << 10, 228 << 10, 48};
  if (architecture == 90) return {};
  if (architecture == 80) return {108, 163 << 10, 164 << 10};
  return {84, 99 << 10, 100 << 10, 0, 1536};
}

// What lies in fours of the intermediate of two passes (args.h): nothing, the lanes of the coefficients (the pass along
// rows), or the values (the pass along columns).
enum class Fours { none, lanes, values };

// A transform within shared memory (axis.h): its template arguments.
struct AxisPlan {
  int64_t n = 1, share = 1, real_bytes = 4;
  std::vector<int64_t> radices;
  int64_t lanes = 1, together = 1, threads_per_lane = 1;
  bool overlaid = false;
  int64_t registers = 0;  // what a thread is expected to need at most
  int64_t blocks = 1;     // per multiprocessor, that registers and shared memory are planned for

  int64_t most_kept() const { return std::max<int64_t>(1, n / share); }
  int64_t points() const { return n % 2 == 0 ? n / 2 : n; }
  int64_t threads() const { return together * threads_per_lane; }
  int64_t padded() const {
    const int64_t group = 128 / (2 * real_bytes);
    int64_t p = points() - 1 + (points() - 1) / group + 1;
    if (together > 1) {
      const int64_t apart = threads_per_lane < group ? threads_per_lane : std::max<int64_t>(1, group / together);
      while (p % group != apart % group) ++p;
    }
    return p;
  }
  int64_t point_bytes() const { return padded() * together * 2 * real_bytes; }
  int64_t shared_bytes(int64_t kept) const {
    const int64_t tile = kept * lanes * real_bytes;
    return overlaid ? std::max(point_bytes(), tile) : (point_bytes() + 15) / 16 * 16 + tile;
  }
};

namespace plan_detail {

constexpr int64_t kThreads = 1024, kRegisters = 65536, kReservedShared = 1 << 10;
constexpr int64_t kMostRegisters = 232;  // of 255: room for addresses

// Complex points that a thread keeps between two barriers.
inline int64_t points_in_registers(int64_t real_bytes) { return real_bytes == 4 ? 32 : 16; }

// Threads per lane, at least `least`, so that no thread holds more than `hold` points between barriers; whole warps.
inline int64_t choose_threads(const AxisPlan& p, int64_t least, int64_t hold) {
  const int64_t points = p.points();
  const auto divide = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  int64_t threads = least;
  const size_t stages = p.radices.size();
  for (size_t s = 0; s < stages; ++s) {
    const int64_t r = p.radices[s], count = points / r;
    const bool end = s + 1 == stages;
    // The first and the last stage hold points across a barrier only where the tile overlays the points; the last one
    // two butterflies at once.
    const int64_t work = end && p.n % 2 == 0 ? count / 2 + count % 2 : count;
    const int64_t each = end && p.n % 2 == 0 ? 2 * r : r;
    if ((s > 0 && !end) || p.overlaid) threads = std::max(threads, divide(work, std::max<int64_t>(1, hold / each)));
  }
  int64_t rounded = 1;
  while (rounded < threads && rounded < 32) rounded *= 2;
  return threads <= 32 ? rounded : (threads + 31) / 32 * 32;
}

// Registers besides the points: addresses, twiddles, a butterfly's own. Fewer will do, at the price of recomputing.
constexpr int64_t kOtherRegisters = 64, kLeastOtherRegisters = 40;

inline int64_t expected_registers(const AxisPlan& p, const Hardware& h, int64_t others = kOtherRegisters) {
  const size_t stages = p.radices.size();
  int64_t held = 0;
  for (size_t s = 0; s < stages; ++s) {
    const int64_t r = p.radices[s], count = p.points() / r;
    const int64_t per_thread = (count + p.threads_per_lane - 1) / p.threads_per_lane;
    const bool first = s == 0, last = s + 1 == stages, prime = r > 8 && smallest_factor(r) == r;
    int64_t points = first || last ? 2 * r : per_thread * r;
    if (prime) points += r / 4;
    held = std::max(held, points);
  }
  return std::min<int64_t>(kMostRegisters, (others + held * p.real_bytes / 2 + 7) / 8 * 8 + h.more_registers);
}

// Factors of the score by a count: of 1, of 2, of 4, of 8 and more.
struct Level {
  double one, two, four, more;
  double of(int64_t count) const { return count < 2 ? one : count < 4 ? two : count < 8 ? four : more; }
};
// Memory is moved in sectors of 32 bytes: coefficients that lie apart in pieces of a block's lanes, values in fours in
// pieces of the lanes that are together.
constexpr Level kSectors{0.3, 0.45, 0.8, 1.0}, kLanesInFours{0.5, 0.8, 1.0, 0.97}, kValuesInFours{0.45, 0.7, 1.0, 1.0};
constexpr Level kTogether{1.0, 0.8, 0.95, 0.95};  // one after the other is best, two at a time worst
constexpr Level kPhases{0.8, 0.95, 1.0, 1.0};     // blocks whose loads hide others' arithmetic
constexpr double kUnusual = 0.97, kEnoughWarps = 12;

// How good a plan is, 0 to 1: measured on an H200 with bench/gpu_plans.py.
inline double score(const AxisPlan& p, int64_t total_lanes, Fours fours, const Hardware& h) {
  const double memory = fours == Fours::lanes    ? kLanesInFours.of(p.lanes)
                        : fours == Fours::values ? kValuesInFours.of(p.together)
                                                 : kSectors.of(std::min(p.lanes, total_lanes) * p.real_bytes / 4);
  const double warps = static_cast<double>(p.blocks * ((p.threads() + 31) / 32));
  const double blocks = std::ceil(static_cast<double>(total_lanes) / static_cast<double>(p.lanes));
  const double used = std::min(1.0, static_cast<double>(total_lanes) / static_cast<double>(p.lanes));
  const double idle = 1.0 - static_cast<double>((32 - p.threads() % 32) % 32) / (32.0 * std::ceil(p.threads() / 32.0));
  const double usual = p.threads_per_lane == usual_threads(p.points()) ? 1.0 : kUnusual;
  return memory * kTogether.of(p.together) * kPhases.of(p.blocks) * idle * usual * used *
         std::min(1.0, warps / kEnoughWarps) * std::min(1.0, blocks / static_cast<double>(h.multiprocessors));
}

// Lanes of a block, best first: those that fill a sector, fewer, and more, for short axes.
inline std::vector<int64_t> lane_counts(int64_t real_bytes) {
  std::vector<int64_t> counts;
  for (int64_t lanes = 32 / real_bytes; lanes >= 1; lanes /= 2) counts.push_back(lanes);
  counts.push_back(64 / real_bytes), counts.push_back(128 / real_bytes);
  return counts;
}

inline int64_t resident_blocks(int64_t threads, int64_t registers, int64_t shared, const Hardware& h) {
  const int64_t per_warp = (registers * 32 + 255) / 256 * 256;
  const int64_t warps = (threads + 31) / 32;
  return std::min({kRegisters / (per_warp * warps), h.threads_per_multiprocessor / (warps * 32),
                   h.shared_per_multiprocessor / (shared + kReservedShared), int64_t{32}});
}

}  // namespace plan_detail

// The largest share 1 / s of an axis, s a power of two up to 8, that holds what is kept: kernels are made for shares.
inline int64_t share_of(int64_t n, int64_t kept) {
  int64_t share = 8;
  while (share > 1 && kept * share > n) share /= 2;
  return share;
}

// A plan for at most `kept` coefficients of axes of length n, of which there are total_lanes; `radices` empty where
// there is none: the length has a large prime factor, or does not fit shared memory.
inline AxisPlan plan_axis(int64_t n, int64_t kept, int64_t real_bytes, int64_t total_lanes, Fours fours = Fours::none,
                          const Hardware& h = {}) {
  using namespace plan_detail;
  AxisPlan best;
  best.n = n;
  best.real_bytes = real_bytes;
  AxisPlan p = best;
  p.share = share_of(n, kept);
  const int64_t most_kept = p.most_kept();
  if (p.padded() * 2 * real_bytes > h.shared_per_block) return best;
  double highest = -1;
  struct Variant {
    int64_t lanes, together, least_threads, hold;
    bool overlaid;
  };
  const int64_t hold = points_in_registers(real_bytes);
  std::vector<Variant> variants;
  for (int64_t lanes : lane_counts(real_bytes))
    for (int64_t together = lanes; together >= 1; together /= 2)
      for (int64_t least : {usual_threads(p.points()), p.points() / hold, int64_t{1}})
        for (bool overlaid : {false, true})
          if (!overlaid || together == lanes) variants.push_back({lanes, together, least, hold, overlaid});
  // Where there is no other way: more points per thread, since several large primes want many threads otherwise, and
  // smaller radices too, since of 13125 points a radix of 25 wants one thread for each of its 525 butterflies.
  struct Way {
    int64_t most_middle;
    bool more_points;
  };
  for (const Way way :
       {Way{kLargestMiddle, false}, {kLargestMiddle, true}, {kLargestEnd, false}, {kLargestEnd, true}}) {
    p.radices = choose_radices(p.points(), n % 2 == 0, real_bytes, way.most_middle);
    if (p.radices.empty() || highest >= 0) return best;
    for (const Variant& v : variants) {
      if (way.most_middle < kLargestMiddle && v.lanes > 1) continue;  // with 2, 13125 points spill
      p.lanes = v.lanes, p.together = v.together, p.overlaid = v.overlaid;
      p.threads_per_lane = choose_threads(p, v.least_threads, way.more_points ? v.hold * 3 / 2 : v.hold);
      if (p.threads() > kThreads || p.shared_bytes(most_kept) > h.shared_per_block) continue;
      p.registers = expected_registers(p, h, way.more_points ? kLeastOtherRegisters : kOtherRegisters);
      p.blocks = resident_blocks(p.threads(), p.registers, p.shared_bytes(most_kept), h);
      if (p.blocks < 1) continue;
      p.blocks = std::min<int64_t>(p.blocks, 8);
      const double s = score(p, total_lanes, fours, h);
      if (s > highest) highest = s, best = p;
    }
  }
  return best;
}

inline Fours fours_of(int64_t number) {
  if (number < 0 || number > 2)
    throw std::invalid_argument("fours must be 0 (none), 1 (lanes) or 2 (values), got " + std::to_string(number));
  return static_cast<Fours>(number);
}

// A plan that is not the planner's, to be measured or tested. numbers: n, share, bytes of a real number, lanes,
// together, threads per lane, overlaid, registers, blocks. Without radices: none.
inline AxisPlan plan_of(const std::vector<int64_t>& numbers, const std::vector<int64_t>& radices) {
  const auto demand = [](bool good, const std::string& what) {
    if (!good) throw std::invalid_argument("plan: " + what);
  };
  const auto got = [](const char* what, int64_t value) { return std::string(what) + ", got " + std::to_string(value); };
  demand(numbers.size() == 9, got("must have nine numbers", static_cast<int64_t>(numbers.size())));
  AxisPlan p;
  p.n = numbers[0], p.share = numbers[1], p.real_bytes = numbers[2], p.radices = radices;
  p.lanes = numbers[3], p.together = numbers[4], p.threads_per_lane = numbers[5], p.overlaid = numbers[6] != 0;
  p.registers = numbers[7], p.blocks = numbers[8];
  demand(p.n >= 1 && p.n <= 1 << 20, got("n must be 1 to 2^20", p.n));
  demand(p.share == 1 || p.share == 2 || p.share == 4 || p.share == 8, got("share must be 1, 2, 4 or 8", p.share));
  demand(p.real_bytes == 4 || p.real_bytes == 8, got("bytes must be 4 or 8", p.real_bytes));
  demand(p.lanes >= 1 && p.lanes <= 32 && (p.lanes & (p.lanes - 1)) == 0,
         got("lanes must be a power of two up to 32", p.lanes));
  demand(p.together >= 1 && p.lanes % p.together == 0, got("together must divide lanes", p.together));
  demand(!p.overlaid || p.together == p.lanes, "overlaid needs all lanes together");
  demand(p.threads_per_lane >= 1 && p.threads() <= plan_detail::kThreads,
         got("threads must be 1 to 1024 in all", p.together * p.threads_per_lane));
  demand(p.blocks >= 1 && p.blocks <= 32, got("blocks must be 1 to 32", p.blocks));
  if (radices.empty()) return p;
  int64_t product = 1;
  for (int64_t r : radices) {
    demand(r >= 1 && r <= 64, got("radices must be 1 to 64", r));
    product *= r;
  }
  demand(product == p.points(), got("the radices' product must be the number of points", product));
  return p;
}

// Both transforms of a resize: one block, so one number of lanes and of threads.
struct ResizePlan {
  AxisPlan there, back;
  bool possible() const { return !there.radices.empty() && !back.radices.empty(); }
};

inline ResizePlan plan_resize(int64_t n, int64_t size, int64_t kept, int64_t real_bytes, int64_t total_lanes,
                              const Hardware& h = {}) {
  using namespace plan_detail;
  ResizePlan best;
  double highest = -1;
  for (const bool last_resort : {false, true})  // as in plan_axis; in double it spills
    if (highest < 0 && (!last_resort || real_bytes == 4))
      for (int64_t lanes : lane_counts(real_bytes)) {
        ResizePlan r;
        for (AxisPlan* p : {&r.there, &r.back}) {
          p->n = p == &r.there ? n : size;
          p->real_bytes = real_bytes;
          p->share = share_of(p->n, kept);
          p->lanes = p->together = lanes;
          p->overlaid = true;
          if (p->padded() * 2 * real_bytes > h.shared_per_block) return {};
          p->radices = choose_radices(p->points(), p->n % 2 == 0, real_bytes);
          if (p->radices.empty()) return {};
          const int64_t hold = points_in_registers(real_bytes) * (last_resort ? 3 : 2) / 2;
          p->threads_per_lane = choose_threads(*p, p->points() / hold, hold);
        }
        const int64_t threads = std::max(r.there.threads_per_lane, r.back.threads_per_lane);
        r.there.threads_per_lane = r.back.threads_per_lane = threads;
        const int64_t shared = std::max(r.there.shared_bytes(kept), r.back.shared_bytes(kept));
        if (r.there.threads() > kThreads || shared > h.shared_per_block) continue;
        const int64_t others = last_resort ? kLeastOtherRegisters : kOtherRegisters;
        const int64_t registers =
            std::max(expected_registers(r.there, h, others), expected_registers(r.back, h, others));
        const int64_t blocks = std::min<int64_t>(8, resident_blocks(r.there.threads(), registers, shared, h));
        if (blocks < 1) continue;
        r.there.registers = r.back.registers = registers;
        r.there.blocks = r.back.blocks = blocks;
        const double s = score(r.there, total_lanes, Fours::values, h);
        if (s > highest) highest = s, best = r;
      }
  return best;
}

}  // namespace front::cuda
