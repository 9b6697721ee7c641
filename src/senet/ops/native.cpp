// Batch norm with SE inside, or SE alone, with the end of a residual branch, on a CPU.
//
//     y = activation(s v + identity)    v = act(BN(U))    s = gate(W2 relu(W1 mean v + b1) + b2)
//
// One operator with a backward of its own, for maps so small that calls cost more than arithmetic.
// The formulas are those of stages.py and excitation.py, with the same names; docs/free-se.md
// derives them. Maps are float32 or bfloat16, and everything else is float32. `compute` returns
// None for what it was not written for, and then senet computes it otherwise.

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_variable.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __AVX__
#include <immintrin.h>
#endif

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;
using Maybe = std::optional<Tensor>;

enum Norm : int64_t { NONE, FROZEN, BATCH };
enum Act : int64_t { LINEAR, RELU, RELU6, SILU, HARDSWISH };
enum Gate : int64_t { SIGMOID, HARD_SIGMOID, RECTIFIED };

struct Options {
  int64_t norm, act, gate;
  bool centered, relu;
  double momentum, eps;
};

constexpr int64_t GRAIN = 32768;          // values of a map for each thread
constexpr int64_t WORK = int64_t(1) << 17;  // multiplications of the layers for each thread
constexpr int64_t FEW_IMAGES = 8;           // multiplications that a weight's way from memory takes
constexpr int64_t LARGE = int64_t(1) << 16;  // weights whose gradient is written past the caches
constexpr int64_t FEW_ROWS = 4;             // of one operand: rows of the other are taken in turn
constexpr int64_t PARTS = 16;               // of a sum over channels, in threads
constexpr int64_t FEW = 16;                 // positions
constexpr int64_t CHANNELS = 64;            // of an image, for each thread
constexpr int64_t NEAR = 16384;  // weights that stay in the second cache
constexpr int64_t COLUMNS = 512;  // of theirs, for many images
#ifdef __AVX512F__
constexpr int LANES = 16, STRIP = 64;  // floats of a vector, and of a block's row in registers
#else
constexpr int LANES = 8, STRIP = 16;
#endif

// exp for compilers that vectorise no call: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;  // one after the other: nested, they are branches, no minimum
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f, n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 0.5f;
  p = p * r * r + r + 1.0f;
  return std::bit_cast<float>(std::bit_cast<int32_t>(p) + (int32_t(n) << 23));
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }
inline float between(float x, float top) {
  x = x < 0 ? 0.0f : x;
  return x > top ? top : x;
}

template <int64_t ACT>
inline float act(float y) {
  if constexpr (ACT == RELU) return y < 0 ? 0.0f : y;
  if constexpr (ACT == RELU6) return between(y, 6);
  if constexpr (ACT == SILU) return y * sigmoid(y);
  if constexpr (ACT == HARDSWISH) return y * between(y + 3, 6) / 6;
  return y;
}

template <int64_t ACT>
inline float slope(float y) {
  if constexpr (ACT == RELU) return y > 0;
  if constexpr (ACT == RELU6) return float((y > 0) & (y < 6));  // && is a branch
  if constexpr (ACT == SILU) {
    const float s = sigmoid(y);
    return s * (1 + y * (1 - s));
  }
  if constexpr (ACT == HARDSWISH) return y > -3 ? y < 3 ? y / 3 + 0.5f : 1.0f : 0.0f;
  return 1;
}

// `top` is 2 for a centred gate, else 1.
template <int64_t GATE>
inline float gate(float p, float top) {
  if constexpr (GATE == SIGMOID) return top * sigmoid(p);
  if constexpr (GATE == HARD_SIGMOID) return top * (between(p + 3, 6) / 6);
  return between(p + (top - 1), INFINITY);
}

template <int64_t GATE>
inline float gate_slope(float s, float top) {
  if constexpr (GATE == SIGMOID) return s * (1 - s / top);
  if constexpr (GATE == HARD_SIGMOID) return float((s > 0) & (s < top)) * (top / 6);
  return s > 0;
}

// Calls f(gate), asked outside the loops, which are not vectorised with a question inside.
template <class F>
inline void by_gate(int64_t gate, F f) {
  if (gate == SIGMOID) return f(std::integral_constant<int64_t, SIGMOID>{});
  if (gate == HARD_SIGMOID) return f(std::integral_constant<int64_t, HARD_SIGMOID>{});
  f(std::integral_constant<int64_t, RECTIFIED>{});
}

// The sizes of a map and which dimension is contiguous.
struct Size {
  int64_t n, c, l;
  bool last;  // channels_last: [N, L, C], else [N, C, L]

  int64_t values() const { return c * l; }
};

// Some channels of an image.
struct Part {
  int64_t n, from, to;
};

// Calls f(channel, place) for every value of a part of an image. f writes to its own place only.
// The inner loop is over whatever is contiguous, but over channels where there are few positions.
template <class F>
inline void each(const Size& size, const Part& part, F f) {
  const int64_t channels = size.c, positions = size.l, from = part.from, to = part.to;
  if (size.last) {
    for (int64_t l = 0; l < positions; ++l) {
#pragma omp simd
      for (int64_t i = from; i < to; ++i) f(i, l * channels + i);
    }
  } else if (positions < FEW) {
    for (int64_t l = 0; l < positions; ++l) {
#pragma omp simd
      for (int64_t i = from; i < to; ++i) f(i, i * positions + l);
    }
  } else {
    for (int64_t i = from; i < to; ++i) {
#pragma omp simd
      for (int64_t l = 0; l < positions; ++l) f(i, i * positions + l);
    }
  }
}

template <int W>
struct Lanes {
  typedef float Type __attribute__((vector_size(4 * W)));
};
template <>
struct Lanes<1> {
  typedef float Type;
};

template <class V>
inline V load(const float* from) {
  V value;
  std::memcpy(&value, from, sizeof(V));
  return value;
}

// Up to five values of a place of a map, or their sums over the positions.
struct Five {
  float a = 0, b = 0, c = 0, d = 0, e = 0;
};

