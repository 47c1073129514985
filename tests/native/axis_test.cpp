// run_axis on buffers of exactly the needed size, with sentinels in every gap of strided outputs, against sums by
// definition. The kernels are built with sanitizers by tests/test_native.py. Prints "N passed, M failed"; an argument S
// takes every S-th case only.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <new>
#include <random>
#include <utility>
#include <vector>

#include "cpu/alone.h"
#include "cpu/axis.h"
#include "cpu/tables.h"

namespace {

using front::AxisPass;
using front::Direction;
using front::DType;

// On a cache line, as tensors are: what is streamed must be.
template <class T>
struct Aligned {
  using value_type = T;
  T* allocate(size_t n) { return static_cast<T*>(::operator new(n * sizeof(T), std::align_val_t{64})); }
  void deallocate(T* p, size_t) { ::operator delete(p, std::align_val_t{64}); }
  bool operator==(const Aligned&) const { return true; }
  bool operator!=(const Aligned&) const { return false; }
};
using Buffer = std::vector<unsigned char, Aligned<unsigned char>>;

constexpr unsigned char kSentinel = 0x5a;
int passed = 0, failed = 0, asked = 0, step = 1;

bool left_out() { return asked++ % step != 0; }

void serial(int64_t count, int64_t, front::ParallelBody body, void* context) {
  for (int64_t i = 0; i < count; ++i) body(i, i + 1, context);  // one block at a time: each has buffers of its own
}

void last_first(int64_t count, int64_t, front::ParallelBody body, void* context) {
  for (int64_t i = count; i-- > 0;) body(i, i + 1, context);
}

// cos(pi q / 2n) for q < 4n.
const double* cosines(int64_t n) {
  static std::map<int64_t, std::vector<double>> tables;
  std::vector<double>& table = tables[n];
  if (table.empty())
    for (int64_t q = 0; q < 4 * n; ++q)
      table.push_back(std::cos(static_cast<double>(q) * M_PI / (2 * static_cast<double>(n))));
  return table.data();
}

// Not what is tested here, and most of what is computed.
#define FRONT_UNCHECKED __attribute__((no_sanitize("address", "undefined")))

FRONT_UNCHECKED bool intact(const unsigned char* y, const unsigned char* written, int64_t size, int64_t bytes) {
  for (int64_t i = 0; i < size; ++i)
    for (int64_t b = written[i] ? bytes : 0; b < bytes; ++b)
      if (y[i * bytes + b] != kSentinel) return false;
  return true;
}

FRONT_UNCHECKED void by_definition(bool forward, int64_t n, int64_t kept, const double* table, const double* x,
                                   double* y) {
  for (int64_t u = 0; u < kept; ++u) {
    const double scale = std::sqrt((u ? 2.0 : 1.0) / static_cast<double>(n));
    double sum = 0;
    for (int64_t i = 0, q = u; i < n; ++i) {
      if (forward)
        sum += table[q] * x[i];
      else
        y[i] += scale * table[q] * x[u];
      q += 2 * u;
      if (q >= 4 * n) q -= 4 * n;
    }
    if (forward) y[u] = scale * sum;
  }
}

// Kept coefficients of x, or the values of zero-padded coefficients x, orthonormal, by definition.
std::vector<double> by_definition(Direction direction, int64_t n, int64_t kept, const std::vector<double>& x) {
  const bool forward = direction == Direction::forward;
  std::vector<double> y(forward ? kept : n, 0.0);
  by_definition(forward, n, kept, cosines(n), x.data(), y.data());
  return y;
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

// Which is contiguous; panels as in params.h; vectors: elements adjacent whatever the gap, each transformed alone.
enum class Kind { axis_inside, lanes_inside, panels, vectors };

struct Layout {
  int64_t axis_stride, panel, width, lane_stride, batch_stride, size;  // in elements; size: exactly what is touched

  front::Along along() const { return panel ? front::Along{1, width, panel} : front::Along{axis_stride, 0, 0}; }
  int64_t at(int64_t batch, int64_t lane, int64_t i) const {
    return batch * batch_stride + lane * lane_stride + (panel ? i / width * panel + i % width : i * axis_stride);
  }
};

Layout layout(int64_t length, int64_t lanes, int64_t batch, Kind kind, int64_t gap, DType type) {
  Layout l{};
  l.width = front::kLineBytes / front::size_of(type);
  if (kind == Kind::panels) {
    l.lane_stride = l.width;
    l.panel = lanes * l.width + gap;
    l.batch_stride = (length + l.width - 1) / l.width * l.panel;
  } else {
    const bool inside = kind != Kind::lanes_inside;
    const int64_t apart = kind == Kind::vectors ? 0 : gap;
    l.axis_stride = inside ? 1 + apart : lanes + gap;
    l.lane_stride = inside ? length * (1 + apart) + gap : 1;
    l.batch_stride = (inside ? lanes * l.lane_stride : length * l.axis_stride) + gap;
  }
  l.size = l.at(batch - 1, lanes - 1, length - 1) + 1;
  return l;
}

// Element types by their memory format; the conversions here are slow and plain on purpose.
double get(const Buffer& v, int64_t i, DType t) {
  if (t == DType::f64 || t == DType::f32) {
    double d = 0;
    float f = 0;
    t == DType::f64 ? std::memcpy(&d, &v[8 * i], 8) : std::memcpy(&f, &v[4 * i], 4);
    return t == DType::f64 ? d : static_cast<double>(f);
  }
  uint16_t h = 0;
  std::memcpy(&h, &v[2 * i], 2);
  const double sign = h & 0x8000 ? -1 : 1;
  const int fraction_bits = t == DType::f16 ? 10 : 7, bias = t == DType::f16 ? 15 : 127;
  const int exponent = (h & 0x7fff) >> fraction_bits, fraction = h & ((1 << fraction_bits) - 1);
  const double mantissa = std::ldexp(fraction, -fraction_bits) + (exponent ? 1 : 0);
  return sign * std::ldexp(mantissa, (exponent ? exponent : 1) - bias);
}

void put(Buffer& v, int64_t i, DType t, int64_t sixteenths) {  // exact in every type
  const double d = static_cast<double>(sixteenths) / 16;
  const float f = static_cast<float>(d);
  if (t == DType::f64) return void(std::memcpy(&v[8 * i], &d, 8));
  if (t == DType::f32) return void(std::memcpy(&v[4 * i], &f, 4));
  uint16_t h = 0;
  if (sixteenths != 0) {
    int exponent = 0;
    const double mantissa = std::frexp(std::fabs(d), &exponent) * 2;  // 1 <= mantissa < 2
    const int fraction_bits = t == DType::f16 ? 10 : 7, bias = t == DType::f16 ? 15 : 127;
    h = static_cast<uint16_t>((exponent - 1 + bias) << fraction_bits);
    h = static_cast<uint16_t>(h + std::lround(std::ldexp(mantissa - 1, fraction_bits)));
    if (d < 0) h |= 0x8000;
  }
  std::memcpy(&v[2 * i], &h, 2);
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

// A pass over the rows of a matrix that are halved as they are loaded: exactly the matrix is read, rows with a gap
// after each, and exactly the panels are written.
void check_halved(int64_t rows, int64_t n, int64_t kept, int64_t filtered, DType type, int64_t gap) {
  const auto tables = front::cpu::axis_tables<float>(1024, 1024 / filtered, {});
  const auto filter = tables->view();
  const int64_t lanes = rows / 2, width = 16, row = n + gap, bytes = front::size_of(type);
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
  pass.halving = {rows, row, filter.taps, filter.filter};
  const auto at_once = [](int64_t count, int64_t, front::ParallelBody body, void* context) { body(0, count, context); };
  front::cpu::run_axis(pass, {at_once, 1}, front::cpu::machine(1));  // blocks follow each other in one buffer

  double error = 0, scale = 0;
  for (int64_t l = 0; l < lanes; ++l) {
    std::vector<double> lane(n, 0.0);
    for (int64_t t = 0; t < filter.taps / 2; ++t) {
      const int64_t up = 2 * l - t, down = 2 * l + 1 + t;  // reflected
      const int64_t above = up < 0 ? -1 - up : up, below = down < rows ? down : 2 * rows - 1 - down;
      for (int64_t i = 0; i < n; ++i)
        lane[i] +=
            static_cast<double>(filter.filter[t]) * (get(x, above * row + i, type) + get(x, below * row + i, type));
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
    std::printf("FAILED halved rows=%ld n=%ld kept=%ld type %d: error %.3g\n", static_cast<long>(rows),
                static_cast<long>(n), static_cast<long>(kept), static_cast<int>(type), std::sqrt(error / scale));
}

// A pass over half as many rows, which are doubled as they are stored: exactly the panels are read, and exactly the
// matrix is written, whatever blocks a thread has.
void check_doubled(int64_t rows, int64_t n, int64_t kept, int64_t filtered, DType type, int64_t gap, int64_t at_once) {
  const auto tables = front::cpu::axis_tables<float>(1024, 1024 / filtered, {});
  const auto filter = tables->view();
  const int64_t lanes = rows / 2, width = 16, row = n + gap, size = (rows - 1) * row + n, bytes = front::size_of(type);
  const Layout in = layout(kept, lanes, 1, Kind::panels, 0, DType::f32);
  Buffer x(in.size * 4, 0xff), y(size * bytes, kSentinel);
  std::vector<unsigned char> written(size, 0);
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
  pass.in = x.data(), pass.out = y.data();
  pass.in_type = DType::f32, pass.out_type = type;
  pass.in_along = in.along(), pass.out_along = {1, 0, 0};
  pass.lanes[pass.lane_dims++] = {lanes, width, row};
  pass.halving = {rows, row, filter.taps, filter.filter};
  static int64_t blocks_at_once;
  blocks_at_once = at_once;
  const auto in_pieces = [](int64_t count, int64_t, front::ParallelBody body, void* context) {
    for (int64_t end = count; end > 0; end -= std::min(end, blocks_at_once))  // none follows what it shares lanes with
      body(std::max<int64_t>(0, end - blocks_at_once), end, context);
  };
  front::cpu::run_axis(pass, {in_pieces, 1}, front::cpu::machine(1));

  double error = 0, scale = 0;
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t i = 0; i < n; ++i) {
      double expected = 0;
      for (int64_t t = 0; t < filter.taps / 2; ++t) {  // tap t of lane l is of rows 2l - t and 2l + 1 + t, reflected
        const int64_t apart = t % 2 == 0 ? t / 2 : -(t + 1) / 2, at = r / 2 + (r % 2 == 0 ? apart : -apart);
        const int64_t lane = at < 0 ? -1 - at : at < lanes ? at : 2 * lanes - 1 - at;
        expected += static_cast<double>(filter.filter[t]) * transformed[lane][i];
      }
      error += std::pow(get(y, r * row + i, type) - expected, 2), scale += expected * expected;
      written[r * row + i] = 1;
    }
  const double limit = type == DType::f32 ? 5e-7 : type == DType::f16 ? 1e-3 : 8e-3;
  const bool good = intact(y.data(), written.data(), size, bytes) && std::sqrt(error / scale) <= limit;
  good ? ++passed : ++failed;
  if (!good)
    std::printf("FAILED doubled rows=%ld n=%ld kept=%ld type %d: error %.3g\n", static_cast<long>(rows),
                static_cast<long>(n), static_cast<long>(kept), static_cast<int>(type), std::sqrt(error / scale));
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) step = std::max(1, std::atoi(argv[1]));
  check_three_lane_axes();
  for (DType type : {DType::f16, DType::bf16, DType::f32})
    for (int64_t filtered : {4, 8})
      for (int64_t rows : {64, 68, 72, 100})  // 72: rows that take each other's place in a cache
        for (auto [n, kept] : {std::pair<int64_t, int64_t>{48, 48}, {61, 16}, {1100, 17}, {1028, 128}, {2200, 17}})
          check_halved(rows, n, kept, filtered, type, rows == 68 ? 3 : rows == 72 ? 1024 - n % 1024 : 0);
  for (DType type : {DType::f16, DType::bf16, DType::f32})
    for (int64_t filtered : {4, 8})
      for (int64_t rows : {64, 68, 72, 100})
        for (auto [n, kept] : {std::pair<int64_t, int64_t>{48, 48}, {61, 16}, {192, 17}, {1028, 128}, {1100, 17}})
          check_doubled(rows, n, kept, filtered, type, rows == 68 ? 3 : 0, rows == 72 ? 2 : rows == 100 ? 1 : 1000);
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
  const auto side_by_side = [&](int64_t work, int64_t blocks, int64_t in_rows, int64_t expected, int64_t in_line = 2) {
    front::blocks_side_by_side(work, blocks, in_rows, in_line, two) == expected ? ++passed : ++failed;
  };
  for (auto [blocks, expected] : {std::pair<int64_t, int64_t>{1, 1}, {3, 1}, {4, 2}, {8, 4}, {1000, 8}})
    side_by_side(1000, blocks, int64_t{1} << 30, expected);
  side_by_side(2 << 20, 1000, 16 << 20, 4, 4);  // not by the cores': a line of what lies in rows, whatever the work
  side_by_side(1000, 1000, 2 << 20, 2, 4);      // by the cores': one of what is computed
  side_by_side(1000, 1000, 1000, 2);            // cached: a line
  side_by_side(1000, 1000, 2 << 20, 2);         // by both cores together
  side_by_side(1000, 1000, 3 << 20, 8);
  side_by_side(128 << 10, 1000, 3 << 20, 4);  // no more work arrays than half of a core's cache holds
  side_by_side(256 << 10, 1000, 3 << 20, 2);
  side_by_side(256 << 10, 1000, 33 << 20, 8);  // but of rows in no cache four lines of twice the cache
  side_by_side(512 << 10, 1000, 33 << 20, 4);
  side_by_side(1 << 20, 1000, 33 << 20, 4);  // or two lines of four times
  side_by_side((1 << 20) + 1, 1000, 33 << 20, 2);
  side_by_side(2 << 20, 1000, 33 << 20, 2);
  std::printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
