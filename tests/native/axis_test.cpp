// run_axis on buffers of exactly the needed size, with sentinels in every gap of strided outputs, against sums by
// definition. Built with sanitizers by tests/test_native.py; prints "N passed, M failed".
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "cpu/axis.h"
#include "cpu/tables.h"

namespace {

using front::AxisPass;
using front::Direction;
using front::DType;

int passed = 0, failed = 0;

void serial(int64_t count, int64_t, front::ParallelBody body, void* context) {
  for (int64_t i = 0; i < count; ++i) body(i, i + 1, context);  // one block at a time: each has buffers of its own
}

// Kept coefficients of x, or the values of zero-padded coefficients x, orthonormal, by definition.
std::vector<double> by_definition(Direction direction, int64_t n, int64_t kept, const std::vector<double>& x) {
  std::vector<double> y(direction == Direction::forward ? kept : n, 0.0);
  for (int64_t u = 0; u < kept; ++u)
    for (int64_t i = 0; i < n; ++i) {
      const double angle = static_cast<double>((2 * i + 1) * u % (4 * n)) * M_PI / (2 * static_cast<double>(n));
      const double d = std::cos(angle) * std::sqrt((u ? 2.0 : 1.0) / static_cast<double>(n));
      if (direction == Direction::forward)
        y[u] += d * x[i];
      else
        y[i] += d * x[u];
    }
  return y;
}

struct Layout {
  int64_t axis_stride, lane_stride, batch_stride, size;  // in elements; size: exactly what is touched
};

Layout layout(int64_t length, int64_t lanes, int64_t batch, bool axis_inside, int64_t gap) {
  Layout l{};
  l.axis_stride = axis_inside ? 1 + gap : (lanes + gap);
  l.lane_stride = axis_inside ? length * (1 + gap) + gap : 1;
  l.batch_stride = (axis_inside ? lanes * l.lane_stride : length * l.axis_stride) + gap;
  l.size = (length - 1) * l.axis_stride + (lanes - 1) * l.lane_stride + (batch - 1) * l.batch_stride + 1;
  return l;
}

template <class T>
void check(Direction direction, int64_t n, int64_t kept, int64_t lanes, int64_t batch, bool axis_inside, int64_t gap,
           DType type, double tolerance) {
  const int64_t in_length = direction == Direction::forward ? n : kept;
  const int64_t out_length = direction == Direction::forward ? kept : n;
  const Layout in = layout(in_length, lanes, batch, axis_inside, gap);
  const Layout out = layout(out_length, lanes, batch, axis_inside, gap);
  std::vector<T> x(in.size, std::nan("")), y(out.size, T(-12345));
  std::vector<bool> written(out.size, false);
  std::mt19937 random(static_cast<unsigned>(n * 31 + kept));
  std::normal_distribution<double> normal;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t l = 0; l < lanes; ++l)
      for (int64_t i = 0; i < in_length; ++i)
        x[b * in.batch_stride + l * in.lane_stride + i * in.axis_stride] = static_cast<T>(normal(random));

  AxisPass pass{};
  pass.direction = direction;
  pass.n = n;
  pass.kept = kept;
  pass.in = x.data();
  pass.out = y.data();
  pass.in_type = pass.out_type = type;
  pass.in_stride = in.axis_stride;
  pass.out_stride = out.axis_stride;
  pass.lanes[pass.lane_dims++] = {batch, in.batch_stride, out.batch_stride};
  pass.lanes[pass.lane_dims++] = {lanes, in.lane_stride, out.lane_stride};
  front::cpu::run_axis(pass, serial);

  double error = 0, scale = 0;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t l = 0; l < lanes; ++l) {
      std::vector<double> lane(in_length);
      for (int64_t i = 0; i < in_length; ++i)
        lane[i] = x[b * in.batch_stride + l * in.lane_stride + i * in.axis_stride];
      const auto expected = by_definition(direction, n, kept, lane);
      for (int64_t i = 0; i < out_length; ++i) {
        const int64_t at = b * out.batch_stride + l * out.lane_stride + i * out.axis_stride;
        error += std::pow(y[at] - expected[i], 2);
        scale += std::pow(expected[i], 2);
        written[at] = true;
      }
    }
  bool sentinels = true;
  for (int64_t i = 0; i < out.size; ++i) sentinels &= written[i] || y[i] == T(-12345);
  const bool good = sentinels && std::sqrt(error) <= tolerance * std::sqrt(scale);
  good ? ++passed : ++failed;
  if (!good)
    std::printf("FAILED %s n=%ld kept=%ld lanes=%ld batch=%ld inside=%d gap=%ld: error %.3g, sentinels %s\n",
                direction == Direction::forward ? "forward" : "inverse", static_cast<long>(n), static_cast<long>(kept),
                static_cast<long>(lanes), static_cast<long>(batch), axis_inside, static_cast<long>(gap),
                std::sqrt(error / scale), sentinels ? "intact" : "OVERWRITTEN");
}

}  // namespace

int main() {
  for (Direction direction : {Direction::forward, Direction::inverse})
    for (int64_t n : {1, 2, 3, 4, 6, 7, 8, 16, 30, 35, 48, 61, 64, 67, 101, 134, 256})
      for (int64_t kept : {int64_t{1}, (n + 1) / 2, n})
        for (int64_t lanes : {1, 3, 16, 37})
          for (bool inside : {false, true})
            for (int64_t gap : {0, 3}) {
              check<float>(direction, n, kept, lanes, 2, inside, gap, DType::f32, 1e-6);
              check<double>(direction, n, kept, lanes, 3, inside, gap, DType::f64, 5e-14);
            }
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
