// Block on the CPU: every phase is a loop over the threads, and every access is checked. It finds what a GPU does not
// tell: two threads on one word of shared memory within a phase (a missing barrier), indices out of range, reads of
// what was never written; and it counts bank conflicts, bytes and memory sectors. Part of the tests, not of the
// library.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "numbers.h"

namespace front::cuda {

// A buffer that a kernel may touch. The maps hold one byte per byte of it.
struct EmulatedBuffer {
  const char* base;
  i64 bytes;
  unsigned char* reads;        // how often each byte was read, at most 255
  unsigned char* writes;       // written
  const unsigned char* valid;  // 1: holds data from the start; null: all of it
  i64 requested, sectors;      // of all warps' instructions: bytes, and 32-byte sectors that they touch
};

struct EmulatorReport {
  u32 seed;        // 0: threads in order; else shuffled anew in every phase
  int statistics;  // whether bank conflicts and sectors are counted
  EmulatedBuffer* buffers;
  i64 buffer_count;
  i64 shared_bytes;
  i64 races, bounds, uninitialised;  // findings
  char first[256];                   // the first one in words
  char banks[2048];                  // lines "phase|kind|wavefronts|ideal"
};

class Emulation {
 public:
  explicit Emulation(EmulatorReport& report) : report_(report), random_(report.seed) {}

  template <class F>
  void run(const char* name, int threads, bool barrier, F& f) {
    name_ = name;
    order_.resize(threads);
    for (int t = 0; t < threads; ++t) order_[t] = t;
    if (report_.seed) std::shuffle(order_.begin(), order_.end(), random_);
    if (report_.statistics) {
      shared_count_.assign(2 * threads, 0);
      memory_count_.assign(2 * threads, 0);
    }
    for (int t : order_) thread_ = t, f(t);
    if (report_.statistics) count_requests();
    if (barrier) ++phase_;
  }

  void start_block(i64 block) {
    block_ = block;
    ++phase_;
    shared_.assign(report_.shared_bytes, static_cast<char>(0xff));  // NaN in every type
    words_.assign((report_.shared_bytes + 3) / 4, {});
  }
  i64 block() const { return block_; }

  template <class T>
  T read_shared(u32 offset, u32 count, u32 i) {
    const u32 at = place<T>(offset, count, i);
    for (u32 w = at / 4; w < (at + sizeof(T)) / 4; ++w) {
      Word& word = words_[w];
      if (word.write_phase < 0) finding(report_.uninitialised, "reads shared memory that was never written", i);
      if (word.write_phase == phase_ && word.writer != thread_)
        finding(report_.races, "reads what another thread writes in the same phase", i);
      if (word.read_phase != phase_) {
        word.read_phase = phase_;
        word.reader = thread_;
      } else if (word.reader != thread_) {
        word.reader = kMany;
      }
    }
    T v;
    std::memcpy(&v, shared_.data() + at, sizeof(T));
    note(shared_requests_, shared_count_, at, sizeof(T), 0, false);
    return v;
  }

  template <class T>
  void write_shared(u32 offset, u32 count, u32 i, T v) {
    const u32 at = place<T>(offset, count, i);
    for (u32 w = at / 4; w < (at + sizeof(T)) / 4; ++w) {
      Word& word = words_[w];
      if (word.write_phase == phase_ && word.writer != thread_)
        finding(report_.races, "writes what another thread writes in the same phase", i);
      if (word.read_phase == phase_ && word.reader != thread_)
        finding(report_.races, "writes what another thread reads in the same phase", i);
      word.write_phase = phase_;
      word.writer = thread_;
    }
    std::memcpy(shared_.data() + at, &v, sizeof(T));
    note(shared_requests_, shared_count_, at, sizeof(T), 0, true);
  }

