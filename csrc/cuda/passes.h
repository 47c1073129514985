// Ops as launches: which kernels run, in which order, on what. Pure host data: the glue launches it on a device, the
// tests run the same launches through the emulator.
#pragma once

#include <cstddef>
#include <stdexcept>
#include <variant>

#include "args.h"
#include "found.h"

namespace front::cuda {

// Beyond it batches are taken in parts, of as many bytes as they read and write, but between these. In place, where
// memory is short, soon: an intermediate that stays in the cache.
constexpr int64_t kLeastWorkspaceLimit = int64_t{1} << 30, kMostWorkspaceLimit = int64_t{4} << 30;
constexpr int64_t kWorkspaceLimitInPlace = int64_t{32} << 20;

constexpr int64_t kSumBytes = 16;  // of shared memory, for what a thread adds up

struct Launch {
  const Kernel* kernel = nullptr;  // remembered for good
  std::variant<AxisArgs, LargeArgs, SpectralArgs> args;
  int64_t blocks = 0, threads = 0, shared = 0;
  Table twiddles, split, twiddles_back, split_back, chirp, spectrum, coarse, fine;

  // What the kernel is told.
  char* bytes() {
    return std::visit([](auto& a) { return reinterpret_cast<char*>(&a); }, args);
  }
  size_t size() const {
    return std::visit([](const auto& a) { return sizeof a; }, args);
  }
};

// The tables of a launch, and where in its arguments the pointers to them belong.
inline std::vector<std::pair<const Table*, size_t>> table_slots(const Launch& l) {
  static_assert(offsetof(SpectralArgs, axis) == 0);
  const bool large = std::holds_alternative<LargeArgs>(l.args);
  const size_t base = large ? offsetof(LargeArgs, axis) : 0;
  std::vector<std::pair<const Table*, size_t>> slots;
  const auto add = [&](const Table& table, size_t offset) {
    if (table.kind != Table::Kind::none) slots.emplace_back(&table, offset);
  };
  add(l.split, base + offsetof(AxisArgs, split));
  add(l.twiddles, large ? offsetof(LargeArgs, twiddles) : offsetof(AxisArgs, twiddles));
  add(l.twiddles_back, base + offsetof(AxisArgs, twiddles_back));
  add(l.split_back, base + offsetof(AxisArgs, split_back));
  add(l.chirp, offsetof(LargeArgs, chirp));
  add(l.spectrum, offsetof(LargeArgs, kernel));
  add(l.coarse, offsetof(LargeArgs, coarse));
  add(l.fine, offsetof(LargeArgs, fine));
  return slots;
}

struct Side {  // one end of a pass: `pointers` or, if empty, the workspace at an offset in elements of the compute type
  std::vector<char*> pointers;
  int64_t offset = 0;
  Type type = Type::f32;
  int64_t along = 0, lane = 0, batch = 0;  // strides
  int64_t four = 0, lane_four = 0;         // args.h; 0: four times the strides
};

// One axis of `count` x `batch` matrices.
struct Pass {
  Direction direction;
  int64_t n, kept, size;
  Scale scale, scale_back;
  int64_t lanes, batch, count;
  Side in, out;
};

class Passes {
 public:
  Passes(int64_t real_bytes, const Hardware& hardware, char* workspace)
      : real_bytes_(real_bytes), hardware_(hardware), workspace_(workspace) {}

  std::vector<Launch> launches;
  int64_t workspace_elements = 0;  // of the compute type

  int64_t reserve(int64_t elements) {
    const int64_t offset = workspace_elements;
    workspace_elements += (elements + 31) / 32 * 32;
    return offset;
  }

