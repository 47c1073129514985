// W lanes of a pass, one per vector element: where they lie, and how their elements come and go. Included only by
// axis_isa.cpp (see vectors.h).
#pragma once

#include "axis_isa.h"
#include "simd.h"

namespace front::cpu::FRONT_ISA {

template <class T>
struct Lanes {
  static constexpr int W = kLanes<T>;
  int count;  // lanes in use; the rest compute zeros
  int64_t in[W], out[W];
  bool in_adjacent, out_adjacent;  // the used ones are consecutive elements
  int in_run, out_run;             // of so many lanes each they are: W, or of a whole block W / 2 or W / 4, else 0
};

template <class T>
FRONT_INLINE int longest_run(const int64_t* at, int count) {
  constexpr int W = kLanes<T>;
  uint32_t breaks = 0;  // bit l: lane l does not follow the one before
  for (int l = 1; l < count; ++l) breaks |= static_cast<uint32_t>(at[l] != at[l - 1] + 1) << l;
  if (breaks == 0) return W;
  if (count != W) return 0;
  if (W / 2 >= kShortestRun && (breaks & ~(1u << W / 2)) == 0) return W / 2;
  constexpr uint32_t kQuarters = 1u << W / 4 | 1u << W / 2 | 1u << 3 * W / 4;
  return W / 4 >= kShortestRun && (breaks & ~kQuarters) == 0 ? W / 4 : 0;
}

template <class T>
Lanes<T> block_lanes(const AxisPass& pass, int64_t block) {
  constexpr int W = kLanes<T>;
  const int64_t inner = inner_lanes(pass, W), per_row = (inner + W - 1) / W;
  const int64_t start = block % per_row * W, first = block / per_row * inner + start;
  Lanes<T> lanes{};
  lanes.count = static_cast<int>(inner - start < W ? inner - start : W);
  // As an odometer: a division per lane and axis would take longer than to transform few elements.
  const int32_t last = pass.lane_dims - 1;
  int64_t at[kMaxLaneDims], rest = first, in = 0, out = 0;  // of the axes before the last
  for (int32_t d = last; d >= 0; --d) {
    const LaneDim& dim = pass.lanes[d];
    at[d] = rest % dim.size, rest /= dim.size;
    if (d != last) in += at[d] * dim.in_stride, out += at[d] * dim.out_stride;
  }
  for (int l = 0; l < lanes.count && last >= 0;) {
    const LaneDim& dim = pass.lanes[last];
    const int64_t begin = at[last];
    const int here = static_cast<int>(lanes.count - l < dim.size - begin ? lanes.count - l : dim.size - begin);
    if (pass.in_order)
      for (int i = 0; i < here; ++i) lanes.in[l + i] = in + pass.in_order[begin + i] * dim.in_stride;
    else
      for (int i = 0; i < here; ++i) lanes.in[l + i] = in + (begin + i) * dim.in_stride;
    if (pass.out_order)
      for (int i = 0; i < here; ++i) lanes.out[l + i] = out + pass.out_order[begin + i] * dim.out_stride;
    else
      for (int i = 0; i < here; ++i) lanes.out[l + i] = out + (begin + i) * dim.out_stride;
    l += here;
    at[last] = 0;
    for (int32_t d = last - 1; d >= 0; --d) {
      const LaneDim& outer = pass.lanes[d];
      in += outer.in_stride, out += outer.out_stride;
      if (++at[d] < outer.size) break;
      in -= at[d] * outer.in_stride, out -= at[d] * outer.out_stride, at[d] = 0;
    }
  }
  lanes.in_run = longest_run<T>(lanes.in, lanes.count), lanes.out_run = longest_run<T>(lanes.out, lanes.count);
  lanes.in_adjacent = lanes.in_run == W, lanes.out_adjacent = lanes.out_run == W;
  return lanes;
}

FRONT_INLINE int64_t offset(Along along, int64_t i) {
  return along.run ? i / along.run * along.jump + i % along.run * along.stride : i * along.stride;
}

// Calls f(i, offset of element i) for i = 0..n-1.
template <class F>
FRONT_INLINE void for_each_element(int64_t n, Along along, F f) {
  const int64_t run = along.run ? along.run : n;
  for (int64_t begin = 0; begin < n; begin += run) {
    const int64_t end = n - begin < run ? n : begin + run;
    int64_t at = offset(along, begin);
    for (int64_t i = begin; i < end; ++i, at += along.stride) f(i, at);
  }
}

// Calls f(i, offset of element i) for i = begin, begin + step, ... while there are `step` elements, and returns where
// it ends. Of adjacent elements whose runs are whole steps; what is left from `begin` on, if it begins within one, is
// of its run.
template <class F>
FRONT_INLINE int64_t for_each_piece(int64_t begin, int64_t n, Along along, int64_t step, F f) {
  const int64_t whole = n - (n - begin) % step, run = along.run ? along.run : whole;
  int64_t i = begin;
  for (int64_t first = offset(along, begin); i < whole; first += along.jump) {
    const int64_t end = i + run < whole ? i + run : whole;
    for (int64_t at = first; i < end; i += step, at += step) f(i, at);
  }
  return i;
}

// Whole vectors of consecutive elements: W of them lie in one run.
template <class T>
FRONT_INLINE bool in_vectors(Along along) {
  return along.stride == 1 && along.run % kLanes<T> == 0;
}

// Lanes that are rows of consecutive elements, and do not lie side by side.
template <class T>
FRONT_INLINE bool are_rows(Along along, int64_t n, bool adjacent, int count) {
  if (along.stride != 1 || (adjacent && count > 1)) return false;
  return along.run % kLanes<T> == 0 || n <= along.run;
}

// Of n elements of rows, those after `done`, fewer than a vector: f(first, its offset, how many). Where there are
// enough, and `again`, a whole vector, of which some are done again.
template <class T, class F>
FRONT_INLINE void last_of_rows(int64_t done, int64_t n, Along along, bool again, F f) {
  constexpr int W = kLanes<T>;
  if (done == n) return;
  const bool whole = again && n >= W && (along.run == 0 || n <= along.run);
  const int64_t first = whole ? n - W : done;
  f(first, offset(along, first), whole ? W : static_cast<int>(n - done));
}

// Whole vectors of pairs of them.
template <class T>
FRONT_INLINE bool pairs_in_vectors(Along along) {
  return along.run % (2 * kLineBytes / static_cast<int>(sizeof(T))) == 0;
}

// Where the work array of each block of a group lies: `stride` vectors apart.
template <class T>
struct Works {
  Vector<T>* first;
  int64_t stride;
  int count;

