// What is expensive to build and never changes afterwards, by key.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <utility>

namespace front::cpu {

constexpr int64_t kCacheBytes = int64_t{40} << 20;  // of each cache

// The least recently used go first once it exceeds its limit; what exceeds the limit by itself is not kept. Instances
// are never destroyed: ops may run while the process exits.
template <class Key, class Value>
class Cache {
 public:
  using Pointer = std::shared_ptr<const Value>;

  template <class Build>
  Pointer get(const Key& key, Build build) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (auto found = index_.find(key); found != index_.end()) {
        order_.splice(order_.begin(), order_, found->second);
        return found->second->second;
      }
    }
    // Built outside the lock: two threads may build the same tables, one wins, neither waits for a third's.
    Pointer value = build();
    const int64_t bytes = value->bytes();
    if (bytes > kCacheBytes) return value;
    std::lock_guard<std::mutex> lock(mutex_);
    if (auto found = index_.find(key); found != index_.end()) return found->second->second;
    order_.emplace_front(key, value);
    index_[key] = order_.begin();
    bytes_ += bytes;
    while (bytes_ > kCacheBytes) {
      bytes_ -= order_.back().second->bytes();
      index_.erase(order_.back().first);
      order_.pop_back();
    }
    return value;
  }

 private:
  std::mutex mutex_;
  std::list<std::pair<Key, Pointer>> order_;  // most recently used first
  std::map<Key, typename std::list<std::pair<Key, Pointer>>::iterator> index_;
  int64_t bytes_ = 0;
};

}  // namespace front::cpu
