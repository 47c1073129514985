#include "axis.h"

#include <algorithm>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <vector>

#include <unistd.h>

#include "axis_isa.h"
#include "lanes.h"
#include "memory.h"
#include "parallel.h"

namespace front::cpu {
namespace {

bool supported(const Isa& isa) {
#ifdef FRONT_X86
  __builtin_cpu_init();
  if (&isa == &kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (&isa == &kAvx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
#endif
  return &isa == &kGeneric;
}

const std::vector<const Isa*>& built() {
#ifdef FRONT_X86
  static const std::vector<const Isa*> all{&kAvx512, &kAvx2, &kGeneric};
#else
  static const std::vector<const Isa*> all{&kGeneric};
#endif
  return all;
}

const Isa& choose_isa() {
  const char* wanted = std::getenv("FRONT_CPU_ISA");
  std::string have;
  for (const Isa* isa : built()) {
    if (!supported(*isa)) continue;
    if (!wanted || !*wanted || isa->name == std::string(wanted)) return *isa;
    have += have.empty() ? "" : ", ";
    have += isa->name;
  }
  throw std::invalid_argument("FRONT_CPU_ISA must be one that this machine and build have (" + have + "), got '" +
                              wanted + "'");
}

int64_t cache_bytes(int name, int64_t otherwise) {
  const int64_t found = sysconf(name);
  return found > 0 ? found : otherwise;
}

struct Bytes {
  int64_t in, out;
};
Bytes bytes_moved(const AxisPass& pass) {
  const bool inverse = pass.direction == Direction::inverse, forward = pass.direction == Direction::forward;
  const int64_t lanes = lane_count(pass), rows = pass.decimation.rows ? pass.decimation.filter->factor * lanes : lanes;
  const auto values = [](int64_t n, const plan_detail::Filter* filter) { return filter ? n / filter->factor : n; };
  const int64_t in = values(pass.n, pass.filter_in), out = values(inverse ? pass.n : pass.size, pass.filter_out);
  return {(inverse ? lanes * pass.kept : rows * in) * size_of(pass.in_type),
          (forward ? lanes * pass.kept : rows * out) * size_of(pass.out_type)};
}

int64_t stride_bytes(Along along, DType type) { return std::abs(along.stride) * size_of(type); }

Streams may_stream(const AxisPass& pass, int64_t compute_bytes, const Machine& machine) {
  if (pass.kept > kMostStreamed || pass.direction == Direction::resize) return Streams::no;
  if (pass.filter_in || pass.filter_out || pass.measure || pass.residual) return Streams::no;
  const bool forward = pass.direction == Direction::forward;
  const DType type = forward ? pass.in_type : pass.out_type;
  return streams_rows(pass.n, pass.row, stride_bytes(forward ? pass.in_along : pass.out_along, type), size_of(type),
                      compute_bytes, machine);
}

// Of the scratch of a pass that decimates or interpolates rows: what blocks share, sums of lanes, or lanes; and a
// strip.
int64_t decimation_vectors(const AxisPass& pass, int64_t width) {
  const plan_detail::Filter& filter = *pass.decimation.filter;
  const int64_t vectors = (pass.n + width - 1) / width;
  return pass.direction == Direction::inverse ? vectors * 2 * filter.edge() : vectors * filter.begun() + kStrip;
}

template <class T>
void run_typed(AxisPass pass, BlockKernel<T> kernel, const Executor& executor, const Machine& machine) {
  const bool resize = pass.direction == Direction::resize;
  const bool inverse = pass.direction == Direction::inverse;
  const bool rounded = pass.in_type != DType::f32 || pass.out_type != DType::f32;  // by more than float32 is
  const auto wide = [&](int64_t values) { return !rounded && values >= kWideValues; };
  const int64_t width = lanes_per_block<T>(isa()), blocks = block_count(pass, width);
  const Bytes bytes = bytes_moved(pass);
  const int64_t moved = bytes.in + bytes.out;
  const int64_t in_stride = stride_bytes(pass.in_along, pass.in_type);
  const int64_t out_stride = stride_bytes(pass.out_along, pass.out_type);
  pass.around_caches = writes_around_caches(moved, machine);
  pass.ahead = elements_ahead(in_stride, moved, machine);
  const auto tables = axis_tables<T>(pass.n, pass.kept, pass.scale, inverse && wide(pass.n),
                                     may_stream(pass, sizeof(T), machine), inverse ? pass.filter_out : pass.filter_in);
  const auto back =
      resize ? axis_tables<T>(pass.size, pass.kept, pass.scale_back, wide(pass.size), Streams::no, pass.filter_out)
             : tables;
  const AxisView<T> axis = tables->view(), second = back->view();
  const int64_t work = 2 * std::max(axis.work, second.work) * isa().vector_bytes;
  const LaneDim inner = pass.lane_dims ? pass.lanes[pass.lane_dims - 1] : LaneDim{1, 0, 0};
  const bool in_rows = inner.in_stride == 1, out_rows = inner.out_stride == 1;
  // Panels, whose rows are a line, lie in none.
  const bool reads_rows = in_rows && in_stride > kLineBytes, writes_rows = out_rows && out_stride > kLineBytes;
  const int64_t bytes_in_rows = (reads_rows ? bytes.in : 0) + (writes_rows ? bytes.out : 0);
  const int64_t in_bytes = reads_rows ? size_of(pass.in_type) : sizeof(T);
  const int64_t element = std::min<int64_t>(in_bytes, writes_rows ? size_of(pass.out_type) : sizeof(T));
  const int64_t in_line = std::max<int64_t>(1, kLineBytes / (width * element));  // blocks
  const bool adjacent = in_rows || out_rows;                                     // else no two blocks are side by side
  const int64_t together = axis.streamed ? blocks_streamed(blocks, machine)
                           : adjacent && !pass.decimation.rows
                               ? blocks_side_by_side(work, blocks, bytes_in_rows, in_line, pass.around_caches, machine)
                               : 1;
  const int64_t beside = resize ? pass.kept : pass.decimation.rows ? decimation_vectors(pass, width) : 0;
  // What does not stream by in such a pass are single blocks.
  const int64_t needed = axis.streamed ? std::max(work, together * streamed_vectors(pass.kept) * isa().vector_bytes)
                                       : work * together + beside * isa().vector_bytes;
  // Rows that are interpolated: each thread computes the blocks before its first one, too, for what they share, and
  // more threads would only take each other's time.
  const plan_detail::Filter* const filter = pass.decimation.rows ? pass.decimation.filter : nullptr;
  const int64_t least = filter && inverse ? 1 + filter->blocks_before(width) : 1;
  const int64_t rows = filter ? filter->factor : 1;  // of the matrix, for a lane
  const int64_t grain = std::max(least, kGrainPoints / (pass.n * rows * width * together));
  const int64_t read = blocks_read_together(work, together, bytes_in_rows, machine);
  const int64_t written = blocks_written_together(work, together, machine);
  parallel_for(executor, (blocks + together - 1) / together, grain, [&](int64_t begin, int64_t end) {
    const Workspace scratch(static_cast<size_t>(needed));
    kernel(pass, axis, second, {begin * together, std::min(end * together, blocks), together, read, written},
           scratch.data());
  });
}

}  // namespace

const Isa& isa() {
  static const Isa& chosen = choose_isa();
  return chosen;
}

void run_axis(const AxisPass& pass, const Executor& executor) { run_axis(pass, executor, machine(executor.threads)); }

void run_axis(const AxisPass& pass, const Executor& executor, const Machine& machine) {
  AxisPass simple = pass;
  simple.lane_dims = 0;
  const bool ordered = pass.in_order || pass.out_order;  // then the last axis stays what it is
  const int32_t others = pass.lane_dims - (ordered ? 1 : 0);
  for (const LaneDim& dim : simplified(pass.lanes, others)) simple.lanes[simple.lane_dims++] = dim;
  if (ordered) simple.lanes[simple.lane_dims++] = pass.lanes[others];
  if (lane_count(simple) == 0) return;
  if (pass.in_type == DType::f64 || pass.out_type == DType::f64)
    run_typed<double>(simple, isa().f64, executor, machine);
  else
    run_typed<float>(simple, isa().f32, executor, machine);
}

Machine machine(int64_t threads) {
  Machine m;
  m.vector_bytes = isa().vector_bytes;
#ifdef _SC_LEVEL2_CACHE_SIZE
  static const int64_t own = cache_bytes(_SC_LEVEL2_CACHE_SIZE, m.own_cache);
  static const int64_t shared = cache_bytes(_SC_LEVEL3_CACHE_SIZE, m.shared_cache);
  m.own_cache = own;
  m.shared_cache = std::min(m.shared_cache, shared);
#endif
  m.threads = threads;
  return m;
}

const char* isa_name() { return isa().name; }

}  // namespace front::cpu
