#include "matrix.h"

#include <algorithm>
#include <vector>

#include "axis.h"
#include "lanes.h"
#include "memory.h"
#include "parallel.h"

namespace front::cpu {
namespace {

// Matrices whose intermediate is smaller are taken together, so that their lanes fill vectors and a task is worth its
// start; a group's intermediate stays in a core's cache.
constexpr int64_t kGroupBytes = 256 << 10;
// Up to this size of the intermediate a thread takes matrices of its own; above, threads share each matrix.
constexpr int64_t kOwnBytes = 2 << 20;

// One side of a group of matrices. Strides count elements.
struct Side {
  char* data;
  DType type;
  int64_t row, column, matrix;
};

// The intermediate of a group, as panels of one cache line's width: the row pass writes whole lines, and a block of the
// column pass reads one contiguous piece instead of a line per row, a page apart.
struct Panels {
  char* data;
  DType type;
  int64_t rows, columns, width;

  int64_t panel() const { return rows * width; }
  int64_t matrix() const { return (columns + width - 1) / width * panel(); }
  int64_t bytes() const { return matrix() * size_of(type); }
};

class Transform {
 public:
  explicit Transform(const MatrixPass& pass) : p_(pass) {
    panels_.type = p_.compute_type;
    panels_.rows = p_.direction == Direction::resize ? std::max(p_.m, p_.size0) : p_.m;
    panels_.columns = p_.k1;
    panels_.width = std::min(kPanelBytes / size_of(p_.compute_type), p_.k1);  // a narrow matrix is one panel
    // The longest batch axis is cut into groups, the others are walked.
    walked_ = simplified(p_.batch, p_.batch_dims);
    if (!walked_.empty()) {
      const auto longest = std::max_element(walked_.begin(), walked_.end(),
                                            [](const LaneDim& a, const LaneDim& b) { return a.size < b.size; });
      grouped_ = *longest;
      walked_.erase(longest);
    }
    group_ = std::clamp<int64_t>(kGroupBytes / panels_.bytes(), 1, std::max<int64_t>(grouped_.size, 1));
    chunks_ = (grouped_.size + group_ - 1) / group_;
    tasks_ = p_.count * chunks_;
    for (const LaneDim& dim : walked_) tasks_ *= dim.size;
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
    column.n = p_.m;
    column.kept = p_.k0;
    column.size = p_.size0;
    column.scale = p_.columns;
    column.scale_back = p_.columns_back;
    row.n = p_.n;
    row.kept = back.kept = p_.k1;
    row.scale = p_.rows;
    back.n = p_.size1;
    back.scale = p_.rows_back;
    switch (p_.direction) {
      case Direction::forward:
        rows(Direction::forward, row, x, mid, p_.m, count, executor);
        return columns(Direction::forward, column, y, mid, count, executor);
      case Direction::inverse:
        columns(Direction::inverse, column, x, mid, count, executor);
        return rows(Direction::inverse, row, y, mid, p_.m, count, executor);
      case Direction::resize: {
        rows(Direction::forward, row, x, mid, p_.m, count, executor);
        const Side inside{mid.data, mid.type, mid.width, 1, mid.matrix()};  // from panels to the same panels
        columns(Direction::resize, column, inside, mid, count, executor);
        return rows(Direction::inverse, back, y, mid, p_.size0, count, executor);
      }
    }
  }

  static void add_lanes(AxisPass& pass, int64_t size, int64_t in_stride, int64_t out_stride) {
    if (size != 1) pass.lanes[pass.lane_dims++] = {size, in_stride, out_stride};
  }

  // Rows of `side` -> panels (forward), or panels -> rows of `side` (inverse).
  static void rows(Direction direction, AxisPass pass, const Side& side, const Panels& mid, int64_t count,
                   int64_t matrices, const Executor& executor) {
    const bool forward = direction == Direction::forward;
    pass.direction = direction;
    if (forward) {
      add_lanes(pass, matrices, side.matrix, mid.matrix());
      add_lanes(pass, count, side.row, mid.width);
      pass.in = side.data, pass.in_type = side.type, pass.in_stride = side.column;
      pass.out = mid.data, pass.out_type = mid.type, pass.out_panel = mid.panel();
    } else {
      add_lanes(pass, matrices, mid.matrix(), side.matrix);
      add_lanes(pass, count, mid.width, side.row);
      pass.in = mid.data, pass.in_type = mid.type, pass.in_panel = mid.panel();
      pass.out = side.data, pass.out_type = side.type, pass.out_stride = side.column;
    }
    run_axis(pass, executor);
  }

  // Panels -> columns of `side` (forward), columns of `side` -> panels (inverse), or panels -> panels (resize). The
  // last panel may be narrower.
  static void columns(Direction direction, const AxisPass& pass, const Side& side, const Panels& mid, int64_t matrices,
                      const Executor& executor) {
    const int64_t whole = mid.columns / mid.width;
    column_range(direction, pass, side, mid, 0, whole, mid.width, matrices, executor);
    const int64_t rest = mid.columns - whole * mid.width;
    if (rest) column_range(direction, pass, side, mid, whole, 1, rest, matrices, executor);
  }

  // `count` panels from panel `first` on, `width` columns of each.
  static void column_range(Direction direction, AxisPass pass, const Side& side, const Panels& mid, int64_t first,
                           int64_t count, int64_t width, int64_t matrices, const Executor& executor) {
    const bool inside = direction == Direction::resize;
    const int64_t panel = inside ? mid.panel() : mid.width * side.column;  // stride of panels in `side`
    char* outside = side.data + first * panel * size_of(side.type);
    char* here = mid.data + first * mid.panel() * size_of(mid.type);
    pass.direction = direction;
    if (direction == Direction::inverse) {
      add_lanes(pass, matrices, side.matrix, mid.matrix());
      add_lanes(pass, count, panel, mid.panel());
      add_lanes(pass, width, side.column, 1);
      pass.in = outside, pass.in_type = side.type, pass.in_stride = side.row;
      pass.out = here, pass.out_type = mid.type, pass.out_stride = mid.width;
    } else {
      add_lanes(pass, matrices, mid.matrix(), side.matrix);
      add_lanes(pass, count, mid.panel(), panel);
      add_lanes(pass, width, 1, side.column);
      pass.in = here, pass.in_type = mid.type, pass.in_stride = mid.width;
      pass.out = outside, pass.out_type = side.type, pass.out_stride = side.row;
    }
    run_axis(pass, executor);
  }

  const MatrixPass& p_;
  Panels panels_{};
  std::vector<LaneDim> walked_;
  LaneDim grouped_{1, 0, 0};
  int64_t group_, chunks_, tasks_;
};

}  // namespace

void run_matrices(const MatrixPass& pass, const Executor& executor) {
  for (int32_t d = 0; d < pass.batch_dims; ++d)
    if (pass.batch[d].size == 0) return;
  if (pass.count == 0) return;
  Transform(pass).run(executor);
}

}  // namespace front::cpu