// Sums what f(channel, place) gives over the positions: into K vectors [C], for a part of C.
template <int K, class F>
inline void sums(const Size& size, const Part& part, float* const (&out)[K], F f) {
  float *const a = out[0], *const b = out[K > 1 ? 1 : 0], *const c = out[K > 1 ? 2 : 0];
  float *const d = out[K > 3 ? 3 : 0], *const e = out[K > 3 ? 4 : 0];
  const int64_t channels = size.c, positions = size.l;
  if (!size.last && positions >= FEW) {
    for (int64_t i = part.from; i < part.to; ++i) {
      float va = 0, vb = 0, vc = 0, vd = 0, ve = 0;
#pragma omp simd reduction(+ : va, vb, vc, vd, ve)
      for (int64_t l = 0; l < positions; ++l) {
        const Five v = f(i, i * positions + l);
        va += v.a, vb += v.b, vc += v.c, vd += v.d, ve += v.e;
      }
      a[i] = va;
      if constexpr (K > 1) b[i] = vb, c[i] = vc;
      if constexpr (K > 3) d[i] = vd, e[i] = ve;
    }
    return;
  }
  auto block = [=](int64_t first, auto width, auto place) {
    constexpr int W = decltype(width)::value, L = W < 8 ? 1 : 8, M = W / L;
    // Three sums stay in registers if they are vectors of the compiler's; with arrays it unrolls
    // the inner loop too late to see that they could. Five do better as arrays.
    constexpr bool VECTORS = K == 3;
    using V = typename Lanes<L>::Type;
    V sa[M] = {}, sb[M] = {}, sc[M] = {};
    float va[W] = {}, vb[W] = {}, vc[W] = {}, vd[W] = {}, ve[W] = {};
    for (int64_t l = 0; l < positions; ++l) {
#pragma omp simd
      for (int j = 0; j < W; ++j) {
        const Five v = f(first + j, place(l, first + j));
        va[j] = VECTORS ? v.a : va[j] + v.a;
        if constexpr (K > 1) vb[j] = VECTORS ? v.b : vb[j] + v.b;
        if constexpr (K > 1) vc[j] = VECTORS ? v.c : vc[j] + v.c;
        if constexpr (K > 3) vd[j] += v.d, ve[j] += v.e;
      }
      if constexpr (!VECTORS) continue;
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) {
        sa[m] += load<V>(va + m * L);
        sb[m] += load<V>(vb + m * L);
        sc[m] += load<V>(vc + m * L);
      }
    }
    auto put = [=](float* to, const void* from) { std::memcpy(to + first, from, sizeof(va)); };
    VECTORS ? put(a, sa) : put(a, va);
    if constexpr (K > 1) VECTORS ? put(b, sb) : put(b, vb), VECTORS ? put(c, sc) : put(c, vc);
    if constexpr (K > 3) put(d, vd), put(e, ve);
  };
  auto all = [=](auto place) {
    int64_t i = part.from;
    for (; i + 16 <= part.to; i += 16) block(i, std::integral_constant<int, 16>{}, place);
    for (; i < part.to; ++i) block(i, std::integral_constant<int, 1>{}, place);
  };
  if (size.last)
    all([=](int64_t l, int64_t i) { return l * channels + i; });
  else
    all([=](int64_t l, int64_t i) { return i * positions + l; });
}

inline void add(float* to, float factor, const float* from, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) to[i] += factor * from[i];
}

// Writes a vector; `past` the caches, which would read its line first (`to` must be aligned).
template <class V>
inline void store(float* to, const V& value, bool past) {
#ifdef __AVX512F__
  if constexpr (sizeof(V) == 64)
    if (past) return _mm512_stream_ps(to, (__m512)value);
#elif defined(__AVX__)
  if constexpr (sizeof(V) == 32)
    if (past) return _mm256_stream_ps(to, (__m256)value);
#endif
  std::memcpy(to, &value, sizeof(V));
}

// Other threads see what was written past the caches.
inline void fence() {
#ifdef __AVX__
  _mm_sfence();
#endif
}

// An R x V block of A B in registers: to[r, :] += or = sum over k of a[r, k] b[k, :]. A stands at
// any strides, rows of B and of the result are contiguous. `past`: see `store`.
struct Product {
  float* to;
  int64_t to_row;
  const float* a;
  int64_t a_row, a_step;
  const float* b;
  int64_t b_row, count;
  bool set, past = false;

  template <int R, int V, int W>
  void block(int64_t i, int64_t j) const {
    using T = typename Lanes<W>::Type;
    T sum[R][V];
    float* out = to + i * to_row + j;
    const float* in = a + i * a_row;
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] = set ? T{} : load<T>(out + r * to_row + v * W);
    for (int64_t k = 0; k < count; ++k) {
      T column[V];
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) column[v] = load<T>(b + k * b_row + j + v * W);
#pragma GCC unroll 8
      for (int r = 0; r < R; ++r) {
        const float factor = in[r * a_row + k * a_step];
#pragma GCC unroll 8
        for (int v = 0; v < V; ++v) sum[r][v] += factor * column[v];
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) store(out + r * to_row + v * W, sum[r][v], past);
  }

  template <int R, int V, int W>
  void strips(int64_t rows, int64_t& j, int64_t columns) const {
    for (; j + V * W <= columns; j += V * W) {
      int64_t i = 0;
      for (; i + R <= rows; i += R) block<R, V, W>(i, j);
      for (; i < rows; ++i) block<1, V, W>(i, j);
    }
  }

  template <int R>
  void in_blocks(int64_t rows, int64_t columns) const {
    int64_t j = 0;
    if constexpr (R == 1) strips<R, 2 * STRIP / LANES, LANES>(rows, j, columns);
    strips<R, STRIP / LANES, LANES>(rows, j, columns);
    strips<R, 1, LANES>(rows, j, columns);
    strips<R, 1, 4>(rows, j, columns);
    strips<R, 1, 1>(rows, j, columns);
  }

  void run(int64_t rows, int64_t columns) const {
    std::min(rows, count) < FEW_ROWS ? in_blocks<1>(rows, columns) : in_blocks<4>(rows, columns);
  }
};

