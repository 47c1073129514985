// Block on the CPU: every phase is a loop over the threads, and every access is checked. It finds what a GPU does not
// tell: two threads on one word of shared memory, or of memory that is written, within a phase (a missing barrier), or
// two blocks at all, unless both read; indices out of range, reads of what was never written; and it counts bank
// conflicts, bytes and memory sectors. Part of the tests, not of the library. What does not depend on a kernel is in
// tests/native/emulator.cpp, compiled once.
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
  explicit Emulation(EmulatorReport& report);
  ~Emulation();

  template <class F>
  void run(const char* name, int threads, bool barrier, F& f) {
    const int* order = start_phase(name, threads);
    for (int t = 0; t < threads; ++t) thread_ = order[t], f(thread_);
    end_phase(barrier);
  }

  void start_block(i64 block);
  i64 block() const { return block_; }

  template <class T>
  T read_shared(u32 offset, u32 count, u32 i) {
    static_assert(sizeof(T) % 4 == 0, "shared memory is watched in words");
    T v;
    std::memcpy(&v, shared(offset, count, i, sizeof(T), false), sizeof(T));
    return v;
  }

  template <class T>
  void write_shared(u32 offset, u32 count, u32 i, T v) {
    static_assert(sizeof(T) % 4 == 0, "shared memory is watched in words");
    std::memcpy(shared(offset, count, i, sizeof(T), true), &v, sizeof(T));
  }

  template <class T>
  T load(const T* p, bool table) {
    T v{};
    if (may_load(p, sizeof(T), table)) std::memcpy(&v, p, sizeof(T));
    return v;
  }

  void prefetch(const void* p, i64 size);

  template <class T>
  void store(T* p, T v) {
    if (may_store(p, sizeof(T))) std::memcpy(p, &v, sizeof(T));
  }

 private:
  static constexpr int kMany = -2;
  struct Word {
    i64 write_phase = -1, read_phase = -1;
    int writer = -1, reader = -1;
  };
  struct Half {  // of a word of memory that may be written, as 16-bit types lie beside each other
    i64 write_phase = -1, read_phase = -1, write_block = -1, read_block = -1;
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

  void finding(i64& counter, const char* what, i64 at);
  const int* start_phase(const char* name, int threads);
  void end_phase(bool barrier);
  char* shared(u32 offset, u32 count, u32 i, u32 size, bool write);
  bool may_load(const void* p, i64 size, bool table);
  bool may_store(const void* p, i64 size);
  EmulatedBuffer* owner(const void* p, i64 size);
  void watch(const EmulatedBuffer& buffer, i64 at, i64 size, bool write);
  void note(Requests& requests, std::vector<int>& count, i64 at, int bytes, i64 buffer, bool write);
  void count_requests();

  EmulatorReport& report_;
  std::mt19937 random_;
  std::vector<int> order_, shared_count_, memory_count_;
  std::vector<char> shared_;
  std::vector<Word> words_;
  std::vector<std::vector<Half>> halves_;  // by buffer
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
    // Undefined on a device, but for what has initialisers: NaN here.
    Registers() {
      if constexpr (std::is_trivially_default_constructible_v<T>)
        std::memset(static_cast<void*>(values.data()), 0xff, Threads * sizeof(T));
    }
    T& operator[](int t) { return values[t]; }
  };

  template <class T>
  void clear(Registers<T>& registers) const {
    registers.values.assign(Threads, T{});
  }

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
