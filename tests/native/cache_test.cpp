// The plan cache and the workspace pool under many threads, for ThreadSanitizer: every thread asks for the same few
// plans in another order, and for enough others that the oldest are dropped meanwhile.
#include <cstdio>
#include <thread>
#include <vector>

#include "cpu/memory.h"
#include "cpu/tables.h"

// Half a million float32 values: tables for less than the cache's limit, of either direction.
bool long_lengths_are_kept() {
  const auto same = [](bool wide) {
    return front::cpu::axis_tables<float>(1 << 19, 1 << 19, {}, wide) ==
           front::cpu::axis_tables<float>(1 << 19, 1 << 19, {}, wide);
  };
  return same(false) && same(true);
}

int main() {
  constexpr int kThreads = 8, kRounds = 100;
  std::vector<std::thread> threads;
  std::vector<int> wrong(kThreads, 0);
  for (int t = 0; t < kThreads; ++t)
    threads.emplace_back([t, &wrong] {
      for (int i = 0; i < kRounds; ++i) {
        const int64_t n = 2 + (i * (t + 1)) % 97;
        const auto tables = front::cpu::axis_tables<float>(n, (n + 1) / 2, {});
        const auto large = front::cpu::axis_tables<double>(20000 + 2 * ((i + t) % 60), 5000, {});
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