template <int W>
inline float sum_of(typename Lanes<W>::Type v) {
  if constexpr (W == 1) {
    return v;
  } else {
    using Half = typename Lanes<W / 2>::Type;
    Half halves[2];
    std::memcpy(halves, &v, sizeof(v));
    return sum_of<W / 2>(halves[0] + halves[1]);
  }
}

// put(i, j, <a_i, b_j>) for rows of `size` values, R and Q of which share what is loaded.
template <int R, int Q, class P>
inline void dots(const float* a, const float* b, int64_t size, P put) {
  using T = Lanes<LANES>::Type;
  T sum[R][Q] = {};
  int64_t k = 0;
  for (; k + LANES <= size; k += LANES) {
    T row[Q];
#pragma GCC unroll 8
    for (int q = 0; q < Q; ++q) row[q] = load<T>(b + q * size + k);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const T other = load<T>(a + r * size + k);
#pragma GCC unroll 8
      for (int q = 0; q < Q; ++q) sum[r][q] += other * row[q];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < Q; ++q) {
      float total = sum_of<LANES>(sum[r][q]);
      for (int64_t i = k; i < size; ++i) total += a[r * size + i] * b[q * size + i];
      put(r, q, total);
    }
}

// put(i, j, <a_i, b_j>) for all rows of A, and those of B from one to another
template <class P>
inline void all_dots(const float* a, int64_t n, const float* b, int64_t from, int64_t to,
                     int64_t size, P put) {
  auto some = [&](auto width, int64_t j) {
    constexpr int Q = decltype(width)::value;
    auto at = [&](int64_t i) {
      return [=](int r, int q, float v) { put(i + r, j + q, v); };
    };
    int64_t i = 0;
    for (; i + 4 <= n; i += 4) dots<4, Q>(a + i * size, b + j * size, size, at(i));
    for (; i < n; ++i) dots<1, Q>(a + i * size, b + j * size, size, at(i));
  };
  int64_t j = from;
  for (; n >= FEW_ROWS && j + 4 <= to; j += 4) some(std::integral_constant<int, 4>{}, j);
  for (; j < to; ++j) some(std::integral_constant<int, 1>{}, j);
}

// to[j, k] = from[k, j], for `rows` rows k of `size` values
inline void turn(float* to, const float* from, int64_t rows, int64_t size) {
  int64_t k = 0;
#if defined(__clang__) || __GNUC__ >= 12
  using V = Lanes<4>::Type;
  for (; k + 4 <= rows; k += 4) {
    const float* in = from + k * size;
    int64_t j = 0;
    for (; j + 4 <= size; j += 4) {
      const V a = load<V>(in + j), b = load<V>(in + size + j);
      const V c = load<V>(in + 2 * size + j), d = load<V>(in + 3 * size + j);
      const V ac = __builtin_shufflevector(a, c, 0, 4, 1, 5);
      const V bd = __builtin_shufflevector(b, d, 0, 4, 1, 5);
      const V ca = __builtin_shufflevector(a, c, 2, 6, 3, 7);
      const V db = __builtin_shufflevector(b, d, 2, 6, 3, 7);
      const V out[4] = {__builtin_shufflevector(ac, bd, 0, 4, 1, 5),
                        __builtin_shufflevector(ac, bd, 2, 6, 3, 7),
                        __builtin_shufflevector(ca, db, 0, 4, 1, 5),
                        __builtin_shufflevector(ca, db, 2, 6, 3, 7)};
      for (int i = 0; i < 4; ++i) std::memcpy(to + (j + i) * rows + k, &out[i], sizeof(V));
    }
    for (; j < size; ++j)
      for (int i = 0; i < 4; ++i) to[j * rows + k + i] = in[i * size + j];
  }
#endif
  for (; k < rows; ++k)
    for (int64_t j = 0; j < size; ++j) to[j * rows + k] = from[k * size + j];
}

inline float* data(const Tensor& t) { return t.defined() ? t.data_ptr<float>() : nullptr; }
inline float* data(const Maybe& t) { return t ? t->data_ptr<float>() : nullptr; }

// Vectors, one behind the other in one allocation.
struct Vectors {
  Tensor memory;
  float* next;
  explicit Vectors(int64_t size)
      : memory(at::empty({size}, at::kFloat)), next(memory.data_ptr<float>()) {}
  float* take(int64_t size) {
    float* start = next;
    next += size;
    return start;
  }
};

// A weight takes its time from memory, also where few images need it.
inline int64_t work(int64_t n, int64_t weights) { return std::max(n, FEW_IMAGES) * weights; }

// Calls f(from, to) for parts of `count`, multiples of `unit`, of so much work each, in threads.
template <class F>
inline void parallel(int64_t count, int64_t unit, int64_t work, F f) {
  const int64_t units = (count + unit - 1) / unit;
  at::parallel_for(0, units, std::max<int64_t>(1, WORK / (unit * work)),
                   [&](int64_t from, int64_t to) {
                     f(from * unit, std::min(to * unit, count));
                     fence();
                   });
}

// W1 [H, C] and W2 [C, H]. Each row of the weights is read once, in threads, and blocks of the
// products stay in registers. No sum depends on the number of threads.
struct Layers {
  Tensor w1, b1, w2, b2;
  int64_t c, h;

  Layers(const Tensor& w1, Tensor b1, const Tensor& w2, Tensor b2)
      : w1(w1), b1(std::move(b1)), w2(w2), b2(std::move(b2)), c(w1.size(1)), h(w1.size(0)) {}

