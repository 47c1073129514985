#include "axis.h"

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>
#include <vector>

#include "axis_isa.h"

namespace front::cpu {
namespace {

constexpr int64_t kGrainPoints = 1 << 15;  // least work worth a thread: points of one lane block
constexpr size_t kAlignment = 64;

bool supported(const Isa& isa) {
#ifdef FRONT_X86
  __builtin_cpu_init();
  if (&isa == &kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("fma");
  if (&isa == &kAvx2) return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
  return &isa == &kGeneric;
}

const std::vector<const Isa*>& built() {
#ifdef FRONT_X86
  static const std::vector<const Isa*> all{&kAvx512, &kAvx2, &kGeneric};
#else
  static const std::vector<const Isa*> all{&kGeneric};
#endif
  return all;
}

const Isa& choose_isa() {
  const char* wanted = std::getenv("FRONT_CPU_ISA");
  std::string have;
  for (const Isa* isa : built()) {
    if (!supported(*isa)) continue;
    if (!wanted || !*wanted || isa->name == std::string(wanted)) return *isa;
    have += have.empty() ? "" : ", ";
    have += isa->name;
  }
  throw std::invalid_argument("FRONT_CPU_ISA must be one that this machine and build have (" + have + "), got '" +
                              wanted + "'");
}

const Isa& isa() {
  static const Isa& chosen = choose_isa();
  return chosen;
}

// Lane axes of size 1 go; the rest are ordered so that the innermost is nearest in memory; adjacent ones merge where
// both tensors allow it.
AxisPass simplified(AxisPass pass) {
  std::vector<LaneDim> dims;
  for (int32_t d = 0; d < pass.lane_dims; ++d)
    if (pass.lanes[d].size != 1) dims.push_back(pass.lanes[d]);
  std::stable_sort(dims.begin(), dims.end(), [](const LaneDim& a, const LaneDim& b) {
    return std::abs(a.in_stride) + std::abs(a.out_stride) > std::abs(b.in_stride) + std::abs(b.out_stride);
  });
  pass.lane_dims = 0;
  for (const LaneDim& dim : dims) {
    LaneDim* last = pass.lane_dims ? &pass.lanes[pass.lane_dims - 1] : nullptr;
    if (last && last->in_stride == dim.in_stride * dim.size && last->out_stride == dim.out_stride * dim.size)
      *last = {last->size * dim.size, dim.in_stride, dim.out_stride};
    else
      pass.lanes[pass.lane_dims++] = dim;
  }
  return pass;
}

class Scratch {
 public:
  explicit Scratch(size_t bytes)
      : data_(std::aligned_alloc(kAlignment, (bytes + kAlignment - 1) / kAlignment * kAlignment)) {}
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() { std::free(data_); }
  void* get() const { return data_; }

 private:
  void* data_;
};

template <class T>
void run_typed(const AxisPass& pass, BlockKernel<T> kernel, ParallelFor parallel) {
  const auto tables = axis_tables<T>(pass.n, pass.kept, pass.scale);
  struct Job {
    const AxisPass& pass;
    AxisView<T> axis;
    BlockKernel<T> kernel;
    size_t scratch_bytes;
    std::atomic<bool> out_of_memory{false};
  } job{pass, tables->view(), kernel, 0};
  job.scratch_bytes = static_cast<size_t>(job.axis.work) * 2 * isa().vector_bytes;

  const int64_t width = lanes_per_block<T>(isa()), grain = std::max<int64_t>(1, kGrainPoints / (pass.n * width));
  parallel(
      block_count(pass, width), grain,
      [](int64_t begin, int64_t end, void* context) {
        Job& j = *static_cast<Job*>(context);
        const Scratch scratch(j.scratch_bytes);
        if (scratch.get())
          j.kernel(j.pass, j.axis, begin, end, scratch.get());
        else
          j.out_of_memory = true;  // no exception may cross the thread pool
      },
      &job);
  if (job.out_of_memory) throw std::bad_alloc();
}

}  // namespace

void run_axis(const AxisPass& pass, ParallelFor parallel) {
  const AxisPass simple = simplified(pass);
  if (lane_count(simple) == 0) return;
  if (pass.in_type == DType::f64 || pass.out_type == DType::f64)
    run_typed<double>(simple, isa().f64, parallel);
  else
    run_typed<float>(simple, isa().f32, parallel);
}

const char* isa_name() { return isa().name; }

}  // namespace front::cpu
