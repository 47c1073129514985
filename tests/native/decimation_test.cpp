// Passes over fewer rows than a matrix has, which are decimated as they are loaded or interpolated as they are stored,
// on buffers of exactly the needed size, against sums by definition. Built as axis_test.cpp is; prints "N passed, M
// failed".
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <random>
#include <utility>
#include <vector>

#include "axis_cases.h"
#include "cpu/tables.h"

namespace {

using front::plan_detail::Filter;

// Whether vectors as long as those in use take the filter.
bool taken(const Filter& filter) {
  return front::cpu::machine(1).vector_bytes > front::plan_detail::kNarrowBytes ||
         filter.taps <= front::plan_detail::kMostNarrowTaps;
}

// Runs a pass by so many blocks at a time, the last ones first: none follows what it shares rows or lanes with.
void run_in_pieces(const AxisPass& pass, int64_t blocks, const front::Machine& machine) {
  static int64_t blocks_at_once;
  blocks_at_once = blocks;
  const auto in_pieces = [](int64_t count, int64_t, front::ParallelBody body, void* context) {
    for (int64_t end = count; end > 0; end -= std::min(end, blocks_at_once))
      body(std::max<int64_t>(0, end - blocks_at_once), end, context);
  };
  front::cpu::run_axis(pass, {in_pieces, 1}, machine);
}

// A pass over the rows of a matrix that are decimated as they are loaded: exactly the matrix is read, rows with a gap
// after each, and exactly the panels are written, whatever blocks a thread has.
void check_decimated(int64_t lanes, int64_t n, int64_t kept, const Filter& filter, DType type, int64_t gap,
                     int64_t blocks) {
  const float* const taps = front::cpu::filter_half(filter);
  const int64_t rows = lanes * filter.factor, width = 16, row = n + gap, bytes = front::size_of(type);
  const Layout out = layout(kept, lanes, 1, Kind::panels, 0, DType::f32);
  Buffer x(((rows - 1) * row + n) * bytes, 0xff), y(out.size * 4, kSentinel);
  std::vector<unsigned char> written(out.size, 0);
  std::mt19937 random(static_cast<unsigned>(rows * n));
  std::uniform_int_distribution<int> values(-60, 60);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; ++i) put(x, r * row + i, type, values(random));

  AxisPass pass{};
  pass.direction = Direction::forward;
  pass.n = n, pass.kept = kept;
  pass.in = x.data(), pass.out = y.data();
  pass.in_type = type, pass.out_type = DType::f32;
  pass.in_along = {1, 0, 0}, pass.out_along = out.along();
  pass.lanes[pass.lane_dims++] = {lanes, row, width};
  pass.decimation = {rows, row, &filter, taps};
  run_in_pieces(pass, blocks, front::cpu::machine(1));

  double error = 0, scale = 0;
  for (int64_t l = 0; l < lanes; ++l) {
    std::vector<double> lane(n, 0.0);
    for (int64_t t = 0; t < filter.taps / 2; ++t) {
      const int64_t up = filter.factor * l + filter.factor / 2 - 1 - t, down = up + 1 + 2 * t;  // reflected
      const int64_t above = up < 0 ? -1 - up : up, below = down < rows ? down : 2 * rows - 1 - down;
      for (int64_t i = 0; i < n; ++i)
        lane[i] += static_cast<double>(taps[t]) * (get(x, above * row + i, type) + get(x, below * row + i, type));
    }
    for (double v : lane) scale += v * v;
    const auto expected = by_definition(Direction::forward, n, kept, lane);
    for (int64_t k = 0; k < kept; ++k) {
      error += std::pow(get(y, out.at(0, l, k), DType::f32) - expected[k], 2);
      written[out.at(0, l, k)] = 1;
    }
  }
  const bool good = intact(y.data(), written.data(), out.size, 4) && std::sqrt(error / scale) <= 5e-7;
  good ? ++passed : ++failed;
  if (!good)
    std::printf("FAILED decimated rows=%ld n=%ld kept=%ld type %d: error %.3g\n", static_cast<long>(rows),
                static_cast<long>(n), static_cast<long>(kept), static_cast<int>(type), std::sqrt(error / scale));
}

