// One pass over one axis, W lanes at a time, one lane per vector element. Compiled once per instruction set.
//
// Forward: load (Makhoul order and digit reversal live in the addresses) -> DFT in place -> combine the kept
// coefficients, the only ones formed -> store. Inverse is the exact transpose, step by step in reverse: coefficients
// are spread over the spectrum (absent ones cost nothing), DFT, store.
#include "axis_isa.h"

#include <type_traits>

#include "alone_isa.h"
#include "block.h"
#include "bluestein.h"
#include "decimate.h"
#include "decimated_rows.h"
#include "dense.h"
#include "interpolated_rows.h"
#include "pairs.h"
#include "residual.h"
#include "streamed.h"

namespace front::cpu {
namespace FRONT_ISA {
namespace {

// Odd n: coefficient k is a real combination of point k alone, and is left in its place.
template <class T>
void combine_points(const AxisView<T>& axis, Complex<T>* z) {
  const T* c = axis.combine;
  for (int64_t k = 0; k < axis.kept; ++k, c += 2) z[k].re = splat(c[0]) * z[k].re + splat(c[1]) * z[k].im;
}

// Its transpose, re and im exchanged; absent coefficients are zeros.
template <class T>
void spread_points(const AxisView<T>& axis, Complex<T>* z) {
  const T* c = axis.combine;
  for (int64_t k = 0; k < axis.kept; ++k, c += 2) z[k] = {splat(c[1]) * z[k].re, splat(c[0]) * z[k].re};
  for (int64_t k = axis.kept; k < axis.half; ++k) z[k] = Complex<T>::zero();
}

// Values -> kept coefficients: real number forward_in[i] -> coefficient_at[k] of the work array, or, of an axis that is
// fused, -> place.first[k place.stride], and those of blocks beside it beside them. Where in(g) is a Source, the values
// of block g are read from there.
template <class T, class In>
void forward(const AxisView<T>& axis, Works<T> works, const In& in, Place<T> place) {
  Complex<T>* z = points_of(works, 0);
  if (axis.dense) return dense_forward<T>(axis, works[0]);
  if (axis.length % 2 == 0) return forward_pairs(axis, works, in, place);
  for (int64_t j = 0; j < axis.half; ++j) z[j].im = Vector<T>{};
  run_dfts(axis, z);
  combine_points(axis, z);
}

// Kept coefficients -> values, in place: coefficient_at[k] -> inverse_out[i], or from `in` and to `out`. The transpose
// of a DFT is the DFT with conjugated twiddles: the same code on points with re and im exchanged.
template <class T>
void inverse(const AxisView<T>& axis, Complex<T>* z, const Source<T>& in, const Sink<T>& out) {
  if (axis.dense) return dense_inverse<T>(axis, reinterpret_cast<Vector<T>*>(z));
  if (axis.length % 2 == 0) return inverse_pairs(axis, z, in, out);
  spread_points(axis, z);
  run_dfts_back(axis, z);
}

// Calls f with a value of the element type. double computes what reads or writes double, float the rest.
template <class T, class F>
FRONT_INLINE void with_type(DType type, F f) {
  switch (type) {
    case DType::f16:
      return f(Half{});
    case DType::bf16:
      return f(BFloat16{});
    case DType::f32:
      return f(float{});
    case DType::f64:
      if constexpr (std::is_same_v<T, double>) return f(double{});
  }
}

// Blocks that are transformed together because their lanes continue each other in memory: the load or the store moves
// wide pieces of a row then. `work` holds their points one after the other.
template <class T>
struct Group {
  Lanes<T> lanes[most_side_by_side(FRONT_VECTOR_BYTES)];
  Works<T> work;
  bool in_row, out_row;  // the lanes of all blocks are consecutive elements
  int64_t begin;         // the first block
  int read_together;     // blocks whose rows are loaded at once
  Moments* moments;      // where what a pass measures of them goes
  double* squares;
  DecimatedRows* decimated;        // of a pass that decimates rows
  InterpolatedRows* interpolated;  // that interpolates them
};

// The longest group from block `begin` on. streamed: of which rows stream by, or of a single block.
template <class T>
void find_group(const AxisPass& pass, int64_t begin, int64_t end, int64_t most, bool streamed, Group<T>& group) {
  const bool by_in = !streamed || pass.direction == Direction::forward;
  const bool by_out = !streamed || pass.direction == Direction::inverse;
  constexpr int W = kLanes<T>;
  Lanes<T>* lanes = group.lanes;
  lanes[0] = block_lanes<T>(pass, begin);
  group.in_row = lanes[0].in_adjacent, group.out_row = lanes[0].out_adjacent;
  int count = 1;
  for (; lanes[0].count == W && count < most && begin + count < end; ++count) {
    const Lanes<T>& last = lanes[count - 1];
    Lanes<T>& next = lanes[count] = block_lanes<T>(pass, begin + count);
    const bool in_row = group.in_row && next.in_adjacent && next.in[0] == last.in[0] + W;
    const bool out_row = group.out_row && next.out_adjacent && next.out[0] == last.out[0] + W;
    if (next.count != W || !((in_row && by_in) || (out_row && by_out))) break;
    group.in_row = in_row, group.out_row = out_row;
  }
  group.work.count = count;
}

// How many elements beyond what is loaded of a row lies what is asked for; the next row is `row` elements from it. Many
// rows at once are more streams than the hardware follows, and panels are none at all. Of short rows it is the next
// block's, which follow in memory (30522 x 384 on Zen 5: 0.95 of the time of 8 vectors ahead).
template <class In, class T>
int64_t elements_further(const AxisPass& pass, int64_t row) {
  constexpr int64_t W = kLanes<T>, kBytes = sizeof(In), kInPanels = 4;     // vectors
  constexpr int64_t kInRows = 8 * FRONT_VECTOR_BYTES, kShort = 128 << 10;  // bytes: of a row, and of a block
  const Along& along = pass.in_along;
  if (along.run) return kInPanels * W / along.run * along.jump;
  if (!pass.around_caches) return 0;
  const int64_t length = pass.direction == Direction::inverse ? pass.kept : pass.n;
  const bool short_block = length * W * kBytes <= kShort && !pass.in_order;  // else the next one's are elsewhere
  return short_block ? W * row : kInRows / kBytes;
}

// Elements [begin, begin + n) of every lane of the group -> index[0..n) of `works`. begin: a multiple of the runs.
// together: of how many blocks at a time, if side by side.
template <class T>
void load_group(const AxisPass& pass, const Group<T>& group, int64_t begin, int64_t n, const int32_t* index,
                Works<T> works, int together) {
  with_type<T>(pass.in_type, [&](auto in) {
    using In = decltype(in);
    if constexpr (std::is_same_v<T, float>)
      if (pass.decimation.rows && pass.direction == Direction::forward)
        return with_filter<true>(pass.decimation.filter->taps, [&](auto filter) {
          load_decimated<filter>(static_cast<const In*>(pass.in), pass.n, begin, n, pass.decimation,
                                 group.begin * kLanes<T>, index, works.first, *group.decimated);
        });
    const auto* x = static_cast<const In*>(pass.in) + offset(pass.in_along, begin);
    if (works.count > 1 && group.in_row) {
      for (int g = 0; g < works.count; g += together) {
        const Works<T> part{works[g], works.stride, works.count - g < together ? works.count - g : together};
        load_side_by_side<In, T>(x + group.lanes[g].in[0], n, pass.in_along, index, part, pass.ahead);
      }
      return;
    }
    const int64_t* lanes = group.lanes[0].in;
    const int64_t further = elements_further<In, T>(pass, lanes[1] - lanes[0]);
    for (int g = 0; g < works.count; ++g)
      load_block<In, T>(x, n, pass.in_along, group.lanes[g], index, works[g], further, pass.ahead);
  });
}

// The opposite.
template <class T>
void store_group(const AxisPass& pass, const Group<T>& group, int64_t begin, int64_t n, const int32_t* index,
                 Works<T> works) {
  with_type<T>(pass.out_type, [&](auto out) {
    using Out = decltype(out);
    auto* y = static_cast<Out*>(pass.out) + offset(pass.out_along, begin);
    if constexpr (std::is_same_v<T, float>)
      if (pass.decimation.rows && pass.direction == Direction::inverse)
        return with_filter<true>(pass.decimation.filter->taps, [&](auto filter) {
          const bool lines = reinterpret_cast<uintptr_t>(pass.out) % kLineBytes == 0 &&
                             pass.decimation.stride * static_cast<int64_t>(sizeof(Out)) % kLineBytes == 0;
          store_interpolated<filter>(y, begin, n, pass.decimation, group.begin * kLanes<T>, group.lanes[0].count, index,
                                     works.first, *group.interpolated, pass.around_caches && lines);
        });
    const bool side_by_side = works.count > 1 && group.out_row;
    const bool around =
        pass.around_caches && whole_lines<Out, T>(y, pass.out_along, group.lanes, works.count, side_by_side);
    if (side_by_side)
      return store_side_by_side<Out, T>(y + group.lanes[0].out[0], n, pass.out_along, index, works, around);
    for (int g = 0; g < works.count; ++g)
      store_block<Out, T>(y, n, pass.out_along, group.lanes[g], index, works[g], around);
  });
}

// Instead of storing v: see Residual.
template <class T>
void blend_group(const AxisPass& pass, const Group<T>& group, int64_t begin, int64_t n, const int32_t* index,
                 Works<T> works) {
  const Residual& residual = *pass.residual;
  with_type<T>(residual.type, [&](auto in) {
    using In = decltype(in);
    const auto blend = [&](auto out) {
      using Out = decltype(out);
      const auto* x = static_cast<const In*>(residual.x) + begin * residual.column;
      auto* y = pass.out ? static_cast<Out*>(pass.out) + offset(pass.out_along, begin) : nullptr;
      for (int g = 0; g < works.count; ++g) {
        const int64_t first = (group.begin + g) * kLanes<T>;
        group.squares[g] += blend_block<In, Out, T>(x + first * residual.row, y, n, pass.out_along, group.lanes[g],
                                                    index, works[g], residual);
      }
    };
    if (pass.out_type == residual.type)
      blend(In{});
    else if constexpr (!std::is_same_v<In, T>)
      blend(T{});
  });
}

template <class T>
void load_values(const AxisPass& pass, const AxisView<T>& axis, const Group<T>& group) {
  const bool filtered = axis.taps && !pass.filter_in;
  const auto load = [&](int64_t begin, int64_t n, const int32_t* index, Works<T> works) {
    load_group(pass, group, begin, n, index, works, filtered ? works.count : group.read_together);
    if (!pass.measure) return;
    for (int g = 0; g < works.count; ++g)
      add_moments<T>(works[g], n, index, group.lanes[g].count, *pass.measure, group.moments[g]);
  };
  if (!filtered) return load(0, axis.length, pass.in_places ? pass.in_places : axis.forward_in, group.work);
  if constexpr (std::is_same_v<T, float>)
    with_filter<false>(axis.taps, [&](auto filter) {
      decimate<plan_detail::kFilters[filter].taps / 2>(axis.n, axis.filter, axis.forward_in, group.work, load);
    });
}

template <class T>
void store_values(const AxisPass& pass, const AxisView<T>& axis, const Group<T>& group) {
  const auto store = [&](int64_t begin, int64_t n, const int32_t* index, Works<T> works) {
    if (pass.residual)
      blend_group(pass, group, begin, n, index, works);
    else
      store_group(pass, group, begin, n, index, works);
  };
  if (!axis.taps || pass.filter_out)
    return store(0, axis.length, pass.out_places ? pass.out_places : axis.inverse_out, group.work);
  if constexpr (std::is_same_v<T, float>)
    with_filter<false>(axis.taps, [&](auto filter) {
      interpolate<plan_detail::kFilters[filter].taps / 2>(axis.n, axis.filter, axis.inverse_out, group.work, store);
    });
}

// Whether the coefficients may be written as the vectors they are, one by one: to a cached result, or around the
// caches, where a vector is a line.
template <class T>
bool writes_vectors(const AxisPass& pass, const AxisView<T>& axis) {
  const bool converted = pass.out_type != (std::is_same_v<T, double> ? DType::f64 : DType::f32);
  const int64_t stride = pass.out_along.stride;
  if (pass.direction != Direction::forward || !axis.fused || converted || pass.out_along.run || stride == 1)
    return false;
  const bool lines = reinterpret_cast<uintptr_t>(pass.out) % kLineBytes == 0 && stride % kLanes<T> == 0;
  return !pass.around_caches || (kWholeLine<T> && lines);
}

// Where block g's coefficients go if they are.
template <class T>
Place<T> output_vectors(const AxisPass& pass, const Group<T>& group, int g) {
  const Lanes<T>& lanes = group.lanes[g];
  auto* y = static_cast<T*>(pass.out);
  if (lanes.count != kLanes<T> || !lanes.out_adjacent) return {};
  if (pass.around_caches && !whole_lines<T, T>(y, pass.out_along, &lanes, 1, false)) return {};
  return {y + lanes.out[0], pass.out_along.stride, pass.around_caches};
}

// Where what block g reads, and writes, lies as vectors in the order of their use.
template <class T>
Source<T> source(const AxisPass& pass, const Group<T>& group, int g) {
  const Lanes<T>& lanes = group.lanes[g];
  if (!pass.in_places || lanes.count != kLanes<T> || !lanes.in_adjacent) return {};
  return {static_cast<const T*>(pass.in) + lanes.in[0], pass.in_along.stride, pass.ahead};
}
template <class T>
Sink<T> sink(const AxisPass& pass, const Group<T>& group, int g) {
  const Lanes<T>& lanes = group.lanes[g];
  if (!pass.out_places || lanes.count != kLanes<T> || !lanes.out_adjacent) return {};
  if (pass.around_caches && !kWholeLine<T>) return {};
  return {static_cast<T*>(pass.out) + lanes.out[0], pass.out_along.stride, pass.around_caches};
}

// The group's values, in the work arrays or where source() says, -> its coefficients: in the result, or, if not
// `at_once`, in the work arrays.
template <class T>
void forward_group(const AxisPass& pass, const AxisView<T>& axis, const Group<T>& group, bool at_once) {
  const auto from = [&](int g) { return source(pass, group, g); };
  if (at_once && group.out_row) return forward(axis, group.work, from, output_vectors(pass, group, 0));
  for (int g = 0; g < group.work.count; ++g)
    forward(
        axis, Works<T>{group.work[g], 0, 1}, [&](int) { return from(g); },
        at_once ? output_vectors(pass, group, g) : Place<T>{});
}

// Of a group whose rows stream by.
template <class T>
void stream(const AxisPass& pass, const AxisView<T>& axis, const Group<T>& group) {
  static_assert(kMostStreamed <= kChunk);  // places of kInOrder
  const int blocks = group.work.count;
  const int64_t kept = dense_coefficients(axis.kept);
  const Works<T> coefficients{group.work.first, kept, blocks};
  Vector<T>* rest = group.work.first + blocks * kept;
  if (pass.direction == Direction::inverse) {
    for (int64_t i = 0; i < blocks * kept; ++i) group.work.first[i] = Vector<T>{};  // whole blocks of coefficients
    load_group(pass, group, 0, axis.kept, kInOrder.at, coefficients, blocks);
    return stream_inverse(axis, coefficients.first, blocks, rest, [&](int64_t begin, int64_t n, Vector<T>* values) {
      store_group(pass, group, begin, n, kInOrder.at, Works<T>{values, 2 * kSummedPairs, blocks});
    });
  }
  with_type<T>(pass.in_type, [&](auto in) {
    using In = decltype(in);
    const auto* x = static_cast<const In*>(pass.in) + group.lanes[0].in[0];
    stream_forward<In, T>(axis, x, pass.in_along.stride, blocks, coefficients.first, rest);
  });
  store_group(pass, group, 0, axis.kept, kInOrder.at, coefficients);
}

// `back` is the second transform of resize. The scratch holds `side_by_side` work arrays, and resize's coefficients.
template <class T>
void run(const AxisPass& pass, const AxisView<T>& axis, const AxisView<T>& back, const Blocks& blocks, void* scratch) {
  const bool first_forward = pass.direction != Direction::inverse, last_forward = pass.direction == Direction::forward;
  const bool resize = pass.direction == Direction::resize;
  const int64_t points = axis.work > back.work ? axis.work : back.work;
  Group<T> group;
  group.work = {static_cast<Vector<T>*>(scratch), 2 * points, 1};
  group.read_together = static_cast<int>(blocks.read_together);
  Vector<T>* coefficients = group.work[static_cast<int>(blocks.side_by_side)];
  constexpr DType kType = std::is_same_v<T, double> ? DType::f64 : DType::f32;
  if (pass.in_places && (!axis.fused || pass.in_type != kType || pass.in_along.run)) __builtin_trap();  // no UseOrder
  if (pass.out_places && (!back.fused || pass.out_type != kType || pass.out_along.run)) __builtin_trap();
  const bool vectors = writes_vectors(pass, axis);
  const bool panels = pass.in_along.stride == kLanes<T>;  // one vector wide: there are no longer pieces to read
  const int64_t most = vectors && pass.around_caches && panels ? blocks.written_together : blocks.side_by_side;
  auto* const strip = reinterpret_cast<Vector<float>*>(coefficients);
  DecimatedRows decimated{true, strip, strip + kStrip, 0, 0, 0};
  InterpolatedRows interpolated{strip, true};
  group.decimated = &decimated, group.interpolated = &interpolated;
  const bool interpolates = pass.decimation.rows && !first_forward;
  const int64_t before = interpolates ? pass.decimation.filter->blocks_before(kLanes<T>) : 0;
  int64_t b = blocks.begin > before ? blocks.begin - before : 0;
  for (; b < blocks.end; b += group.work.count) {
    find_group(pass, b, blocks.end, most, axis.streamed, group);
    group.begin = b;
    decimated.begin = decimated.end = 0, decimated.follows = b > blocks.begin;
    interpolated.writes = b >= blocks.begin;
    group.moments = pass.measure ? pass.measure->blocks + b : nullptr;
    group.squares = pass.residual ? pass.residual->squares + b : nullptr;
    if (axis.streamed && (first_forward ? group.in_row : group.out_row) && group.lanes[0].count == kLanes<T>) {
      stream(pass, axis, group);
      continue;
    }
    // As for all blocks of the group, whose lanes are adjacent in panels.
    const bool from_source = source(pass, group, 0).first, to_sink = sink(pass, group, 0).first;
    if (first_forward && !from_source)
      load_values(pass, axis, group);
    else if (!from_source)
      load_group(pass, group, 0, axis.kept, pass.in_places ? pass.in_places : axis.coefficient_at, group.work,
                 group.work.count);
    bool at_once = vectors;
    for (int g = 0; g < group.work.count; ++g) at_once = at_once && output_vectors(pass, group, g).first;
    if (first_forward) forward_group(pass, axis, group, at_once);
    for (int g = 0; g < group.work.count; ++g) {
      Complex<T>* z = points_of(group.work, g);
      if (!first_forward) inverse(axis, z, source(pass, group, g), sink(pass, group, g));
      if (resize) {
        for (int64_t k = 0; k < axis.kept; ++k) coefficients[k] = group.work[g][axis.coefficient_at[k]];
        for (int64_t k = 0; k < axis.kept; ++k) group.work[g][back.coefficient_at[k]] = coefficients[k];
        inverse(back, z, Source<T>{}, sink(pass, group, g));
      }
    }
    if (last_forward && !at_once)
      store_group(pass, group, 0, axis.kept, axis.coefficient_at, group.work);
    else if (!last_forward && !to_sink)
      store_values(pass, back, group);
  }
  if (pass.around_caches) stream_fence();
}

template <class T>
void alone(const AloneStep<T>& step, int64_t begin, int64_t end, void* scratch) {
  const AxisPass& pass = *step.pass;
  const auto with_input = [&](auto f) {
    with_type<T>(pass.in_type, [&](auto in) { f(static_cast<const decltype(in)*>(pass.in) + step.in); });
  };
  const auto with_output = [&](auto f) {
    with_type<T>(pass.out_type, [&](auto out) { f(static_cast<decltype(out)*>(pass.out) + step.out); });
  };
  switch (step.part) {
    case AlonePart::values_in:
      return with_input([&](auto* x) { move_values<true>(step, x, begin, end); });
    case AlonePart::coefficients_in:
      return with_input([&](auto* x) { coefficients_in(step, x, begin, end); });
    case AlonePart::down:
      return dfts_down(step, begin, end, static_cast<Complex<T>*>(scratch));
    case AlonePart::across:
      return dfts_across(step, begin, end, static_cast<Complex<T>*>(scratch));
    case AlonePart::coefficients_out:
      return with_output([&](auto* y) { coefficients_out(step, y, begin, end); });
    case AlonePart::values_out:
      return with_output([&](auto* y) { move_values<false>(step, y, begin, end); });
  }
}

}  // namespace
}  // namespace FRONT_ISA

#define FRONT_STRING_(x) #x
#define FRONT_STRING(x) FRONT_STRING_(x)
extern const Isa FRONT_ISA_ENTRY{FRONT_STRING(FRONT_ISA), FRONT_VECTOR_BYTES,       &FRONT_ISA::run<float>,
                                 &FRONT_ISA::run<double>, &FRONT_ISA::alone<float>, &FRONT_ISA::alone<double>};

}  // namespace front::cpu