  // h [N, H] and p [N, C] of z [N, C]
  void forward(const float* z, float* hidden, float* p, int64_t n) const {
    const float *first = data(w1), *second = data(w2), *bias1 = data(b1), *bias2 = data(b2);
    parallel(h, 4, work(n, c), [&](int64_t from, int64_t to) {
      all_dots(z, n, first, from, to, c, [&](int64_t i, int64_t j, float v) {
        v += bias1 ? bias1[j] : 0.0f;
        hidden[i * h + j] = v < 0 ? 0.0f : v;
      });
    });
    if (n < FEW_ROWS) {
      parallel(c, 4, work(n, h), [&](int64_t from, int64_t to) {
        all_dots(hidden, n, second, from, to, h, [&](int64_t i, int64_t j, float v) {
          p[i * c + j] = v + (bias2 ? bias2[j] : 0.0f);
        });
      });
      return;
    }
    parallel(c, STRIP, work(n, h), [&](int64_t from, int64_t to) {
      std::vector<float> turned(STRIP * h);
      for (int64_t k = from; k < to; k += STRIP) {
        const int64_t size = std::min<int64_t>(STRIP, to - k);
        turn(turned.data(), second + k * h, size, h);
        for (int64_t i = 0; i < n; ++i) {
          float* start = p + i * c + k;
          bias2 ? std::copy_n(bias2 + k, size, start) : std::fill_n(start, size, 0.0f);
        }
        Product{p + k, c, hidden, h, 1, turned.data(), size, h, false}.run(n, size);
      }
    });
  }

  // dz [N, C], dh [N, H] and the gradients of the layers, of dp [N, C]
  void backward(const float* dp, const float* z, const float* hidden, float* dh, float* dz,
                float* dw1, float* db1, float* dw2, float* db2, int64_t n) const {
    const float *first = data(w1), *second = data(w2);
    const int64_t most = std::clamp<int64_t>(work(n, c * h) / WORK, 1, PARTS);
    const int64_t part = (c - 1) / most + 1;  // channels
    const int64_t count = (c - 1) / part + 1;
    std::vector<float> parts(count * n * h);  // of dh
    const int64_t rows = std::max<int64_t>(8, NEAR / h);
    auto past = [&](const float* to, int64_t row) {  // in whole lines
      return c * h >= LARGE && row % 16 == 0 && uintptr_t(to) % 64 == 0;
    };
    parallel(count, 1, work(n, 2 * h * part), [&](int64_t from, int64_t to) {
      for (int64_t t = from; t < to; ++t) {
        const int64_t end = std::min((t + 1) * part, c);
        for (int64_t k = t * part; k < end; k += rows) {
          const int64_t some = std::min(rows, end - k);
          float* sums = parts.data() + t * n * h;
          Product{sums, h, dp + k, c, 1, second + k * h, h, some, false}.run(n, h);
          Product{dw2 + k * h, h, dp + k, 1, c, hidden, h, n, true, past(dw2, h)}.run(some, h);
        }
        if (db2) column_sums(db2, dp, t * part, end, n, c);
      }
    });
    for (int64_t i = 0; i < n * h; ++i) {
      float sum = parts[i];
      for (int64_t t = 1; t < count; ++t) sum += parts[t * n * h + i];
      dh[i] = hidden[i] > 0 ? sum : 0.0f;
    }
    if (db1) column_sums(db1, dh, 0, h, n, h);
    parallel(c, STRIP, work(n, 2 * h), [&](int64_t from, int64_t to) {
      const int64_t columns = n < FEW_ROWS ? std::min(to - from, NEAR) : COLUMNS;
      for (int64_t k = from; k < to; k += columns) {
        const int64_t size = std::min(columns, to - k), step = NEAR / columns;
        for (int64_t j = 0; j < h; j += step) {
          const int64_t some = std::min(step, h - j), start = j * c + k;
          Product{dz + k, c, dh + j, h, 1, first + start, c, some, j == 0}.run(n, size);
          Product{dw1 + start, c, dh + j, 1, h, z + k, c, n, true, past(dw1, c)}.run(some, size);
        }
      }
    });
  }

  static void column_sums(float* to, const float* t, int64_t from, int64_t end, int64_t n,
                          int64_t row) {
    std::fill(to + from, to + end, 0.0f);
    for (int64_t i = 0; i < n; ++i) add(to + from, 1, t + i * row + from, end - from);
  }
};

// Calls f(part) for all images in threads, for parts of their channels where there are few.
template <class F>
inline void images(const Size& size, F f) {
  const int64_t some = std::min(at::get_num_threads() / size.n, size.values() / GRAIN);
  const int64_t parts = std::max<int64_t>(1, std::min(some, size.c / CHANNELS));
  const int64_t width = ((size.c - 1) / parts / CHANNELS + 1) * CHANNELS;
  at::parallel_for(0, size.n * parts, std::max<int64_t>(1, GRAIN * parts / size.values()),
                   [&](int64_t from, int64_t to) {
                     for (int64_t i = from; i < to; ++i) {
                       const int64_t first = i % parts * width;
                       f(Part{i / parts, std::min(first, size.c), std::min(first + width, size.c)});
                     }
                   });
}

// Calls f(from, to) for parts of the channels, in threads.
template <class F>
inline void channels(const Size& size, F f) {
  at::parallel_for(0, size.c, std::max<int64_t>(1, GRAIN / size.n), f);
}

template <class F>
void by_act(int64_t act, F f) {
  switch (act) {
    case RELU: return f(std::integral_constant<int64_t, RELU>{});
    case RELU6: return f(std::integral_constant<int64_t, RELU6>{});
    case SILU: return f(std::integral_constant<int64_t, SILU>{});
    case HARDSWISH: return f(std::integral_constant<int64_t, HARDSWISH>{});
    default: return f(std::integral_constant<int64_t, LINEAR>{});
  }
}

// T(t) for a t that is one
template <class T>
inline T narrow(float t) {
  if constexpr (std::is_same_v<T, float>)
    return t;
  else
    return T(uint16_t(std::bit_cast<uint32_t>(t) >> 16), T::from_bits());
}

