// The block policy of the device code: who runs the threads of a block, and what memory is.
//
// A kernel is a sequence of phases: block.each(name, f) runs f(thread) for every thread and then synchronises;
// block.last(name, f) does not. On the GPU f runs once, in "my thread". Where there is no GPU the emulator (emulator.h)
// runs the same source as a loop over the threads, with checks: within a phase no two threads may touch one word of
// shared memory unless both read it.
#pragma once

#include "numbers.h"

#ifndef __CUDACC__
#include "emulator.h"
#else

namespace front::cuda {

// A window of shared memory.
template <class T>
struct Shared {
  T* data;
  FRONT_DEVICE T read(int i) const { return data[i]; }
  FRONT_DEVICE void write(int i, T v) const { data[i] = v; }
};

template <int Threads>
struct Block {
  static constexpr int threads = Threads;

  // What a thread keeps in registers from one phase to the next.
  template <class T>
  struct Registers {
    T value;
    FRONT_DEVICE T& operator[](int) { return value; }
  };

  template <class T>
  FRONT_DEVICE void clear(Registers<T>& registers) const {
    registers.value = T{};
  }

  FRONT_DEVICE i64 index() const { return blockIdx.x; }

  template <class F>
  FRONT_DEVICE void each(const char*, F f) const {
    f(thread());
    __syncthreads();
  }
  template <class F>
  FRONT_DEVICE void last(const char*, F f) const {
    f(thread());
  }

  // f(warp, sum over its threads of what each holds), in its first thread, by halving distances; all warps are whole.
  template <class T, class F>
  FRONT_DEVICE void warps(const char*, Registers<T>& values, F f) const {
    static_assert(Threads % 32 == 0);
    T sum = values.value;
    FRONT_UNROLL(5)
    for (int distance = 16; distance > 0; distance /= 2) sum = sum + shuffled(sum, distance);
    const int t = thread();
    if (t % 32 == 0) f(t / 32, sum);
    __syncthreads();
  }
  static FRONT_DEVICE double shuffled(double v, int distance) { return __shfl_down_sync(0xffffffffu, v, distance); }
  template <class T>
  static FRONT_DEVICE T shuffled(T v, int distance) {
    return {shuffled(v.x, distance), shuffled(v.y, distance)};
  }

  // NOTE: read anew in each phase. If the compiler knew that it is always the same, it would keep every phase's places
  // in registers over the whole loop over lanes, and spill.
  static FRONT_DEVICE int thread() {
    int t;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(t));
    return t;
  }

  // `count` elements from byte `offset` of the block's dynamic shared memory.
  template <class T>
  FRONT_DEVICE Shared<T> shared(u32 offset, u32 count) const {
    extern __shared__ __align__(16) unsigned char front_shared[];
    return {reinterpret_cast<T*>(front_shared + offset)};
  }

  // Data is read once: it goes first when the caches run full, so that the tables stay.
  template <class T>
  FRONT_DEVICE T load(const T* p) const {
    T v;
    if constexpr (sizeof(T) == 16)
      *reinterpret_cast<uint4*>(&v) = __ldcs(reinterpret_cast<const uint4*>(p));
    else if constexpr (sizeof(T) == 8)
      *reinterpret_cast<uint2*>(&v) = __ldcs(reinterpret_cast<const uint2*>(p));
    else if constexpr (sizeof(T) == 4)
      *reinterpret_cast<u32*>(&v) = __ldcs(reinterpret_cast<const u32*>(p));
    else
      *reinterpret_cast<u16*>(&v) = __ldcs(reinterpret_cast<const u16*>(p));
    static_assert(sizeof(T) == 16 || sizeof(T) == 8 || sizeof(T) == 4 || sizeof(T) == 2);
    return v;
  }
  // Of what will be loaded soon, the line that has *p.
  template <class T>
  FRONT_DEVICE void prefetch(const T* p) const {
    asm volatile("prefetch.global.L2 [%0];" ::"l"(__cvta_generic_to_global(p)));
  }
  template <class T>
  FRONT_DEVICE void store(T* p, T v) const {
    *p = v;
  }
  // Tables do not change while a kernel runs, so they may go through the read-only path.
  template <class T>
  FRONT_DEVICE T table(const T* p) const {
    T v;
    if constexpr (sizeof(T) % 16 == 0) {
      for (u32 i = 0; i < sizeof(T) / 16; ++i)
        reinterpret_cast<uint4*>(&v)[i] = __ldg(reinterpret_cast<const uint4*>(p) + i);
    } else {
      static_assert(sizeof(T) == 8, "tables hold points, or pairs of them");
      *reinterpret_cast<uint2*>(&v) = __ldg(reinterpret_cast<const uint2*>(p));
    }
    return v;
  }
};

}  // namespace front::cuda
#endif
