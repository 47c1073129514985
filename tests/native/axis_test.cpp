// run_axis on buffers of exactly the needed size, with sentinels in every gap of strided outputs, against sums by
// definition. The kernels are built with sanitizers by tests/test_native.py. Prints "N passed, M failed"; an argument S
// takes every S-th case only.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <random>
#include <utility>
#include <vector>

#include "axis_cases.h"
#include "cpu/alone.h"

namespace {

int asked = 0, step = 1;

bool left_out() { return asked++ % step != 0; }

void serial(int64_t count, int64_t, front::ParallelBody body, void* context) {
  for (int64_t i = 0; i < count; ++i) body(i, i + 1, context);  // one block at a time: each has buffers of its own
}

void last_first(int64_t count, int64_t, front::ParallelBody body, void* context) {
  for (int64_t i = count; i-- > 0;) body(i, i + 1, context);
}

struct Lane {
  std::vector<int> sixteenths;  // what goes in, exact in every type
  std::vector<double> expected;
};

// The first `count` lanes of a transform, the same ones for every layout and type.
const std::vector<Lane>& lanes_of(Direction direction, int64_t n, int64_t kept, int64_t size, int64_t count) {
  struct Known {
    std::mt19937 random;
    std::vector<Lane> lanes;
  };
  static std::map<std::array<int64_t, 4>, Known> known;
  Known& found = known
                     .try_emplace({static_cast<int64_t>(direction), n, kept, size},
                                  Known{std::mt19937(static_cast<unsigned>(n * 31 + kept)), {}})
                     .first->second;
  std::uniform_int_distribution<int> values(-60, 60);
  while (static_cast<int64_t>(found.lanes.size()) < count) {
    Lane lane;
    lane.sixteenths.resize(direction == Direction::inverse ? kept : n);
    for (int& value : lane.sixteenths) value = values(found.random);
    std::vector<double> x(lane.sixteenths.begin(), lane.sixteenths.end());
    for (double& value : x) value /= 16;
    const bool resize = direction == Direction::resize;
    lane.expected = by_definition(resize ? Direction::forward : direction, n, kept, x);
    if (resize) lane.expected = by_definition(Direction::inverse, size, kept, lane.expected);
    found.lanes.push_back(std::move(lane));
  }
  return found.lanes;
}

double tolerance(DType t) { return t == DType::f64 ? 5e-14 : t == DType::f32 ? 1e-6 : t == DType::f16 ? 1e-3 : 8e-3; }

void check(Direction direction, int64_t n, int64_t kept, int64_t lanes, int64_t batch, Kind kind, int64_t gap,
           DType in_type, DType out_type, bool uncached, int64_t size = 0, bool streamed = false) {
  if (left_out()) return;
  const bool resize = direction == Direction::resize;
  const int64_t in_length = direction == Direction::inverse ? kept : n;
  const int64_t out_length = resize ? size : direction == Direction::forward ? kept : n;
  // The engine reads or writes panels on the kept side only.
  const Kind other = kind == Kind::panels ? Kind::axis_inside : kind;
  const bool forward = direction == Direction::forward;
  const Layout in = layout(in_length, lanes, batch, forward ? other : kind, gap, in_type);
  const Layout out = layout(out_length, lanes, batch, forward ? kind : other, gap, out_type);
  const int64_t in_bytes = front::size_of(in_type), out_bytes = front::size_of(out_type);
  Buffer x(in.size * in_bytes, 0xff), y(out.size * out_bytes, kSentinel);  // 0xff..: NaN
  std::vector<unsigned char> written(out.size, 0);
  const std::vector<Lane>& all = lanes_of(direction, n, kept, size, batch * lanes);
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t l = 0; l < lanes; ++l)
      for (int64_t i = 0; i < in_length; ++i) put(x, in.at(b, l, i), in_type, all[b * lanes + l].sixteenths[i]);

  AxisPass pass{};
  pass.direction = direction;
  pass.n = n;
  pass.kept = kept;
  pass.size = size;
  pass.in = x.data();
  pass.out = y.data();
  pass.in_type = in_type;
  pass.out_type = out_type;
  pass.in_along = in.along();
  pass.out_along = out.along();
  pass.lanes[pass.lane_dims++] = {batch, in.batch_stride, out.batch_stride};
  pass.lanes[pass.lane_dims++] = {lanes, in.lane_stride, out.lane_stride};
  pass.row = (direction == Direction::inverse ? out : in).lane_stride == 1 ? lanes : 0;
  // As if nothing were cached: whole lines are streamed, and blocks go side by side; or as if all were.
  front::Machine machine = front::cpu::machine(1);
  machine.shared_cache = uncached ? 0 : int64_t{1} << 40;
  machine.own_cache = streamed ? 0 : uncached ? 1 << 20 : int64_t{1} << 40;
  const bool in_double = in_type == DType::f64 || out_type == DType::f64;
  if (kind == Kind::vectors)
    front::cpu::run_alone(pass, {kept % 2 ? serial : last_first, 1}, front::plan_alone(n, in_double ? 8 : 4, machine));
  else
    front::cpu::run_axis(pass, {serial, 1}, machine);

