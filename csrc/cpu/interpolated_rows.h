// Several rows for one, on the way out (Decimation): the transpose of decimated_rows.h. A half or a quarter as many
// rows are transformed, and the transpose of the filter across them makes all rows of those lanes, continued by
// reflection, as they are stored. Included only by axis_isa.cpp (see vectors.h).
//
// The rows at a block's end lack lanes of the next one. So blocks follow each other in order, each keeps its last lanes
// for the next, and the first one of a thread is preceded by as many as rows are made of, computed for those alone:
// one, or two of short vectors.
#pragma once

#include "decimate.h"

namespace front::cpu::FRONT_ISA {

struct InterpolatedRows {
  Vector<float>* before;  // the lanes before the block, twice Filter::edge(), per W columns of a row
  bool writes;            // else the block is only for the lanes that it leaves there
};

// What a lane's own rows are made of, it and those beside it. Rows r and kFactor - 1 - r are each other's mirror
// images, so both take one product of each lane[a] + lane[-a] and lane[a] - lane[-a]: of 38 taps 22 products and 14
// sums make four rows, instead of 38 products (one Zen 5 core under AVX-512, 512 x 512 to 4096 x 4096: bfloat16 takes
// 0.83 of the time, float32, which waits for memory, 0.97). The weights, rounded to float32, add 5e-9 to the filter's
// aliases.
template <int kFilter>
class Interpolation {
  static constexpr plan_detail::Filter kThis = plan_detail::kFilters[kFilter];
  static constexpr int kFactor = kThis.factor, kEdge = kThis.edge(), kPairs = kFactor / 2;

 public:
  FRONT_INLINE explicit Interpolation(const float* taps) {
    for (int r = 0; r < kPairs; ++r)
      for (int a = 0; a <= kEdge; ++a) {
        even_[r][a] = splat(plan_detail::even(kThis, taps, r, a));
        odd_[r][a] = splat(plan_detail::odd(kThis, taps, r, a));
      }
  }

  // -> rows[r * apart].
  FRONT_INLINE void operator()(const Vector<float>* lane, Vector<float>* rows, int apart) const {
    Vector<float> even[kPairs], odd[kPairs];
#pragma GCC unroll 16
    for (int a = kEdge; a > 0; --a) {  // the large ones last
      const Vector<float> sum = lane[a] + lane[-a], difference = lane[a] - lane[-a];
#pragma GCC unroll 4
      for (int r = 0; r < kPairs; ++r) {
        even[r] = a == kEdge ? even_[r][a] * sum : even[r] + even_[r][a] * sum;
        odd[r] = a == kEdge ? odd_[r][a] * difference : odd[r] + odd_[r][a] * difference;
      }
    }
#pragma GCC unroll 4
    for (int r = 0; r < kPairs; ++r) {
      even[r] += even_[r][0] * lane[0];
      rows[r * apart] = even[r] + odd[r], rows[(kFactor - 1 - r) * apart] = even[r] - odd[r];
    }
  }