  FRONT_INLINE Vector<T>* operator[](int g) const { return first + g * stride; }
};

template <class T>
FRONT_INLINE Complex<T>* points_of(const Works<T>& works, int g) {
  return reinterpret_cast<Complex<T>*>(works[g]);
}

// Blocks whose lanes fill a line: one of them asks for it.
template <class T, class In>
constexpr int kBlocksPerLine = kLineBytes > kLanes<T> * sizeof(In)
                                   ? static_cast<int>(kLineBytes / (kLanes<T> * sizeof(In)))
                                   : 1;

// Adjacent lanes of `works.count` blocks, all whole, side by side: element i of each -> its work array at index[i].
// ahead: how many elements of each lane are prefetched.
template <class In, class T>
void load_side_by_side(const In* x, int64_t n, Along along, const int32_t* index, Works<T> works, int64_t ahead) {
  const auto load_all = [&](auto ask) FRONT_INLINED {
    for_each_element(n, along, [&](int64_t i, int64_t at) FRONT_INLINED {
      if (ask)
        for (int g = 0; g < works.count; g += kBlocksPerLine<T, In>)
          __builtin_prefetch(x + at + ahead * along.stride + g * kLanes<T>);
      const In* from = x + at;
      Vector<T>* to = works.first + index[i];
      for (int g = 0; g < works.count; ++g, from += kLanes<T>, to += works.stride) *to = load<T>(from);
    });
  };
  if (ahead)
    load_all(Constant<true>{});
  else if (works.count == 1)
    for_each_element(n, along, [&](int64_t i, int64_t at) { works.first[index[i]] = load<T>(x + at); });
  else
    load_all(Constant<false>{});
}

// Element i of every lane -> z[index[i]]. Prefetched is, of lanes that are rows, what lies `further` elements beyond
// it, and of others as many as `ahead` says; 0: nothing.
template <class In, class T>
void load_block(const In* x, int64_t n, Along along, const Lanes<T>& lanes, const int32_t* index, Vector<T>* z,
                int64_t further, int64_t ahead) {
  constexpr int W = kLanes<T>;
  const bool rows = are_rows<T>(along, n, lanes.in_adjacent, lanes.count);
  if (lanes.in_adjacent && !rows) {
    const In* first = x + lanes.in[0];
    if (lanes.count == W) return load_side_by_side<In, T>(first, n, along, index, {z, 0, 1}, ahead);
    return for_each_element(n, along,
                            [&](int64_t i, int64_t at) { z[index[i]] = load_some<T>(first + at, lanes.count); });
  }
  // Each case has a loop of its own: where they share one, GCC passes the tile through memory.
  int64_t done = 0;
  const auto load_whole = [&](auto ask) FRONT_INLINED {
    if constexpr (kInPairs<T, In>)
      if (pairs_in_vectors<T>(along))
        done = for_each_piece(0, n, along, 2 * W, [&](int64_t i, int64_t at) FRONT_INLINED {
          Vector<float> tile[W], first, second;
          if (ask)
            for (int l = 0; l < W; ++l) __builtin_prefetch(x + lanes.in[l] + at + further, 0, 2);
          for (int l = 0; l < W; ++l) {
            const In* row = x + lanes.in[l] + at;
            // NOTE: not straight into the array, which GCC makes two halves of, that a load of both then waits for.
            Vector<float> pairs;
            std::memcpy(&pairs, row, sizeof pairs);
            tile[l] = pairs;
          }
          transpose<float>(tile);
          for (int j = 0; j < W; ++j) {
            widen_pairs(bit_cast<Bits32>(tile[j]), &first, &second);
            z[index[i + 2 * j]] = first, z[index[i + 2 * j + 1]] = second;
          }
        });
    done = for_each_piece(done, n, along, W, [&](int64_t i, int64_t at) FRONT_INLINED {
      Vector<T> tile[W];
      if (ask)
        for (int l = 0; l < W; ++l) __builtin_prefetch(x + lanes.in[l] + at + further, 0, 2);
      for (int l = 0; l < W; ++l) tile[l] = load<T>(x + lanes.in[l] + at);
      transpose<T>(tile);
      for (int j = 0; j < W; ++j) z[index[i + j]] = tile[j];
    });
  };
  if (rows) {
    if (n < W)
      done = 0;
    else if (lanes.count < W)
      done = for_each_piece(0, n, along, W, [&](int64_t i, int64_t at) FRONT_INLINED {
        Vector<T> tile[W] = {};
        for (int l = 0; l < lanes.count; ++l) tile[l] = load<T>(x + lanes.in[l] + at);
        transpose<T>(tile);
        for (int j = 0; j < W; ++j) z[index[i + j]] = tile[j];
      });
    else if (further)
      load_whole(Constant<true>{});
    else
      load_whole(Constant<false>{});
    return last_of_rows<T>(done, n, along, true, [&](int64_t i, int64_t at, int elements) FRONT_INLINED {
      Vector<T> tile[W] = {};
      for (int l = 0; l < lanes.count; ++l) tile[l] = load_some<T>(x + lanes.in[l] + at, elements);
      transpose<T>(tile);
      for (int j = 0; j < elements; ++j) z[index[i + j]] = tile[j];
    });
  }
  const auto load_pieces = [&](auto run) FRONT_INLINED {
    for_each_element(n, along,
                     [&](int64_t i, int64_t at) FRONT_INLINED { z[index[i]] = load_runs<T, run>(x + at, lanes.in); });
  };
  if constexpr (W / 2 >= kShortestRun)
    if (lanes.in_run == W / 2) return load_pieces(Constant<W / 2>{});
  if constexpr (W / 4 >= kShortestRun)
    if (lanes.in_run == W / 4) return load_pieces(Constant<W / 4>{});
  for (int64_t i = 0; i < n; ++i) {
    Vector<T> v{};
    for (int l = 0; l < lanes.count; ++l) v[l] = static_cast<T>(to_float(x[lanes.in[l] + offset(along, i)]));
    z[index[i]] = v;
  }
}

// The opposite of load_side_by_side. `around` the caches: whole, aligned cache lines.
template <class Out, class T>
void store_side_by_side(Out* y, int64_t n, Along along, const int32_t* index, Works<T> works, bool around) {
  constexpr int V = kVectorsPerLine<T, Out>;
  if (around) {
    for_each_element(n, along, [&](int64_t i, int64_t at) {
      const Vector<T>* from = works.first + index[i];
      Out* to = y + at;
      for (int g = 0; g < works.count; g += V, to += V * kLanes<T>) {
        Vector<T> line[V];
        for (int v = 0; v < V; ++v, from += works.stride) line[v] = *from;
        stream_line<T>(to, line);
      }
    });
  } else if (works.count == 1) {
    for_each_element(n, along, [&](int64_t i, int64_t at) { store<T>(y + at, works.first[index[i]]); });
  } else {
    for_each_element(n, along, [&](int64_t i, int64_t at) {
      const Vector<T>* from = works.first + index[i];
      Out* to = y + at;
      for (int g = 0; g < works.count; ++g, from += works.stride, to += kLanes<T>) store<T>(to, *from);
    });
  }
}

// z[index[i]] -> element i of every lane. `around` the caches: whole lines of every lane, aligned.
template <class Out, class T>
void store_block(Out* y, int64_t n, Along along, const Lanes<T>& lanes, const int32_t* index, Vector<T>* z,
                 bool around) {
  constexpr int W = kLanes<T>, V = kVectorsPerLine<T, Out>;
  const bool rows = are_rows<T>(along, n, lanes.out_adjacent, lanes.count);
  if (lanes.out_adjacent && !rows) {
    Out* first = y + lanes.out[0];
    if (lanes.count == W) return store_side_by_side<Out, T>(first, n, along, index, {z, 0, 1}, around);
    return for_each_element(n, along,
                            [&](int64_t i, int64_t at) { store_some<T>(first + at, z[index[i]], lanes.count); });
  }
  if (rows) {
    int64_t done = 0;
    if constexpr (kInPairs<T, Out>) {  // as many as a line has; whole lines (`around`) are always of whole pairs
      constexpr int P = kLineBytes / static_cast<int>(sizeof(Vector<T>));  // vectors of pairs in a line
      const auto store_pairs = [&](int64_t i, int64_t at) FRONT_INLINED {
        Out* column = y + at;
        Vector<float> tile[P][W];
        for (int p = 0; p < P; ++p) {
          for (int j = 0; j < W; ++j) {
            const int32_t* pair = index + i + 2 * (p * W + j);
            tile[p][j] = bit_cast<Vector<float>>(narrow_pairs(z[pair[0]], z[pair[1]]));
          }
          transpose<float>(tile[p]);
        }
        for (int l = 0; l < lanes.count; ++l) {
          alignas(kLineBytes) Vector<float> line[P];
          for (int p = 0; p < P; ++p) line[p] = tile[p][l];
          if (around)
            stream_bytes(column + lanes.out[l], line);
          else
            std::memcpy(column + lanes.out[l], line, sizeof line);
        }
      };
      if (pairs_in_vectors<T>(along)) done = for_each_piece(0, n, along, 2 * P * W, store_pairs);
    } else if (around) {
      done = for_each_piece(0, n, along, V * W, [&](int64_t i, int64_t at) FRONT_INLINED {
        Out* column = y + at;
        Vector<T> tile[V][W];
        for (int v = 0; v < V; ++v) {
          for (int j = 0; j < W; ++j) tile[v][j] = z[index[i + v * W + j]];
          transpose<T>(tile[v]);
        }
        for (int l = 0; l < lanes.count; ++l) {
          Vector<T> line[V];
          for (int v = 0; v < V; ++v) line[v] = tile[v][l];
          stream_line<T>(column + lanes.out[l], line);
        }
      });
    }
    done = for_each_piece(done, n, along, W, [&](int64_t i, int64_t at) FRONT_INLINED {
      Out* column = y + at;
      Vector<T> tile[W];
      for (int j = 0; j < W; ++j) tile[j] = z[index[i + j]];
      transpose<T>(tile);
      for (int l = 0; l < lanes.count; ++l) store<T>(column + lanes.out[l], tile[l]);
    });
    return last_of_rows<T>(done, n, along, !around, [&](int64_t i, int64_t at, int elements) FRONT_INLINED {
      Vector<T> tile[W] = {};
      for (int j = 0; j < elements; ++j) tile[j] = z[index[i + j]];
      transpose<T>(tile);
      for (int l = 0; l < lanes.count; ++l) store_some<T>(y + at + lanes.out[l], tile[l], elements);
    });
  }
  const auto store_pieces = [&](auto run) FRONT_INLINED {
    for_each_element(n, along,
                     [&](int64_t i, int64_t at) FRONT_INLINED { store_runs<T, run>(y + at, lanes.out, z[index[i]]); });
  };
  if constexpr (W / 2 >= kShortestRun)
    if (lanes.out_run == W / 2) return store_pieces(Constant<W / 2>{});
  if constexpr (W / 4 >= kShortestRun)
    if (lanes.out_run == W / 4) return store_pieces(Constant<W / 4>{});
  for (int64_t i = 0; i < n; ++i) {
    const Vector<T> v = z[index[i]];
    for (int l = 0; l < lanes.count; ++l) y[lanes.out[l] + offset(along, i)] = round_to<Out>(static_cast<T>(v[l]));
  }
}

// Whether a store of these blocks writes whole, aligned lines: `side_by_side`, or each block by itself.
template <class Out, class T>
bool whole_lines(const Out* y, Along along, const Lanes<T>* lanes, int count, bool side_by_side) {
  const auto aligned = [](int64_t elements) { return elements * static_cast<int64_t>(sizeof(Out)) % kLineBytes == 0; };
  if (reinterpret_cast<uintptr_t>(y) % kLineBytes != 0 || (along.run && !aligned(along.jump))) return false;
  if (side_by_side || (lanes[0].out_adjacent && !in_vectors<T>(along))) {
    for (int g = 0; g < count; ++g)
      if (!side_by_side && !aligned(lanes[g].out[0])) return false;
    return aligned(lanes[0].out[0]) && aligned(along.stride) && aligned((side_by_side ? count : 1) * kLanes<T>);
  }
  if (along.run && !aligned(along.run)) return false;
  for (int g = 0; g < count; ++g)
    for (int l = 0; l < lanes[g].count; ++l)
      if (!aligned(lanes[g].out[l])) return false;
  return true;
}

}  // namespace front::cpu::FRONT_ISA