  void add(const Pass& p) {
    if (p.lanes == 0 || p.batch == 0 || p.count == 0) return;
    if (p.direction == Direction::resize) {
      add_resize(p);
      return;
    }
    const bool forward = p.direction == Direction::forward;
    const Side &values = forward ? p.in : p.out, &coefficients = forward ? p.out : p.in;
    const Fours fours = values.four ? Fours::values : coefficients.lane_four ? Fours::lanes : Fours::none;
    const auto& found =
        passes_detail::find_axis(p.n, p.kept, real_bytes_, p.lanes * p.batch * p.count, fours, hardware_);
    const AxisPlan& plan = found.plan;
    if (plan.radices.empty()) {
      add_large(p);
      return;
    }
    Launch launch;
    launch.kernel = forward ? found.forward() : found.inverse();
    launch.threads = plan.threads();
    launch.shared = plan.shared_bytes(plan.most_kept());
    launch.twiddles = found.twiddles;
    launch.split = Table::split(p.n, p.scale, real_bytes_);
    add_launches(std::move(launch), p, plan.lanes);
  }

  // One axis of at most kMatrices matrices with the spectral loss's part in it: moments forward, the residual back; or,
  // in_one, of single rows, everything.
  void add_spectral(const Pass& p, SpectralArgs args, bool in_one = false) {
    const auto& found = find_spectral_axis(p, in_one);
    const AxisPlan& plan = found.plan;
    Launch launch;
    launch.kernel = in_one                              ? found.row(args.x_type, p.out.type)
                    : p.direction == Direction::forward ? found.measure()
                                                        : found.residual(args.x_type, p.out.type);
    launch.threads = plan.threads();
    args.axis = arguments(p, 0, p.count);
    args.axis.lane_blocks = divide_up(p.lanes, plan.lanes);
    args.scratch = scratch_offset(plan);
    launch.blocks = args.axis.lane_blocks * p.count;
    launch.shared = args.scratch + scratch_bytes(plan);
    launch.twiddles = found.twiddles;
    launch.split = Table::split(p.n, p.scale, real_bytes_);
    launch.args = args;
    launches.push_back(std::move(launch));
  }
  // Blocks of add_spectral per matrix; 0: there is no such kernel for this length.
  int64_t spectral_blocks(const Pass& p, bool in_one = false) const {
    const AxisPlan& plan = find_spectral_axis(p, in_one).plan;
    if (plan.radices.empty() || (in_one && plan.lanes != 1)) return 0;
    const bool fits = scratch_offset(plan) + scratch_bytes(plan) <= hardware_.shared_per_block;
    return fits ? divide_up(p.lanes, plan.lanes) : 0;
  }
  // Whether four neighbours of a lane of the input are loaded at once.
  bool quads_of(const Pass& p) const { return arguments(p, 0, p.count).in_quads; }
  char* at(int64_t offset) const { return workspace_ + offset * real_bytes_; }

  // Bytes of a workspace with room for everything that was reserved.
  int64_t workspace_bytes() const { return workspace_elements * real_bytes_; }

 private:
  void add_resize(const Pass& p) {
    const auto& found =
        passes_detail::find_resize(p.n, p.size, p.kept, real_bytes_, p.lanes * p.batch * p.count, hardware_);
    const ResizePlan& plan = found.plan;
    if (!plan.possible()) {  // the coefficients through memory
      Pass there = p, back = p;
      there.direction = Direction::forward;
      back.direction = Direction::inverse;
      back.n = p.size;
      back.scale = p.scale_back;
      there.out = back.in =
          Side{{}, reserve(p.count * p.batch * p.lanes * p.kept), compute_type(), 1, p.kept, p.lanes * p.kept};
      add(there);
      add(back);
      return;
    }
    Launch launch;
    launch.kernel = &found.kernel;
    launch.threads = plan.there.threads();
    launch.shared = std::max(plan.there.shared_bytes(p.kept), plan.back.shared_bytes(p.kept));
    launch.twiddles = found.twiddles;
    launch.split = Table::split(p.n, p.scale, real_bytes_);
    launch.twiddles_back = found.twiddles_back;
    launch.split_back = Table::split(p.size, p.scale_back, real_bytes_);
    add_launches(std::move(launch), p, plan.there.lanes);
  }

  void add_large(const Pass& p);
  int64_t reserve_points(int64_t elements);