 private:
  Vector<float> even_[kPairs][kEdge + 1], odd_[kPairs][kEdge + 1];  // by distance
};

// z[index[i]], elements [begin, begin + n) of lanes [first, first + count) -> the rows that they complete. y: element
// `begin` of row 0 of the matrix.
//
// `around` the caches: rows are of whole, aligned lines. Only where a vector is a line (one Zen 5 core: 512 x 512 to
// 4096 x 4096 in 0.55 of the time, two 0.65). By halves of lines not even beyond the caches: the stores of a piece come
// at once, and caches take them while the next one is transformed; around them they wait for memory (4096 x 4096 on Zen
// 3, one core or both: 1.4 of the time).
template <int kFilter, class Out>
void store_interpolated(Out* y, int64_t begin, int64_t n, const Decimation& decimation, int64_t first, int count,
                        const int32_t* index, const Vector<float>* z, const InterpolatedRows& interpolated,
                        bool around) {
  constexpr plan_detail::Filter kThis = plan_detail::kFilters[kFilter];
  constexpr int W = kLanes<float>, kEdge = kThis.edge(), kKept = 2 * kEdge, kFactor = kThis.factor;
  static_assert(kEdge <= W);
  const Interpolation<kFilter> made_of(decimation.taps);
  const bool is_first = first == 0, is_last = kFactor * (first + count) == decimation.rows;
  const int from = is_first ? kKept : kEdge;
  const int to = interpolated.writes ? kKept + count - (is_last ? 0 : kEdge) : from;

  // Of a piece of columns, so long that each row is written in more than a line: lane first + l at [v][kKept + l].
  // Complete are the rows of those from [v][from] to before [v][to].
  constexpr int kLanesOfPiece = kKept + W + kEdge;
  Vector<float> lanes[kChunk / W][kLanesOfPiece];
  for (int64_t i = 0; i < n; i += kChunk) {
    const int columns = n - i < kChunk ? static_cast<int>(n - i) : kChunk;
    for (int v = 0; v * W < columns; ++v) {
      const int32_t* const at = index + i + v * W;
      Vector<float> tile[W];
      for (int j = 0; j < W; ++j) tile[j] = v * W + j < columns ? z[at[j]] : Vector<float>{};
      transpose<float>(tile);
      for (int l = 0; l < W; ++l) lanes[v][kKept + l] = tile[l];
      Vector<float>* const before = interpolated.before + ((begin + i) / W + v) * kKept;
      for (int l = 0; l < kKept; ++l) lanes[v][l] = before[l];
      if (is_first)
        for (int l = 0; l < kEdge; ++l) lanes[v][kKept - 1 - l] = lanes[v][kKept + l];
      if (is_last)
        for (int l = 0; l < kEdge; ++l) lanes[v][kKept + count + l] = lanes[v][kKept + count - 1 - l];
      for (int l = 0; l < kKept; ++l) before[l] = lanes[v][W + l];
    }
    for (int at = from; at < to; ++at) {
      Out* const row = y + kFactor * (first + at - kKept) * decimation.stride + i;
      const Vector<float>* lane = lanes[0] + at;
      const auto interpolate = [&](Vector<float>* rows, int apart) FRONT_INLINED {
        made_of(lane, rows, apart);
        lane += kLanesOfPiece;
      };
      int done = 0;
      constexpr int V = kVectorsPerLine<float, Out>;
      if constexpr (kWholeLine<float>)
        for (; around && columns - done >= V * W; done += V * W) {
          Vector<float> lines[kFactor][V];
          for (int v = 0; v < V; ++v) interpolate(&lines[0][v], V);
          for (int r = 0; r < kFactor; ++r) stream_line<float>(row + r * decimation.stride + done, lines[r]);
        }
      if constexpr (kNarrows<float, Out>)
        for (; columns - done >= 2 * W; done += 2 * W) {
          Vector<float> pairs[kFactor][2];
          for (int v = 0; v < 2; ++v) interpolate(&pairs[0][v], 2);
          for (int r = 0; r < kFactor; ++r) {
            const Bits32 two = to_vector<float, Out>(pairs[r][0], pairs[r][1]);
            std::memcpy(row + r * decimation.stride + done, &two, sizeof two);
          }
        }
      for (; done < columns; done += W) {
        Vector<float> values[kFactor];
        interpolate(values, 1);
        // What the next ones are stored in, while these are computed (to 8192 x 8192: 0.9 of the time; of half as many
        // bytes nothing is gained).
        if constexpr (!kWholeLine<float>)
          for (int r = 0; r < kFactor; ++r) __builtin_prefetch(row + (kFactor + r) * decimation.stride + done, 1);
        for (int r = 0; r < kFactor; ++r) {
          if (columns - done >= W)
            store<float>(row + r * decimation.stride + done, values[r]);
          else
            store_some<float>(row + r * decimation.stride + done, values[r], columns - done);
        }
      }
    }
  }
}

}  // namespace front::cpu::FRONT_ISA
