// One pass over one axis, W lanes at a time, one lane per vector element. Compiled once per instruction set.
//
// Forward: load (Makhoul order and digit reversal live in the store addresses) -> DFT in place -> combine the kept
// coefficients, the only ones formed -> store. Inverse is the exact transpose, step by step in reverse: coefficients
// are spread over the spectrum (absent ones cost nothing), DFT, store.
#include "axis_isa.h"

#include <type_traits>

#include "fft.h"
#include "simd.h"

namespace front::cpu {
namespace FRONT_ISA {
namespace {

template <class T>
struct Lanes {
  static constexpr int W = kLanes<T>;
  int count;  // lanes in use; the rest compute zeros
  int64_t in[W], out[W];
  bool in_adjacent, out_adjacent;  // the used ones are consecutive elements
};

template <class T>
Lanes<T> block_lanes(const AxisPass& pass, int64_t block) {
  constexpr int W = kLanes<T>;
  const int64_t inner = inner_lanes(pass, W), per_row = (inner + W - 1) / W;
  const int64_t start = block % per_row * W, first = block / per_row * inner + start;
  Lanes<T> lanes{};
  lanes.count = static_cast<int>(inner - start < W ? inner - start : W);
  lanes.in_adjacent = lanes.out_adjacent = true;
  for (int l = 0; l < lanes.count; ++l) {
    int64_t rest = first + l;
    for (int32_t d = pass.lane_dims; d-- > 0;) {
      const LaneDim& dim = pass.lanes[d];
      const int64_t i = rest % dim.size;
      rest /= dim.size;
      lanes.in[l] += i * dim.in_stride;
      lanes.out[l] += i * dim.out_stride;
    }
    lanes.in_adjacent &= lanes.in[l] == lanes.in[0] + l;
    lanes.out_adjacent &= lanes.out[l] == lanes.out[0] + l;
  }
  return lanes;
}

// Where element i of a lane lies: equidistant, or in panels (params.h).
struct Along {
  int64_t stride, panel, width;

  FRONT_INLINE int64_t at(int64_t i) const { return panel ? i / width * panel + i % width : i * stride; }
  bool adjacent() const { return panel || stride == 1; }
};

template <class In>
Along input_along(const AxisPass& pass) {
  return {pass.in_stride, pass.in_panel, kPanelBytes / static_cast<int64_t>(sizeof(In))};
}
template <class Out>
Along output_along(const AxisPass& pass) {
  return {pass.out_stride, pass.out_panel, kPanelBytes / static_cast<int64_t>(sizeof(Out))};
}

// Calls put(i, vector) for i = 0..n-1 with element i of every lane.
template <class In, class T, class Put>
FRONT_INLINE void for_each_input(const In* x, int64_t n, Along along, const Lanes<T>& lanes, Put put) {
  constexpr int W = kLanes<T>;
  if (lanes.in_adjacent && !along.panel) {
    const In* first = x + lanes.in[0];
    if (lanes.count == W)
      for (int64_t i = 0; i < n; ++i) put(i, load<T>(first + i * along.stride));
    else
      for (int64_t i = 0; i < n; ++i) put(i, load_some<T>(first + i * along.stride, lanes.count));
    return;
  }
  int64_t i = 0;
  if (along.adjacent()) {
    for (; i + W <= n; i += W) {
      const In* column = x + along.at(i);
      Vector<T> tile[W];
      if (lanes.count == W)
        for (int l = 0; l < W; ++l) tile[l] = load<T>(column + lanes.in[l]);
      else
        for (int l = 0; l < W; ++l) tile[l] = l < lanes.count ? load<T>(column + lanes.in[l]) : Vector<T>{};
      transpose<T>(tile);
      for (int j = 0; j < W; ++j) put(i + j, tile[j]);
    }
  }
  for (; i < n; ++i) {
    Vector<T> v{};
    for (int l = 0; l < lanes.count; ++l) v[l] = static_cast<T>(to_float(x[lanes.in[l] + along.at(i)]));
    put(i, v);
  }
}

// Stores get(i) for i = 0..n-1 as element i of every lane.
template <class Out, class T, class Get>
FRONT_INLINE void for_each_output(Out* y, int64_t n, Along along, const Lanes<T>& lanes, Get get) {
  constexpr int W = kLanes<T>;
  if (lanes.out_adjacent && !along.panel) {
    Out* first = y + lanes.out[0];
    if (lanes.count == W)
      for (int64_t i = 0; i < n; ++i) store<T>(first + i * along.stride, get(i));
    else
      for (int64_t i = 0; i < n; ++i) store_some<T>(first + i * along.stride, get(i), lanes.count);
    return;
  }
  int64_t i = 0;
  if (along.adjacent()) {
    for (; i + W <= n; i += W) {
      Out* column = y + along.at(i);
      Vector<T> tile[W];
      for (int j = 0; j < W; ++j) tile[j] = get(i + j);
      transpose<T>(tile);
      for (int l = 0; l < lanes.count; ++l) store<T>(column + lanes.out[l], tile[l]);
    }
  }
  for (; i < n; ++i) {
    const Vector<T> v = get(i);
    for (int l = 0; l < lanes.count; ++l) y[lanes.out[l] + along.at(i)] = round_to<Out>(static_cast<T>(v[l]));
  }
}

template <class T>
void run_dfts(const AxisView<T>& axis, Complex<T>* z) {
  Complex<T>* spare = z + axis.split * axis.half;
  for (int64_t s = 0; s < axis.split; ++s) run_dft(z + s * axis.half, axis.dft, spare, spare + axis.dft.fft.n);
}

// Between the spectra and the coefficients. Point `a` of each subsequence's spectrum and its mirror b = half - a hold
// all that the coefficients k with k % half = a or b depend on, and as many real numbers as there are such coefficients
// at most: a pair is read once and its coefficients replace it. Coefficient k = q half + r then is real number
// `part(q) + 2 place(r)` of the work array.
FRONT_INLINE int64_t part(int64_t q, int64_t half) { return q / 2 * 2 * half + q % 2; }

// Walks k = 0, 1, 2, ... as (q, r).
struct Walk {
  int64_t half, r = 0, q = 0;

