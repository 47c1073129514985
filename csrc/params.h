// The seam between tensors and kernels: plain structs, no torch. Sizes and strides are int64 and count elements.
#pragma once

#include <cstdint>

namespace front {

namespace plan_detail {
struct Filter;
}

enum class DType : int32_t { f16, bf16, f32, f64 };

inline int64_t size_of(DType t) { return t == DType::f64 ? 8 : t == DType::f32 ? 4 : 2; }

// Coefficient u is multiplied by `first` (u = 0) or `other` (u > 0), relative to the orthonormal DCT.
struct Scale {
  double first = 1, other = 1;
};

enum class Direction : int32_t {
  forward,  // n values -> the first `kept` DCT-II coefficients
  inverse,  // `kept` coefficients, zero-padded to n -> n values; the exact transpose of forward
  resize,   // n values -> `kept` coefficients -> `size` values, the coefficients never leaving the thread
};

// One axis of one tensor pass: every lane (all other axes) is transformed independently.
struct LaneDim {
  int64_t size, in_stride, out_stride;
};
constexpr int kMostDimensions = 64;                // of a tensor; torch itself has no limit
constexpr int kMaxLaneDims = kMostDimensions + 2;  // two for panels

constexpr int64_t kLineBytes = 64;  // a cache line

// Where the elements of an axis lie: `stride` apart, or, if run != 0, in runs of `run` elements that start `jump`
// apart.
struct Along {
  int64_t stride, run, jump;
};

// What the spectral loss asks of a forward pass: that it transforms x - shift, because a mean far above the deviation
// would cost the coefficients digits, and sums of that, per block of lanes.
struct Moments {
  double sum, square;
};
struct Measure {
  double shift;
  Moments* blocks;  // zeros at first; room for as many as there are lanes
};

// What the spectral loss makes of an inverse pass instead of its result v: with r = x - shift - v,
// out += factor r + slope (x - mean), where there is an `out`.
struct Residual {
  const void* x;
  DType type;           // out has this type or the compute type
  int64_t row, column;  // x's strides: the lanes are the rows of one matrix
  double factor, slope, mean, shift;
  double* squares;  // per block of lanes, the sum of r^2: zeros at first; room for as many as there are lanes
};

// Lanes that are not the rows of a matrix, but a half or a quarter as many, by the filter of the transform across them.
// Forward, a lane is made of the rows around it as they are loaded (cpu/decimated_rows.h); inverse, rows are made of
// the lanes around them as they are stored (cpu/interpolated_rows.h). They are the only lane axis.
struct Decimation {
  int64_t rows;    // of the matrix; 0: the lanes are the rows
  int64_t stride;  // from row to row
  const plan_detail::Filter* filter;
  const float* taps;  // their second half
};

struct AxisPass {
  Direction direction;
  int64_t n;                // transform length
  int64_t kept;             // coefficients read (inverse) or written (forward), 1 <= kept <= n
  int64_t size;             // resize: length of the second transform, kept <= size
  Scale scale, scale_back;  // scale_back: resize's second transform
  const void* in;
  void* out;
  DType in_type, out_type;
  Along in_along, out_along;  // along the transformed axis
  bool around_caches;         // the result is too large to be read from a cache later
  int64_t ahead;              // elements of a lane that are asked for ahead, of lanes side by side
  int64_t row;                // lanes of one matrix that follow each other in the rows of n values; 0: not said
  int32_t lane_dims;
  LaneDim lanes[kMaxLaneDims];  // the last one varies fastest
  // Of the last one, or null: its lane i reads lane in_order[i] of the input, and writes lane out_order[i] of the
  // output.
  const int32_t *in_order, *out_order;
  // Panels of aligned lines, in the compute type, whose elements follow each other in the order of their use
  // (UseOrder), or null: the i-th one lies at place in_places[i], or out_places[i], of the work array where they are
  // copied.
  const int32_t *in_places, *out_places;
  const Measure* measure;    // of a forward pass, or null
  const Residual* residual;  // of an inverse pass, or null
  Decimation decimation;     // of a pass over rows, in float32; their elements are adjacent
  // Or null. Forward, resize: by which a pass over rows has made of n values the fewer that are the input; inverse,
  // resize: by which one will make all values of the fewer that are the output.
  const plan_detail::Filter *filter_in, *filter_out;
};

// Both axes of many matrices, all of one shape and one layout.
struct MatrixPass {
  Direction direction;
  int64_t m, n;          // rows and columns: of the input (forward, resize) or of the output (inverse)
  int64_t k0, k1;        // kept coefficients: of the output (forward) or of the input (inverse)
  int64_t size0, size1;  // resize: rows and columns of the output
  Scale rows, columns, rows_back, columns_back;  // rows: of the transforms along a row (length n)
  DType in_type, compute_type, out_type;
  int64_t in_row, in_column, out_row, out_column;  // strides
  // The matrices: `count` arrays, each with the batch axes below.
  const void* const* in;
  void* const* out;
  int64_t count;
  int32_t batch_dims;
  LaneDim batch[kMaxLaneDims];
  // Of one matrix, whose rows are the lanes: its rows are transformed first (measure) or last (residual).
  const Measure* measure;
  const Residual* residual;
};

// The thread pool, passed in so that kernels do not know whose it is: run calls body(begin, end, context) on disjoint
// subranges of [0, count), each at least `grain` long where possible. The body must not throw.
using ParallelBody = void (*)(int64_t begin, int64_t end, void* context);
struct Executor {
  void (*run)(int64_t count, int64_t grain, ParallelBody body, void* context);
  int64_t threads;
};

}  // namespace front
