#include "matrix.h"

#include <algorithm>
#include <cstdlib>
#include <map>
#include <mutex>
#include <tuple>
#include <vector>

#include "axis.h"
#include "lanes.h"
#include "memory.h"
#include "parallel.h"
#include "tables.h"

namespace front::cpu {
namespace {

constexpr size_t kPlansKept = 1024;

// One side of a group of matrices. Strides count elements.
struct Side {
  char* data;
  DType type;
  int64_t row, column, matrix;
};

// The intermediate of a group, as panels of one cache line's width: a pass over rows moves whole lines, and a block of
// a pass over columns has one contiguous piece instead of a line per row, a page apart.
struct Panels {
  char* data;
  DType type;
  int64_t rows, columns, width;

  int64_t panel() const { return rows * width; }
  int64_t matrix() const { return rows * panel_columns(columns, size_of(type)); }
  int64_t bytes() const { return matrix() * size_of(type); }
  Along along_row() const { return {1, width, panel()}; }
};

struct Choice {
  Order order;
  const plan_detail::Filter* in;   // by which rows are decimated as they are loaded
  const plan_detail::Filter* out;  // by which they are interpolated as they are stored
  bool streams;                    // they stream by in the other pass
};

Choice choice_by(const MatrixPlan& plan, bool forward) {
  return {plan.order, forward ? plan.filter : nullptr, forward ? nullptr : plan.filter, plan.columns.streamed};
}

// The planner takes as long as the smallest transforms: what it said is remembered. It depends neither on the number of
// threads nor on what else of the machine could change while the process lives.
// back: of resize, what its second transform makes; else null.
Choice choice_of(const MatrixShape& x, const MatrixShape* back, const Machine& machine) {
  static std::mutex mutex;
  using Key = std::tuple<bool, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int64_t, int>;
  static auto* known = new std::map<Key, Choice>;
  const int64_t bytes = (x.in_bytes * 16 + x.compute_bytes) * 16 + x.out_bytes;
  const int layout = ((x.in_by_columns * 2 + x.out_by_columns) * 2 + x.adjacent) * 2 + (back && back->adjacent);
  const Key key{x.forward, x.m, x.n, x.k0, x.k1, bytes, x.row, back ? back->m : 0, back ? back->n : 0, layout};
  const std::lock_guard<std::mutex> lock(mutex);
  if (const auto found = known->find(key); found != known->end()) return found->second;
  if (known->size() >= kPlansKept) known->clear();
  if (back) {  // always rows first, and last
    const plan_detail::Filter* const in = plan_matrix(x, machine, Order::rows_first).filter;
    const plan_detail::Filter* const out = plan_matrix(*back, machine, Order::columns_first).filter;
    return (*known)[key] = {Order::rows_first, in, out, false};
  }
  return (*known)[key] = choice_by(plan_matrix(x, machine), x.forward);
}

// How many of n rows, or values across them, are left.
int64_t decimated(int64_t n, const plan_detail::Filter* filter) { return filter ? n / filter->factor : n; }

class Transform {
 public:
  Transform(const MatrixPass& pass, const Machine& machine, const MatrixPlan* plan = nullptr) : p_(pass) {
    const MatrixShape shape = shape_of(p_);
    MatrixShape back = shape;
    back.forward = false, back.m = p_.size0, back.n = p_.size1, back.adjacent = p_.out_column == 1;
    choice_ = plan ? choice_by(*plan, shape.forward)
                   : choice_of(shape, p_.direction == Direction::resize ? &back : nullptr, machine);
    if (p_.measure) choice_ = {Order::rows_first, nullptr, nullptr, false};
    if (p_.residual) choice_ = {Order::columns_first, nullptr, nullptr, false};
    const bool rows_first = choice_.order == Order::rows_first;
    // Rows, of a pass over them that comes first or last.
    const int64_t loaded = decimated(p_.m, choice_.in);
    const int64_t stored = decimated(p_.direction == Direction::resize ? p_.size0 : p_.m, choice_.out);
    panels_.type = p_.compute_type;
    switch (p_.direction) {
      case Direction::forward:
        panels_.rows = rows_first ? loaded : p_.k0, panels_.columns = rows_first ? p_.k1 : p_.n;
        break;
      case Direction::inverse:
        panels_.rows = rows_first ? p_.k0 : stored, panels_.columns = rows_first ? p_.n : p_.k1;
        break;
      case Direction::resize:
        panels_.rows = std::max(loaded, stored), panels_.columns = p_.k1;
    }
    panels_.width = std::min(kLineBytes / size_of(p_.compute_type), panels_.columns);  // a narrow matrix is one panel
    // The longest batch axis is cut into groups, the others are walked.
    walked_ = simplified(p_.batch, p_.batch_dims);
    if (!walked_.empty()) {
      const auto longest = std::max_element(walked_.begin(), walked_.end(),
                                            [](const LaneDim& a, const LaneDim& b) { return a.size < b.size; });
      grouped_ = *longest;
      walked_.erase(longest);
    }
    group_ = std::clamp<int64_t>(kGroupBytes / panels_.bytes(), 1, std::max<int64_t>(grouped_.size, 1));
    if (choice_.in || choice_.out) group_ = 1;  // its rows fill vectors, and are the only lanes
    chunks_ = (grouped_.size + group_ - 1) / group_;
    tasks_ = p_.count * chunks_;
    for (const LaneDim& dim : walked_) tasks_ *= dim.size;
    order_rows(machine);
  }

