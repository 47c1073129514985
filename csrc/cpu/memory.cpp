#include "memory.h"

#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "../pages.h"

namespace front::cpu {
namespace {

constexpr size_t kLine = 64;
#ifdef __SANITIZE_ADDRESS__
constexpr bool kRetain = false;  // every block of exactly its size, so that an access beyond it is seen
#else
constexpr bool kRetain = true;
#endif

struct Block {
  void* data;
  size_t bytes;
  const void* user;  // the thread that used it last, in whose core's cache it may be
};

const void* this_thread() {
  static thread_local const char here = 0;
  return &here;
}

constexpr size_t kRetainedBlocks = 64;

struct Pool {
  std::mutex mutex;
  std::vector<Block> blocks;  // least recently used first
  size_t bytes = 0;

  Pool() { blocks.reserve(kRetainedBlocks + 1); }  // so that keeping a block never allocates
};

Pool& pool() {
  static auto* the_pool = new Pool;  // never destroyed: ops may run while the process exits
  return *the_pool;
}

Block allocate(size_t bytes) {
  const bool huge = bytes >= 2 * kHugePage;
  const size_t alignment = huge ? kHugePage : kLine, size = (bytes + alignment - 1) / alignment * alignment;
  void* data = std::aligned_alloc(alignment, size);
  if (!data) throw std::bad_alloc();
  prefer_huge_pages(data, size);
  return {data, kRetain ? size : bytes, this_thread()};
}

// The smallest retained block that is large enough, but not so large that another call would miss it; of several of a
// size the one that this thread used last.
bool take_retained(size_t bytes, Block* found) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  size_t best = p.blocks.size();
  for (size_t i = 0; i < p.blocks.size(); ++i) {
    const size_t have = p.blocks[i].bytes;
    if (have < bytes || have / 4 > bytes) continue;
    const bool first = best == p.blocks.size(), mine = p.blocks[i].user == this_thread();
    if (first || have < p.blocks[best].bytes || (have == p.blocks[best].bytes && mine)) best = i;
  }
  if (best == p.blocks.size()) return false;
  *found = p.blocks[best];
  p.blocks.erase(p.blocks.begin() + static_cast<std::ptrdiff_t>(best));
  p.bytes -= found->bytes;
  return true;
}

void retain(Block block) {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  p.blocks.push_back(block);
  p.bytes += block.bytes;
  while (p.bytes > kRetainedBytes || p.blocks.size() > kRetainedBlocks) {
    std::free(p.blocks.front().data);
    p.bytes -= p.blocks.front().bytes;
    p.blocks.erase(p.blocks.begin());
  }
}

}  // namespace

Workspace::Workspace(size_t bytes) {
  Block block{};
  if (!take_retained(bytes, &block)) block = allocate(bytes ? bytes : 1);
  data_ = block.data;
  bytes_ = block.bytes;
}

Workspace::~Workspace() {
  if (kRetain && bytes_ <= kRetainedBytes)
    retain({data_, bytes_, this_thread()});
  else
    std::free(data_);
}

void free_retained_workspace() {
  Pool& p = pool();
  std::lock_guard<std::mutex> lock(p.mutex);
  for (const Block& b : p.blocks) std::free(b.data);
  p.blocks.clear();
  p.bytes = 0;
}

}  // namespace front::cpu