  const passes_detail::FoundAxis& find_spectral_axis(const Pass& p, bool in_one) const {
    if (in_one) return passes_detail::find_axis(p.n, p.kept, real_bytes_, 1, Fours::none, hardware_);
    const Side& coefficients = p.direction == Direction::forward ? p.out : p.in;
    const Fours fours = coefficients.lane_four ? Fours::lanes : Fours::none;
    return passes_detail::find_axis(p.n, p.kept, real_bytes_, p.lanes * p.count, fours, hardware_);
  }
  // Where in shared memory, and in how many bytes, a block's threads add up.
  static int64_t scratch_offset(const AxisPlan& plan) {
    return divide_up(plan.shared_bytes(plan.most_kept()), 16) * 16;
  }
  static int64_t scratch_bytes(const AxisPlan& plan) { return plan.threads() * kSumBytes; }

  // The strides and pointers of matrices first to first + count - 1.
  AxisArgs arguments(const Pass& p, int64_t first, int64_t count) const {
    AxisArgs a{};
    for (int64_t i = 0; i < count; ++i) {
      a.in[i] = pointer(p.in, p, first + i);
      a.out[i] = pointer(p.out, p, first + i);
    }
    a.lanes = p.lanes, a.batch = p.batch, a.kept = p.kept;
    const auto or_four = [](int64_t four, int64_t stride) { return four ? four : 4 * stride; };
    a.in_along = p.in.along, a.in_lane = p.in.lane, a.in_batch = p.in.batch;
    a.in_four = or_four(p.in.four, p.in.along), a.in_lane_four = or_four(p.in.lane_four, p.in.lane);
    a.out_along = p.out.along, a.out_lane = p.out.lane, a.out_batch = p.out.batch;
    a.out_four = or_four(p.out.four, p.out.along), a.out_lane_four = or_four(p.out.lane_four, p.out.lane);
    a.in_type = p.in.type, a.out_type = p.out.type;
    a.in_quads = quads(p.in, p, a.in, count), a.out_quads = quads(p.out, p, a.out, count);
    // The intermediate alone has lanes in fours: whole and aligned ones, as it is reserved.
    a.in_lane_quads = p.in.lane_four != 0, a.out_lane_quads = p.out.lane_four != 0;
    return a;
  }

  void add_launches(Launch launch, const Pass& p, int64_t lanes_per_block) {
    for (int64_t first = 0; first < p.count; first += kMatrices) {
      const int64_t count = std::min<int64_t>(kMatrices, p.count - first);
      AxisArgs& axis = launch.args.emplace<AxisArgs>(arguments(p, first, count));
      axis.lane_blocks = divide_up(p.lanes, lanes_per_block);
      launch.blocks = axis.lane_blocks * p.batch * count;
      launches.push_back(launch);
    }
  }

  Type compute_type() const { return real_bytes_ == 8 ? Type::f64 : Type::f32; }
  static int64_t bytes_of(Type t) { return size_of(static_cast<DType>(t)); }

  char* pointer(const Side& s, const Pass& p, int64_t i) const {
    if (!s.pointers.empty()) return s.pointers[i];
    return workspace_ + (s.offset + i * p.batch * s.batch) * real_bytes_;
  }

  // Whether four neighbours along the axis lie together and aligned in every lane.
  template <class Pointer>
  static int quads(const Side& s, const Pass& p, const Pointer* pointers, int64_t count) {
    const int64_t align = std::min<int64_t>(16, 4 * bytes_of(s.type)), element = bytes_of(s.type);
    bool good = s.along == 1 && (p.lanes == 1 || s.lane * element % align == 0) &&
                (p.batch == 1 || s.batch * element % align == 0) && s.four * element % align == 0;
    for (int64_t i = 0; i < count; ++i) good = good && reinterpret_cast<uintptr_t>(pointers[i]) % align == 0;
    return good;
  }