  void run(const Executor& executor) const {
    const auto bytes = static_cast<size_t>(group_ * panels_.bytes());
    const int64_t rounds = (tasks_ + executor.threads - 1) / executor.threads;
    const bool balanced = 4 * rounds * executor.threads <= 5 * tasks_;  // idle time of the last round: at most a fifth
    if (balanced && group_ * panels_.bytes() <= kOwnBytes) {
      parallel_for(executor, tasks_, 1, [&](int64_t begin, int64_t end) {
        const Workspace workspace(bytes);
        for (int64_t task = begin; task < end; ++task) run_task(task, workspace.data(), kSerial);
      });
      return;
    }
    const Workspace workspace(bytes);
    for (int64_t task = 0; task < tasks_; ++task) run_task(task, workspace.data(), executor);
  }

 private:
  void run_task(int64_t task, void* workspace, const Executor& executor) const {
    const int64_t chunk = task % chunks_, first = chunk * group_;
    int64_t in = first * grouped_.in_stride, out = first * grouped_.out_stride, rest = task / chunks_;
    for (const LaneDim& dim : walked_) {
      const int64_t i = rest % dim.size;
      rest /= dim.size;
      in += i * dim.in_stride;
      out += i * dim.out_stride;
    }
    const Side x{static_cast<char*>(const_cast<void*>(p_.in[rest])) + in * size_of(p_.in_type), p_.in_type, p_.in_row,
                 p_.in_column, grouped_.in_stride};
    const Side y{static_cast<char*>(p_.out[rest]) + out * size_of(p_.out_type), p_.out_type, p_.out_row, p_.out_column,
                 grouped_.out_stride};
    const int64_t count = std::min(group_, grouped_.size - first);
    Panels mid = panels_;
    mid.data = static_cast<char*>(workspace);

    AxisPass row{}, column{}, back{};
    column.direction = p_.direction;
    const bool inverse = p_.direction == Direction::inverse, rows_first = choice_.order == Order::rows_first;
    if (choice_.streams) column.row = p_.n;
    column.n = p_.m;
    column.kept = p_.k0;
    column.size = p_.size0;
    column.scale = p_.columns;
    column.scale_back = p_.columns_back;
    row.direction = p_.direction;
    row.n = p_.n;
    row.kept = back.kept = p_.k1;
    row.scale = p_.rows;
    row.measure = p_.measure;
    row.residual = p_.residual;
    column.filter_in = choice_.in, column.filter_out = choice_.out;
    const bool resize = p_.direction == Direction::resize;
    if (choice_.in) row.decimation = {p_.m, p_.in_row, choice_.in, filter_half(*choice_.in)};
    if (choice_.out)
      (resize ? back : row).decimation = {resize ? p_.size0 : p_.m, p_.out_row, choice_.out, filter_half(*choice_.out)};
    back.direction = Direction::inverse;
    back.n = p_.size1;
    back.scale = p_.rows_back;
    if (resize) {
      row.direction = Direction::forward;
      row.in_order = first_.element, column.in_places = first_.place;
      column.out_places = last_.place, back.out_order = last_.element;
      rows_to_panels(row, x, mid, decimated(p_.m, choice_.in), count, executor);
      const Side inside{mid.data, mid.type, mid.width, 1, mid.matrix()};  // from panels to the same panels
      panels_to_columns(column, mid, inside, mid.panel(), count, executor);
      panels_to_rows(back, mid, y, decimated(p_.size0, choice_.out), count, executor);
    } else if (choice_.order == Order::rows_first) {
      row.in_order = first_.element, column.in_places = first_.place;
      rows_to_panels(row, x, mid, mid.rows, count, executor);
      panels_to_columns(column, mid, y, mid.width * y.column, count, executor);
    } else {
      columns_to_panels(column, x, mid, count, executor);
      panels_to_rows(row, mid, y, mid.rows, count, executor);
    }
  }

