// Plans with their kernels and tables, found once and kept.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>

#include "large_plan.h"
#include "source.h"
#include "tables.h"

namespace front::cuda {

namespace passes_detail {

// What a plan costs to find is paid once: found plans and their kernels are kept, and never freed, since ops may run
// while the process exits.
template <class Value, class Key, class Find>
const Value& remembered(const Key& key, Find find) {
  static auto* mutex = new std::mutex;
  static auto* values = new std::map<Key, std::unique_ptr<const Value>>;
  std::lock_guard<std::mutex> lock(*mutex);
  auto& value = (*values)[key];
  if (!value) value = std::make_unique<const Value>(find());
  return *value;
}

struct FoundAxis {
  AxisPlan plan;
  Kernel forward, inverse, measure;
  std::array<Kernel, 8> residual, row;  // blended_index; row: of plans with one lane
  Table twiddles;
};
// Of x's type and whether gradients have the compute type instead.
inline size_t blended_index(Type x, Type grad) { return 2 * static_cast<size_t>(x) + (x != grad); }
struct FoundSpectral {
  Kernel shift, weigh, terms, loss;
};
struct FoundResize {
  ResizePlan plan;
  Kernel kernel;
  Table twiddles, twiddles_back;
};
struct FoundLarge {
  LargePlan plan;
  Kernel pack, down_factors, along, down, unpack;
  Table down_twiddles, along_twiddles;
};

constexpr int64_t kManyLanes = 64;       // per multiprocessor: more of them change no plan
using AxisKey = std::array<int64_t, 8>;  // length, share, bytes, lanes, hardware
inline AxisKey axis_key(int64_t n, int64_t share, int64_t bytes, int64_t lanes, const Hardware& h) {
  return {n, share, bytes, lanes, h.multiprocessors, h.shared_per_block, h.shared_per_multiprocessor, h.more_registers};
}

inline FoundAxis found_axis(const AxisPlan& plan) {
  FoundAxis found{plan, {}, {}, {}, {}, {}, {}};
  if (plan.radices.empty()) return found;
  found.forward = axis_kernel(Direction::forward, plan);
  found.inverse = axis_kernel(Direction::inverse, plan);
  found.measure = measure_kernel(plan);
  const DType compute = plan.real_bytes == 8 ? DType::f64 : DType::f32;
  for (const DType x : {DType::f16, DType::bf16, compute})
    for (const DType grad : {x, compute}) {
      const size_t at = blended_index(static_cast<Type>(x), static_cast<Type>(grad));
      found.residual[at] = blended_kernel("residual", plan, x, grad);
      if (plan.lanes == 1) found.row[at] = blended_kernel("row", plan, x, grad);
    }
  found.twiddles = Table::twiddles(plan.radices, plan.real_bytes);
  return found;
}

// Plans that stand in for the planner's, by (length, share, bytes, what lies in fours), on any hardware: for measuring
// (bench/gpu_plans.py) and testing. Each library that includes this has its own.
class ForcedPlans {
 public:
  static ForcedPlans& get() {
    static auto* plans = new ForcedPlans;
    return *plans;
  }
  // Without radices: no more.
  void set(const AxisPlan& plan, Fours fours) {
    std::lock_guard<std::mutex> lock(mutex_);
    const Key key{plan.n, plan.share, plan.real_bytes, static_cast<int64_t>(fours)};
    if (plan.radices.empty())
      plans_.erase(key);
    else
      plans_[key] = new FoundAxis(found_axis(plan));  // never freed, as all plans
    any_ = !plans_.empty();
  }
  const FoundAxis* find(int64_t n, int64_t share, int64_t bytes, Fours fours) {
    if (!any_) return nullptr;
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = plans_.find({n, share, bytes, static_cast<int64_t>(fours)});
    return found == plans_.end() ? nullptr : found->second;
  }

 private:
  using Key = std::array<int64_t, 4>;
  std::atomic<bool> any_{false};
  std::mutex mutex_;
  std::map<Key, const FoundAxis*> plans_;
};

inline const FoundAxis& find_axis(int64_t n, int64_t kept, int64_t bytes, int64_t lanes, Fours fours,
                                  const Hardware& h) {
  lanes = std::min(lanes, kManyLanes * h.multiprocessors);
  if (const FoundAxis* forced = ForcedPlans::get().find(n, share_of(n, kept), bytes, fours)) return *forced;
  const std::pair key{axis_key(n, share_of(n, kept), bytes, lanes, h), fours};
  return remembered<FoundAxis>(key, [&] { return found_axis(plan_axis(n, kept, bytes, lanes, fours, h)); });
}

inline const FoundResize& find_resize(int64_t n, int64_t size, int64_t kept, int64_t bytes, int64_t lanes,
                                      const Hardware& h) {
  lanes = std::min(lanes, kManyLanes * h.multiprocessors);
  const std::pair key{axis_key(n, kept, bytes, lanes, h), size};
  return remembered<FoundResize>(key, [&] {
    FoundResize found{plan_resize(n, size, kept, bytes, lanes, h), {}, {}, {}};
    if (!found.plan.possible()) return found;
    found.kernel = resize_kernel(found.plan);
    found.twiddles = Table::twiddles(found.plan.there.radices, bytes);
    found.twiddles_back = Table::twiddles(found.plan.back.radices, bytes);
    return found;
  });
}

inline const FoundSpectral& find_spectral(int64_t bytes) {
  return remembered<FoundSpectral>(bytes, [&] {
    return FoundSpectral{spectral_kernel("shift", bytes), spectral_kernel("weigh", bytes),
                         spectral_kernel("terms", bytes), spectral_kernel("loss", bytes)};
  });
}

inline const FoundLarge& find_large(int64_t n, int64_t bytes, const Hardware& h) {
  return remembered<FoundLarge>(axis_key(n, 0, bytes, 0, h), [&] {
    const LargePlan plan = plan_large(n, bytes, h);
    return FoundLarge{plan,
                      pack_kernel(bytes),
                      down_kernel(plan.down, true),
                      along_kernel(plan.along, plan.convolve),
                      down_kernel(plan.down, false),
                      unpack_kernel(bytes),
                      Table::twiddles(plan.down.radices, bytes),
                      Table::twiddles(plan.along.radices, bytes)};
  });
}

}  // namespace passes_detail

}  // namespace front::cuda