  int64_t real_bytes_;
  Hardware hardware_;
  char* workspace_;
  int64_t points_ = 0, points_elements_ = 0;  // of the workspace, for passes through memory
};

namespace passes_detail {

struct Dim {
  int64_t size = 1, in = 0, out = 0;
};

// Axes merged where their strides allow it; the `levels` longest that remain are kept as such, the others become more
// pointers.
struct Merged {
  std::vector<Dim> dims;
  std::vector<std::pair<int64_t, int64_t>> offsets{{0, 0}};  // in, out
};

inline Merged merge(const LaneDim* axes, int32_t count, size_t levels) {
  std::vector<Dim> merged;
  for (int32_t d = count - 1; d >= 0; --d) {  // innermost first
    const LaneDim& axis = axes[d];
    if (axis.size == 1) continue;
    if (!merged.empty() && axis.in_stride == merged.back().size * merged.back().in &&
        axis.out_stride == merged.back().size * merged.back().out)
      merged.back().size *= axis.size;
    else
      merged.push_back({axis.size, axis.in_stride, axis.out_stride});
  }
  Merged result;
  while (result.dims.size() < levels) {
    if (merged.empty()) {
      result.dims.push_back({});
      continue;
    }
    const auto longest =
        std::max_element(merged.begin(), merged.end(), [](const Dim& a, const Dim& b) { return a.size < b.size; });
    result.dims.push_back(*longest);
    merged.erase(longest);
  }
  for (const Dim& d : merged) {
    const auto inner = std::move(result.offsets);
    result.offsets.clear();
    for (int64_t i = 0; i < d.size; ++i)
      for (const auto& [in, out] : inner) result.offsets.emplace_back(in + i * d.in, out + i * d.out);
  }
  return result;
}

}  // namespace passes_detail

// The launches of both axes of many matrices. The intermediate holds the kept coefficients of the axis that is
// transformed first (forward) or last (inverse) for every element of the other: m x k1, m rounded up to fours, laid out
// so that both passes read and write along what is contiguous (args.h). Rows are taken as that axis, unless the matrix
// lies by columns. `most_workspace`: beyond so many bytes batches are taken in parts; 0: by the limits above.
inline std::vector<Launch> matrix_launches(MatrixPass x, const Hardware& hardware, char* workspace,
                                           int64_t* workspace_bytes, int64_t most_workspace = 0) {
  using passes_detail::merge;
  const bool inverse = x.direction == Direction::inverse, resize = x.direction == Direction::resize;
  const int64_t row = inverse ? x.out_row : x.in_row, column = inverse ? x.out_column : x.in_column;
  if (row == 1 && column != 1) {  // by columns: the transpose lies by rows
    std::swap(x.m, x.n), std::swap(x.k0, x.k1), std::swap(x.size0, x.size1);
    std::swap(x.rows, x.columns), std::swap(x.rows_back, x.columns_back);
    std::swap(x.in_row, x.in_column), std::swap(x.out_row, x.out_column);
  }
  const int64_t real_bytes = size_of(x.compute_type);
  const auto merged = merge(x.batch, x.batch_dims, 1);
  const auto batch = merged.dims[0];
  Side in{{}, 0, static_cast<Type>(x.in_type), x.in_column, x.in_row, batch.in};
  Side out{{}, 0, static_cast<Type>(x.out_type), x.out_column, x.out_row, batch.out};
  for (int64_t i = 0; i < x.count; ++i)
    for (const auto& [in_offset, out_offset] : merged.offsets) {
      in.pointers.push_back(static_cast<char*>(const_cast<void*>(x.in[i])) + in_offset * size_of(x.in_type));
      out.pointers.push_back(static_cast<char*>(x.out[i]) + out_offset * size_of(x.out_type));
    }
  const auto across = [](Side s) {  // the same matrices, lanes along the other axis
    std::swap(s.along, s.lane), std::swap(s.four, s.lane_four);
    return s;
  };

  const int64_t pitch = divide_up(resize ? std::max(x.m, x.size0) : x.m, 4) * 4;
  const int64_t each = std::max<int64_t>(1, x.k1 * pitch);
  const bool in_place = x.count > 0 && x.in[0] == x.out[0];
  const int64_t count = static_cast<int64_t>(in.pointers.size());
  const auto bytes = [](int64_t m, int64_t n, DType type) {
    return static_cast<double>(m) * static_cast<double>(n) * static_cast<double>(size_of(type));
  };
  const double moved =
      bytes(x.m, x.n, inverse ? x.out_type : x.in_type) +
      (resize ? bytes(x.size0, x.size1, x.out_type) : bytes(x.k0, x.k1, inverse ? x.in_type : x.out_type));
  const auto wanted = static_cast<int64_t>(
      std::min(moved * static_cast<double>(count * batch.size), static_cast<double>(kMostWorkspaceLimit)));
  const int64_t limit = most_workspace ? most_workspace
                        : in_place     ? kWorkspaceLimitInPlace
                                       : std::max(wanted, kLeastWorkspaceLimit);
  const int64_t most = std::max<int64_t>(1, limit / (each * real_bytes));
  const int64_t batch_part = std::min(batch.size, most);
  const int64_t count_part = std::max<int64_t>(1, most / std::max<int64_t>(1, batch_part));

  std::vector<Launch> launches;
  *workspace_bytes = 0;
  for (int64_t first = 0; first < count; first += count_part)
    for (int64_t b = 0; b < batch.size; b += batch_part) {
      const int64_t matrices = std::min(count_part, count - first), batches = std::min(batch_part, batch.size - b);
      const auto part = [&](Side s, int64_t element) {
        std::vector<char*> pointers;
        for (int64_t i = 0; i < matrices; ++i) pointers.push_back(s.pointers[first + i] + b * s.batch * element);
        s.pointers = std::move(pointers);
        return s;
      };
      const Side from = part(in, size_of(x.in_type)), to = part(out, size_of(x.out_type));
      Passes passes(real_bytes, hardware, workspace);
      const Type compute = static_cast<Type>(x.compute_type);
      // Fours of rows, each as k1 times four neighbours of a column: args.h.
      const Side middle{{}, passes.reserve(each * batches * matrices), compute, 1, 4, each, 4 * x.k1};
      Pass rows{Direction::forward, x.n, x.k1, 0, x.rows, {}, x.m, batches, matrices, from, across(middle)};
      Pass columns{Direction::forward, x.m, x.k0, 0, x.columns, {}, x.k1, batches, matrices, middle, across(to)};
      if (!inverse) passes.add(rows);
      if (resize) {
        columns.direction = Direction::resize;
        columns.size = x.size0, columns.scale_back = x.columns_back, columns.out = middle;
      } else if (inverse) {
        columns.direction = Direction::inverse;
        columns.in = across(from), columns.out = middle;
      }
      passes.add(columns);
      if (inverse || resize) {
        rows.direction = Direction::inverse;
        rows.lanes = resize ? x.size0 : x.m;
        if (resize) rows.n = x.size1, rows.scale = x.rows_back;
        rows.in = across(middle), rows.out = to;
        passes.add(rows);
      }
      *workspace_bytes = std::max(*workspace_bytes, passes.workspace_bytes());
      for (Launch& l : passes.launches) launches.push_back(std::move(l));
    }
  return launches;
}

// The launches of one axis of one tensor. The longest of the other axes are the lanes.
inline std::vector<Launch> axis_launches(const AxisPass& x, int64_t real_bytes, const Hardware& hardware,
                                         char* workspace, int64_t* workspace_bytes) {
  const auto merged = passes_detail::merge(x.lanes, x.lane_dims, 2);
  const auto lanes = merged.dims[0], batch = merged.dims[1];
  Side in{{}, 0, static_cast<Type>(x.in_type), x.in_along.stride, lanes.in, batch.in};
  Side out{{}, 0, static_cast<Type>(x.out_type), x.out_along.stride, lanes.out, batch.out};
  for (const auto& [in_offset, out_offset] : merged.offsets) {
    in.pointers.push_back(static_cast<char*>(const_cast<void*>(x.in)) + in_offset * size_of(x.in_type));
    out.pointers.push_back(static_cast<char*>(x.out) + out_offset * size_of(x.out_type));
  }
  Passes passes(real_bytes, hardware, workspace);
  passes.add({x.direction,
              x.n,
              x.kept,
              0,
              x.scale,
              {},
              lanes.size,
              batch.size,
              static_cast<int64_t>(in.pointers.size()),
              in,
              out});
  *workspace_bytes = passes.workspace_bytes();
  return std::move(passes.launches);
}

}  // namespace front::cuda

#include "large_passes.h"
#include "spectral_passes.h"
