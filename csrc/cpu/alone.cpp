#include "alone.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <tuple>
#include <utility>
#include <vector>

#include "axis.h"
#include "axis_isa.h"
#include "cache.h"
#include "memory.h"
#include "parallel.h"
#include "roots.h"
#include "tables.h"

namespace front::cpu {
namespace {

constexpr int64_t kChoicesKept = 4096;
constexpr int64_t kAloneGrain = 2 * kGrainPoints;  // there are four loops: 65536 values are no faster by two threads

template <class T>
class AloneTables {
 public:
  AloneTables(const AlonePlan& plan, int64_t width)
      : plan_(plan), down_(dft_tables<T>(plan.down)), across_(dft_tables<T>(plan.across)) {
    const int64_t n = plan.n, points = n / 2;
    lanes_.resize(2 * width * plan.rows);
    for (int64_t q = 0; q < plan.rows; ++q)
      for (int64_t i = 0; i < width; ++i) {
        const auto w = unit(i * q % points, points);
        lanes_[2 * width * q + i] = static_cast<T>(w.real()),
                               lanes_[(2 * q + 1) * width + i] = static_cast<T>(w.imag());
      }
    for (int64_t column = 0; column < plan.columns; column += width)
      for (int64_t q = 0; q < plan.rows; ++q) add(blocks_, unit(column * q % points, points) / 2.0);
    turns_.resize(4 * width);
    for (int64_t i = 0; i < width; ++i) {
      const auto theta = unit(i, 4 * n), root = unit(i, n);
      turns_[i] = static_cast<T>(theta.real()), turns_[width + i] = static_cast<T>(theta.imag());
      turns_[2 * width + i] = static_cast<T>(root.real()), turns_[3 * width + i] = static_cast<T>(root.imag());
    }
    for (int64_t k = 0; k <= points / 2; k += width) add(block_turns_, unit(k, 4 * n)), add(block_turns_, unit(k, n));
  }

  AloneView<T> view() const {
    return {plan_.n,        plan_.n / 2,      plan_.rows,    plan_.columns,  down_->view().fft, across_->view().fft,
            down_->slots(), across_->slots(), lanes_.data(), blocks_.data(), turns_.data(),     block_turns_.data()};
  }

  int64_t bytes() const {
    return bytes_of(lanes_) + bytes_of(blocks_) + bytes_of(turns_) + bytes_of(block_turns_) + down_->bytes() +
           across_->bytes();
  }

 private:
  static void add(std::vector<T>& to, ComplexDouble w) {
    to.push_back(static_cast<T>(w.real())), to.push_back(static_cast<T>(w.imag()));
  }

  AlonePlan plan_;
  std::shared_ptr<const DftTables<T>> down_, across_;
  std::vector<T> lanes_, blocks_, turns_, block_turns_;
};

template <class T>
std::shared_ptr<const AloneTables<T>> alone_tables(const AlonePlan& plan, int64_t width) {
  static auto* all = new Cache<int64_t, AloneTables<T>>;
  return all->get(plan.n, [&] { return std::make_shared<const AloneTables<T>>(plan, width); });
}

struct Choice {
  AlonePlan plan;
  bool faster;