  // The order in which the transform across rows uses them; `kept` keeps it alive.
  struct RowOrder {
    std::shared_ptr<const UseOrder> kept;
    const int32_t *element, *place;
  };
  RowOrder use_of_rows(UseOrder::Of of, int64_t n) const {
    const bool wide = p_.compute_type == DType::f64;
    auto order = wide ? use_order<double>(n, p_.k0, of) : use_order<float>(n, p_.k0, of);
    const UseOrder& use = *order;
    return {std::move(order), use.element(), use.place()};
  }

  // Rows that are transformed first, or last, may be so in any order, but for those that share a filter, and those that
  // `measure` or `residual` tells apart. Not where columns lie closer together, nor where rows may stream by in the
  // other pass.
  void order_rows(const Machine& machine) {
    const bool inverse = p_.direction == Direction::inverse, forward = p_.direction == Direction::forward;
    const bool rows_first = choice_.order == Order::rows_first, resize = p_.direction == Direction::resize;
    const Intermediate mid{panels_.rows, panels_.columns, panels_.width, size_of(panels_.type), group_ > 1};
    if (p_.measure || p_.residual || !orders_rows(mid, !forward, machine)) return;
    const bool streams = inverse && p_.out_column == 1 && p_.k0 <= kMostStreamed;
    if (rows_first && !choice_.in && p_.in_column == 1 && std::abs(p_.in_row) != 1 && !streams)
      first_ = use_of_rows(inverse ? UseOrder::Of::coefficients_in : UseOrder::Of::values_in, p_.m);
    // NOTE: not of an inverse: lines that are stored one by one between a stage's butterflies wait for the other cores
    // that had them, where those share no cache (3072 x 768 on two Zen 5 cores: 1.2 of the time, 0.95 where they do).
    // Of a resize they have just been read.
    if (resize && !choice_.out && p_.out_column == 1 && std::abs(p_.out_row) != 1)
      last_ = use_of_rows(UseOrder::Of::values_out, p_.size0);
  }

  static void add_lanes(AxisPass& pass, int64_t size, int64_t in_stride, int64_t out_stride) {
    if (size != 1) pass.lanes[pass.lane_dims++] = {size, in_stride, out_stride};
  }

  static void rows_to_panels(AxisPass pass, const Side& side, const Panels& mid, int64_t rows, int64_t matrices,
                             const Executor& executor) {
    add_lanes(pass, matrices, side.matrix, mid.matrix());
    add_lanes(pass, rows, side.row, mid.width);
    pass.in = side.data, pass.in_type = side.type, pass.in_along = {side.column, 0, 0};
    pass.out = mid.data, pass.out_type = mid.type, pass.out_along = mid.along_row();
    run_axis(pass, executor);
  }

