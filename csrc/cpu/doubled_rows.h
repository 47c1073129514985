// Two rows for one, on the way out (Halving): the transpose of halved_rows.h. Half as many rows are transformed, and
// the transpose of the filter across them makes rows 2r and 2r + 1 of lanes r - kEdge to r + kEdge, continued by
// reflection, as they are stored. Included only by axis_isa.cpp (see simd.h).
//
// The rows at a block's end lack lanes of the next one. So blocks follow each other in order, each keeps its last lanes
// for the next, and the first one of a thread is preceded by a block that is computed for those alone.
#pragma once

#include "decimate.h"

namespace front::cpu::FRONT_ISA {

struct DoubledRows {
  Vector<float>* before;  // the lanes before the block, as many as the filter reaches, per W columns of a row
  bool writes;            // else the block is only for the lanes that it leaves there
};

// z[index[i]], elements [begin, begin + n) of lanes [first, first + count) -> the rows that they complete. y: element
// `begin` of row 0 of the matrix. `around` the caches: rows are of whole, aligned lines.
template <int kHalfTaps, class Out>
void store_doubled(Out* y, int64_t begin, int64_t n, const Halving& halving, int64_t first, int count,
                   const int32_t* index, const Vector<float>* z, bool around, const DoubledRows& doubled) {
  constexpr int W = kLanes<float>, kReach = kHalfTaps - 1, kEdge = kReach / 2, kOfLine = kVectorsPerLine<float, Out>;
  static_assert(kReach % 2 == 0 && kEdge <= W);
  Vector<float> h[kHalfTaps];
  for (int t = 0; t < kHalfTaps; ++t) h[t] = splat(halving.filter[t]);
  const bool is_first = first == 0, is_last = 2 * (first + count) == halving.rows;
  // lanes[v][kReach + l]: lane first + l. Complete are the rows of lanes[v][from] to before lanes[v][to].
  const int from = is_first ? kReach : kEdge;
  const int to = doubled.writes ? kReach + count - (is_last ? 0 : kEdge) : from;

  constexpr int kVectors = kChunk / W;  // of a piece of columns, long enough for whole pages' worth of writes to pay
  Vector<float> lanes[kVectors][kReach + W + kEdge];
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
      const auto two_rows = [&](int v, auto vectors, auto write) FRONT_INLINED {
        constexpr int V = vectors;
        Vector<float> even[V], odd[V];
        for (int u = 0; u < V; ++u) {
          const Vector<float>* lane = lanes[v + u] + at;
          even[u] = odd[u] = Vector<float>{};
          for (int t = kHalfTaps; t-- > 0;) {  // the large ones last
            const int apart = t % 2 == 0 ? t / 2 : -(t + 1) / 2;
            even[u] += h[t] * lane[apart], odd[u] += h[t] * lane[-apart];
          }
        }
        write(row + v * W, even), write(row + halving.stride + v * W, odd);
      };
      int v = 0;
      if (around)
        for (; (v + kOfLine) * W <= columns; v += kOfLine)
          two_rows(v, Constant<kOfLine>{}, [](Out* p, const auto& line) FRONT_INLINED { stream_line<float>(p, line); });
      else
        for (; (v + 1) * W <= columns; ++v)
          two_rows(v, Constant<1>{}, [](Out* p, const auto& values) FRONT_INLINED { store<float>(p, values[0]); });
      for (; v * W < columns; ++v) {
        const int used = columns - v * W < W ? columns - v * W : W;
        two_rows(v, Constant<1>{},
                 [&](Out* p, const auto& values) FRONT_INLINED { store_some<float>(p, values[0], used); });
      }
    }
  }
}

}  // namespace front::cpu::FRONT_ISA
