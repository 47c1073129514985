// Loops over independent axes, made as few and as near in memory as two layouts allow.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "../params.h"

namespace front::cpu {

// Axes of size 1 go; the rest are ordered so that the last is nearest in memory; adjacent ones merge where both tensors
// allow it.
inline std::vector<LaneDim> simplified(const LaneDim* dims, int32_t count) {
  std::vector<LaneDim> kept, merged;
  for (int32_t d = 0; d < count; ++d)
    if (dims[d].size != 1) kept.push_back(dims[d]);
  std::stable_sort(kept.begin(), kept.end(), [](const LaneDim& a, const LaneDim& b) {
    return std::abs(a.in_stride) + std::abs(a.out_stride) > std::abs(b.in_stride) + std::abs(b.out_stride);
  });
  for (const LaneDim& dim : kept) {
    LaneDim* last = merged.empty() ? nullptr : &merged.back();
    if (last && last->in_stride == dim.in_stride * dim.size && last->out_stride == dim.out_stride * dim.size)
      *last = {last->size * dim.size, dim.in_stride, dim.out_stride};
    else
      merged.push_back(dim);
  }
  return merged;
}

}  // namespace front::cpu
