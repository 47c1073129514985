// The caches of tables and of orders, and the workspace pool, under many threads, for ThreadSanitizer: every thread
// asks for the same few in another order, and for enough others that the oldest are dropped meanwhile.
#include <cstdio>
#include <thread>
#include <vector>

#include "cpu/axis_isa.h"
#include "cpu/matrix.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"
#include "cpu/tables.h"

// Kernels that do nothing: what is around them is tested.
namespace front::cpu {
template <class T>
void nothing(const AxisPass&, const AxisView<T>&, const AxisView<T>&, const Blocks&, void*) {}
template <class T>
void alone(const AloneStep<T>&, int64_t, int64_t, void*) {}
extern const Isa kGeneric{"generic", 16, &nothing<float>, &nothing<double>, &alone<float>, &alone<double>};
}  // namespace front::cpu

void run_matrix(int64_t m, int64_t n) {
  static std::vector<float> values(600 * 600);
  const void* in[] = {values.data()};
  void* out[] = {values.data()};
  front::MatrixPass pass{};
  pass.direction = front::Direction::forward;
  pass.m = m, pass.n = n, pass.k0 = (m + 1) / 2, pass.k1 = (n + 1) / 2;
  pass.in_type = pass.compute_type = pass.out_type = front::DType::f32;
  pass.in_row = n, pass.out_row = pass.k1, pass.in_column = pass.out_column = 1;
  pass.in = in, pass.out = out, pass.count = 1;
  front::cpu::run_matrices(pass, front::cpu::kSerial);
}

bool run_vector(int64_t n) {
  static std::vector<float> values(4096);
  front::AxisPass pass{};
  pass.n = pass.kept = n;
  pass.in = pass.out = values.data();
  pass.in_type = pass.out_type = front::DType::f32;
  pass.in_along = pass.out_along = {1, 0, 0};
  return front::cpu::run_alone(pass, front::cpu::kSerial);
}

// Half a million float32 values: tables for less than the cache's limit, of either direction. Of a prime 300 000.
bool long_lengths_are_kept() {
  const auto same = [](int64_t n, bool wide) {
    return front::cpu::axis_tables<float>(n, n, {}, wide) == front::cpu::axis_tables<float>(n, n, {}, wide);
  };
  return same(1 << 19, false) && same(1 << 19, true) && same(300007, false);
}

int main() {
  constexpr int kThreads = 4, kRounds = 64;
  std::vector<std::thread> threads;
  std::vector<int> wrong(kThreads, 0);
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([t, &wrong] {
      for (int i = 0; i < kRounds; ++i) {
        const int64_t n = 2 + (i * (t + 1)) % 97;
        const auto tables = front::cpu::axis_tables<float>(n, (n + 1) / 2, {});
        const auto large = front::cpu::axis_tables<double>(20000 + 2 * ((i + t) % 60), 5000, {});
        run_matrix(2 + (i * (t + 3)) % 61, 2 + i % 13);
        run_matrix(3, 3 + (kRounds * t + i) % 500);  // more than are remembered
        if (!run_vector(int64_t{256} << (i + t) % 5)) ++wrong[t];
        const auto resampled = front::cpu::axis_tables<float>(2038 + 2 * 1019 * (i % 3), 600, {});
        if (resampled->view().resampled.n % 1019 != 0) ++wrong[t];
        if (tables->view().n != n || large->view().kept != 5000) ++wrong[t];
        const front::cpu::Workspace workspace(1000 * static_cast<size_t>(1 + i % 7));
        static_cast<char*>(workspace.data())[0] = static_cast<char>(t);
        if (i % 50 == 0) front::cpu::free_retained_workspace();
        if (static_cast<char*>(workspace.data())[0] != static_cast<char>(t)) ++wrong[t];
      }
    });
  int failed = !long_lengths_are_kept();
  for (int t = 0; t < kThreads; ++t) {
    threads[t].join();
    failed += wrong[t];
  }
  std::printf("%d failed\n", failed);
  return failed != 0;
}