  double error = 0, scale = 0;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t l = 0; l < lanes; ++l) {
      const Lane& lane = all[b * lanes + l];
      for (int value : lane.sixteenths) scale += value * value / 256.0;
      for (int64_t i = 0; i < out_length; ++i) {
        error += std::pow(get(y, out.at(b, l, i), out_type) - lane.expected[i], 2);
        written[out.at(b, l, i)] = 1;
      }
    }
  const bool sentinels = intact(y.data(), written.data(), out.size, out_bytes);
  const double both = in_double ? 5e-14 : 1e-6;
  const bool good = sentinels && std::sqrt(error) <= std::max(both, tolerance(out_type)) * std::sqrt(scale);
  good ? ++passed : ++failed;
  if (!good)
    std::printf(
        "FAILED %s n=%ld kept=%ld lanes=%ld batch=%ld layout=%d gap=%ld types %d %d: error %.3g, sentinels %s\n",
        resize                            ? "resize"
        : direction == Direction::forward ? "forward"
                                          : "inverse",
        static_cast<long>(n), static_cast<long>(kept), static_cast<long>(lanes), static_cast<long>(batch),
        static_cast<int>(kind), static_cast<long>(gap), static_cast<int>(in_type), static_cast<int>(out_type),
        std::sqrt(error / scale), sentinels ? "intact" : "OVERWRITTEN");
}

// Blocks that run across three lane axes: of a group whose lanes are adjacent in the input, the results of the first
// block may be adjacent and those of another not.
void check_three_lane_axes() {
  constexpr int64_t n = 48, kept = 24, sizes[] = {4, 3, 3}, in[] = {9, 3, 1}, out[] = {13, 5, 1};
  std::vector<float> x(36 * n), y(64 * kept, -7);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 37 % 101) - 50;
  AxisPass pass{};
  pass.direction = Direction::forward;
  pass.n = n, pass.kept = kept;
  pass.in = x.data(), pass.out = y.data();
  pass.in_type = pass.out_type = DType::f32;
  pass.in_along = {36, 0, 0}, pass.out_along = {64, 0, 0};
  for (int d = 0; d < 3; ++d) pass.lanes[pass.lane_dims++] = {sizes[d], in[d], out[d]};
  front::Machine machine = front::cpu::machine(1);
  machine.own_cache = 1 << 20;
  front::cpu::run_axis(pass, {serial, 1}, machine);
  double error = 0, scale = 0;
  for (int64_t l = 0; l < 36; ++l) {
    const int64_t at[] = {l / 9, l / 3 % 3, l % 3};
    std::vector<double> lane(n);
    for (int64_t i = 0; i < n; ++i) lane[i] = static_cast<double>(x[l + 36 * i]);
    const auto expected = by_definition(Direction::forward, n, kept, lane);
    for (int64_t k = 0; k < kept; ++k) {
      const auto found = static_cast<double>(y[at[0] * out[0] + at[1] * out[1] + at[2] * out[2] + 64 * k]);
      error += std::pow(found - expected[k], 2), scale += std::pow(expected[k], 2);
    }
  }
  const bool good = std::sqrt(error / scale) <= 1e-6;
  good ? ++passed : ++failed;
  if (!good) std::printf("FAILED three lane axes: error %.3g\n", std::sqrt(error / scale));
}

