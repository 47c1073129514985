// What a launch is told: plain structs that host, device and emulator share. Sizes and strides count elements.
#pragma once

#include "platform.h"

namespace front::cuda {

enum class Type : int { f16 = 0, bf16 = 1, f32 = 2, f64 = 3 };  // params.h's DType

constexpr int kPackThreads = 256;  // of a block of large.h's elementwise steps
constexpr int kWeighed = 4096;     // coefficients of a block of spectral.h
constexpr int kMatrices = 128;     // pointers of one launch: a role of nearly all models, and no table in memory

// Where things lie: element i of lane l is at (i / 4) four + (i % 4) along + (l / 4) lane_four + (l % 4) lane, with
// four = 4 along and lane_four = 4 lane but for the intermediate of two passes. There four neighbours along the axis of
// the values lie together, and all lanes' such fours beside each other: the pass that writes it and the pass that reads
// it, to which lanes and axis are the other way around, both move 16 bytes at a time in long runs.
//
// One pass over one axis of many matrices. A lane is one sequence along the axis; block b takes lanes_per_block lanes
// of batch element b / lane_blocks % batch of matrix b / lane_blocks / batch.
struct AxisArgs {
  const void* in[kMatrices];
  void* out[kMatrices];
  i64 lanes, lane_blocks, batch;
  i64 in_along, in_four, in_lane, in_lane_four, in_batch;       // of the input
  i64 out_along, out_four, out_lane, out_lane_four, out_batch;  // of the output
  i64 kept;  // coefficients written (forward), read (inverse), or passed on (resize)
  Type in_type, out_type;
  int in_quads, out_quads;            // four neighbours along the axis may be moved at once: stride 1, and aligned
  int in_lane_quads, out_lane_quads;  // and four lanes
  const void* twiddles;               // of the stages of the first, and for resize of the second transform
  const void* split;                  // of the real split
  const void* twiddles_back;
  const void* split_back;
};

// The steps of a transform that does not fit shared memory (large.h): complex sequences in memory.
struct LargeArgs {
  AxisArgs axis;          // of pack and unpack: the real side, lanes first_lane and up
  void* points;           // [lanes][length] complex
  i64 first_lane, count;  // the lanes that `points` holds; of through_memory: all lanes
  i64 together;           // of through_memory: lanes that `points` holds, one for each block
  i64 n, sequence;        // length of the transform; of its complex sequence: n / 2, or n if n is odd
  i64 length;             // of the DFT: sequence, or more for a convolution
  i64 columns;            // length = rows x columns: one step along the rows' index, one along the columns'
  int convolve;           // Bluestein
  int inverse;
  const void* chirp;     // [sequence] complex: exp(-pi i j^2 / sequence), for a convolution
  const void* kernel;    // [length] complex: spectrum of the conjugate chirp over length, in the order of the points
  const void* coarse;    // exp(-2 pi i (j 2^12) / length), j up to length / 2^12
  const void* fine;      // exp(-2 pi i j / length), j < 2^12
  const void* twiddles;  // of the stages of a step; of through_memory: down, and along in axis.twiddles_back
};

// The spectral loss of many matrices of one shape (spectral.h): two passes over x, and what stands between them. `axis`
// is the measured pass over x (in: x) or the one that blends the residual into gradients (in: the coefficients' side,
// out: gradients).
struct SpectralArgs {
  AxisArgs axis;
  const void* x[kMatrices];
  i64 x_along, x_four, x_lane;
  i64 shift_along, shift_count;  // of the values of the first row
  Type x_type;
  int x_quads;
  int write;    // whether there are gradients
  i64 scratch;  // byte of shared memory from which a block's threads add up
  i64 m, n, k0, k1;
  double decay0, decay1;
  int standardize;
  double scale;
  const double* scale_at;  // if not null, a factor of the scale
  double* terms;           // [matrix][4]: factor, slope, mean of x - shift, shift
  double* moments;         // [matrix][moment_blocks][2]: sums of x - shift and of its square
  double* kept;            // [matrix][kept_blocks][2]: sums of w C^2, without the mean's, and of w (1 - w) C^2
  double* squares;         // [matrix][square_blocks]: sums of the residual's square
  double* outcome;         // [matrix][2]: the second of `kept`, and 1 / s^2, or 0 of a constant matrix
  double* losses;          // [matrix]
  void* coefficients;      // [matrix][k0][k1]
  i64 moment_blocks, kept_blocks, square_blocks;
};
static_assert(sizeof(SpectralArgs) <= 4096, "what a launch may be told");

}  // namespace front::cuda