  template <class T>
  T load(const T* p, bool table) {
    T v{};
    if (EmulatedBuffer* buffer = owner(p, sizeof(T))) {
      const i64 at = reinterpret_cast<const char*>(p) - buffer->base;
      for (i64 b = at; b < at + static_cast<i64>(sizeof(T)); ++b) {
        const bool written = buffer->writes && buffer->writes[b];
        if (buffer->valid && !buffer->valid[b] && !written) {
          finding(report_.uninitialised, "reads memory that was never written", at);
          break;
        }
        if (buffer->reads && buffer->reads[b] < 255) ++buffer->reads[b];
      }
      std::memcpy(&v, p, sizeof(T));
      if (!table) note(memory_requests_, memory_count_, at, sizeof(T), buffer - report_.buffers, false);
    }
    return v;
  }

  void prefetch(const void* p, i64 size) { owner(p, size); }

  template <class T>
  void store(T* p, T v) {
    if (EmulatedBuffer* buffer = owner(p, sizeof(T))) {
      const i64 at = reinterpret_cast<const char*>(p) - buffer->base;
      for (i64 b = at; b < at + static_cast<i64>(sizeof(T)); ++b) {
        if (!buffer->writes) {
          finding(report_.bounds, "writes to an input", at);
          return;
        }
        if (buffer->writes[b] < 255) ++buffer->writes[b];
      }
      std::memcpy(p, &v, sizeof(T));
      note(memory_requests_, memory_count_, at, sizeof(T), buffer - report_.buffers, true);
    }
  }

  ~Emulation() {
    std::string lines;
    for (const auto& [key, count] : banks_)
      lines += key + '|' + std::to_string(count.wavefronts) + '|' + std::to_string(count.ideal) + '\n';
    std::snprintf(report_.banks, sizeof report_.banks, "%s", lines.c_str());
  }

 private:
  static constexpr int kMany = -2;
  struct Word {
    i64 write_phase = -1, read_phase = -1;
    int writer = -1, reader = -1;
  };
  struct Request {  // what a warp asks for in one instruction
    i64 at[32];
    u32 lanes = 0;
  };
  struct Count {
    u64 wavefronts = 0, ideal = 0;
  };
  using Key = std::pair<std::pair<int, int>, std::pair<int, int>>;  // warp, which access; bytes and kind, buffer
  using Requests = std::map<Key, Request>;

  void finding(i64& counter, const char* what, i64 at) {
    if (report_.races + report_.bounds + report_.uninitialised == 0)
      std::snprintf(report_.first, sizeof report_.first, "block %lld, phase '%s', thread %d: %s, at %lld", block_,
                    name_, thread_, what, at);
    ++counter;
  }

  template <class T>
  u32 place(u32 offset, u32 count, u32 i) {
    static_assert(sizeof(T) % 4 == 0, "shared memory is watched in words");
    if (i >= count || offset + static_cast<i64>(i + 1) * static_cast<i64>(sizeof(T)) > report_.shared_bytes) {
      finding(report_.bounds, "index out of range of shared memory", i);
      i = 0;
    }
    return offset + i * static_cast<u32>(sizeof(T));
  }

  EmulatedBuffer* owner(const void* p, i64 size) {
    const char* c = static_cast<const char*>(p);
    for (i64 i = 0; i < report_.buffer_count; ++i) {
      EmulatedBuffer& b = report_.buffers[i];
      if (c >= b.base && c + size <= b.base + b.bytes) {
        if (reinterpret_cast<std::uintptr_t>(c) % std::min<i64>(size, 16))
          finding(report_.bounds, "an access that is not aligned", c - b.base);
        return &b;
      }
    }
    finding(report_.bounds, "address outside of every buffer", 0);
    return nullptr;
  }

  void note(Requests& requests, std::vector<int>& count, i64 at, int bytes, i64 buffer, bool write) {
    if (!report_.statistics) return;
    Request& r =
        requests[{{thread_ / 32, count[2 * thread_ + write]++}, {2 * bytes + write, static_cast<int>(buffer)}}];
    r.at[thread_ % 32] = at;
    r.lanes |= u32{1} << (thread_ % 32);
  }