// g: dy, behind the ReLU at the end where there is one
template <bool MASKED, class T>
inline float behind(const T* grad, const T* out, int64_t place) {
  const float t = float(grad[place]);  // in any case: a question in front makes it a masked load
  if constexpr (MASKED) return float(out[place]) <= 0 ? 0.0f : t;
  return t;
}

// What the backward needs beside U, y and the parameters, in one allocation: mu and rstd [C],
// h [N, H], s [N, C], and behind an activation z [N, C].
struct Kept {
  Tensor memory;
  float *mu, *rstd, *h, *s, *z;
  Kept(const Size& size, int64_t hidden, bool activated, Tensor there = {}) {
    const int64_t total = 2 * size.c + size.n * (hidden + size.c * (activated ? 2 : 1));
    memory = there.defined() ? std::move(there) : at::empty({total}, at::kFloat);
    mu = memory.data_ptr<float>();
    rstd = mu + size.c;
    h = rstd + size.c;
    s = h + size.n * hidden;
    z = activated ? s + size.n * size.c : nullptr;
  }
};

// gain = gamma rstd, and beta, [C] each
void affine(float* gain, float* shift, const Kept& kept, const float* gamma, const float* beta,
            int64_t c) {
  for (int64_t i = 0; i < c; ++i) {
    gain[i] = kept.rstd[i] * (gamma ? gamma[i] : 1.0f);
    shift[i] = beta ? beta[i] : 0.0f;
  }
}

// mu and rstd; the means [N, C] of U into m; and the running statistics, moved.
template <class T>
void statistics(const T* u, const Size& size, const Kept& kept, float* m, float* v, float* mean,
                float* var, const Options& o) {
  const int64_t c = size.c;
  images(size, [&](const Part& part) {
    const T* x = u + part.n * size.values();
    float *mn = m + part.n * c, *vn = v + part.n * c;
    float* const first[1] = {mn};
    sums(size, part, first, [=](int64_t, int64_t place) { return Five{float(x[place])}; });
    for (int64_t i = part.from; i < part.to; ++i) mn[i] /= float(size.l);
    if (o.norm != BATCH) return;
    float* const second[1] = {vn};
    sums(size, part, second, [=](int64_t i, int64_t place) {
      const float d = float(x[place]) - mn[i];
      return Five{d * d};
    });
  });
  if (o.norm == NONE) {
    std::fill_n(kept.mu, c, 0.0f);
    std::fill_n(kept.rstd, c, 1.0f);
    return;
  }
  if (o.norm == FROZEN) {
    for (int64_t i = 0; i < c; ++i) {
      kept.mu[i] = mean[i];
      kept.rstd[i] = 1.0f / std::sqrt(var[i] + float(o.eps));
    }
    return;
  }
  const float count = float(size.n * size.l), weight = float(o.momentum);
  channels(size, [&](int64_t from, int64_t to) {
    std::fill(kept.mu + from, kept.mu + to, 0.0f);
    for (int64_t n = 0; n < size.n; ++n) add(kept.mu + from, 1, m + n * c + from, to - from);
    for (int64_t i = from; i < to; ++i) kept.mu[i] /= float(size.n);
    std::fill(kept.rstd + from, kept.rstd + to, 0.0f);  // the variance, for now
    for (int64_t n = 0; n < size.n; ++n) {
      const float *mn = m + n * c, *vn = v + n * c;
#pragma omp simd
      for (int64_t i = from; i < to; ++i) {
        const float d = mn[i] - kept.mu[i];
        kept.rstd[i] += vn[i] / float(size.l) + d * d;
      }
    }
    for (int64_t i = from; i < to; ++i) {
      const float batch = kept.rstd[i] / float(size.n);
      kept.rstd[i] = 1.0f / std::sqrt(batch + float(o.eps));
      if (mean) mean[i] += weight * (kept.mu[i] - mean[i]);
      if (var) var[i] += weight * (batch * (count / (count - 1)) - var[i]);
    }
  });
}

template <class T>
void forward(const T* u, const T* identity, T* y, const Size& size, const Kept& kept,
             const Layers& layers, const float* gamma, const float* beta, float* mean, float* var,
             const Options& o) {
  const int64_t c = size.c, vector = size.n * c;
  Vectors own(2 * vector + 2 * c);
  float *m = own.take(vector), *v = own.take(vector), *gain = own.take(c), *shift = own.take(c);
  statistics(u, size, kept, m, v, mean, var, o);
  affine(gain, shift, kept, gamma, beta, c);
  const float* mu = kept.mu;
  const float top = o.centered ? 2 : 1;
  by_act(o.act, [&](auto kind) {
    constexpr int64_t ACT = decltype(kind)::value;
    float* z = ACT == LINEAR ? m : kept.z;
    images(size, [&](const Part& part) {
      const T* x = u + part.n * size.values();
      float* zn = z + part.n * c;
      if constexpr (ACT == LINEAR) {
#pragma omp simd
        for (int64_t i = part.from; i < part.to; ++i) zn[i] = gain[i] * (zn[i] - mu[i]) + shift[i];
      } else {
        float* const to[1] = {zn};
        T* out = y + part.n * size.values();
        sums(size, part, to, [=](int64_t i, int64_t place) {
          const float t = act<ACT>(gain[i] * (float(x[place]) - mu[i]) + shift[i]);
          if constexpr (ACT == SILU) out[place] = T(t);  // dearer to compute again than to read
          return Five{t};
        });
        for (int64_t i = part.from; i < part.to; ++i) zn[i] /= float(size.l);
      }
    });
    layers.forward(z, kept.h, kept.s, size.n);
    images(size, [&](const Part& part) {
      const int64_t start = part.n * size.values();
      const T *x = u + start, *id = identity ? identity + start : nullptr;
      T* out = y + start;
      float* s = kept.s + part.n * c;
      by_gate(o.gate, [&](auto which) {
#pragma omp simd
        for (int64_t i = part.from; i < part.to; ++i) s[i] = gate<which.value>(s[i], top);
      });
      auto write = [&](auto with_identity, auto with_relu) {
        each(size, part, [=](int64_t i, int64_t place) {
          const float deviation = float(x[place]) - mu[i];
          float value = ACT == LINEAR ? s[i] * gain[i] * deviation + s[i] * shift[i]
                        : ACT == SILU ? s[i] * float(out[place])
                                      : s[i] * act<ACT>(gain[i] * deviation + shift[i]);
          if constexpr (with_identity.value) value += float(id[place]);
          if constexpr (with_relu.value) value = value < 0 ? 0.0f : value;
          out[place] = T(value);
        });
      };
      std::true_type yes;
      std::false_type no;
      if constexpr (ACT == LINEAR)
        o.relu ? id ? write(yes, yes) : write(no, yes) : id ? write(yes, no) : write(no, no);
      else
        write(no, no);
    });
  });
}

