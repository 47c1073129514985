// The CPU kernels without torch, one thread: `kernels forward|inverse|resize M N K0 K1 [f32|f64|bf16|f16] [REPEATS]`
// transforms M x N matrices (input of forward and resize, output of inverse; resize gives 2M x 2N), or, if M is 1 and
// K0, too, a vector along its only axis, alone. For profilers that count instructions (tests/test_instructions.py) or
// sample them; FRONT_CPU_ISA chooses the instruction set.
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "cpu/alone.h"
#include "cpu/axis.h"
#include "cpu/matrix.h"
#include "cpu/memory.h"
#include "cpu/parallel.h"

namespace {

using front::Direction;
using front::DType;
using front::MatrixPass;

DType parse_type(const char* name) {
  for (auto [known, type] : {std::pair<const char*, DType>{"f32", DType::f32},
                             {"f64", DType::f64},
                             {"bf16", DType::bf16},
                             {"f16", DType::f16}})
    if (!std::strcmp(name, known)) return type;
  std::fprintf(stderr, "unknown type '%s': f32, f64, bf16 or f16\n", name);
  std::exit(2);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: kernels forward|inverse|resize M N K0 K1 [f32|f64|bf16|f16] [REPEATS]\n");
    return 2;
  }
  MatrixPass pass{};
  pass.direction = !std::strcmp(argv[1], "forward")   ? Direction::forward
                   : !std::strcmp(argv[1], "inverse") ? Direction::inverse
                                                      : Direction::resize;
  pass.m = std::atoll(argv[2]), pass.n = std::atoll(argv[3]);
  pass.k0 = std::atoll(argv[4]), pass.k1 = std::atoll(argv[5]);
  pass.size0 = 2 * pass.m, pass.size1 = 2 * pass.n;
  const DType type = parse_type(argc > 6 ? argv[6] : "f32");
  const int repeats = argc > 7 ? std::atoi(argv[7]) : 1;
  pass.in_type = pass.out_type = type;
  pass.compute_type = type == DType::f64 ? DType::f64 : DType::f32;

  const bool inverse = pass.direction == Direction::inverse, resize = pass.direction == Direction::resize;
  const int64_t in_rows = inverse ? pass.k0 : pass.m, in_columns = inverse ? pass.k1 : pass.n;
  const int64_t out_rows = inverse ? pass.m : resize ? pass.size0 : pass.k0;
  const int64_t out_columns = inverse ? pass.n : resize ? pass.size1 : pass.k1;
  pass.in_row = in_columns, pass.in_column = 1, pass.out_row = out_columns, pass.out_column = 1;
  const auto bytes = [&](int64_t rows, int64_t columns) {
    return static_cast<size_t>(rows * columns) * front::size_of(type);
  };
  const size_t in_bytes = bytes(in_rows, in_columns);
  const front::cpu::Workspace x(in_bytes), y(bytes(out_rows, out_columns));  // from a line on, as tensors are
  char* const in = static_cast<char*>(x.data());
  uint32_t state = 1;
  const size_t size = front::size_of(type);
  for (size_t i = 0; i < in_bytes; ++i) {  // between 1 and 2, of either sign: subnormal numbers take longer
    state = state * 1664525u + 1013904223u;
    const uint32_t byte = state >> 24;
    const size_t from_top = size - 1 - i % size;
    const uint32_t exponent = type == DType::f16 ? 0x3c : 0x3f, next = type == DType::f64 ? 0xf0 : 0x80;
    if (from_top == 0)
      in[i] = static_cast<char>((byte & (type == DType::f16 ? 0x83 : 0x80)) | exponent);
    else
      in[i] = static_cast<char>(from_top == 1 && type != DType::f16 ? byte | next : byte);
  }
  const void* ins[] = {x.data()};
  void* outs[] = {y.data()};
  pass.in = ins, pass.out = outs, pass.count = 1;

  front::AxisPass vector{};
  vector.direction = pass.direction;
  vector.n = pass.n, vector.kept = pass.k1;
  vector.in = x.data(), vector.out = y.data();
  vector.in_type = vector.out_type = type;
  vector.in_along = vector.out_along = {1, 0, 0};
  const bool alone = pass.m == 1 && pass.k0 == 1 && !resize;

  double best = 1e30;
  for (int r = 0; r < repeats; ++r) {
    const auto begin = std::chrono::steady_clock::now();
    if (!alone || !front::cpu::run_alone(vector, front::cpu::kSerial))
      front::cpu::run_matrices(pass, front::cpu::kSerial);
    best = std::min(best, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  }
  std::printf("%s %.3f ms\n", front::cpu::isa_name(), 1e3 * best);
}
