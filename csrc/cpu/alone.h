// Vectors that are transformed one by one, the points of each in the vector lanes (alone_plan.h).
#pragma once

#include <cstdint>

#include "../alone_plan.h"
#include "../params.h"
#include "dfts.h"

namespace front::cpu {

// Tables of a length and a width W. With w = exp(-2 pi i / points) the twiddle of row q and column b W + i is the
// product of `lanes` and `blocks`, so that what is stored is a share of the points. The DFT halves, so that sums of two
// points are no larger than one.
template <class T>
struct AloneView {
  int64_t n, points, rows, columns;  // points = n / 2 = rows * columns
  FftView<T> down, across;
  const int32_t *down_slot, *across_slot;
  const T* lanes;        // w^(i q), [rows][re, im][W]
  const T* blocks;       // w^(b W q) / 2, [blocks of columns][rows] complex
  const T* turns;        // exp(-pi i j / 2 n) and exp(-2 pi i j / n), j < W: [4][W]
  const T* block_turns;  // the same of j = b W, up to points / 2: [blocks][4]
};

enum class AlonePart : int32_t {
  values_in,        // forward: values -> points
  coefficients_in,  // inverse: coefficients -> points
  down,
  across,            // the DFT
  coefficients_out,  // forward
  values_out,        // inverse
};

template <class T>
struct AloneStep {
  AlonePart part;
  const AxisPass* pass;
  int64_t in, out;  // where the vector's elements begin
  AloneView<T> view;
  T first, other;          // what coefficients are multiplied by, of what is halved
  T *re, *im;              // points, and a vector beyond
  T *cross_re, *cross_im;  // columns x pitch
  int64_t pitch;           // rows, in whole vectors
};

// Units [begin, end) of a part: vectors of points or coefficients and their mirrors, blocks of columns, blocks of rows.
template <class T>
using AloneKernel = void (*)(const AloneStep<T>& step, int64_t begin, int64_t end, void* scratch);

// Transforms the lanes of `pass` so if that is predicted to be faster; false: nothing was done. Throws as run_axis.
bool run_alone(const AxisPass& pass, const Executor& executor);
// By a plan, that has rows, whatever is faster. Elements of a lane are adjacent, in the input and in the output.
void run_alone(const AxisPass& pass, const Executor& executor, const AlonePlan& plan);

}  // namespace front::cpu
