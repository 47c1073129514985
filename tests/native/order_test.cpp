// Panels whose lines follow each other in the order in which the transform across them uses them (UseOrder), read and
// written without a copy where lanes fill vectors, and whole matrices, against sums by definition. Prints "N passed, M
// failed".
#include <cmath>
#include <cstdio>
#include <numeric>
#include <utility>
#include <vector>

#include "axis_cases.h"
#include "cpu/matrix.h"
#include "cpu/tables.h"

namespace {

using front::cpu::UseOrder;

void serial(int64_t count, int64_t, front::ParallelBody body, void* context) { body(0, count, context); }

template <class T>
constexpr DType kType = sizeof(T) == 8 ? DType::f64 : DType::f32;

struct Lengths {
  int64_t n, kept, size;  // size: of a resize
};

// Line i of a panel holds element order->element()[i], or i where there is none.
std::vector<int64_t> lines_of(const UseOrder* order, int64_t length) {
  std::vector<int64_t> lines(length);
  if (order && order->element())
    lines.assign(order->element(), order->element() + length);
  else
    std::iota(lines.begin(), lines.end(), 0);
  return lines;
}

template <class T>
void check(Direction direction, Lengths l, int64_t columns, bool in_order, bool out_order, bool uncached) {
  constexpr int64_t width = front::kLineBytes / static_cast<int64_t>(sizeof(T));
  const bool inverse = direction == Direction::inverse, resize = direction == Direction::resize;
  const auto use = [](UseOrder::Of of, int64_t n, int64_t kept) { return front::cpu::use_order<T>(n, kept, of); };
  const auto in = use(inverse ? UseOrder::Of::coefficients_in : UseOrder::Of::values_in, l.n, l.kept);
  const auto out = use(UseOrder::Of::values_out, resize ? l.size : l.n, l.kept);
  const int64_t in_length = inverse ? l.kept : l.n;
  const int64_t out_length = resize ? l.size : inverse ? l.n : l.kept;
  const std::vector<int64_t> in_lines = lines_of(in_order ? in.get() : nullptr, in_length);
  const std::vector<int64_t> out_lines = lines_of(out_order ? out.get() : nullptr, out_length);
  const int64_t panels = (columns + width - 1) / width;
  Buffer x(panels * in_length * width * sizeof(T), 0xff), y(panels * out_length * width * sizeof(T), kSentinel);
  const auto value = [](int64_t column, int64_t i) { return (i * 37 + column * 53) % 101 - 50; };
  for (int64_t c = 0; c < columns; ++c)
    for (int64_t i = 0; i < in_length; ++i)
      put(x, (c / width * in_length + i) * width + c % width, kType<T>, value(c, in_lines[i]));
  const auto run = [&](int64_t first, int64_t count, int64_t wide) {
    AxisPass pass{};
    pass.direction = direction;
    pass.n = l.n, pass.kept = l.kept, pass.size = l.size;
    pass.in = x.data() + first * in_length * width * sizeof(T);
    pass.out = y.data() + first * out_length * width * sizeof(T);
    pass.in_type = pass.out_type = kType<T>;
    pass.in_along = pass.out_along = {width, 0, 0};
    pass.lanes[pass.lane_dims++] = {count, in_length * width, out_length * width};
    pass.lanes[pass.lane_dims++] = {wide, 1, 1};
    if (in_order) pass.in_places = in->place();
    if (out_order) pass.out_places = out->place();
    front::Machine machine = front::cpu::machine(1);
    machine.shared_cache = uncached ? 0 : int64_t{1} << 40;
    if (uncached) machine.own_cache = 1 << 10;
    front::cpu::run_axis(pass, {serial, 1}, machine);
  };
  if (columns >= width) run(0, columns / width, width);
  if (columns % width) run(columns / width, 1, columns % width);
  std::vector<unsigned char> written(panels * out_length * width, 0);
  double error = 0, scale = 0;
  for (int64_t c = 0; c < columns; ++c) {
    for (int64_t i = 0; i < out_length; ++i) written[(c / width * out_length + i) * width + c % width] = 1;
    if (c != 0 && c != columns / 2 && c != columns - 1) continue;
    std::vector<double> lane(in_length);
    for (int64_t i = 0; i < in_length; ++i) lane[i] = static_cast<double>(value(c, i)) / 16;
    auto expected = by_definition(resize ? Direction::forward : direction, l.n, l.kept, lane);
    if (resize) expected = by_definition(Direction::inverse, l.size, l.kept, expected);
    for (int64_t i = 0; i < out_length; ++i) {
      const double found = get(y, (c / width * out_length + i) * width + c % width, kType<T>);
      error += std::pow(found - expected[out_lines[i]], 2), scale += std::pow(expected[out_lines[i]], 2);
    }
  }
  const bool good = intact(y.data(), written.data(), panels * out_length * width, sizeof(T)) &&
                    std::sqrt(error / scale) <= (sizeof(T) == 8 ? 5e-14 : 1e-6);
  good ? ++passed : ++failed;
  if (!good)
    std::printf(
        "FAILED direction %d n=%ld kept=%ld size=%ld columns=%ld in order %d, out %d, uncached %d: error %.3g\n",
        static_cast<int>(direction), static_cast<long>(l.n), static_cast<long>(l.kept), static_cast<long>(l.size),
        static_cast<long>(columns), in_order, out_order, uncached, std::sqrt(error / scale));
}

template <class T>
void check_all(Lengths l, int64_t columns, bool uncached) {
  check<T>(Direction::forward, l, columns, true, false, uncached);
  for (int orders : {1, 2, 3}) check<T>(Direction::inverse, l, columns, orders & 1, orders & 2, uncached);
  for (int64_t size : {2 * l.n, int64_t{768}})
    for (int orders : {1, 2, 3})
      if (size >= l.kept) check<T>(Direction::resize, {l.n, l.kept, size}, columns, orders & 1, orders & 2, uncached);
}

template <class T>
void check_lengths() {
  // Last radices 2, 3, 4, 5 and 8; first ones of all kinds, one without a butterfly of its own among them, whose values
  // are copied; coefficients once and twice round the points, whole and not; two subsequences; filtered values.
  for (auto [n, kept] : {std::pair<int64_t, int64_t>{32, 32},
                         {36, 36},
                         {24, 24},
                         {48, 24},
                         {96, 50},
                         {96, 96},
                         {768, 384},
                         {256, 255},
                         {60, 45},
                         {80, 80},
                         {160, 40},
                         {176, 176},
                         {1024, 700},
                         {140, 70},
                         {240, 60},
                         {192, 48},
                         {1024, 128}})
    for (int64_t columns : {1, 16, 37, 128})
      for (bool uncached : {false, true}) check_all<T>({n, kept, 0}, columns, uncached);
  // Stages that pass over more than the first cache, and an inverse's step in double.
  for (auto [n, kept] : {std::pair<int64_t, int64_t>{4096, 4096}, {8192, 4000}}) check_all<T>({n, kept, 0}, 16, true);
}

// Matrices whose rows are ordered: lists of them, in rows that fill vectors or do not, whatever their panels, a gap
// after each row.
template <class T>
void check_matrices(Direction direction, int64_t m, int64_t n, int64_t k0, int64_t k1, int64_t count) {
  const bool forward = direction == Direction::forward, inverse = direction == Direction::inverse;
  const int64_t in_rows = inverse ? k0 : m, in_columns = inverse ? k1 : n, gap = 3;
  const int64_t out_rows = forward ? k0 : m, out_columns = forward ? k1 : n;
  const int64_t in_row = in_columns + gap, out_row = out_columns + gap;
  Buffer x(count * in_rows * in_row * sizeof(T), 0xff), y(count * out_rows * out_row * sizeof(T), kSentinel);
  const auto value = [](int64_t c, int64_t i, int64_t j) { return (c * 29 + i * 37 + j * 53) % 101 - 50; };
  for (int64_t c = 0; c < count; ++c)
    for (int64_t i = 0; i < in_rows; ++i)
      for (int64_t j = 0; j < in_columns; ++j) put(x, (c * in_rows + i) * in_row + j, kType<T>, value(c, i, j));
  front::MatrixPass pass{};
  pass.direction = direction;
  pass.m = pass.size0 = m, pass.n = pass.size1 = n, pass.k0 = k0, pass.k1 = k1;
  pass.in_type = pass.compute_type = pass.out_type = kType<T>;
  pass.in_row = in_row, pass.out_row = out_row, pass.in_column = pass.out_column = 1;
  const void* in = x.data();
  void* out = y.data();
  pass.in = &in, pass.out = &out, pass.count = 1;
  pass.batch_dims = 1, pass.batch[0] = {count, in_rows * in_row, out_rows * out_row};
  front::cpu::run_matrices(pass, {serial, 1});
  const auto transform = [&](Direction to, int64_t length, int64_t kept, const std::vector<std::vector<double>>& rows) {
    std::vector<std::vector<double>> columns;  // of the transformed rows
    for (const auto& row : rows) {
      const auto one = by_definition(to, length, kept, row);
      columns.resize(one.size());
      for (size_t j = 0; j < one.size(); ++j) columns[j].push_back(one[j]);
    }
    return columns;
  };
  std::vector<unsigned char> written(count * out_rows * out_row, 0);
  double error = 0, scale = 0;
  for (int64_t c = 0; c < count; ++c) {
    std::vector<std::vector<double>> rows(in_rows, std::vector<double>(in_columns));
    for (int64_t i = 0; i < in_rows; ++i)
      for (int64_t j = 0; j < in_columns; ++j) rows[i][j] = static_cast<double>(value(c, i, j)) / 16;
    for (Direction to : {Direction::forward, Direction::inverse})
      if (direction == to || direction == Direction::resize) {
        rows = transform(to, n, k1, rows);
        rows = transform(to, m, k0, rows);
      }
    for (int64_t i = 0; i < out_rows; ++i)
      for (int64_t j = 0; j < out_columns; ++j) {
        const int64_t at = (c * out_rows + i) * out_row + j;
        written[at] = 1;
        error += std::pow(get(y, at, kType<T>) - rows[i][j], 2), scale += std::pow(rows[i][j], 2);
      }
  }
  const bool good = intact(y.data(), written.data(), count * out_rows * out_row, sizeof(T)) &&
                    std::sqrt(error / scale) <= (sizeof(T) == 8 ? 5e-14 : 1e-6);
  good ? ++passed : ++failed;
  if (!good)
    std::printf("FAILED direction %d %ldx%ld:%ldx%ld count %ld: error %.3g\n", static_cast<int>(direction),
                static_cast<long>(m), static_cast<long>(n), static_cast<long>(k0), static_cast<long>(k1),
                static_cast<long>(count), std::sqrt(error / scale));
}

template <class T>
void check_all_matrices() {
  const int64_t shapes[][4] = {{96, 48, 96, 48}, {96, 40, 48, 40}, {48, 96, 24, 50}, {200, 20, 100, 20},
                               {36, 72, 36, 36}, {72, 16, 36, 16}, {72, 7, 72, 7},   {160, 33, 80, 33}};
  for (const auto& [m, n, k0, k1] : shapes)
    for (int64_t count : {1, 3})
      for (Direction direction : {Direction::forward, Direction::inverse, Direction::resize})
        check_matrices<T>(direction, m, n, k0, k1, count);
}

// Every element is used once, and none where the kernel would have to copy.
template <class T>
void check_orders() {
  for (UseOrder::Of of : {UseOrder::Of::values_in, UseOrder::Of::values_out, UseOrder::Of::coefficients_in}) {
    for (auto [n, kept] : {std::pair<int64_t, int64_t>{96, 50}, {768, 384}, {240, 60}}) {
      const auto order = front::cpu::use_order<T>(n, kept, of);
      std::vector<int> used(of == UseOrder::Of::coefficients_in ? kept : n, 0);
      for (size_t i = 0; i < used.size(); ++i) ++used[order->element()[i]];
      used == std::vector<int>(used.size(), 1) ? ++passed : ++failed;
    }
    for (auto [n, kept] : {std::pair<int64_t, int64_t>{1, 1}, {7, 7}, {61, 7}, {2038, 1019}, {64, 2}, {4096, 4}})
      !front::cpu::use_order<T>(n, kept, of)->element() ? ++passed : ++failed;
  }
}

}  // namespace

int main() {
  check_orders<float>();
  check_orders<double>();
  check_lengths<float>();
  check_lengths<double>();
  check_all_matrices<float>();
  check_all_matrices<double>();
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