  void count_requests() {
    for (const auto& [key, r] : shared_requests_) {
      const int bytes = key.second.first / 2;
      Count& count = banks_[std::string(name_) + (key.second.first % 2 ? "|store " : "|load ") + std::to_string(bytes)];
      // A warp's request is served in parts of 128 bytes; each takes as many wavefronts as a bank has different words.
      const int part = std::min(32, 128 / bytes);
      for (int first = 0; first < 32; first += part) {
        std::vector<i64> bank[32];
        size_t most = 0;
        for (int lane = first; lane < first + part; ++lane) {
          if (!(r.lanes >> lane & 1)) continue;
          for (int b = 0; b < bytes; b += 4) {
            const i64 word = (r.at[lane] + b) / 4;
            auto& words = bank[word % 32];
            if (std::find(words.begin(), words.end(), word) == words.end()) words.push_back(word);
            most = std::max(most, words.size());
          }
        }
        count.wavefronts += most;
        count.ideal += most > 0;
      }
    }
    for (const auto& [key, r] : memory_requests_) {
      const int bytes = key.second.first / 2;
      EmulatedBuffer& buffer = report_.buffers[key.second.second];
      std::vector<i64> sectors;
      for (int lane = 0; lane < 32; ++lane) {
        if (!(r.lanes >> lane & 1)) continue;
        buffer.requested += bytes;
        sectors.push_back(r.at[lane] / 32);
      }
      std::sort(sectors.begin(), sectors.end());
      buffer.sectors += std::unique(sectors.begin(), sectors.end()) - sectors.begin();
    }
    shared_requests_.clear();
    memory_requests_.clear();
  }

  EmulatorReport& report_;
  std::mt19937 random_;
  std::vector<int> order_, shared_count_, memory_count_;
  std::vector<char> shared_;
  std::vector<Word> words_;
  Requests shared_requests_, memory_requests_;
  std::map<std::string, Count> banks_;
  const char* name_ = "";
  i64 phase_ = 0, block_ = 0;
  int thread_ = 0;
};

template <class T>
struct Shared {
  Emulation* emulation;
  u32 offset, count;
  T read(u32 i) const { return emulation->read_shared<T>(offset, count, i); }
  void write(u32 i, T v) const { emulation->write_shared<T>(offset, count, i, v); }
};

template <int Threads>
struct Block {
  static constexpr int threads = Threads;
  Emulation* emulation;

  template <class T>
  struct Registers {
    std::vector<T> values = std::vector<T>(Threads);
    T& operator[](int t) { return values[t]; }
  };

  i64 index() const { return emulation->block(); }
  template <class F>
  void each(const char* name, F f) const {
    emulation->run(name, Threads, true, f);
  }
  template <class F>
  void last(const char* name, F f) const {
    emulation->run(name, Threads, false, f);
  }
  template <class T, class F>
  void warps(const char* name, Registers<T>& values, F f) const {
    static_assert(Threads % 32 == 0);
    const auto first = [&](int t) {
      if (t % 32 != 0) return;
      std::vector<T> sums(values.values.begin() + t, values.values.begin() + t + 32);
      for (int distance = 16; distance > 0; distance /= 2)
        for (int i = 0; i < distance; ++i) sums[i] = sums[i] + sums[i + distance];
      f(t / 32, sums[0]);
    };
    emulation->run(name, Threads, true, first);
  }
  template <class T>
  Shared<T> shared(u32 offset, u32 count) const {
    return {emulation, offset, count};
  }
  template <class T>
  T load(const T* p) const {
    return emulation->load(p, false);
  }
  template <class T>
  void prefetch(const T* p) const {
    emulation->prefetch(p, sizeof(T));
  }
  template <class T>
  void store(T* p, T v) const {
    emulation->store(p, v);
  }
  template <class T>
  T table(const T* p) const {
    return emulation->load(p, true);
  }
};

}  // namespace front::cuda