  static void panels_to_rows(AxisPass pass, const Panels& mid, const Side& side, int64_t rows, int64_t matrices,
                             const Executor& executor) {
    add_lanes(pass, matrices, mid.matrix(), side.matrix);
    add_lanes(pass, rows, mid.width, side.row);
    pass.in = mid.data, pass.in_type = mid.type, pass.in_along = mid.along_row();
    pass.out = side.data, pass.out_type = side.type, pass.out_along = {side.column, 0, 0};
    run_axis(pass, executor);
  }

  // Calls f(first panel, count of panels, their width): the last panel may be narrower.
  template <class F>
  static void for_panels(const Panels& mid, F f) {
    const int64_t whole = mid.columns / mid.width, rest = mid.columns % mid.width;
    f(0, whole, mid.width);
    if (rest) f(whole, 1, rest);
  }

  // `panel`: from one panel's columns to the next's in `side`.
  static void panels_to_columns(const AxisPass& pass, const Panels& mid, const Side& side, int64_t panel,
                                int64_t matrices, const Executor& executor) {
    for_panels(mid, [&](int64_t first, int64_t count, int64_t width) {
      AxisPass part = pass;
      add_lanes(part, matrices, mid.matrix(), side.matrix);
      add_lanes(part, count, mid.panel(), panel);
      add_lanes(part, width, 1, side.column);
      part.in = mid.data + first * mid.panel() * size_of(mid.type);
      part.in_type = mid.type, part.in_along = {mid.width, 0, 0};
      part.out = side.data + first * panel * size_of(side.type);
      part.out_type = side.type, part.out_along = {side.row, 0, 0};
      run_axis(part, executor);
    });
  }

  static void columns_to_panels(const AxisPass& pass, const Side& side, const Panels& mid, int64_t matrices,
                                const Executor& executor) {
    const int64_t panel = mid.width * side.column;
    for_panels(mid, [&](int64_t first, int64_t count, int64_t width) {
      AxisPass part = pass;
      add_lanes(part, matrices, side.matrix, mid.matrix());
      add_lanes(part, count, panel, mid.panel());
      add_lanes(part, width, side.column, 1);
      part.in = side.data + first * panel * size_of(side.type);
      part.in_type = side.type, part.in_along = {side.row, 0, 0};
      part.out = mid.data + first * mid.panel() * size_of(mid.type);
      part.out_type = mid.type, part.out_along = {mid.width, 0, 0};
      run_axis(part, executor);
    });
  }

  const MatrixPass& p_;
  Choice choice_;
  RowOrder first_{}, last_{};  // of the rows that are transformed first, and last; null: as they are
  Panels panels_{};
  std::vector<LaneDim> walked_;
  LaneDim grouped_{1, 0, 0};
  int64_t group_, chunks_, tasks_;
};

void run(const MatrixPass& pass, const Executor& executor, const MatrixPlan* plan) {
  for (int32_t d = 0; d < pass.batch_dims; ++d)
    if (pass.batch[d].size == 0) return;
  if (pass.count == 0) return;
  Transform(pass, machine(executor.threads), plan).run(executor);
}

}  // namespace

void run_matrices(const MatrixPass& pass, const Executor& executor) { run(pass, executor, nullptr); }
void run_matrices(const MatrixPass& pass, const Executor& executor, const MatrixPlan& plan) {
  run(pass, executor, &plan);
}

MatrixShape shape_of(const MatrixPass& p) {
  const bool inverse = p.direction == Direction::inverse;
  return {!inverse,
          p.m,
          p.n,
          p.k0,
          p.k1,
          size_of(p.in_type),
          size_of(p.compute_type),
          size_of(p.out_type),
          std::abs(p.in_row) < std::abs(p.in_column),
          std::abs(p.out_row) < std::abs(p.out_column),
          (inverse ? p.out_column : p.in_column) == 1,
          std::abs(inverse ? p.out_row : p.in_row)};
}

}  // namespace front::cpu
