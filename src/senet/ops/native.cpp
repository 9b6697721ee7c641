// Batch norm with SE inside, or SE alone, with the end of a residual branch, on a CPU.
//
//     y = activation(s v + identity)    v = act(BN(U))    s = gate(W2 relu(W1 mean v + b1) + b2)
//
// One operator with a backward of its own, for maps so small that calls cost more than arithmetic.
// The formulas are those of stages.py and excitation.py, with the same names; docs/free-se.md
// derives them. Maps are float32 or bfloat16, and everything else is float32. `compute` returns
// None for what it was not written for, and then senet computes it otherwise.

#include <ATen/Parallel.h>
#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/mm.h>
#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/autograd/python_variable.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include <bit>
#include <cmath>
#include <cstdint>

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
constexpr int64_t MATRIX = int64_t(1) << 18;  // from so many products on the layers are matrix products

constexpr int64_t FEW = 16;        // positions
constexpr int64_t FEW_IMAGES = 16;  // below, and hidden units that make a loop over them worth it
constexpr int64_t WIDE = 8;
constexpr int64_t NEAR = 4096;  // values that stay in the nearest cache, as rows of so many
constexpr int64_t COLUMNS = 256;

// exp for compilers that vectorise no call: 2^n times a polynomial on [-ln 2 / 2, ln 2 / 2]
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
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
inline float between(float x, float top) { return x < 0 ? 0.0f : x > top ? top : x; }

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
  if constexpr (ACT == RELU6) return y > 0 && y < 6;
  if constexpr (ACT == SILU) {
    const float s = sigmoid(y);
    return s * (1 + y * (1 - s));
  }
  if constexpr (ACT == HARDSWISH) return y > -3 ? y < 3 ? y / 3 + 0.5f : 1.0f : 0.0f;
  return 1;
}

inline float gate(float p, const Options& o) {
  if (o.gate == SIGMOID) return (o.centered ? 2 : 1) * sigmoid(p);
  if (o.gate == HARD_SIGMOID) return (o.centered ? 2 : 1) * (between(p + 3, 6) / 6);
  return between(o.centered ? 1 + p : p, INFINITY);
}

inline float gate_slope(float s, const Options& o) {
  if (o.gate == SIGMOID) return s * (o.centered ? 1 - s / 2 : 1 - s);
  const float top = o.centered ? 2 : 1;
  return o.gate == RECTIFIED ? s > 0 : s > 0 && s < top ? top / 6 : 0.0f;
}

// The sizes of a map and which dimension is contiguous.
struct Size {
  int64_t n, c, l;
  bool last;  // channels_last: [N, L, C], else [N, C, L]

  int64_t values() const { return c * l; }
  int64_t images() const { return std::max<int64_t>(1, GRAIN / std::max<int64_t>(1, values())); }
};

// Calls f(channel, place) for every value of an image. f writes to its own place only. The inner
// loop is over whatever is contiguous, but over channels where there are few positions.
template <class F>
inline void each(const Size& size, F f) {
  const int64_t channels = size.c, positions = size.l;
  if (size.last) {
    for (int64_t l = 0; l < positions; ++l) {
#pragma omp simd
      for (int64_t i = 0; i < channels; ++i) f(i, l * channels + i);
    }
  } else if (positions < FEW) {
    for (int64_t l = 0; l < positions; ++l) {
#pragma omp simd
      for (int64_t i = 0; i < channels; ++i) f(i, i * positions + l);
    }
  } else {
    for (int64_t i = 0; i < channels; ++i) {
#pragma omp simd
      for (int64_t l = 0; l < positions; ++l) f(i, i * positions + l);
    }
  }
}

// Up to five values of a place of a map, or their sums over the positions.
struct Five {
  float a = 0, b = 0, c = 0, d = 0, e = 0;
};

