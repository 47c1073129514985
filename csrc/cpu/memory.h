// Memory that outlives a call. A workspace that is allocated anew pays a page fault every 4 KiB, which for a 64 MiB
// intermediate takes as long as the transform itself.
#pragma once

#include <cstddef>

namespace front::cpu {

// A block of at least `bytes`, aligned to a cache line, contents unspecified; throws std::bad_alloc. When it goes, the
// pool keeps up to kRetainedBytes for the next one; more than that goes back at once.
class Workspace {
 public:
  explicit Workspace(size_t bytes);
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;
  ~Workspace();
  void* data() const { return data_; }

 private:
  void* data_;
  size_t bytes_;
};

constexpr size_t kRetainedBytes = size_t{64} << 20;  // the intermediate of a 4096 x 4096 float32 matrix

void free_retained_workspace();

}  // namespace front::cpu
