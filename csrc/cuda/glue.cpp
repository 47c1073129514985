// The only file of the CUDA engine that sees tensors and the CUDA runtime: launches on the current stream, with the
// tables and kernels of a device kept for good. Nothing here waits for the device, but for the first use of a table.
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <torch/csrc/stable/accelerator.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>

#include "../spectral_checks.h"
#include "passes.h"

namespace front::cuda {
namespace {

using passes_detail::ForcedPlans;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  throw std::runtime_error(std::string("front: ") + what + ": " + cudaGetErrorString(error));
}

// NOTE: looked up, not linked: the library also loads where torch has no CUDA, and torch_cuda is not among what a
// library that links torch_cpu sees.
cudaStream_t current_stream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const auto function = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library ? reinterpret_cast<Function>(dlsym(library, "aoti_torch_get_current_cuda_stream")) : nullptr;
  }();
  if (!function) throw std::runtime_error("front: this torch has no aoti_torch_get_current_cuda_stream");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(function(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

// Tables and kernels may first be needed while a stream is captured into a graph. What makes them is not part of the
// graph, and is allowed in this mode.
class OutsideOfCapture {
 public:
  OutsideOfCapture() { check(cudaThreadExchangeStreamCaptureMode(&mode_), "capture mode"); }
  ~OutsideOfCapture() { cudaThreadExchangeStreamCaptureMode(&mode_); }

 private:
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

class Device {
 public:
  static Device& get(int32_t index) {
    static auto* mutex = new std::mutex;  // never destroyed, as all that they guard: ops may run at exit
    static auto* devices = new std::map<int32_t, Device*>;
    std::lock_guard<std::mutex> lock(*mutex);
    Device*& device = (*devices)[index];
    if (!device) device = new Device(index);
    return *device;
  }

  const Hardware& hardware() const { return hardware_; }

  void launch(Launch& l, cudaStream_t stream) {
    char* args = l.bytes();
    for (const auto& [table, offset] : table_slots(l)) {
      const void* address = this->table(*table);
      std::memcpy(args + offset, &address, sizeof address);
    }
    if (l.blocks > 0x7fffffff) throw std::runtime_error("front: more blocks than a launch may have");
    void* parameters[] = {args};
    check(cudaLaunchKernel(kernel(l), dim3(static_cast<unsigned>(l.blocks)), dim3(static_cast<unsigned>(l.threads)),
                           parameters, static_cast<size_t>(l.shared), stream),
          l.kernel->name.c_str());
  }

 private:
  explicit Device(int32_t index) : index_(index) {
    const auto attribute = [&](cudaDeviceAttr a) {
      int value = 0;
      check(cudaDeviceGetAttribute(&value, a, index), "device attribute");
      return value;
    };
    architecture_ = 10 * attribute(cudaDevAttrComputeCapabilityMajor) + attribute(cudaDevAttrComputeCapabilityMinor);
    if (architecture_ < 80) {
      std::ostringstream message;
      message << "front: the CUDA engine needs compute capability 8.0 or later, device " << index << " has "
              << architecture_ / 10 << '.' << architecture_ % 10 << ". Move x to the CPU (x.cpu())";
      throw std::runtime_error(message.str());
    }
    hardware_ = {attribute(cudaDevAttrMultiProcessorCount), attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin),
                 attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor), hardware_for(architecture_).more_registers,
                 attribute(cudaDevAttrMaxThreadsPerMultiProcessor)};
  }

  const void* table(const Table& key) {
    std::lock_guard<std::mutex> lock(mutex_);
    void*& address = tables_[key];
    if (!address) {
      const std::vector<char> bytes = key.build();
      const OutsideOfCapture outside;
      void* allocated = nullptr;
      check(cudaMalloc(&allocated, bytes.size()), "memory for a table");
      std::unique_ptr<void, cudaError_t (*)(void*)> memory(allocated, &cudaFree);
      cudaStream_t stream = nullptr;
      check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "stream for a table");
      const cudaError_t copied = cudaMemcpyAsync(allocated, bytes.data(), bytes.size(), cudaMemcpyHostToDevice, stream);
      const cudaError_t done = cudaStreamSynchronize(stream);
      cudaStreamDestroy(stream);
      check(copied, "copy of a table"), check(done, "copy of a table");
      address = memory.release();
    }
    return address;
  }

  // NOTE: the lock is not held while Python makes the image: that can take seconds, and can call ops itself.
  const void* kernel(const Launch& l) {
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (const auto found = kernels_.find(l.kernel); found != kernels_.end())
        return reinterpret_cast<const void*>(found->second);
      // Plans for other lanes, or another number of coefficients, have kernels of their own that are the same code.
      if (const auto loaded = loaded_.find(l.kernel->name); loaded != loaded_.end())
        return reinterpret_cast<const void*>(kernels_[l.kernel] = loaded->second);
    }
    const Tensor image = kernel_image(*l.kernel);
    std::lock_guard<std::mutex> lock(mutex_);
    cudaKernel_t& kept = loaded_[l.kernel->name];
    if (!kept) {
      const OutsideOfCapture outside;
      cudaLibrary_t library = nullptr;
      check(cudaLibraryLoadData(&library, image.const_data_ptr(), nullptr, nullptr, 0, nullptr, nullptr, 0),
            l.kernel->name.c_str());
      try {
        cudaKernel_t kernel = nullptr;
        check(cudaLibraryGetKernel(&kernel, library, l.kernel->name.c_str()), l.kernel->name.c_str());
        check(cudaKernelSetAttributeForDevice(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                              static_cast<int>(hardware_.shared_per_block), index_),
              "shared memory");
        prefer_cache(kernel, l);
        kept = kernel;  // only now: what is kept is complete
      } catch (...) {
        cudaLibraryUnload(library);
        throw;
      }
    }
    return reinterpret_cast<const void*>(kernels_[l.kernel] = kept);
  }

  // What shared memory the blocks of a multiprocessor leave is first-level cache, which holds the tables: no more is
  // set aside than the blocks need that its registers have room for. A hint: without it kernels are only slower.
  void prefer_cache(cudaKernel_t kernel, const Launch& l) const {
    cudaFuncAttributes found{};
    cudaError_t error = cudaFuncGetAttributes(&found, reinterpret_cast<const void*>(kernel));
    if (error == cudaSuccess) {
      const int64_t shared = l.shared + static_cast<int64_t>(found.sharedSizeBytes);
      const int64_t blocks = plan_detail::resident_blocks(l.threads, found.numRegs, shared, hardware_);
      const int64_t bytes = std::max<int64_t>(1, blocks) * (l.shared + plan_detail::kReservedShared);
      const int64_t percent = std::min<int64_t>(100, divide_up(100 * bytes, hardware_.shared_per_multiprocessor));
      error = cudaKernelSetAttributeForDevice(kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                              static_cast<int>(percent), index_);
    }
    if (error != cudaSuccess) cudaGetLastError();  // else the next check would report it
  }

  // The machine code, from what was built ahead or from the run-time compiler: front_kernels/_kernels.py.
  Tensor kernel_image(const Kernel& k) const {
    std::array<StableIValue, 3> stack{torch::stable::detail::from(k.name), torch::stable::detail::from(k.source),
                                      torch::stable::detail::from(static_cast<int64_t>(architecture_))};
    TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("front::_cuda_image", "", stack.data(), TORCH_ABI_VERSION));
    const Tensor image = torch::stable::detail::to<Tensor>(stack[0]);
    const auto* bytes = static_cast<const char*>(image.const_data_ptr());
    const int64_t size = image.numel() - 1;
    if (bytes[size] != 0) throw std::runtime_error("front: no kernel for this GPU: " + std::string(bytes, size));
    return image;
  }

  const int32_t index_;
  int architecture_ = 0;
  Hardware hardware_;
  std::mutex mutex_;
  std::map<Table, void*> tables_;
  std::map<std::string, cudaKernel_t> loaded_;  // by name, which tells the source
  std::map<const Kernel*, cudaKernel_t> kernels_;
};