// Forward from panels to columns, as the second pass over a matrix: the result lies in rows, which blocks write
// together where they go around the caches. They may not change a bit of it, and write nothing else.
void check_from_panels(int64_t n, int64_t kept, int64_t panels, int64_t gap) {
  constexpr int64_t width = 16;
  const int64_t columns = panels * width, row = columns + gap, size = (kept - 1) * row + columns;
  Buffer x(panels * n * width * 4, 0xff);
  for (int64_t i = 0; i < panels * n * width; ++i) put(x, i, DType::f32, i * 37 % 101 - 50);
  AxisPass pass{};
  pass.direction = Direction::forward;
  pass.n = n, pass.kept = kept;
  pass.in = x.data();
  pass.in_type = pass.out_type = DType::f32;
  pass.in_along = {width, 0, 0}, pass.out_along = {row, 0, 0};
  pass.lanes[pass.lane_dims++] = {panels, n * width, width};
  pass.lanes[pass.lane_dims++] = {width, 1, 1};
  front::Machine machine = front::cpu::machine(1);
  bool good = true;
  std::vector<Buffer> results;
  for (bool uncached : {false, true})
    for (int64_t own_cache :
         {1 << 10, 20 << 10, 1 << 20}) {  // blocks one by one, a few together, and as many as may be
      Buffer y(size * 4, kSentinel);
      pass.out = y.data();
      machine.shared_cache = uncached ? 0 : int64_t{1} << 40;
      machine.own_cache = own_cache;
      front::cpu::run_axis(pass, {serial, 1}, machine);
      std::vector<unsigned char> written(size, 0);
      for (int64_t k = 0; k < kept; ++k) std::fill_n(written.begin() + k * row, columns, 1);
      good = good && intact(y.data(), written.data(), size, 4);
      results.push_back(y);
    }
  for (const Buffer& y : results) good = good && y == results[0];
  double error = 0, scale = 0;
  for (int64_t c : {int64_t{0}, int64_t{17}, columns - 1}) {
    std::vector<double> lane(n);
    for (int64_t i = 0; i < n; ++i) lane[i] = get(x, (c / width * n + i) * width + c % width, DType::f32);
    const auto expected = by_definition(Direction::forward, n, kept, lane);
    for (int64_t k = 0; k < kept; ++k) {
      const double found = get(results[0], k * row + c, DType::f32);
      error += std::pow(found - expected[k], 2), scale += std::pow(expected[k], 2);
    }
  }
  good = good && std::sqrt(error / scale) <= 1e-6;
  good ? ++passed : ++failed;
  if (!good)
    std::printf("FAILED from panels n=%ld kept=%ld panels=%ld gap=%ld: error %.3g\n", static_cast<long>(n),
                static_cast<long>(kept), static_cast<long>(panels), static_cast<long>(gap), std::sqrt(error / scale));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) step = std::max(1, std::atoi(argv[1]));
  check_three_lane_axes();
  for (auto [n, kept] : {std::pair<int64_t, int64_t>{64, 64}, {96, 40}, {768, 384}, {1024, 256}, {61, 7}})
    for (int64_t panels : {2, 7})
      for (int64_t gap : {0, 16, 3}) check_from_panels(n, kept, panels, gap);
  const DType types[] = {DType::f16, DType::bf16, DType::f32, DType::f64};
  for (Direction direction : {Direction::forward, Direction::inverse})
    for (int64_t n : {1, 2, 3, 4, 6, 7, 8, 16, 30, 35, 48, 61, 64, 67, 101, 134, 256})
      for (int64_t kept : {int64_t{1}, (n + 1) / 2, n})
        for (int64_t lanes : {1, 3, 16, 37, 128})
          for (Kind kind : {Kind::axis_inside, Kind::lanes_inside, Kind::panels})
            for (int64_t gap : {0, 3})
              for (bool uncached : {false, true}) {
                check(direction, n, kept, lanes, 2, kind, gap, DType::f32, DType::f32, uncached);
                check(direction, n, kept, lanes, 2, kind, gap, DType::f64, DType::f64, uncached);
                if (n == 64 || n == 35)
                  for (DType in : types)
                    for (DType out : types) check(direction, n, kept, lanes, 1, kind, gap, in, out, uncached);
              }
  for (Direction direction : {Direction::forward, Direction::inverse})  // long enough for every walk over the points
    for (auto [n, kept] : {std::pair<int64_t, int64_t>{4096, 4096}, {4096, 512}, {2038, 64}, {2038, 1019}})
      check(direction, n, kept, 17, 1, Kind::axis_inside, 0, DType::f32, DType::f32, true);
  for (Direction direction : {Direction::forward, Direction::inverse})  // whole vectors, parts of them, odd halves
    for (int64_t n : {8, 12, 18, 36, 100, 240, 512, 630, 1024, 2560})
      for (int64_t kept : {int64_t{1}, n / 4, n / 2 + 1, n - 1, n})
        for (int64_t lanes : {1, 3})
          for (int64_t gap : {0, 3})
            for (DType in : types)
              for (DType out : {in, DType::f32, DType::f64})
                if (n < 1000 || in == DType::f32)
                  check(direction, n, kept, lanes, 2, Kind::vectors, gap, in, out, false);
  for (auto [n, kept, size] : {std::array<int64_t, 3>{1, 1, 7}, {8, 4, 8}, {61, 7, 7}, {134, 30, 101}, {512, 202, 202}})
    for (int64_t lanes : {1, 37, 192})
      for (Kind kind : {Kind::axis_inside, Kind::lanes_inside})
        for (bool uncached : {false, true}) {
          check(Direction::resize, n, kept, lanes, 2, kind, 0, DType::f32, DType::f32, uncached, size);
          check(Direction::resize, n, kept, lanes, 2, kind, 3, DType::f64, DType::bf16, uncached, size);
        }
  for (Direction direction : {Direction::forward, Direction::inverse})
    for (int64_t n : {2, 31, 64, 65, 600, 601})  // rows stream by: groups of blocks, the rest of one, part of a block
      for (int64_t kept : {1, 8, 11, 33, 40})
        for (int64_t lanes : {256, 300})
          for (int64_t gap : {0, 3})
            for (DType in : types)
              for (DType out : {in, DType::f32})
                if (kept <= n && (kept <= 11 || n == 601))
                  check(direction, n, kept, lanes, 2, Kind::lanes_inside, gap, in, out, gap != 0, 0, true);
  // Side by side they are one block, or two of a thread each.
  const front::Machine two{32, 1 << 20, 32 << 20, 2};
  const auto side_by_side = [&](int64_t work, int64_t blocks, int64_t in_rows, int64_t expected, int64_t in_line = 2,
                                bool around_caches = false) {
    front::blocks_side_by_side(work, blocks, in_rows, in_line, around_caches, two) == expected ? ++passed : ++failed;
  };
  for (auto [blocks, expected] : {std::pair<int64_t, int64_t>{1, 1}, {3, 1}, {4, 2}, {8, 4}, {1000, 8}})
    side_by_side(1000, blocks, int64_t{1} << 30, expected);
  side_by_side(2 << 20, 1000, 16 << 20, 4, 4);  // not by the cores': a line of what lies in rows, whatever the work
  side_by_side(1000, 1000, 2 << 20, 2, 4);      // by the cores': one of what is computed
  side_by_side(1000, 1000, 1000, 2);            // cached: a line
  side_by_side(1000, 1000, 2 << 20, 2);         // by both cores together
  side_by_side(1000, 1000, 3 << 20, 8);
  side_by_side(128 << 10, 1000, 3 << 20, 4);  // no more work arrays than half of a core's cache holds
  const auto expect = [](bool good) { good ? ++passed : ++failed; };
  // Read for so many at once: a line's vectors, or as many as fit the innermost cache; lines of vectors as they are.
  for (auto [work, rows, together] :
       {std::array<int64_t, 3>{20 << 10, 2 << 20, 2}, {8 << 10, 2 << 20, 4}, {20 << 10, 64 << 20, 4}, {1 << 10, 1, 8}})
    expect(front::blocks_read_together(work, 8, rows, two) == together);
  expect(front::blocks_read_together(20 << 10, 8, 2 << 20, {64, 1 << 20, 32 << 20, 2}) == 8);
  expect(front::blocks_read_together(20 << 10, 2, 64 << 20, two) == 2);
  for (auto [work, together] : {std::pair<int64_t, int64_t>{256 << 10, 4}, {512 << 10, 2}, {2 << 20, 1}})
    expect(front::blocks_written_together(work, 4, two) == together);
  for (auto [stride, moved, ahead] :
       {std::array<int64_t, 3>{64, (1 << 20) + 1, 64}, {64, 1 << 20, 0}, {128, 3 << 20, 0}, {512, 3 << 20, 16}})
    expect(front::elements_ahead(stride, moved, two) == ahead);
  // Rows in order: not one, nor of lanes that fill no vector, nor of several matrices of a panel each; inverse not of
  // panels that overflow a core's cache where a line holds several vectors, as here.
  expect(front::orders_rows({20, 32, 16, 4, true}, false, two) &&
         front::orders_rows({20, 16, 16, 4, false}, true, two));
  expect(!front::orders_rows({1, 32, 16, 4, false}, false, two) &&
         !front::orders_rows({20, 7, 7, 4, false}, false, two));
  expect(!front::orders_rows({20, 16, 16, 4, true}, false, two));
  for (auto [rows, lines, ordered] : {std::array<int64_t, 3>{16384, 32, 1}, {16385, 32, 0}, {16385, 64, 1}}) {
    front::Machine wide = two;
    wide.vector_bytes = lines;
    expect(front::orders_rows({rows, 32, 16, 4, false}, true, wide) == (ordered != 0));
    expect(front::orders_rows({rows, 32, 16, 4, false}, false, wide));
  }
  side_by_side(256 << 10, 1000, 3 << 20, 2);
  side_by_side(256 << 10, 1000, 3 << 20, 4, 2, true);  // around them two lines may fill it
  side_by_side(256 << 10, 1000, 33 << 20, 8);          // but of rows in no cache four lines of twice the cache
  side_by_side(512 << 10, 1000, 33 << 20, 4);
  side_by_side(1 << 20, 1000, 33 << 20, 4);  // or two lines of four times
  side_by_side((1 << 20) + 1, 1000, 33 << 20, 2);
  side_by_side(2 << 20, 1000, 33 << 20, 2);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
