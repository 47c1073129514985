// Loops over the thread pool whose bodies may throw.
#pragma once

#include <atomic>
#include <exception>

#include "../params.h"

namespace front::cpu {

// f(begin, end) on subranges of [0, count); rethrows the first exception after all have ended.
template <class F>
void parallel_for(const Executor& executor, int64_t count, int64_t grain, F f) {
  struct Call {
    F& f;
    std::atomic<bool> failed{false};
    std::exception_ptr error;
  } call{f, {}, {}};
  executor.run(
      count, grain,
      [](int64_t begin, int64_t end, void* context) {
        Call& c = *static_cast<Call*>(context);
        try {
          c.f(begin, end);
        } catch (...) {  // no exception may cross the thread pool
          if (!c.failed.exchange(true)) c.error = std::current_exception();
        }
      },
      &call);
  if (call.error) std::rethrow_exception(call.error);
}

constexpr Executor kSerial{[](int64_t count, int64_t, ParallelBody body, void* context) { body(0, count, context); },
                           1};

}  // namespace front::cpu