// Sums what f(channel, place) gives over the positions: into K vectors [C].
template <int K, class F>
inline void sums(const Size& size, float* const (&out)[K], F f) {
  float *const a = out[0], *const b = out[K > 1 ? 1 : 0], *const c = out[K > 1 ? 2 : 0];
  float *const d = out[K > 3 ? 3 : 0], *const e = out[K > 3 ? 4 : 0];
  const int64_t channels = size.c, positions = size.l;
  if (!size.last && positions >= FEW) {
    for (int64_t i = 0; i < channels; ++i) {
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
  auto block = [=](int64_t first, auto width, auto place) {  // its sums stay in registers
    constexpr int W = decltype(width)::value;
    float va[W] = {}, vb[W] = {}, vc[W] = {}, vd[W] = {}, ve[W] = {};
    for (int64_t l = 0; l < positions; ++l) {
#pragma omp simd
      for (int j = 0; j < W; ++j) {
        const Five v = f(first + j, place(l, first + j));
        va[j] += v.a;
        if constexpr (K > 1) vb[j] += v.b, vc[j] += v.c;
        if constexpr (K > 3) vd[j] += v.d, ve[j] += v.e;
      }
    }
    for (int j = 0; j < W; ++j) {
      a[first + j] = va[j];
      if constexpr (K > 1) b[first + j] = vb[j], c[first + j] = vc[j];
      if constexpr (K > 3) d[first + j] = vd[j], e[first + j] = ve[j];
    }
  };
  auto all = [=](auto place) {
    int64_t i = 0;
    for (; i + 16 <= channels; i += 16) block(i, std::integral_constant<int, 16>{}, place);
    for (; i < channels; ++i) block(i, std::integral_constant<int, 1>{}, place);
  };
  if (size.last)
    all([=](int64_t l, int64_t i) { return l * channels + i; });
  else
    all([=](int64_t l, int64_t i) { return i * positions + l; });
}

inline float dot(const float* a, const float* b, int64_t size) {
  float sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < size; ++i) sum += a[i] * b[i];
  return sum;
}

inline void add(float* to, float factor, const float* from, int64_t size) {
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) to[i] += factor * from[i];
}

// to += or = f0 a0 + f1 a1 + f2 a2 + f3 a3
template <bool SET>
inline void add4(float* to, const float (&f)[4], const float* const (&a)[4], int64_t size) {
  const float *a0 = a[0], *a1 = a[1], *a2 = a[2], *a3 = a[3];
  const float f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3];
#pragma omp simd
  for (int64_t i = 0; i < size; ++i) {
    const float sum = f0 * a0[i] + f1 * a1[i] + f2 * a2[i] + f3 * a3[i];
    to[i] = SET ? sum : to[i] + sum;
  }
}

// to += sum of factor(i) row(i), four rows at a time; to = that where SET
template <bool SET, class F, class R>
inline void combine(float* to, int64_t size, int64_t count, F factor, R row) {
  int64_t i = 0;
  if constexpr (SET) {
    if (count < 4) std::fill_n(to, size, 0.0f);
  }
  for (; i + 4 <= count; i += 4) {
    const float f[4] = {factor(i), factor(i + 1), factor(i + 2), factor(i + 3)};
    const float* const a[4] = {row(i), row(i + 1), row(i + 2), row(i + 3)};
    SET && i == 0 ? add4<true>(to, f, a, size) : add4<false>(to, f, a, size);
  }
  for (; i < count; ++i) add(to, factor(i), row(i), size);
}

