// Two rows for one, on the way out (Halving): the transpose of halved_rows.h. Half as many rows are transformed, and
// the transpose of the filter across them makes rows 2r and 2r + 1 of lanes r - kEdge to r + kEdge, continued by
// reflection, as they are stored. Included only by axis_isa.cpp (see vectors.h).
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
// `around` the caches: rows are of whole, aligned lines. Only where a vector is a line (one Zen 5 core: 512 x 512 to
// 4096 x 4096 in 0.55 of the time, two 0.65). By halves of lines not even beyond the caches: the stores of a piece come
// at once, and caches take them while the next one is transformed; around them they wait for memory (4096 x 4096 on Zen
// 3, one core or both: 1.4 of the time).
template <int kHalfTaps, class Out>
void store_doubled(Out* y, int64_t begin, int64_t n, const Halving& halving, int64_t first, int count,
                   const int32_t* index, const Vector<float>* z, const DoubledRows& doubled, bool around) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1, kEdge = kReach / 2;
  static_assert(kReach % 2 == 0 && kEdge <= W);
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(halving.filter[t]);
  const bool is_first = first == 0, is_last = 2 * (first + count) == halving.rows;
  const int from = is_first ? kReach : kEdge;
  const int to = doubled.writes ? kReach + count - (is_last ? 0 : kEdge) : from;

  // Of a piece of columns, so long that each row is written in more than a line: lane first + l at [v][kReach + l].
  // Complete are the rows of those from [v][from] to before [v][to].
  constexpr int kLanesOfPiece = kReach + W + kEdge;
  Vector<float> lanes[kChunk / W][kLanesOfPiece];
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
      Out* row = y + 2 * (first + at - kReach) * halving.stride + i;
      const Vector<float>* lane = lanes[0] + at;
      const auto interpolate = [&](Vector<float>* even, Vector<float>* odd) FRONT_INLINED {
        *even = *odd = Vector<float>{};
        for (int t = kHalfTaps; t-- > 0;) {  // the large ones last
          const int apart = t % 2 == 0 ? t / 2 : -(t + 1) / 2;
          *even += h[t] * lane[apart], *odd += h[t] * lane[-apart];
        }
        lane += kLanesOfPiece;
      };
      Out* second_row = row + halving.stride;
      int left = columns;
      constexpr int V = kVectorsPerLine<float, Out>;
      if constexpr (kWholeLine<float>)
        for (; around && left >= V * W; left -= V * W, row += V * W, second_row += V * W) {
          Vector<float> even[V], odd[V];
          for (int v = 0; v < V; ++v) interpolate(&even[v], &odd[v]);
          stream_line<float>(row, even);
          stream_line<float>(second_row, odd);
        }
      if constexpr (kNarrows<float, Out>)
        for (; left >= 2 * W; left -= 2 * W, row += 2 * W, second_row += 2 * W) {
          Vector<float> even[2], odd[2];
          for (int v = 0; v < 2; ++v) interpolate(&even[v], &odd[v]);
          const Bits32 evens = to_vector<float, Out>(even[0], even[1]), odds = to_vector<float, Out>(odd[0], odd[1]);
          std::memcpy(row, &evens, sizeof evens);
          std::memcpy(second_row, &odds, sizeof odds);
        }
      for (; left > 0; left -= W, row += W, second_row += W) {
        Vector<float> even, odd;
        interpolate(&even, &odd);
        // What the next ones are stored in, while these are computed (to 8192 x 8192: 0.9 of the time; of half as many
        // bytes nothing is gained).
        __builtin_prefetch(second_row + halving.stride, 1);
        __builtin_prefetch(second_row + 2 * halving.stride, 1);
        if (left >= W)
          store<float>(row, even), store<float>(second_row, odd);
        else
          store_some<float>(row, even, left), store_some<float>(second_row, odd, left);
      }
    }
  }
}

}  // namespace front::cpu::FRONT_ISA
