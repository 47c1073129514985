// Build tool: writes the kernels that are compiled ahead, one file each, the ninja file that compiles them, and a list
// of them with their architectures, for front_kernels/_kernels.py.
//   front_ahead SOURCES FOLDER NVCC HEADERS ARCHITECTURES     e.g. ARCHITECTURES = 80,90
// The headers of the device code are copied beside them, for NVRTC, which compiles what is not in this list when it is
// first needed.
#include <filesystem>
#include <fstream>
#include <iostream>
#include <map>

#include "passes.h"

using namespace front;

namespace {

struct Case {
  int64_t m, n;
  std::vector<int64_t> shares;
};
// Matrices of DeiT, BERT, GPT-2 and Llama, and squares.
const std::vector<Case> kCases = {
    {768, 768, {1, 2}},      {3072, 768, {1, 2}},  {1024, 1024, {2}},
    {4096, 4096, {1, 2, 8}}, {8192, 8192, {1, 8}}, {11008, 4096, {4}},
};

// Of the spectral loss, whose kernels are those of one length of rows.
const std::vector<Case> kSpectralCases = {{768, 768, {2}}, {768, 3072, {2}}, {8192, 8192, {8}}};

const std::vector<std::string> kDeviceHeaders = {"args",    "axis",     "block",  "butterfly", "coefficients",
                                                 "kernels", "large",    "memory", "numbers",   "platform",
                                                 "rows",    "spectral", "tile"};

std::map<std::string, std::string> sources(const cuda::Hardware& hardware) {
  std::map<std::string, std::string> found;
  const auto add = [&](MatrixPass x) {
    int64_t bytes = 0;
    for (const cuda::Launch& l : cuda::matrix_launches(x, hardware, nullptr, &bytes))
      found[l.kernel->name] = l.kernel->source;
  };
  const void* in = nullptr;
  void* out = nullptr;
  for (const Case& c : kCases)
    for (int64_t share : c.shares)
      for (Direction direction : {Direction::forward, Direction::inverse, Direction::resize}) {
        if (direction == Direction::resize && (c.m == 1024 || c.m > 8192)) continue;  // low-passes of some
        MatrixPass x{};
        x.direction = direction;
        x.m = x.size0 = c.m, x.n = x.size1 = c.n;
        x.k0 = c.m / share, x.k1 = c.n / share;
        x.in_type = x.compute_type = x.out_type = DType::f32;
        x.in_row = direction == Direction::inverse ? x.k1 : c.n;
        x.out_row = direction == Direction::forward ? x.k1 : c.n;
        x.in_column = x.out_column = 1;
        x.in = &in, x.out = &out, x.count = 1;
        add(x);
      }
  for (const Case& c : kSpectralCases)
    for (int64_t share : c.shares) {
      cuda::SpectralMatrices x{};
      x.m = c.m, x.n = c.n, x.k0 = c.m / share, x.k1 = c.n / share;
      x.x_type = x.compute_type = x.grad_type = DType::f32;
      x.x_row = x.grad_row = c.n, x.x_column = x.grad_column = 1;
      x.xs = &in, x.grads = &out, x.count = 1;
      int64_t bytes = 0;
      for (const cuda::Launch& l : cuda::spectral_launches(x, hardware, nullptr, &bytes))
        found[l.kernel->name] = l.kernel->source;
    }
  return found;
}

// NOTE: files that have not changed are not touched, so that ninja compiles nothing twice.
void write(const std::filesystem::path& path, const std::string& text) {
  std::ifstream old(path);
  const std::string found((std::istreambuf_iterator<char>(old)), {});
  if (found == text) return;
  std::ofstream(path) << text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 6) {
    std::cerr << "usage: front_ahead SOURCES FOLDER NVCC HEADERS ARCHITECTURES\n";
    return 2;
  }
  const std::filesystem::path source_folder = argv[1], folder = argv[2], headers = argv[4];
  std::filesystem::create_directories(source_folder);
  std::filesystem::create_directories(folder);
  struct Ahead {
    std::string source, flags, architectures;
  };
  std::map<std::string, Ahead> kernels;
  std::stringstream architectures(argv[5]);
  for (std::string a; std::getline(architectures, a, ',');)
    for (const auto& [name, source] : sources(cuda::hardware_for(std::stoll(a)))) {
      kernels[name].source = source;
      kernels[name].flags += " -gencode arch=compute_" + a + ",code=sm_" + a;
      kernels[name].architectures += (kernels[name].architectures.empty() ? "" : ",") + a;
    }
  std::ostringstream ninja;
  ninja << "rule nvcc\n  command = " << argv[3] << " -std=c++17 -fatbin -Xptxas -v -I" << headers.string()
        << " $architectures -o $out $in > $out.log 2>&1 || (cat $out.log && false)\n  description = nvcc $in\n";
  for (const auto& [name, kernel] : kernels) {
    write(source_folder / (name + ".cu"), "#include \"kernels.h\"\n" + kernel.source);
    ninja << "build " << (folder / (name + ".fatbin")).string() << ": nvcc " << name << ".cu |";
    for (const auto& header : std::filesystem::directory_iterator(headers))
      if (header.path().extension() == ".h") ninja << ' ' << header.path().string();
    ninja << "\n  architectures =" << kernel.flags << '\n';
  }
  for (const std::string& name : kDeviceHeaders) {
    std::ifstream header(headers / (name + ".h"));
    write(folder / (name + ".h"), std::string((std::istreambuf_iterator<char>(header)), {}));
  }
  for (const auto& old : std::filesystem::directory_iterator(folder)) {  // kernels of earlier plans
    const std::string name = old.path().filename().string();
    if (old.path().extension() != ".h" && name != "kernels.txt" && !kernels.count(name.substr(0, name.find('.'))))
      std::filesystem::remove(old.path());
  }
  std::ostringstream list;
  for (const auto& [name, kernel] : kernels) list << name << ' ' << kernel.architectures << '\n';
  write(folder / "kernels.txt", list.str());
  write(source_folder / "build.ninja", ninja.str());
  std::cout << kernels.size() << " kernels\n";
}