struct Grads {
  float *gamma, *beta, *w1, *b1, *w2, *b2;
};

// dU, g (or nullptr where nobody needs it), and the gradients of the parameters
template <class T>
void backward(const T* dy, const T* y, const T* u, T* du, T* g, const Size& size, const Kept& kept,
              const Layers& layers, const float* gamma, const float* beta, const Grads& grads,
              const Options& o) {
  const int64_t c = size.c, vector = size.n * c;
  Vectors own(7 * vector + size.n * layers.h + 5 * c);
  float *ds = own.take(vector), *a = own.take(vector), *b = own.take(vector);
  float *d = own.take(vector), *e = own.take(vector), *z = own.take(vector);
  float *dz = own.take(vector), *dh = own.take(size.n * layers.h);
  float *gain = own.take(c), *dbeta = own.take(c), *q = own.take(c), *constant = own.take(c);
  float* shift = own.take(c);
  affine(gain, shift, kept, gamma, beta, c);
  const float* mu = kept.mu;
  const float top = o.centered ? 2 : 1;
  by_act(o.act, [&](auto kind) {
    constexpr int64_t ACT = decltype(kind)::value;
    // Rounded to bfloat16 it would no longer be what the sums are of, and dU not centred.
    constexpr bool STORED = ACT == SILU && std::is_same_v<T, float>;
    auto first = [&](auto masked, auto written) {
      images(size, [&](const Part& part) {
        const int64_t start = part.n * size.values(), row = part.n * c;
        const T *x = u + start, *grad = dy + start, *out = y + start;
        T *to_g = g + start, *slopes = du + start;
        if constexpr (ACT == LINEAR) {
          float* const to[3] = {a + row, b + row, e + row};
          sums(size, part, to, [=](int64_t i, int64_t place) {
            const float t = behind<masked.value>(grad, out, place);
            if constexpr (written.value) to_g[place] = narrow<T>(t);
            const float deviation = float(x[place]) - mu[i];
            return Five{t, t * deviation, deviation};
          });
#pragma omp simd
          for (int64_t i = part.from; i < part.to; ++i) {
            const int64_t j = row + i;
            e[j] /= float(size.l);
            d[j] = 1;
            z[j] = gain[i] * e[j] + shift[i];
            ds[j] = gain[i] * b[j] + shift[i] * a[j];
          }
        } else {
          float* const to[5] = {ds + row, a + row, b + row, d + row, e + row};
          sums(size, part, to, [=](int64_t i, int64_t place) {
            const float t = float(grad[place]), deviation = float(x[place]) - mu[i];
            const float y0 = gain[i] * deviation + shift[i], slant = slope<ACT>(y0);
            if constexpr (STORED && written.value) slopes[place] = T(slant);
            return Five{t * act<ACT>(y0), t * slant, t * slant * deviation, slant,
                        slant * deviation};
          });
          for (int64_t i = row + part.from; i < row + part.to; ++i)
            d[i] /= float(size.l), e[i] /= float(size.l);
        }
        float* dp = ds + row;
        const float* s = kept.s + row;
        by_gate(o.gate, [&](auto which) {
#pragma omp simd
          for (int64_t i = part.from; i < part.to; ++i) dp[i] *= gate_slope<which.value>(s[i], top);
        });
      });
    };
    std::true_type yes;
    std::false_type no;
    if constexpr (ACT == LINEAR)
      !y ? first(no, no) : g ? first(yes, yes) : first(yes, no);
    else if constexpr (STORED)
      du ? first(no, yes) : first(no, no);
    else
      first(no, no);
    if (ACT != LINEAR) std::copy_n(kept.z, vector, z);
    layers.backward(ds, z, kept.h, dh, dz, grads.w1, grads.b1, grads.w2, grads.b2, size.n);
    const float count = float(size.n * size.l), share = 1.0f / float(size.l);
    channels(size, [&](int64_t from, int64_t to) {
      std::fill(dbeta + from, dbeta + to, 0.0f);
      std::fill(q + from, q + to, 0.0f);
      for (int64_t n = 0; n < size.n; ++n) {
        const int64_t row = n * c;
#pragma omp simd
        for (int64_t i = from; i < to; ++i) {
          dbeta[i] += kept.s[row + i] * a[row + i] + dz[row + i] * d[row + i];
          q[i] += kept.s[row + i] * b[row + i] + dz[row + i] * e[row + i];
        }
      }
      for (int64_t i = from; i < to; ++i) {
        const bool batch = o.norm == BATCH;
        if (grads.gamma) grads.gamma[i] = q[i] * kept.rstd[i];
        if (grads.beta) grads.beta[i] = dbeta[i];
        constant[i] = batch ? gain[i] * dbeta[i] / count : 0.0f;
        q[i] = batch ? gain[i] * kept.rstd[i] * kept.rstd[i] * q[i] / count : 0.0f;
      }
    });
    if (!du) return;
    auto second = [&](auto masked, const T* source) {
      images(size, [&](const Part& part) {
        const int64_t start = part.n * size.values();
        const T *x = u + start, *grad = source + start, *out = y + start;
        T* to = du + start;
        const float *s = kept.s + part.n * c, *back = dz + part.n * c;
        each(size, part, [=](int64_t i, int64_t place) {
          const float t = behind<masked.value>(grad, out, place);
          const float deviation = float(x[place]) - mu[i];
          float value = gain[i] * (s[i] * t + back[i] * share);
          if constexpr (STORED)
            value *= float(to[place]);
          else if constexpr (ACT != LINEAR)
            value *= slope<ACT>(gain[i] * deviation + shift[i]);
          to[place] = T(value - q[i] * deviation - constant[i]);
        });
      });
    };
    if constexpr (ACT == LINEAR)
      y && !g ? second(yes, dy) : second(no, g ? g : dy);
    else
      second(no, dy);
  });
}