  FRONT_INLINE void step() {
    if (++r == half) r = 0, ++q;
  }
};

// Calls f(k, r, other) for the kept coefficients of a pair: r is k's own point, `other` its mirror.
template <int kRuns, class F>
FRONT_INLINE void for_pair(int64_t a, int64_t b, int64_t half, int64_t kept, F f) {
  const int64_t runs = kRuns ? kRuns : (kept + half - 1) / half;
  for (int64_t q = 0, k = 0; q < runs; ++q, k += half) {
    if (k + a < kept) f(q, k + a, false);
    if (a != b && k + b < kept) f(q, k + b, true);
  }
}

template <int kSplit, int kRuns, class T>
void combine(const AxisView<T>& axis, Complex<T>* z) {
  constexpr int kMost = kSplit ? kSplit : plan_detail::kLargestSplit;
  const int64_t split = kSplit ? kSplit : axis.split, half = axis.half;
  auto* real = reinterpret_cast<Vector<T>*>(z);
  for (int64_t a = 0; 2 * a <= half; ++a) {
    const int64_t b = a ? half - a : 0;
    Complex<T> p[kMost], m[kMost];
    for (int64_t s = 0; s < split; ++s) p[s] = z[s * half + a], m[s] = z[s * half + b];
    for_pair<kRuns>(a, b, half, axis.kept, [&](int64_t q, int64_t k, bool mirrored) {
      const T* c = axis.combine + 4 * split * k;
      Vector<T> x{}, y{};
      for (int64_t s = 0; s < split; ++s, c += 4) {
        const Complex<T>&u = mirrored ? m[s] : p[s], &v = mirrored ? p[s] : m[s];
        x += splat(c[0]) * u.re + splat(c[2]) * u.im;
        y += splat(c[1]) * v.re + splat(c[3]) * v.im;
      }
      real[part(q, half) + 2 * (mirrored ? b : a)] = x + y;
    });
  }
}

// The transpose of `combine`, on points with re and im exchanged; coefficients and points at their DFT input slots.
template <int kSplit, int kRuns, class T>
void spread(const AxisView<T>& axis, Complex<T>* z) {
  constexpr int kMost = kSplit ? kSplit : plan_detail::kLargestSplit;
  const int64_t split = kSplit ? kSplit : axis.split, half = axis.half;
  const int32_t* slot = axis.dft.chirp ? nullptr : axis.dft.fft.slot;
  const auto* real = reinterpret_cast<const Vector<T>*>(z);
  for (int64_t a = 0; 2 * a <= half; ++a) {
    const int64_t b = a ? half - a : 0, at = slot ? slot[a] : a, bt = slot ? slot[b] : b;
    Complex<T> p[kMost], m[kMost];
    for (int64_t s = 0; s < split; ++s) p[s] = m[s] = Complex<T>::zero();
    for_pair<kRuns>(a, b, half, axis.kept, [&](int64_t q, int64_t k, bool mirrored) {
      const T* c = axis.combine + 4 * split * k;
      const Vector<T> x = real[part(q, half) + 2 * (mirrored ? bt : at)];
      for (int64_t s = 0; s < split; ++s, c += 4) {
        Complex<T>&u = mirrored ? m[s] : p[s], &v = mirrored ? p[s] : m[s];
        u.im += splat(c[0]) * x, u.re += splat(c[2]) * x;
        v.im += splat(c[1]) * x, v.re += splat(c[3]) * x;
      }
    });
    for (int64_t s = 0; s < split; ++s) {
      if (a == b) {
        z[s * half + at] = p[s] + m[s];
      } else {
        z[s * half + at] = p[s];
        z[s * half + bt] = m[s];
      }
    }
  }
}

// The common (split, runs) as code of their own.
#define FRONT_DISPATCH_PAIRS(f, axis, z)                                \
  do {                                                                  \
    const int64_t runs = ((axis).kept + (axis).half - 1) / (axis).half; \
    if ((axis).split == 1 && runs == 1) return f<1, 1>(axis, z);        \
    if ((axis).split == 1 && runs == 2) return f<1, 2>(axis, z);        \
    if ((axis).split == 2 && runs == 1) return f<2, 1>(axis, z);        \
    if ((axis).split == 2 && runs == 2) return f<2, 2>(axis, z);        \
    if ((axis).split == 3 && runs == 1) return f<3, 1>(axis, z);        \
    if ((axis).split == 4 && runs == 1) return f<4, 1>(axis, z);        \
    return f<0, 0>(axis, z);                                            \
  } while (false)

template <class T>
void combine_pairs(const AxisView<T>& axis, Complex<T>* z) {
  FRONT_DISPATCH_PAIRS(combine, axis, z);
}
template <class T>
void spread_pairs(const AxisView<T>& axis, Complex<T>* z) {
  FRONT_DISPATCH_PAIRS(spread, axis, z);
}
#undef FRONT_DISPATCH_PAIRS

// Lanes -> kept coefficients: emit(coefficient) is to call coefficient(k) for k = 0..kept-1, in order.
template <class In, class T, class Emit>
FRONT_INLINE void forward(const AxisPass& pass, const AxisView<T>& axis, const Lanes<T>& lanes, Complex<T>* z,
                          Emit emit) {
  auto* real = reinterpret_cast<Vector<T>*>(z);
  const In* in = static_cast<const In*>(pass.in);
  const Along along = input_along<In>(pass);
  const int32_t* position = axis.position;
  if (axis.n % 2 != 0) {
    for_each_input<In, T>(in, axis.n, along, lanes, [&](int64_t i, Vector<T> v) {
      real[position[i]] = v;
      real[position[i] + 1] = Vector<T>{};
    });
    run_dfts(axis, z);
    const T* c = axis.combine;
    emit([&](int64_t k) -> Vector<T> { return splat(c[2 * k]) * z[k].re + splat(c[2 * k + 1]) * z[k].im; });
    return;
  }
  for_each_input<In, T>(in, axis.n, along, lanes, [&](int64_t i, Vector<T> v) { real[position[i]] = v; });
  run_dfts(axis, z);
  combine_pairs(axis, z);
  Walk walk{axis.half};
  emit([&](int64_t) -> Vector<T> {
    const Vector<T> v = real[part(walk.q, walk.half) + 2 * walk.r];
    walk.step();
    return v;
  });
}

// Coefficients -> lanes: feed(put) is to call put(k, coefficient) for k = 0..kept-1, in order. The transpose of a DFT
// is the DFT with conjugated twiddles: the same code on points with re and im exchanged.
template <class Out, class T, class Feed>
FRONT_INLINE void inverse(const AxisPass& pass, const AxisView<T>& axis, const Lanes<T>& lanes, Complex<T>* z,
                          Feed feed) {
  auto* real = reinterpret_cast<Vector<T>*>(z);
  const int32_t* slot = axis.dft.chirp ? nullptr : axis.dft.fft.slot;
  if (axis.n % 2 != 0) {
    const T* c = axis.combine;
    feed([&](int64_t k, Vector<T> v) { z[slot ? slot[k] : k] = {splat(c[2 * k + 1]) * v, splat(c[2 * k]) * v}; });
    for (int64_t k = axis.kept; k < axis.half; ++k) z[slot ? slot[k] : k] = Complex<T>::zero();
  } else {
    Walk walk{axis.half};
    feed([&](int64_t, Vector<T> v) {
      real[part(walk.q, walk.half) + 2 * (slot ? slot[walk.r] : walk.r)] = v;
      walk.step();
    });
    spread_pairs(axis, z);
  }
  run_dfts(axis, z);
  const int32_t* result = axis.result;
  for_each_output<Out, T>(static_cast<Out*>(pass.out), axis.n, output_along<Out>(pass), lanes,
                          [&](int64_t i) { return real[result[i] ^ 1]; });
}

template <class In, class Out, class T>
void forward_block(const AxisPass& pass, const AxisView<T>& axis, const Lanes<T>& lanes, Complex<T>* z) {
  forward<In, T>(pass, axis, lanes, z, [&](auto coefficient) {
    for_each_output<Out, T>(static_cast<Out*>(pass.out), axis.kept, output_along<Out>(pass), lanes, coefficient);
  });
}

template <class In, class Out, class T>
void inverse_block(const AxisPass& pass, const AxisView<T>& axis, const Lanes<T>& lanes, Complex<T>* z) {
  inverse<Out, T>(pass, axis, lanes, z, [&](auto put) {
    for_each_input<In, T>(static_cast<const In*>(pass.in), axis.kept, input_along<In>(pass), lanes, put);
  });
}

// z holds `kept` coefficients, then the points of either transform.
template <class T>
void resize_block(const AxisPass& pass, const AxisView<T>& axis, const AxisView<T>& back, const Lanes<T>& lanes,
                  Complex<T>* z) {
  auto* coefficients = reinterpret_cast<Vector<T>*>(z);
  Complex<T>* points = z + (axis.kept + 1) / 2;
  forward<T, T>(pass, axis, lanes, points, [&](auto coefficient) {
    for (int64_t k = 0; k < axis.kept; ++k) coefficients[k] = coefficient(k);
  });
  inverse<T, T>(pass, back, lanes, points, [&](auto put) {
    for (int64_t k = 0; k < back.kept; ++k) put(k, coefficients[k]);
  });
}

template <class In, class Out, class T>
void run_blocks(const AxisPass& pass, const AxisView<T>& axis, const AxisView<T>& back, int64_t begin, int64_t end,
                void* scratch) {
  auto* z = static_cast<Complex<T>*>(scratch);
  for (int64_t b = begin; b < end; ++b) {
    const Lanes<T> lanes = block_lanes<T>(pass, b);
    switch (pass.direction) {
      case Direction::forward:
        forward_block<In, Out, T>(pass, axis, lanes, z);
        break;
      case Direction::inverse:
        inverse_block<In, Out, T>(pass, axis, lanes, z);
        break;
      case Direction::resize:
        if constexpr (std::is_same_v<In, T> && std::is_same_v<Out, T>) resize_block<T>(pass, axis, back, lanes, z);
        break;
    }
  }
}

// double computes what reads or writes double, float the rest.
template <class T, class In, class Out>
constexpr bool kUsed = std::is_same_v<T, double> == (std::is_same_v<In, double> || std::is_same_v<Out, double>);

// Calls f with a value of the element type.
template <class F>
FRONT_INLINE void with_type(DType type, F f) {
  switch (type) {
    case DType::f16:
      return f(Half{});
    case DType::bf16:
      return f(BFloat16{});
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
  }
}

template <class T>
void run(const AxisPass& pass, const AxisView<T>& axis, const AxisView<T>& back, int64_t begin, int64_t end,
         void* scratch) {
  with_type(pass.in_type, [&](auto in) {
    with_type(pass.out_type, [&](auto out) {
      using In = decltype(in);
      using Out = decltype(out);
      if constexpr (kUsed<T, In, Out>) run_blocks<In, Out, T>(pass, axis, back, begin, end, scratch);
    });
  });
}

}  // namespace
}  // namespace FRONT_ISA

#define FRONT_STRING_(x) #x
#define FRONT_STRING(x) FRONT_STRING_(x)
extern const Isa FRONT_ISA_ENTRY{FRONT_STRING(FRONT_ISA), FRONT_VECTOR_BYTES, &FRONT_ISA::run<float>,
                                 &FRONT_ISA::run<double>};

}  // namespace front::cpu
