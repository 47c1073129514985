// Pages of memory that is about to be written for the first time. A new one of 4 KiB costs a page fault, which for 64
// MiB takes longer than the transform itself; one of 2 MiB a five-hundredth as many.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace front {

constexpr size_t kHugePage = size_t{2} << 20;

// Asks for huge pages where at least one fits surely. Only pages that lie in [data, data + bytes) are named, so nothing
// beside it grows. A hint: without it all works.
inline void prefer_huge_pages(void* data, size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  if (bytes < 2 * kHugePage) return;
  static const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const auto end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace front
