// What the choice of a plan costs: `plans SHAPES SEED [MILLISECONDS]` takes random sizes of float32 matrices, a crop
// and a padding of each, times every plan that plan_matrix compares, in turn, medians of one thread, and prints per
// case
//   forward|inverse M N K0 K1; per plan: order, taps or 0, predicted and measured microseconds, * if it is chosen
// Results that differ by more than roundings end it with status 1. FRONT_CPU_ISA chooses the instruction set;
// bench/plans.py builds and sums it up.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/axis.h"
#include "cpu/matrix.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"

namespace {

using front::Direction;
using front::MatrixPass;
using front::MatrixPlan;
using front::MatrixShape;
using front::Order;
using Clock = std::chrono::steady_clock;

constexpr int64_t kMostElements = 32 << 20;
constexpr double kMostDifference = 5e-7;  // of two results of float32, relative

void time_plans(Direction direction, int64_t m, int64_t n, int64_t k0, int64_t k1, double milliseconds) {
  MatrixPass pass{};
  pass.direction = direction;
  pass.m = m, pass.n = n, pass.k0 = k0, pass.k1 = k1;
  pass.in_type = pass.out_type = pass.compute_type = front::DType::f32;
  const bool inverse = direction == Direction::inverse;
  const int64_t in = inverse ? k0 * k1 : m * n, out = inverse ? m * n : k0 * k1;
  pass.in_row = inverse ? k1 : n, pass.out_row = inverse ? n : k1, pass.in_column = pass.out_column = 1;
  const front::cpu::Workspace x(static_cast<size_t>(in) * sizeof(float)), y(static_cast<size_t>(out) * sizeof(float));
  auto* const values = static_cast<float*>(x.data());
  std::minstd_rand noise;
  for (int64_t i = 0; i < in; ++i) values[i] = static_cast<float>(noise() % 65536) - 32767.5f;
  const void* ins[] = {x.data()};
  void* outs[] = {y.data()};
  pass.in = ins, pass.out = outs, pass.count = 1;

  const front::Machine machine = front::cpu::machine(1);
  const MatrixShape shape = front::cpu::shape_of(pass);
  const MatrixPlan chosen = front::plan_matrix(shape, machine);
  const std::vector<MatrixPlan> plans = front::all_plans(shape, machine);
  std::vector<std::vector<double>> times(plans.size());
  const auto* const result = static_cast<const float*>(y.data());
  std::vector<float> first;
  for (const MatrixPlan& plan : plans) {
    front::cpu::run_matrices(pass, front::cpu::kSerial, plan);
    if (first.empty()) first.assign(result, result + out);
    double error = 0, scale = 0;
    for (int64_t i = 0; i < out; ++i) {
      error += std::pow(static_cast<double>(result[i]) - first[i], 2);
      scale += std::pow(static_cast<double>(first[i]), 2);
    }
    if (!(std::sqrt(error / scale) <= kMostDifference)) {
      std::fprintf(stderr, "%ld x %ld, %ld x %ld: plans differ by %.3g\n", static_cast<long>(m), static_cast<long>(n),
                   static_cast<long>(k0), static_cast<long>(k1), std::sqrt(error / scale));
      std::exit(1);
    }
  }
  const auto end = Clock::now() + std::chrono::duration<double, std::milli>(milliseconds * plans.size());
  for (int round = 0; round < 7 || Clock::now() < end; ++round)
    for (size_t i = 0; i < plans.size(); ++i) {
      const auto begin = Clock::now();
      front::cpu::run_matrices(pass, front::cpu::kSerial, plans[i]);
      const double us = std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
      if (round > 1) times[i].push_back(us);  // tables are made, and pages there
    }
  std::printf("%s %ld %ld %ld %ld", inverse ? "inverse" : "forward", static_cast<long>(m), static_cast<long>(n),
              static_cast<long>(k0), static_cast<long>(k1));
  for (size_t i = 0; i < plans.size(); ++i) {
    std::nth_element(times[i].begin(), times[i].begin() + times[i].size() / 2, times[i].end());
    const MatrixPlan& plan = plans[i];
    const bool is_chosen =
        plan.order == chosen.order && plan.filter == chosen.filter && plan.columns.streamed == chosen.columns.streamed;
    std::printf("; %s %s%d %.1f %.1f%s", plan.order == Order::rows_first ? "rows" : "columns",
                plan.columns.streamed ? "streamed-" : "", plan.filter ? plan.filter->taps : 0,
                plan.rows_us + plan.columns_us, times[i][times[i].size() / 2], is_chosen ? " *" : "");
  }
  std::printf("\n");
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 3) {
    std::fprintf(stderr, "usage: plans SHAPES SEED [MILLISECONDS]\n");
    return 2;
  }
  const double milliseconds = argc > 3 ? std::atof(argv[3]) : 30;
  std::mt19937 random(static_cast<unsigned>(std::atoi(argv[2])));
  const auto from = [&](int64_t least, int64_t most) {
    return std::uniform_int_distribution<int64_t>(least, most)(random);
  };
  const auto one_of = [&](const std::vector<int64_t>& all) { return all[from(0, all.size() - 1)]; };
  std::printf("%s\n", front::cpu::isa_name());
  for (int left = std::atoi(argv[1]); left > 0;) {
    const int64_t m = one_of({256, 512, 768, 1024, 1536, 2048, 3072, 4096, 8192, 11008, 8 * from(64, 1000)});
    const int64_t n = one_of({64, 128, 256, 512, 768, 1024, 2048, 3072, 4096, from(16, 4000)});
    if (m * n > kMostElements) continue;
    const int64_t k0 = one_of({16, 32, m / 16, m / 8, m / 4, m / 2, m, from(1, m)});
    const int64_t k1 = one_of({n / 8, n / 4, n / 2, n, from(1, n)});
    for (Direction direction : {Direction::forward, Direction::inverse})
      time_plans(direction, m, n, k0, k1, milliseconds);
    --left;
  }
}