// Runs what make(hardware, workspace, &bytes) says, with a workspace of as many bytes.
template <class Make>
void run(const Tensor& x, Make make) {
  const int32_t index = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(index);
  Device& device = Device::get(index);
  int64_t bytes = 0;
  std::vector<Launch> launches = make(device.hardware(), nullptr, &bytes);
  std::optional<Tensor> workspace;
  if (bytes > 0) {
    workspace = empty(x, {divide_up(bytes, 4)}, DType::f32);
    launches = make(device.hardware(), static_cast<char*>(workspace->mutable_data_ptr()), &bytes);
  }
  const cudaStream_t stream = current_stream(index);
  for (Launch& l : launches) device.launch(l, stream);
}

std::tuple<int64_t, int64_t, int64_t, int64_t, int64_t> hardware(int64_t index) {
  const Hardware& h = Device::get(static_cast<int32_t>(index)).hardware();
  return {h.multiprocessors, h.shared_per_block, h.shared_per_multiprocessor, h.more_registers,
          h.threads_per_multiprocessor};
}

void force_plan(std::vector<int64_t> plan, std::vector<int64_t> radices, int64_t fours) {
  ForcedPlans::get().set(plan_of(plan, radices), fours_of(fours));
}

// The arguments were checked in Python (engines.py).
void matrices(std::vector<Tensor> xs, std::vector<Tensor> outs, int64_t direction, int64_t k0, int64_t k1,
              const NormName& norm) {
  if (xs.empty()) return;
  if (xs.size() == 1) xs[0] = unshared(xs[0], outs[0]);
  const Types types = types_of("_cuda_matrices", xs[0], outs[0]);
  const Norm scale = parse_norm("_cuda_matrices", norm.value);
  const auto launch = [&](const MatrixPass& pass) {
    run(xs[0], [&](const Hardware& hardware, char* workspace, int64_t* bytes) {
      return matrix_launches(pass, hardware, workspace, bytes);
    });
  };
  switch (static_cast<Direction>(direction)) {
    case Direction::forward:
      return forward_matrices(xs, outs, scale, types, launch);
    case Direction::inverse:
      return inverse_matrices(xs, outs, scale, types, launch);
    case Direction::resize:
      return resize_matrices(xs[0], k0, k1, outs[0], scale, types, launch);
  }
}