  static int64_t bytes() { return kCacheBytes / kChoicesKept; }
};

// Planning takes as long as small transforms: what it said is remembered. It does not depend on the number of threads.
std::shared_ptr<const Choice> choose(int64_t n, int64_t kept, int64_t lanes, int64_t bytes, const Machine& machine) {
  static auto* known = new Cache<std::tuple<int64_t, int64_t, int64_t, int64_t>, Choice>;
  return known->get({n, kept, lanes, bytes}, [&] {
    AlonePlan plan = plan_alone(n, bytes, machine);
    const bool faster = alone_is_faster(plan, plan_axis(n, kept, bytes), lanes, bytes, machine);
    return std::make_shared<const Choice>(Choice{std::move(plan), faster});
  });
}

template <class T>
void run_lane(AloneStep<T> step, AloneKernel<T> kernel, int64_t width, const Executor& executor) {
  const AloneView<T>& v = step.view;
  const auto whole = [&](int64_t count) { return (count + width - 1) / width * width; };
  step.pitch = whole(v.rows);
  const int64_t array = whole(v.points) + width, cross = v.columns * step.pitch;
  const Workspace workspace(static_cast<size_t>(2 * (array + cross)) * sizeof(T));
  step.re = static_cast<T*>(workspace.data()), step.im = step.re + array;
  step.cross_re = step.im + array, step.cross_im = step.cross_re + cross;
  for (T* points : {step.re, step.im}) std::fill(points + v.points, points + array, T(0));

  // Units of `elements` each, with a scratch of so many vectors.
  const auto do_part = [&](AlonePart part, int64_t units, int64_t elements, int64_t vectors) {
    step.part = part;
    const AloneStep<T>& shared = step;
    parallel_for(executor, units, std::max<int64_t>(1, kAloneGrain / elements), [&](int64_t begin, int64_t end) {
      const Workspace scratch(static_cast<size_t>(vectors * width) * sizeof(T));
      kernel(shared, begin, end, scratch.data());
    });
  };
  const bool inverse = step.pass->direction == Direction::inverse;
  const int64_t pairs = whole((v.points + 1) / 2) / width, mirrored = whole(v.points / 2 + 1) / width;
  if (inverse)
    do_part(AlonePart::coefficients_in, mirrored, 4 * width, 0);
  else
    do_part(AlonePart::values_in, pairs, 4 * width, 0);
  if (inverse) std::swap(step.re, step.im);
  do_part(AlonePart::down, whole(v.columns) / width, 2 * v.rows * width, 2 * v.rows);
  do_part(AlonePart::across, step.pitch / width, 2 * v.columns * width, 2 * v.columns);
  if (inverse) std::swap(step.re, step.im);
  if (inverse)
    do_part(AlonePart::values_out, pairs, 4 * width, 0);
  else
    do_part(AlonePart::coefficients_out, mirrored, 4 * width, 0);
}

template <class T>
void run_typed(const AxisPass& pass, AloneKernel<T> kernel, const Executor& executor, const AlonePlan& plan) {
  const int64_t width = lanes_per_block<T>(isa()), lanes = lane_count(pass);
  const auto tables = alone_tables<T>(plan, width);
  AloneStep<T> step{};
  step.pass = &pass;
  step.view = tables->view();
  const auto length = static_cast<double>(pass.n);
  step.first = static_cast<T>(2 * std::sqrt(1 / length) * pass.scale.first);  // the DFT halves
  step.other = static_cast<T>(std::sqrt(2 / length) * pass.scale.other);
  const auto run = [&](int64_t begin, int64_t end, const Executor& each) {
    for (int64_t lane = begin; lane < end; ++lane) {
      AloneStep<T> one = step;
      int64_t rest = lane;
      for (int32_t d = pass.lane_dims; d-- > 0; rest /= pass.lanes[d].size) {
        one.in += rest % pass.lanes[d].size * pass.lanes[d].in_stride;
        one.out += rest % pass.lanes[d].size * pass.lanes[d].out_stride;
      }
      run_lane(one, kernel, width, each);
    }
  };
  if (lanes < executor.threads)
    run(0, lanes, executor);
  else
    parallel_for(executor, lanes, std::max<int64_t>(1, kGrainPoints / pass.n),
                 [&](int64_t begin, int64_t end) { run(begin, end, kSerial); });
}

bool in_double(const AxisPass& pass) { return pass.in_type == DType::f64 || pass.out_type == DType::f64; }

}  // namespace

bool run_alone(const AxisPass& pass, const Executor& executor) {
  const int64_t lanes = lane_count(pass);
  if (pass.in_along.stride != 1 || pass.out_along.stride != 1 || lanes == 0) return false;
  const auto choice = choose(pass.n, pass.kept, lanes, in_double(pass) ? 8 : 4, machine(executor.threads));
  if (choice->faster) run_alone(pass, executor, choice->plan);
  return choice->faster;
}

void run_alone(const AxisPass& pass, const Executor& executor, const AlonePlan& plan) {
  if (in_double(pass))
    run_typed(pass, isa().alone_f64, executor, plan);
  else
    run_typed(pass, isa().alone_f32, executor, plan);
}

}  // namespace front::cpu
