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

// A kernel whose name and source are written when it is first asked for: of what a plan could run, most never is.
class KernelOnDemand {
 public:
  template <class Write>
  const Kernel* get(Write write) const {
    const Kernel* kernel = kernel_.load();
    if (kernel) return kernel;
    auto fresh = std::make_unique<const Kernel>(write());
    if (!kernel_.compare_exchange_strong(kernel, fresh.get())) return kernel;  // another thread's
    ++written();
    return fresh.release();
  }
  // By all plans so far.
  static std::atomic<int64_t>& written() {
    static std::atomic<int64_t> count{0};
    return count;
  }

 private:
  mutable std::atomic<const Kernel*> kernel_{nullptr};
};

// Of an axis in shared memory; no radices: it has no kernels.
class FoundAxis {
 public:
  explicit FoundAxis(AxisPlan axis)
      : plan(std::move(axis)),
        twiddles(plan.radices.empty() ? Table{} : Table::twiddles(plan.radices, plan.real_bytes)) {}

  const Kernel* forward() const {
    return forward_.get([&] { return axis_kernel(Direction::forward, plan); });
  }
  const Kernel* inverse() const {
    return inverse_.get([&] { return axis_kernel(Direction::inverse, plan); });
  }
  // The spectral loss's: of x's type, and gradients of the same or of the compute type; row: of plans with one lane.
  const Kernel* measure() const {
    return measure_.get([&] { return measure_kernel(plan); });
  }
  const Kernel* residual(Type x, Type grad) const { return blended(residual_, "residual", x, grad); }
  const Kernel* row(Type x, Type grad) const { return blended(row_, "row", x, grad); }

  const AxisPlan plan;
  const Table twiddles;

 private:
  using Blended = std::array<KernelOnDemand, 8>;
  const Kernel* blended(const Blended& kernels, const char* what, Type x, Type grad) const {
    return kernels[2 * static_cast<size_t>(x) + (x != grad)].get(
        [&] { return blended_kernel(what, plan, static_cast<DType>(x), static_cast<DType>(grad)); });
  }

  KernelOnDemand forward_, inverse_, measure_;
  Blended residual_, row_;
};
struct FoundSpectral {
  Kernel shift, weigh, terms, loss;
};
struct FoundResize {
  ResizePlan plan;
  Kernel kernel;
  Table twiddles, twiddles_back;
};
class FoundLarge {
 public:
  explicit FoundLarge(LargePlan large)
      : plan(std::move(large)), down_twiddles(of(plan.down)), along_twiddles(of(plan.along)) {}

  // The steps, and all of them in one.
  const Kernel* pack() const {
    return pack_.get([&] { return pack_kernel(plan.down.real_bytes); });
  }
  const Kernel* down(bool factors) const {
    return (factors ? down_factors_ : down_).get([&] { return down_kernel(plan.down, factors); });
  }
  const Kernel* along() const {
    return along_.get([&] { return along_kernel(plan.along, plan.convolve); });
  }
  const Kernel* unpack() const {
    return unpack_.get([&] { return unpack_kernel(plan.down.real_bytes); });
  }
  const Kernel* through() const {
    return through_.get([&] { return through_kernel(plan.loop_down, plan.loop_along, plan.convolve); });
  }

  const LargePlan plan;
  const Table down_twiddles, along_twiddles;

 private:
  static Table of(const AxisPlan& step) { return Table::twiddles(step.radices, step.real_bytes); }
  KernelOnDemand pack_, down_factors_, along_, down_, unpack_, through_;
};

constexpr int64_t kManyLanes = 64;       // per multiprocessor: more of them change no plan
using AxisKey = std::array<int64_t, 9>;  // length, share, bytes, lanes, hardware
inline AxisKey axis_key(int64_t n, int64_t share, int64_t bytes, int64_t lanes, const Hardware& h) {
  return {n,
          share,
          bytes,
          lanes,
          h.multiprocessors,
          h.shared_per_block,
          h.shared_per_multiprocessor,
          h.more_registers,
          h.threads_per_multiprocessor};
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
      plans_[key] = new FoundAxis(plan);  // never freed, as all plans
    any_ = !plans_.empty();
    ++changes_;
  }
  // How often plans were set: what was decided before is no longer so.
  int64_t changes() const { return changes_; }
  const FoundAxis* find(int64_t n, int64_t share, int64_t bytes, Fours fours) {
    if (!any_) return nullptr;
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = plans_.find({n, share, bytes, static_cast<int64_t>(fours)});
    return found == plans_.end() ? nullptr : found->second;
  }

 private:
  using Key = std::array<int64_t, 4>;
  std::atomic<bool> any_{false};
  std::atomic<int64_t> changes_{0};
  std::mutex mutex_;
  std::map<Key, const FoundAxis*> plans_;
};

inline const FoundAxis& find_axis(int64_t n, int64_t kept, int64_t bytes, int64_t lanes, Fours fours,
                                  const Hardware& h) {
  lanes = std::min(lanes, kManyLanes * h.multiprocessors);
  if (const FoundAxis* forced = ForcedPlans::get().find(n, share_of(n, kept), bytes, fours)) return *forced;
  const std::pair key{axis_key(n, share_of(n, kept), bytes, lanes, h), fours};
  return remembered<FoundAxis>(key, [&] { return plan_axis(n, kept, bytes, lanes, fours, h); });
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
  return remembered<FoundLarge>(axis_key(n, 0, bytes, 0, h), [&] { return plan_large(n, bytes, h); });
}

}  // namespace passes_detail

}  // namespace front::cuda