void axis(const Tensor& x, const Tensor& out, int64_t direction, int64_t dim, const NormName& norm) {
  const Types types = types_of("_cuda_axis", x, out);
  const bool forward = static_cast<Direction>(direction) == Direction::forward;
  const int64_t n = (forward ? x : out).sizes()[dim], kept = (forward ? out : x).sizes()[dim];
  const AxisPass pass = new_axis_pass(static_cast<Direction>(direction), parse_norm("_cuda_axis", norm.value), n, kept,
                                      dim, x, out, types);
  run(x, [&](const Hardware& hardware, char* workspace, int64_t* bytes) {
    return axis_launches(pass, size_of(types.compute), hardware, workspace, bytes);
  });
}

// Whether _cuda_spectral_ takes matrices of `sizes` (m, n, k0, k1) and `strides` (row, column): types of x, compute and
// gradient.
bool spectral_fits(std::vector<int64_t> sizes, std::vector<int64_t> strides, std::vector<int64_t> types,
                   std::vector<int64_t> hardware) {
  const auto type = [&](size_t i) { return static_cast<DType>(types.at(i)); };
  const void* x = nullptr;
  int64_t bytes = 0;
  const SpectralMatrices matrices{
      sizes.at(0),   sizes.at(1),   sizes.at(2), sizes.at(3), type(0), type(1), type(2), strides.at(0), strides.at(1),
      strides.at(0), strides.at(1), &x,          nullptr,     1,       0,       0,       true,          1,
      nullptr,       nullptr};
  const Hardware device = hardware_of(hardware);
  return !spectral_launches(matrices, device, nullptr, &bytes).empty();
}

int64_t plans_forced() { return ForcedPlans::get().changes(); }

// The arguments were checked in Python (_spectral_gpu.py), but for memory that is shared.
Tensor spectral(std::vector<Tensor> grads, std::vector<Tensor> xs, std::vector<int64_t> ks, double scale,
                std::vector<Tensor> scale_at, bool standardize, SpectralDecay decay) {
  const bool apart = grads.empty() || check_apart("spectral_grad_many_", grads, xs);
  std::vector<SpectralMatrix> list;
  for (size_t i = 0; i < xs.size(); ++i) {
    if (xs[i].numel() == 0) continue;
    const Types types = types_of("_cuda_spectral_", xs[i]);
    const Tensor& grad = grads.empty() ? xs[i] : grads[i];
    const auto sizes = xs[i].sizes(), strides = xs[i].strides(), grad_strides = grad.strides();
    const size_t row = sizes.size() - 2, column = row + 1;
    const DType grad_type = dtype_of("_cuda_spectral_", "grads' dtype", grad.scalar_type());
    const auto* x = static_cast<const char*>(xs[i].const_data_ptr());
    auto* own = grads.empty() ? nullptr : static_cast<char*>(grad.mutable_data_ptr());
    for_each_matrix(xs[i], grads.empty() ? nullptr : &grad, [&](int64_t at, int64_t grad_at) {
      list.push_back({sizes[row], sizes[column], ks[2 * i], ks[2 * i + 1], strides[row], strides[column],
                      grad_strides[row], grad_strides[column], types.in, types.compute, grad_type,
                      x + at * size_of(types.in), own ? own + grad_at * size_of(grad_type) : nullptr});
    });
  }
  const Tensor losses = empty(xs[0], {static_cast<int64_t>(list.size())}, DType::f64);
  const SpectralOptions options{decay ? (*decay)[0] : 0, decay ? (*decay)[1] : 0, standardize, scale,
                                scale_at.empty() ? nullptr : static_cast<const double*>(scale_at[0].const_data_ptr())};
  run(xs[0], [&](const Hardware& hardware, char* workspace, int64_t* bytes) {
    return spectral_list_launches(list, apart, options, static_cast<double*>(losses.mutable_data_ptr()), hardware,
                                  workspace, bytes);
  });
  return losses;
}

}  // namespace
}  // namespace front::cuda

STABLE_TORCH_LIBRARY_IMPL(front, CUDA, m) {
  m.impl("_cuda_matrices", TORCH_BOX(&front::cuda::matrices));
  m.impl("_cuda_axis", TORCH_BOX(&front::cuda::axis));
  m.impl("_cuda_spectral_", TORCH_BOX(&front::cuda::spectral));
}
STABLE_TORCH_LIBRARY_IMPL(front, CompositeExplicitAutograd, m) {
  m.impl("_cuda_force_plan", TORCH_BOX(&front::cuda::force_plan));
  m.impl("_cuda_plans_forced", TORCH_BOX(&front::cuda::plans_forced));
  m.impl("_cuda_spectral_fits", TORCH_BOX(&front::cuda::spectral_fits));
  m.impl("_cuda_hardware", TORCH_BOX(&front::cuda::hardware));
}