// A pass over fewer rows, which are interpolated as they are stored: exactly the panels are read, and exactly the
// matrix is written, from its element `shift` of a line on, whatever blocks a thread has. uncached: around the caches,
// where rows are of whole lines.
void check_interpolated(int64_t lanes, int64_t n, int64_t kept, const Filter& filter, DType type, int64_t gap,
                        int64_t at_once, bool uncached, int64_t shift) {
  const float* const taps = front::cpu::filter_half(filter);
  const int64_t rows = lanes * filter.factor, width = 16, row = n + gap, size = (rows - 1) * row + n,
                bytes = front::size_of(type);
  const Layout in = layout(kept, lanes, 1, Kind::panels, 0, DType::f32);
  Buffer x(in.size * 4, 0xff), y((shift + size) * bytes, kSentinel);
  std::vector<unsigned char> written(shift + size, 0);
  std::mt19937 random(static_cast<unsigned>(rows * n));
  std::uniform_int_distribution<int> values(-60, 60);
  std::vector<std::vector<double>> transformed;
  for (int64_t l = 0; l < lanes; ++l) {
    std::vector<double> lane;
    for (int64_t k = 0; k < kept; ++k) {
      put(x, in.at(0, l, k), DType::f32, values(random));
      lane.push_back(get(x, in.at(0, l, k), DType::f32));
    }
    transformed.push_back(by_definition(Direction::inverse, n, kept, lane));
  }

  AxisPass pass{};
  pass.direction = Direction::inverse;
  pass.n = n, pass.kept = kept;
  pass.in = x.data(), pass.out = y.data() + shift * bytes;
  pass.in_type = DType::f32, pass.out_type = type;
  pass.in_along = in.along(), pass.out_along = {1, 0, 0};
  pass.lanes[pass.lane_dims++] = {lanes, width, row};
  pass.decimation = {rows, row, &filter, taps};
  front::Machine machine = front::cpu::machine(1);
  machine.shared_cache = uncached ? 0 : int64_t{1} << 40;
  run_in_pieces(pass, at_once, machine);

  double error = 0, scale = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; ++i) {
      double expected = 0;
      // Reflected lanes, too, by the distance from the middle of a lane's own rows.
      for (int64_t at = -filter.edge(); at < lanes + filter.edge(); ++at) {
        const int64_t lane = at < 0 ? -1 - at : at < lanes ? at : 2 * lanes - 1 - at;
        const int64_t middle = filter.factor * at + filter.factor / 2, t = r < middle ? middle - 1 - r : r - middle;
        if (t < filter.taps / 2) expected += static_cast<double>(taps[t]) * transformed[lane][i];
      }
      error += std::pow(get(y, shift + r * row + i, type) - expected, 2), scale += expected * expected;
      written[shift + r * row + i] = 1;
    }
  const double limit = type == DType::f32 ? 5e-7 : type == DType::f16 ? 1e-3 : 8e-3;
  const bool good = intact(y.data(), written.data(), shift + size, bytes) && std::sqrt(error / scale) <= limit;
  good ? ++passed : ++failed;
  if (!good)
    std::printf("FAILED interpolated rows=%ld n=%ld kept=%ld type %d uncached %d: error %.3g\n",
                static_cast<long>(rows), static_cast<long>(n), static_cast<long>(kept), static_cast<int>(type),
                uncached, std::sqrt(error / scale));
}

}  // namespace

int main() {
  for (DType type : {DType::f16, DType::bf16, DType::f32})
    for (const Filter& filter : front::plan_detail::kFilters)
      for (int64_t lanes : {32, 34, 36, 50})
        for (auto [n, kept] : {std::pair<int64_t, int64_t>{48, 48}, {61, 16}, {1100, 17}, {1028, 128}, {2200, 17}})
          // Rows that take each other's place in a cache, and others.
          for (int64_t gap : {1024 - n % 1024, int64_t{lanes == 34 ? 3 : 0}})
            if (taken(filter))
              check_decimated(lanes, n, kept, filter, type, gap, lanes == 32 ? 2 : lanes == 50 ? 1 : 1000);
  for (DType type : {DType::f16, DType::bf16, DType::f32})
    for (const Filter& filter : front::plan_detail::kFilters)
      for (int64_t lanes : {32, 34, 36, 50})
        for (auto [n, kept] : {std::pair<int64_t, int64_t>{48, 48}, {61, 16}, {192, 17}, {1028, 128}, {1100, 17}})
          for (bool uncached : {false, true}) {
            if (!taken(filter)) continue;
            const int64_t gap = lanes == 34 ? 3 : uncached ? 31 - (n - 1) % 32 : 0;  // mostly whole lines
            const int64_t at_once = lanes == 36 ? 2 : lanes == 50 ? 1 : 1000;
            check_interpolated(lanes, n, kept, filter, type, gap, at_once, uncached, 0);
            if (uncached && lanes == 50) check_interpolated(lanes, n, kept, filter, type, gap, at_once, uncached, 4);
          }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