Size size_of(const Tensor& u) {
  Size size{u.size(0), u.size(1), 1, false};
  for (int64_t i = 2; i < u.dim(); ++i) size.l *= u.size(i);
  size.last = !u.is_contiguous() || size.l == 1;
  return size;
}

// Whether [N, C, *spatial] is [N, *spatial, C] in memory, without gaps.
bool channels_last(const Tensor& t) {
  int64_t step = 1;
  auto dense = [&](int64_t d) {
    const bool right = t.size(d) == 1 || t.stride(d) == step;
    step *= t.size(d);
    return right;
  };
  bool right = dense(1);
  for (int64_t d = t.dim() - 1; d > 1; --d) right = dense(d) && right;
  return dense(0) && right;
}

bool same_memory(const Tensor& t, const Tensor& u) {
  return u.is_contiguous() ? t.is_contiguous() : channels_last(t);
}

PyObject* differentiable = nullptr;  // senet.ops.native._differentiable

Tensor or_none(const Maybe& t) { return t ? *t : Tensor(); }

struct FusedSE : torch::autograd::Function<FusedSE> {
  static Tensor forward(AutogradContext* ctx, const Tensor& u, const Maybe& identity,
                        const Maybe& gamma, const Maybe& beta, const Maybe& mean, const Maybe& var,
                        const Tensor& w1, const Maybe& b1, const Tensor& w2, const Maybe& b2,
                        const Options& o) {
    at::AutoDispatchBelowADInplaceOrView below;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Size size = size_of(u);
    Tensor y = at::empty_like(u);
    Kept kept(size, w1.size(0), o.act != LINEAR);
    const Layers layers(w1, or_none(b1), w2, or_none(b2));
    auto run = [&](auto* kind) {
      using T = std::remove_pointer_t<decltype(kind)>;
      ::forward(u.data_ptr<T>(), identity ? identity->data_ptr<T>() : nullptr, y.data_ptr<T>(),
                size, kept, layers, data(gamma), data(beta), data(mean), data(var), o);
    };
    u.scalar_type() == at::kFloat ? run((float*)nullptr) : run((at::BFloat16*)nullptr);
    if (o.norm == BATCH) {
      if (mean) mean->unsafeGetTensorImpl()->bump_version();
      if (var) var->unsafeGetTensorImpl()->bump_version();
    }
    const bool given = o.norm == FROZEN;  // kept for double backward
    ctx->save_for_backward({u, o.relu ? y : Tensor(), or_none(gamma), or_none(beta),
                            given ? *mean : Tensor(), given ? *var : Tensor(), w1, or_none(b1), w2,
                            or_none(b2), kept.memory});
    const int64_t values[] = {o.norm, o.act, o.gate, o.centered, o.relu, identity.has_value()};
    ctx->saved_data["case"] = at::IntArrayRef(values);
    ctx->saved_data["eps"] = o.eps;
    ctx->set_materialize_grads(false);
    return y;
  }

  static variable_list backward(AutogradContext* ctx, const variable_list& incoming) {
    const auto saved = ctx->get_saved_variables();
    variable_list result(11);
    if (!incoming[0].defined()) return result;
    const auto values = ctx->saved_data["case"].toIntVector();
    const Options o{values[0], values[1], values[2], values[3] != 0, values[4] != 0, 0.0,
                    ctx->saved_data["eps"].toDouble()};
    if (at::GradMode::is_enabled()) return again(saved, incoming[0], o, values[5] != 0);
    at::AutoDispatchBelowADInplaceOrView below;
    c10::impl::ExcludeDispatchKeyGuard no_autocast(c10::autocast_dispatch_keyset);
    const Tensor &u = saved[0], &gamma = saved[2], &beta = saved[3], &w1 = saved[6], &w2 = saved[8];
    const Size size = size_of(u);
    // a gradient has the sizes and type of y, but any strides
    const Tensor grad = same_memory(incoming[0], u)
                            ? incoming[0]
                            : at::empty_like(u).copy_(incoming[0]);
    const Kept kept(size, w1.size(0), o.act != LINEAR, saved[10]);
    const Layers layers(w1, saved[7], w2, saved[9]);
    const bool to_identity = values[5] != 0 && ctx->needs_input_grad(1);
    Tensor du = ctx->needs_input_grad(0) ? at::empty_like(u) : Tensor();
    Tensor g = to_identity && o.relu ? at::empty_like(u) : Tensor();
    Tensor dgamma = gamma.defined() ? at::empty_like(gamma) : Tensor();
    Tensor dbeta = beta.defined() ? at::empty_like(beta) : Tensor();
    Tensor dw1 = at::empty_like(w1), dw2 = at::empty_like(w2);
    Tensor db1 = saved[7].defined() ? at::empty_like(saved[7]) : Tensor();
    Tensor db2 = saved[9].defined() ? at::empty_like(saved[9]) : Tensor();
    const Grads grads{data(dgamma), data(dbeta), data(dw1), data(db1), data(dw2), data(db2)};
    auto run = [&](auto* kind) {
      using T = std::remove_pointer_t<decltype(kind)>;
      auto map = [](const Tensor& t) { return t.defined() ? t.data_ptr<T>() : nullptr; };
      ::backward(map(grad), map(saved[1]), map(u), map(du), map(g), size, kept, layers,
                 data(gamma), data(beta), grads, o);
    };
    u.scalar_type() == at::kFloat ? run((float*)nullptr) : run((at::BFloat16*)nullptr);
    if (to_identity) g = o.relu ? g : incoming[0];
    return {du, g, dgamma, dbeta, Tensor(), Tensor(), dw1, db1, dw2, db2, Tensor()};
  }

