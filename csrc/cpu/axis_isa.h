// What each instruction set's build of axis_isa.cpp provides.
#pragma once

#include "alone.h"
#include "tables.h"

namespace front::cpu {

// Blocks [begin, end) of W lanes each, up to `side_by_side` of them at a time; `read_together` are loaded at once
// (blocks_read_together), and no more than `written_together` are taken where they come from panels and what the last
// stage makes of them goes around the caches.
struct Blocks {
  int64_t begin, end, side_by_side, read_together, written_together;
};

template <class T>
using BlockKernel = void (*)(const AxisPass& pass, const AxisView<T>& axis, const AxisView<T>& back,
                             const Blocks& blocks, void* scratch);

// Columns at a time of rows that are decimated as they are loaded (Decimation): so many that each row is read in long
// pieces, so few that what they become stays in the core's cache.
constexpr int kStrip = 512;

struct Isa {
  const char* name;
  int32_t vector_bytes;
  BlockKernel<float> f32;
  BlockKernel<double> f64;
  AloneKernel<float> alone_f32;
  AloneKernel<double> alone_f64;
};

const Isa& isa();  // the one in use

template <class T>
static int64_t lanes_per_block(const Isa& isa) {
  return isa.vector_bytes / static_cast<int64_t>(sizeof(T));
}

// NOTE: static, so that no copy built for one instruction set can stand in for another's.
//
// Lanes are cut into blocks of `width`: along the innermost lane axis where that is at least `width` long, so that a
// block's lanes are equidistant; across all lanes otherwise.
static inline int64_t lane_count(const AxisPass& pass) {
  int64_t count = 1;
  for (int32_t d = 0; d < pass.lane_dims; ++d) count *= pass.lanes[d].size;
  return count;
}
static inline int64_t inner_lanes(const AxisPass& pass, int64_t width) {
  const int64_t inner = pass.lane_dims ? pass.lanes[pass.lane_dims - 1].size : 1;
  return inner >= width ? inner : lane_count(pass);
}
static inline int64_t block_count(const AxisPass& pass, int64_t width) {
  const int64_t lanes = lane_count(pass);
  if (lanes == 0) return 0;
  const int64_t inner = inner_lanes(pass, width);
  return lanes / inner * ((inner + width - 1) / width);
}

extern const Isa kGeneric;
#ifdef FRONT_X86
extern const Isa kAvx2, kAvx512;
#endif

}  // namespace front::cpu
