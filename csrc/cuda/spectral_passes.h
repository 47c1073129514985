// The launches of the spectral loss: spectral.h's kernels, and the passes along columns between them.
#pragma once

#include <map>

#include "passes.h"

namespace front::cuda {

// Of one shape and layout, each with its own gradient.
struct SpectralMatrices {
  int64_t m, n, k0, k1;
  DType x_type, compute_type, grad_type;
  int64_t x_row, x_column, grad_row, grad_column;  // strides
  const void* const* xs;
  void* const* grads;  // or null
  int64_t count;
  double decay0, decay1;
  bool standardize;
  double scale;
  const double* scale_at;  // on the device, or null
  double* losses;          // [count]
};

// The intermediates of matrices that are taken together: of many, fewer at a time.
constexpr int64_t kSpectralWorkspace = int64_t{256} << 20;

// The launches, and the bytes of workspace that they need. None, if a row does not fit shared memory.
inline std::vector<Launch> spectral_launches(SpectralMatrices x, const Hardware& hardware, char* workspace,
                                             int64_t* workspace_bytes) {
  const int64_t shift_along = x.x_column, shift_count = x.n;
  if (x.m > 1 && ((x.x_row == 1 && x.x_column != 1) || x.n == 1)) {  // by columns: the transpose lies by rows
    std::swap(x.m, x.n), std::swap(x.k0, x.k1), std::swap(x.decay0, x.decay1);
    std::swap(x.x_row, x.x_column), std::swap(x.grad_row, x.grad_column);
  }
  const auto across = [](Side s) {
    std::swap(s.along, s.lane), std::swap(s.four, s.lane_four);
    return s;
  };
  const int64_t real_bytes = size_of(x.compute_type), pitch = divide_up(x.m, 4) * 4, each = x.k1 * pitch;
  const int64_t corner = x.k0 * x.k1, kept_blocks = divide_up(corner, kWeighed);
  const int64_t most =
      std::clamp<int64_t>(kSpectralWorkspace / ((each + corner) * real_bytes), 1, static_cast<int64_t>(kMatrices));
  const auto compute = static_cast<Type>(x.compute_type);
  std::vector<Launch> launches;
  *workspace_bytes = 0;
  for (int64_t first = 0; first < x.count; first += most) {
    const int64_t count = std::min(most, x.count - first);
    Passes passes(real_bytes, hardware, workspace);
    const auto doubles = [&](int64_t numbers) {
      return reinterpret_cast<double*>(passes.at(passes.reserve(numbers * 8 / real_bytes)));
    };
    Side from{{}, 0, static_cast<Type>(x.x_type), x.x_column, x.x_row, 0}, to = from;
    SpectralArgs args{};
    for (int64_t i = first; i < first + count; ++i) {
      args.x[i - first] = x.xs[i];
      from.pointers.push_back(static_cast<char*>(const_cast<void*>(x.xs[i])));
    }
    // Without gradients nothing is written, and the values go where x lies.
    to.pointers = from.pointers;
    if (x.grads) {
      to.type = static_cast<Type>(x.grad_type), to.along = x.grad_column, to.lane = x.grad_row;
      for (int64_t i = 0; i < count; ++i) to.pointers[i] = static_cast<char*>(x.grads[first + i]);
    }
    args.x_along = x.x_column, args.x_four = 4 * x.x_column, args.x_lane = x.x_row;
    args.shift_along = shift_along, args.shift_count = shift_count;
    args.x_type = static_cast<Type>(x.x_type);
    args.write = x.grads != nullptr;
    args.m = x.m, args.n = x.n, args.k0 = x.k0, args.k1 = x.k1;
    args.decay0 = x.decay0, args.decay1 = x.decay1;
    args.standardize = x.standardize, args.scale = x.scale, args.scale_at = x.scale_at;
    args.terms = doubles(4 * count), args.outcome = doubles(2 * count);
    args.losses = x.losses + first;
    const auto finish = [&] {
      *workspace_bytes = std::max(*workspace_bytes, passes.workspace_bytes());
      for (Launch& l : passes.launches) launches.push_back(std::move(l));
    };
    const Pass whole{Direction::forward, x.n, x.k1, 0, {}, {}, x.m, 1, count, from, to};
    args.x_quads = passes.quads_of(whole);
    if (x.m == 1 && passes.spectral_blocks(whole, true)) {
      passes.add_spectral(whole, args, true);
      finish();
      continue;
    }
    const Side middle{{}, passes.reserve(each * count), compute, 1, 4, each, 4 * x.k1};
    const int64_t at = passes.reserve(corner * count);
    const Side corners{{}, at, compute, 1, x.k1, corner};
    const Pass rows{Direction::forward, x.n, x.k1, 0, {}, {}, x.m, 1, count, from, across(middle)};
    const Pass columns{Direction::forward, x.m, x.k0, 0, {}, {}, x.k1, 1, count, middle, across(corners)};
    const Pass columns_back{Direction::inverse, x.m, x.k0, 0, {}, {}, x.k1, 1, count, across(corners), middle};
    const Pass rows_back{Direction::inverse, x.n, x.k1, 0, {}, {}, x.m, 1, count, across(middle), to};
    args.moment_blocks = passes.spectral_blocks(rows), args.square_blocks = passes.spectral_blocks(rows_back);
    if (!args.moment_blocks || !args.square_blocks) return {};

    args.coefficients = passes.at(at);
    args.kept_blocks = kept_blocks;
    args.moments = doubles(2 * count * args.moment_blocks), args.kept = doubles(2 * count * kept_blocks);
    args.squares = doubles(count * args.square_blocks);
    const auto& own = passes_detail::find_spectral(real_bytes);
    const auto step = [&](const Kernel& kernel, int64_t blocks) {
      Launch launch;
      launch.kernel = &kernel;
      launch.blocks = blocks, launch.threads = kPackThreads, launch.shared = kPackThreads * kSumBytes;
      launch.args = args;
      passes.launches.push_back(std::move(launch));
    };
    step(own.shift, count);
    passes.add_spectral(rows, args);
    passes.add(columns);
    step(own.weigh, count * kept_blocks);
    step(own.terms, count);
    passes.add(columns_back);
    passes.add_spectral(rows_back, args);
    step(own.loss, count);
    finish();
  }
  return launches;
}

// One matrix of a list, and its gradient.
struct SpectralMatrix {
  int64_t m, n, k0, k1;
  int64_t x_row, x_column, grad_row, grad_column;  // strides
  DType x_type, compute_type, grad_type;
  const void* x;
  void* grad;  // null: no matrix of the list has one
  using Key = std::array<int64_t, 11>;
  Key key() const {
    const auto number = [](DType t) { return static_cast<int64_t>(t); };
    return {
        m, n, k0, k1, x_row, x_column, grad_row, grad_column, number(x_type), number(compute_type), number(grad_type)};
  }
};

// What goes for all of them.
struct SpectralOptions {
  double decay0, decay1;
  bool standardize;
  double scale;
  const double* scale_at;  // on the device, or null
};

// The launches for a list, whose losses, [list.size()], are in no order that means something: matrices of one shape and
// layout together, but one after the other where gradients share memory (not apart).
inline std::vector<Launch> spectral_list_launches(const std::vector<SpectralMatrix>& list, bool apart,
                                                  const SpectralOptions& options, double* losses,
                                                  const Hardware& hardware, char* workspace, int64_t* workspace_bytes) {
  struct Group {
    SpectralMatrix like;
    std::vector<const void*> xs;
    std::vector<void*> grads;
  };
  std::vector<Group> groups;
  std::map<SpectralMatrix::Key, size_t> found;
  for (const SpectralMatrix& matrix : list) {
    auto place = found.find(matrix.key());
    if (place == found.end() || !apart) {
      place = found.insert_or_assign(matrix.key(), groups.size()).first;
      groups.push_back({matrix, {}, {}});
    }
    groups[place->second].xs.push_back(matrix.x);
    if (matrix.grad) groups[place->second].grads.push_back(matrix.grad);
  }
  std::vector<Launch> launches;
  *workspace_bytes = 0;
  for (const Group& group : groups) {
    const SpectralMatrix& g = group.like;
    const auto count = static_cast<int64_t>(group.xs.size());
    const auto add = [&](int64_t begin, int64_t number) {
      int64_t bytes = 0;
      std::vector<Launch> own = spectral_launches({g.m,
                                                   g.n,
                                                   g.k0,
                                                   g.k1,
                                                   g.x_type,
                                                   g.compute_type,
                                                   g.grad_type,
                                                   g.x_row,
                                                   g.x_column,
                                                   g.grad_row,
                                                   g.grad_column,
                                                   group.xs.data() + begin,
                                                   group.grads.empty() ? nullptr : group.grads.data() + begin,
                                                   number,
                                                   options.decay0,
                                                   options.decay1,
                                                   options.standardize,
                                                   options.scale,
                                                   options.scale_at,
                                                   losses + begin},
                                                  hardware, workspace, &bytes);
      for (Launch& l : own) launches.push_back(std::move(l));
      *workspace_bytes = std::max(*workspace_bytes, bytes);
      return !own.empty();
    };
    // Plans for many rows take more of them per block, whose sums may be too much for shared memory.
    if (!add(0, count))
      for (int64_t i = 0; i < count; ++i)
        if (!add(i, 1)) throw std::runtime_error("front: a row does not fit shared memory");
    losses += count;
  }
  return launches;
}

}  // namespace front::cuda
