// Two rows for one, on the way out (Halving): the transpose of halved_rows.h. Half as many rows are transformed, and
// the transpose of the filter across them makes rows 2r and 2r + 1 of lanes r - kEdge to r + kEdge, continued by
// reflection, as they are stored. Included only by axis_isa.cpp (see simd.h).
//
// The rows at a block's end lack lanes of the next one. So blocks follow each other in order, each keeps its last lanes
// for the next, and the first one of a thread is preceded by as many as the filter reaches, computed for those alone:
// one, or two of the narrowest vectors.
#pragma once

#include "decimate.h"

namespace front::cpu::FRONT_ISA {

struct DoubledRows {
  Vector<float>* before;  // the lanes before the block, as many as the filter reaches, per W columns of a row
  bool writes;            // else the block is only for the lanes that it leaves there
};

// z[index[i]], elements [begin, begin + n) of lanes [first, first + count) -> the rows that they complete. y: element
// `begin` of row 0 of the matrix.
//
// Not around the caches, whatever the size: the stores of a piece come at once, and caches take them while the next
// one is transformed. Around them they wait for memory (4096 x 4096 on Zen 3, one core or both: 1.4 of the time).
template <int kHalfTaps, class Out>
void store_doubled(Out* y, int64_t begin, int64_t n, const Halving& halving, int64_t first, int count,
                   const int32_t* index, const Vector<float>* z, const DoubledRows& doubled) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1, kEdge = kReach / 2;
  static_assert(kReach % 2 == 0 && kEdge <= W);
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(halving.filter[t]);
  const bool is_first = first == 0, is_last = 2 * (first + count) == halving.rows;
  const int from = is_first ? kReach : kEdge;
  const int to = doubled.writes ? kReach + count - (is_last ? 0 : kEdge) : from;

  // Of a piece of columns, so long that each row is written in more than a line: lane first + l at [v][kReach + l].
  // Complete are the rows of those from [v][from] to before [v][to].
  Vector<float> lanes[kChunk / W][kReach + W + kEdge];
  for (int64_t i = 0; i < n; i += kChunk) {
    const int columns = n - i < kChunk ? static_cast<int>(n - i) : kChunk;
    for (int v = 0; v * W < columns; ++v) {
      const int32_t* const at = index + i + v * W;
      Vector<float> tile[W];
      for (int j = 0; j < W; ++j) tile[j] = v * W + j < columns ? z[at[j]] : Vector<float>{};
      transpose<float>(tile);
      for (int l = 0; l < W; ++l) lanes[v][kReach + l] = tile[l];
      Vector<float>* const before = doubled.before + ((begin + i) / W + v) * kReach;
      for (int l = 0; l < kReach; ++l) lanes[v][l] = before[l];
      if (is_first)
        for (int l = 0; l < kEdge; ++l) lanes[v][kReach - 1 - l] = lanes[v][kReach + l];
      if (is_last)
        for (int l = 0; l < kEdge; ++l) lanes[v][kReach + count + l] = lanes[v][kReach + count - 1 - l];
      for (int l = 0; l < kReach; ++l) before[l] = lanes[v][W + l];
    }
    for (int at = from; at < to; ++at) {
      Out* const row = y + 2 * (first + at - kReach) * halving.stride + i;
      for (int v = 0; v * W < columns; ++v) {
        const Vector<float>* const lane = lanes[v] + at;
        Vector<float> even{}, odd{};
        for (int t = kHalfTaps; t-- > 0;) {  // the large ones last
          const int apart = t % 2 == 0 ? t / 2 : -(t + 1) / 2;
          even += h[t] * lane[apart], odd += h[t] * lane[-apart];
        }
        Out *const first_row = row + v * W, *const second_row = first_row + halving.stride;
        if (const int used = columns - v * W; used >= W)
          store<float>(first_row, even), store<float>(second_row, odd);
        else
          store_some<float>(first_row, even, used), store_some<float>(second_row, odd, used);
      }
    }
  }
}

}  // namespace front::cpu::FRONT_ISA