  // The gradients in differentiable operations, for create_graph=True
  static variable_list again(const variable_list& saved, const Tensor& grad, const Options& o,
                             bool identity) {
    pybind11::gil_scoped_acquire gil;
    auto tensors = pybind11::reinterpret_steal<pybind11::object>(PyTuple_New(11));
    for (int64_t i = 0; i < 11; ++i)
      PyTuple_SET_ITEM(tensors.ptr(), i, THPVariable_Wrap(i < 10 ? saved[i] : grad));
    auto out = pybind11::reinterpret_steal<pybind11::object>(
        PyObject_CallFunction(differentiable, "Olllid", tensors.ptr(), long(o.norm), long(o.act),
                              long(o.gate), int(o.centered), o.eps));
    if (!out) {
      python_error error;
      error.persist();
      throw error;
    }
    variable_list result(11);
    const int64_t to[] = {0, 1, 2, 3, 6, 7, 8, 9};
    for (int64_t i = 0; i < 8; ++i) {
      PyObject* each = PyTuple_GetItem(out.ptr(), i);
      if (each != Py_None) result[to[i]] = THPVariable_Unpack(each);
    }
    if (!identity) result[1] = Tensor();
    return result;
  }
};

bool vector(const Maybe& t, int64_t size) {
  return !t || (t->dim() == 1 && t->size(0) == size);
}

bool ordinary(const Tensor& t) {
  return t.is_cpu() && t.layout() == at::kStrided && !t.is_conj() && !t.is_neg();
}

// Whether the loops above are right for these tensors.
bool fits(const Tensor& u, const Maybe* const (&others)[9], const Options& o) {
  const auto& [identity, gamma, beta, mean, var, w1, b1, w2, b2] = others;
  const int64_t dims = u.dim(), c = dims > 2 ? u.size(1) : 0, n = dims > 2 ? u.size(0) : 0;
  const auto kind = u.scalar_type();
  if (dims < 3 || u.numel() == 0 || !ordinary(u)) return false;
  if (o.act < 0 || o.gate < 0 || (o.act != LINEAR && (*identity || o.relu))) return false;
  if (kind != at::kFloat && kind != at::kBFloat16) return false;
  if (!same_memory(u, u)) return false;
  if (*identity) {
    const Tensor& t = **identity;
    if (!ordinary(t) || t.scalar_type() != kind || t.sizes() != u.sizes()) return false;
    if (!same_memory(t, u) && dims != 4) return false;
  }
  for (int i = 1; i < 9; ++i) {
    if (!*others[i]) continue;
    const Tensor& t = **others[i];
    if (!ordinary(t) || t.scalar_type() != at::kFloat || !t.is_contiguous()) return false;
  }
  if (!vector(*gamma, c) || !vector(*beta, c) || !vector(*mean, c) || !vector(*var, c)) return false;
  if (!*w1 || !*w2 || (*w1)->dim() != 2 || (*w2)->dim() != 2) return false;
  const int64_t h = (*w1)->size(0);
  if ((*w1)->size(1) != c || (*w2)->size(0) != c || (*w2)->size(1) != h || h == 0) return false;
  if (!vector(*b1, h) || !vector(*b2, c)) return false;
  if (o.norm == FROZEN && (!*mean || !*var)) return false;
  return o.norm != BATCH || n * (u.numel() / (n * c)) > 1;
}

// compute(U, identity, gamma, beta, mean, var, W1, b1, W2, b2, norm, act, gate, centered, relu,
// momentum, eps) -> y or None
PyObject* compute(PyObject*, PyObject* const* given, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  TORCH_CHECK(count == 17, "senet.ops.native: 17 arguments, got ", count);
  Maybe tensors[10];
  for (int i = 0; i < 10; ++i) {
    if (given[i] == Py_None) continue;
    if (!THPVariable_CheckExact(given[i])) Py_RETURN_NONE;
    tensors[i] = THPVariable_Unpack(given[i]);
  }
  auto whole = [&](int i) { return int64_t(PyLong_AsLong(given[i])); };
  const Options o{whole(10),      whole(11), whole(12), whole(13) != 0,
                  whole(14) != 0, PyFloat_AsDouble(given[15]), PyFloat_AsDouble(given[16])};
  if (PyErr_Occurred()) return nullptr;
  const Maybe* const others[9] = {&tensors[1], &tensors[2], &tensors[3], &tensors[4], &tensors[5],
                                  &tensors[6], &tensors[7], &tensors[8], &tensors[9]};
  if (whole(14) < 0 || !tensors[0] || !fits(*tensors[0], others, o)) Py_RETURN_NONE;
  Tensor y;
  {
    pybind11::gil_scoped_release others_may_run;
    if (tensors[1] && !same_memory(*tensors[1], *tensors[0]))  // a copy that autograd knows
      tensors[1] = tensors[1]->contiguous(tensors[0]->suggest_memory_format());
    y = FusedSE::apply(*tensors[0], tensors[1], tensors[2], tensors[3], tensors[4], tensors[5],
                       *tensors[6], tensors[7], *tensors[8], tensors[9], o);
  }
  return THPVariable_Wrap(std::move(y));
  END_HANDLE_TH_ERRORS
}

PyObject* set_differentiable(PyObject*, PyObject* function) {
  Py_INCREF(function);
  Py_XSETREF(differentiable, function);
  Py_RETURN_NONE;
}

PyMethodDef methods[] = {
    {"compute", (PyCFunction)(void (*)())compute, METH_FASTCALL, nullptr},
    {"set_differentiable", set_differentiable, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr}};
PyModuleDef module = {PyModuleDef_HEAD_INIT, "senet_native", nullptr, -1, methods};

}  // namespace

PyMODINIT_FUNC PyInit_senet_native() { return PyModule_Create(&module); }