// put(i, <in_i, w>) for n rows of `in`
template <class P>
inline void dots(const float* in, const float* w, int64_t n, int64_t size, P put) {
  int64_t i = 0;
  for (; i + 4 <= n; i += 4) {
    const float *a0 = in + i * size, *a1 = a0 + size, *a2 = a1 + size, *a3 = a2 + size;
    float s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
    for (int64_t j = 0; j < size; ++j) {
      s0 += a0[j] * w[j], s1 += a1[j] * w[j], s2 += a2[j] * w[j], s3 += a3[j] * w[j];
    }
    put(i, s0), put(i + 1, s1), put(i + 2, s2), put(i + 3, s3);
  }
  for (; i < n; ++i) put(i, dot(in + i * size, w, size));
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

// Calls f(from, to) for parts of `count` rows of so many products each, in threads.
template <class F>
inline void rows(int64_t count, int64_t products, F f) {
  at::parallel_for(0, count, std::max<int64_t>(1, GRAIN / products), f);
}

// W1 [H, C] and W2 [C, H]. For few images the weights are what there is to move: loops over their
// rows, each read once, where four images or four rows share what is loaded. For many the products
// are matrix products where they are large, else loops over channels, with W2 turned.
struct Layers {
  Tensor w1, b1, w2, b2;
  int64_t c, h;
  bool matrix, direct;
  std::vector<float> turned;

  Layers(const Tensor& w1, Tensor b1, const Tensor& w2, Tensor b2, int64_t images)
      : w1(w1), b1(std::move(b1)), w2(w2), b2(std::move(b2)), c(w1.size(1)), h(w1.size(0)) {
    direct = images < FEW_IMAGES && h >= WIDE;
    matrix = !direct && images * c * h >= MATRIX;
    if (matrix || direct) return;
    turned.resize(c * h);
    const float* from = data(this->w2);
    float* turned = this->turned.data();
    for (int64_t j = 0; j < h; ++j) {
#pragma omp simd
      for (int64_t i = 0; i < c; ++i) turned[j * c + i] = from[i * h + j];
    }
  }

  // h [N, H] and p [N, C] of z [N, C]
  void forward(const float* z, float* hidden, float* p, int64_t n) const {
    const float *bias1 = data(b1), *bias2 = data(b2), *first = data(w1);
    if (matrix) {
      auto zs = at::from_blob(const_cast<float*>(z), {n, c});
      auto hs = at::from_blob(hidden, {n, h}), ps = at::from_blob(p, {n, c});
      at::mm_out(hs, zs, w1.t());
      for (int64_t i = 0; i < n * h; ++i) {
        const float v = hidden[i] + (bias1 ? bias1[i % h] : 0.0f);
        hidden[i] = v < 0 ? 0.0f : v;
      }
      at::mm_out(ps, hs, w2.t());
      if (bias2)
        for (int64_t i = 0; i < n; ++i) add(p + i * c, 1, bias2, c);
      return;
    }
    if (direct) {
      const float* second = data(w2);
      rows(h, n * c, [&](int64_t from, int64_t to) {
        for (int64_t j = from; j < to; ++j) {
          const float bias = bias1 ? bias1[j] : 0.0f;
          dots(z, first + j * c, n, c, [&](int64_t i, float v) {
            hidden[i * h + j] = v + bias < 0 ? 0.0f : v + bias;
          });
        }
      });
      rows(c, n * h, [&](int64_t from, int64_t to) {
        for (int64_t k = from; k < to; ++k) {
          const float bias = bias2 ? bias2[k] : 0.0f;
          dots(hidden, second + k * h, n, h, [&](int64_t i, float v) { p[i * c + k] = v + bias; });
        }
      });
      return;
    }
    for (int64_t i = 0; i < n; ++i) {
      float* out = p + i * c;
      if (bias2)
        std::copy_n(bias2, c, out);
      else
        std::fill_n(out, c, 0.0f);
      for (int64_t j = 0; j < h; ++j) {
        const float v = dot(z + i * c, first + j * c, c) + (bias1 ? bias1[j] : 0.0f);
        hidden[i * h + j] = v < 0 ? 0.0f : v;
        if (!(v < 0)) add(out, v, turned.data() + j * c, c);
      }
    }
  }

  // dz [N, C], dh [N, H] and the gradients of the layers, of dp [N, C]
  void backward(const float* dp, const float* z, const float* hidden, float* dh, float* dz,
                float* dw1, float* db1, float* dw2, float* db2, int64_t n) const {
    const float* first = data(w1);
    if (matrix) {
      auto blob = [](const float* t, int64_t rows, int64_t columns) {
        return at::from_blob(const_cast<float*>(t), {rows, columns});
      };
      auto dps = blob(dp, n, c), dhs = blob(dh, n, h), dzs = blob(dz, n, c);
      at::mm_out(dhs, dps, w2);
      for (int64_t i = 0; i < n * h; ++i) dh[i] = hidden[i] > 0 ? dh[i] : 0.0f;
      at::mm_out(dzs, dhs, w1);
      auto dw1s = blob(dw1, h, c), dw2s = blob(dw2, c, h);
      at::mm_out(dw1s, dhs.t(), blob(z, n, c));
      at::mm_out(dw2s, dps.t(), blob(hidden, n, h));
    } else if (direct) {
      const float* second = data(w2);
      int64_t threads = at::get_num_threads();
#ifdef _OPENMP
      threads = std::max<int64_t>(threads, omp_get_max_threads());  // of another runtime than torch's
#endif
      const int64_t some = std::max<int64_t>(4, NEAR / h);
      std::vector<float> parts(threads * n * h);  // of dh, a part for each thread
      rows(c, 2 * n * h, [&](int64_t from, int64_t to) {
        float* part = parts.data() + at::get_thread_num() * n * h;
        for (int64_t k0 = from; k0 < to; k0 += some) {
          const int64_t k1 = std::min(k0 + some, to);
          for (int64_t k = k0; k < k1; ++k)
            combine<true>(dw2 + k * h, h, n, [&](int64_t i) { return dp[i * c + k]; },
                          [&](int64_t i) { return hidden + i * h; });
          for (int64_t i = 0; i < n; ++i)
            combine<false>(part + i * h, h, k1 - k0, [&](int64_t k) { return dp[i * c + k0 + k]; },
                           [&](int64_t k) { return second + (k0 + k) * h; });
        }
      });
      std::copy_n(parts.data(), n * h, dh);
      for (int64_t t = 1; t < threads; ++t) add(dh, 1, parts.data() + t * n * h, n * h);
      for (int64_t i = 0; i < n * h; ++i) dh[i] = hidden[i] > 0 ? dh[i] : 0.0f;
      rows(c, 2 * n * h, [&](int64_t from, int64_t to) {
        for (int64_t k = from; k < to; k += COLUMNS) {
          const int64_t size = std::min(COLUMNS, to - k), few = NEAR / COLUMNS;
          for (int64_t i = 0; i < n; ++i) std::fill_n(dz + i * c + k, size, 0.0f);
          for (int64_t j0 = 0; j0 < h; j0 += few) {
            const int64_t j1 = std::min(j0 + few, h);
            for (int64_t j = j0; j < j1; ++j)
              combine<true>(dw1 + j * c + k, size, n, [&](int64_t i) { return dh[i * h + j]; },
                            [&](int64_t i) { return z + i * c + k; });
            for (int64_t i = 0; i < n; ++i)
              combine<false>(dz + i * c + k, size, j1 - j0,
                             [&](int64_t j) { return dh[i * h + j0 + j]; },
                             [&](int64_t j) { return first + (j0 + j) * c + k; });
          }
        }
      });
    } else {
      std::vector<float> turned_grad(c * h);
      std::fill_n(dw1, c * h, 0.0f);
      for (int64_t i = 0; i < n; ++i) {
        std::fill_n(dz + i * c, c, 0.0f);
        for (int64_t j = 0; j < h; ++j) {
          const float there = hidden[i * h + j];
          float& d = dh[i * h + j];
          d = there > 0 ? dot(dp + i * c, turned.data() + j * c, c) : 0.0f;
          if (there == 0) continue;  // not of NaN
          add(dz + i * c, d, first + j * c, c);
          add(dw1 + j * c, d, z + i * c, c);
          add(turned_grad.data() + j * c, there, dp + i * c, c);
        }
      }
      const float* columns = turned_grad.data();
      for (int64_t i = 0; i < c; ++i) {
#pragma omp simd
        for (int64_t j = 0; j < h; ++j) dw2[i * h + j] = columns[j * c + i];
      }
    }
    auto columns = [n](float* out, const float* in, int64_t size) {
      if (!out) return;
      std::fill_n(out, size, 0.0f);
      for (int64_t i = 0; i < n; ++i) add(out, 1, in + i * size, size);
    };
    columns(db1, dh, h);
    columns(db2, dp, c);
  }
};

template <class F>
inline void images(const Size& size, F f) {
  at::parallel_for(0, size.n, size.images(), [&](int64_t from, int64_t to) {
    for (int64_t n = from; n < to; ++n) f(n);
  });
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

// g: dy, behind the ReLU at the end where there is one
template <bool MASKED, class T>
inline float behind(const T* grad, const T* out, int64_t place) {
  if constexpr (MASKED) return float(out[place]) <= 0 ? 0.0f : float(grad[place]);
  return float(grad[place]);
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
  images(size, [&](int64_t n) {
    const T* x = u + n * size.values();
    float *mn = m + n * c, *vn = v + n * c;
    float* const first[1] = {mn};
    sums(size, first, [=](int64_t, int64_t place) { return Five{float(x[place])}; });
    for (int64_t i = 0; i < c; ++i) mn[i] /= float(size.l);
    if (o.norm != BATCH) return;
    float* const second[1] = {vn};
    sums(size, second, [=](int64_t i, int64_t place) {
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
  std::fill_n(kept.mu, c, 0.0f);
  for (int64_t n = 0; n < size.n; ++n) add(kept.mu, 1, m + n * c, c);
  for (int64_t i = 0; i < c; ++i) kept.mu[i] /= float(size.n);
  std::fill_n(kept.rstd, c, 0.0f);  // the variance, for now
  for (int64_t n = 0; n < size.n; ++n) {
    const float *mn = m + n * c, *vn = v + n * c;
#pragma omp simd
    for (int64_t i = 0; i < c; ++i) {
      const float d = mn[i] - kept.mu[i];
      kept.rstd[i] += vn[i] / float(size.l) + d * d;
    }
  }
  const float count = float(size.n * size.l), weight = float(o.momentum);
  for (int64_t i = 0; i < c; ++i) {
    const float batch = kept.rstd[i] / float(size.n);
    kept.rstd[i] = 1.0f / std::sqrt(batch + float(o.eps));
    if (mean) mean[i] += weight * (kept.mu[i] - mean[i]);
    if (var) var[i] += weight * (batch * (count / (count - 1)) - var[i]);
  }
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
  by_act(o.act, [&](auto kind) {
    constexpr int64_t ACT = decltype(kind)::value;
    float* z = ACT == LINEAR ? m : kept.z;
    images(size, [&](int64_t n) {
      const T* x = u + n * size.values();
      float* zn = z + n * c;
      if constexpr (ACT == LINEAR) {
#pragma omp simd
        for (int64_t i = 0; i < c; ++i) zn[i] = gain[i] * (zn[i] - mu[i]) + shift[i];
      } else {
        float* const out[1] = {zn};
        sums(size, out, [=](int64_t i, int64_t place) {
          return Five{act<ACT>(gain[i] * (float(x[place]) - mu[i]) + shift[i])};
        });
        for (int64_t i = 0; i < c; ++i) zn[i] /= float(size.l);
      }
    });
    layers.forward(z, kept.h, kept.s, size.n);
#pragma omp simd
    for (int64_t i = 0; i < vector; ++i) kept.s[i] = gate(kept.s[i], o);
    images(size, [&](int64_t n) {
      const int64_t start = n * size.values();
      const T *x = u + start, *id = identity ? identity + start : nullptr;
      T* out = y + start;
      const float* s = kept.s + n * c;
      auto write = [&](auto with_identity, auto with_relu) {
        each(size, [=](int64_t i, int64_t place) {
          const float deviation = float(x[place]) - mu[i];
          float value = ACT == LINEAR ? s[i] * gain[i] * deviation + s[i] * shift[i]
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
  by_act(o.act, [&](auto kind) {
    constexpr int64_t ACT = decltype(kind)::value;
    auto first = [&](auto masked, auto written) {
      images(size, [&](int64_t n) {
        const int64_t start = n * size.values(), row = n * c;
        const T *x = u + start, *grad = dy + start, *out = y + start;
        T* to_g = g + start;
        if constexpr (ACT == LINEAR) {
          float* const to[3] = {a + row, b + row, e + row};
          sums(size, to, [=](int64_t i, int64_t place) {
            const float t = behind<masked.value>(grad, out, place);
            if constexpr (written.value) to_g[place] = T(t);
            const float deviation = float(x[place]) - mu[i];
            return Five{t, t * deviation, deviation};
          });
#pragma omp simd
          for (int64_t i = 0; i < c; ++i) {
            const int64_t j = row + i;
            e[j] /= float(size.l);
            d[j] = 1;
            z[j] = gain[i] * e[j] + shift[i];
            ds[j] = gain[i] * b[j] + shift[i] * a[j];
          }
        } else {
          float* const to[5] = {ds + row, a + row, b + row, d + row, e + row};
          sums(size, to, [=](int64_t i, int64_t place) {
            const float t = float(grad[place]), deviation = float(x[place]) - mu[i];
            const float y0 = gain[i] * deviation + shift[i], slant = slope<ACT>(y0);
            return Five{t * act<ACT>(y0), t * slant, t * slant * deviation, slant,
                        slant * deviation};
          });
          for (int64_t i = row; i < row + c; ++i) d[i] /= float(size.l), e[i] /= float(size.l);
        }
      });
    };
    std::true_type yes;
    std::false_type no;
    if constexpr (ACT == LINEAR)
      !y ? first(no, no) : g ? first(yes, yes) : first(yes, no);
    else
      first(no, no);
    if (ACT != LINEAR) std::copy_n(kept.z, vector, z);
#pragma omp simd
    for (int64_t i = 0; i < vector; ++i) ds[i] *= gate_slope(kept.s[i], o);  // dp
    layers.backward(ds, z, kept.h, dh, dz, grads.w1, grads.b1, grads.w2, grads.b2, size.n);
    std::fill_n(dbeta, c, 0.0f);
    std::fill_n(q, c, 0.0f);
    for (int64_t n = 0; n < size.n; ++n) {
      const int64_t row = n * c;
#pragma omp simd
      for (int64_t i = 0; i < c; ++i) {
        dbeta[i] += kept.s[row + i] * a[row + i] + dz[row + i] * d[row + i];
        q[i] += kept.s[row + i] * b[row + i] + dz[row + i] * e[row + i];
      }
    }
    if (grads.gamma)
      for (int64_t i = 0; i < c; ++i) grads.gamma[i] = q[i] * kept.rstd[i];
    if (grads.beta) std::copy_n(dbeta, c, grads.beta);
    if (!du) return;
    const float count = float(size.n * size.l), share = 1.0f / float(size.l);
    for (int64_t i = 0; i < c; ++i) {
      const bool batch = o.norm == BATCH;
      constant[i] = batch ? gain[i] * dbeta[i] / count : 0.0f;
      q[i] = batch ? gain[i] * kept.rstd[i] * kept.rstd[i] * q[i] / count : 0.0f;
    }
    auto second = [&](auto masked, const T* source) {
      images(size, [&](int64_t n) {
        const int64_t start = n * size.values();
        const T *x = u + start, *grad = source + start, *out = y + start;
        T* to = du + start;
        const float *s = kept.s + n * c, *back = dz + n * c;
        each(size, [=](int64_t i, int64_t place) {
          const float t = behind<masked.value>(grad, out, place);
          const float deviation = float(x[place]) - mu[i];
          float value = gain[i] * (s[i] * t + back[i] * share);
          if constexpr (ACT != LINEAR) value *= slope<ACT>(gain[i] * deviation + shift[i]);
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
    Layers layers(w1, or_none(b1), w2, or_none(b2), size.n);
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
    Layers layers(w1, saved[7], w2, saved[9], size.n);
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
