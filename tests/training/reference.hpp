#pragma once

/// \file
/// The slow, obvious reference of training: the papers' equations in plain loops over a scalar
/// type. With `double` it is a loss; with `Var`, which records every operation, its exact gradient.

#include <algorithm>
#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "krait/models/spec.hpp"
#include "krait/training/parameters.hpp"

namespace krait::test {

/// A tape of operations of one and two operands, with their derivatives.
class Tape {
 public:
  struct Node {
    std::size_t from[2];
    double slope[2];
  };
  std::size_t add(std::size_t a, double da, std::size_t b, double db) {
    nodes_.push_back({{a, b}, {da, db}});
    return nodes_.size() - 1;
  }
  void clear() { nodes_.assign(1, {}); }
  /// d(result) / d(node) for every node.
  std::vector<double> gradient(std::size_t result) const {
    std::vector<double> all(nodes_.size());
    all[result] = 1.0;
    for (std::size_t i = result; i > 0; --i) {
      for (int k = 0; k < 2; ++k) all[nodes_[i].from[k]] += nodes_[i].slope[k] * all[i];
    }
    return all;
  }
  static Tape& instance() {
    static Tape tape;
    return tape;
  }

 private:
  std::vector<Node> nodes_{1};  // node 0 stands for constants
};

struct Var {
  double value = 0.0;
  std::size_t node = 0;
  Var() = default;
  Var(double v) : value(v) {}  // NOLINT: converting
  Var(double v, std::size_t n) : value(v), node(n) {}
  static Var of(double v, const Var& a, double da) { return of(v, a, da, Var(0.0), 0.0); }
  static Var of(double v, const Var& a, double da, const Var& b, double db) {
    if (a.node == 0 && b.node == 0) return {v};
    return {v, Tape::instance().add(a.node, da, b.node, db)};
  }
  static Var leaf(double v) { return {v, Tape::instance().add(0, 0.0, 0, 0.0)}; }
};
inline Var operator+(const Var& a, const Var& b) {
  return Var::of(a.value + b.value, a, 1.0, b, 1.0);
}
inline Var operator-(const Var& a, const Var& b) {
  return Var::of(a.value - b.value, a, 1.0, b, -1.0);
}
inline Var operator*(const Var& a, const Var& b) {
  return Var::of(a.value * b.value, a, b.value, b, a.value);
}
inline Var operator/(const Var& a, const Var& b) {
  return Var::of(a.value / b.value, a, 1.0 / b.value, b, -a.value / (b.value * b.value));
}
inline Var exp(const Var& a) { return Var::of(std::exp(a.value), a, std::exp(a.value)); }
inline Var log(const Var& a) { return Var::of(std::log(a.value), a, 1.0 / a.value); }
inline Var erf(const Var& a) {
  return Var::of(std::erf(a.value), a, std::exp(-a.value * a.value) * 1.1283791670955126);
}
inline Var sqrt(const Var& a) { return Var::of(std::sqrt(a.value), a, 0.5 / std::sqrt(a.value)); }
inline double value_of(double x) { return x; }
inline double value_of(const Var& x) { return x.value; }

/// A matrix of scalars, row after row.
template <class T>
struct Rows {
  Index rows = 0;
  Index cols = 0;
  std::vector<T> data;
  Rows() = default;
  Rows(Index r, Index c) : rows(r), cols(c), data(static_cast<std::size_t>(r * c), T(0.0)) {}
  T& operator()(Index r, Index c) { return data[static_cast<std::size_t>(r * cols + c)]; }
  const T& operator()(Index r, Index c) const {
    return data[static_cast<std::size_t>(r * cols + c)];
  }
  Rows columns(Index first, Index count) const {
    Rows part(rows, count);
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < count; ++c) part(r, c) = (*this)(r, first + c);
    }
    return part;
  }
};

template <class T>
T sigmoid_of_scalar(const T& x) {
  using std::exp;
  return T(1.0) / (T(1.0) + exp(T(0.0) - x));
}
template <class T>
T silu_of_scalar(const T& x) {
  return x * sigmoid_of_scalar(x);
}
template <class T>
T gelu_of_scalar(const T& x) {
  using std::erf;
  return T(0.5) * x * (T(1.0) + erf(x * T(0.7071067811865476)));
}
template <class T>
T softplus_of_scalar(const T& x) {
  using std::exp;
  using std::log;
  return log(T(1.0) + exp(x));
}

/// The tensors of a model as scalars, and the model's equations.
template <class T>
class Reference {
 public:
  Reference(const ModelSpec& spec, const Parameters& parameters, std::vector<T> values)
      : spec_(spec), parameters_(&parameters), values_(std::move(values)) {}

  struct Options {
    double balance = 0.0;
    double z_loss = 0.0;
    double capacity = 0.0;
    std::vector<T> state = {};     // of all blocks, as State::block has it; empty: zeros
    std::vector<float> laws = {};  // [inputs, vocab] of a teacher
    double alpha = 0.0;            // what the divergence from it counts
    double temperature = 1.0;
    std::vector<double> dstate = {};  // adds Σ dstate · state after the row to the loss
  };

  /// Σ weight · −ln p(target), and the routers' losses times the number of tokens.
  T loss(std::span<const Token> inputs, std::span<const Token> targets,
         std::span<const float> weights, const Options& options) {
    options_ = options;
    if (options_.state.empty()) options_.state.assign(65536, T(0.0));
    extra_ = T(0.0);
    position_ = 0;
    const auto count = static_cast<Index>(inputs.size());
    Rows<T> h(count, spec_.d_model());
    const T* E = at(spec_.embedding_name + ".weight");
    for (Index t = 0; t < count; ++t) {
      for (Index i = 0; i < h.cols; ++i) {
        h(t, i) =
            E[inputs[static_cast<std::size_t>(t)] * h.cols + i] * T(double(spec_.embedding.scale));
      }
    }
    embedding_ = h;
    Rows<T> aside;  // what a block has left for the one after it
    for (std::size_t l = 0; l < spec_.layers.size(); ++l) {
      Rows<T> input = h;
      const std::string layer = spec_.layers_name + "." + std::to_string(l) + ".";
      for (const ResidualSpec& residual : spec_.layers[l].residuals) {
        if (!residual.beside) input = aside.rows > 0 ? aside : h;
        aside = {};
        own_ = layer;
        owner_ = residual.weights_of < 0 ? std::string() : first_user(residual.weights_of);
        const std::string path = layer + residual.block_name + ".";
        const bool is_wide =
            std::visit([](const auto& k) { return reads_embedding(k); }, residual.block);
        const Rows<T> x = norm(residual.norm, layer + residual.norm_name,
                               is_wide ? beside_embedding(input) : input);
        const Rows<T> y =
            std::visit([&](const auto& kind) { return block(kind, path, x); }, residual.block);
        Rows<T> sum = h;
        for (std::size_t i = 0; i < h.data.size(); ++i) {
          sum.data[i] = h.data[i] + y.data[i] * T(double(residual.scale));
        }
        (residual.aside ? aside : h) = sum;
      }
    }
    owner_.clear();
    const Rows<T> x = norm(spec_.final_norm, spec_.final_norm_name, h);
    const std::string head = parameters_->find(spec_.head_name + ".weight") != nullptr
                                 ? spec_.head_name
                                 : spec_.embedding_name;
    Rows<T> logits = linear(head, x, spec_.embedding.vocab);
    for (T& logit : logits.data) logit = logit * T(double(spec_.logit_scale));
    T sum = extra_;
    for (Index t = 0; t < count; ++t) {
      const auto i = static_cast<std::size_t>(t);
      T nll = log_sum(logits, t) - logits(t, targets[i]);
      if (!options_.laws.empty()) {
        nll = nll * T(1.0 - options_.alpha) + divergence(logits, t) * T(options_.alpha);
      }
      sum = sum + nll * T(weights.empty() ? 1.0 : double(weights[i]));
    }
    return sum;
  }

 private:
  // The tensor below the layer itself or the one whose weights it uses; null if there is none.
  const Parameter* find(const std::string& path) const {
    const Parameter* found = parameters_->find(path);
    if (found != nullptr || owner_.empty() || !path.starts_with(own_)) return found;
    return parameters_->find(owner_ + path.substr(own_.size()));
  }
  const T* at(const std::string& path) const {
    const Parameter* found = find(path);
    if (found == nullptr) throw std::runtime_error("no parameter " + path);
    return values_.data() + found->offset;
  }
  bool has(const std::string& path) const { return find(path) != nullptr; }

  // Paths of shared tensors have the first layer that uses them.
  std::string first_user(Index weights_of) const {
    for (std::size_t l = 0; l < spec_.layers.size(); ++l) {
      for (const ResidualSpec& residual : spec_.layers[l].residuals) {
        if (residual.weights_of == weights_of) {
          return spec_.layers_name + "." + std::to_string(l) + ".";
        }
      }
    }
    return {};
  }

  Rows<T> beside_embedding(const Rows<T>& x) const {
    Rows<T> wide(x.rows, 2 * x.cols);
    for (Index t = 0; t < x.rows; ++t) {
      for (Index i = 0; i < x.cols; ++i) {
        wide(t, i) = x(t, i);
        wide(t, x.cols + i) = embedding_(t, i);
      }
    }
    return wide;
  }

  Rows<T> multiply(const T* W, const T* bias, const Rows<T>& x, Index out) const {
    Rows<T> y(x.rows, out);
    for (Index t = 0; t < x.rows; ++t) {
      for (Index r = 0; r < out; ++r) {
        T sum = bias == nullptr ? T(0.0) : bias[r];
        for (Index k = 0; k < x.cols; ++k) sum = sum + W[r * x.cols + k] * x(t, k);
        y(t, r) = sum;
      }
    }
    return y;
  }
  Rows<T> linear(const std::string& name, const Rows<T>& x, Index out) const {
    return multiply(at(name + ".weight"), has(name + ".bias") ? at(name + ".bias") : nullptr, x,
                    out);
  }
  // The same with an adapter of the block's own, unless its rank is 0.
  Rows<T> adapted(const std::string& name, const std::string& adapter, Index rank, const Rows<T>& x,
                  Index out) const {
    Rows<T> y = linear(name, x, out);
    if (rank == 0) return y;
    const Rows<T> more = linear(adapter + ".1", linear(adapter + ".0", x, rank), out);
    for (std::size_t i = 0; i < y.data.size(); ++i) y.data[i] = y.data[i] + more.data[i];
    return y;
  }

  // T² KL(law ‖ softmax(logits / T)) of token t.
  T divergence(const Rows<T>& logits, Index t) const {
    const T heat(options_.temperature);
    Rows<T> cooled(1, logits.cols);
    for (Index v = 0; v < logits.cols; ++v) cooled(0, v) = logits(t, v) / heat;
    const T all = log_sum(cooled, 0);
    T sum(0.0);
    for (Index v = 0; v < logits.cols; ++v) {
      const double q = double(options_.laws[static_cast<std::size_t>(t * logits.cols + v)]);
      if (q > 0.0) sum = sum + T(q) * (T(std::log(q)) - cooled(0, v) + all);
    }
    return sum * heat * heat;
  }

  static T log_sum(const Rows<T>& logits, Index t) {
    using std::exp;
    using std::log;
    T sum(0.0);
    for (Index i = 0; i < logits.cols; ++i) sum = sum + exp(logits(t, i));
    return log(sum);
  }

  Rows<T> rms(const Rows<T>& x, const T* weight, double eps) const {
    using std::sqrt;
    Rows<T> y(x.rows, x.cols);
    for (Index t = 0; t < x.rows; ++t) {
      T sum(0.0);
      for (Index i = 0; i < x.cols; ++i) sum = sum + x(t, i) * x(t, i);
      const T scale = T(1.0) / sqrt(sum / T(double(x.cols)) + T(eps));
      for (Index i = 0; i < x.cols; ++i) {
        y(t, i) = x(t, i) * scale * (weight == nullptr ? T(1.0) : weight[i]);
      }
    }
    return y;
  }

  Rows<T> norm(const NormSpec& spec, const std::string& name, const Rows<T>& x) const {
    if (const auto* kind = std::get_if<RmsNormSpec>(&spec)) {
      return rms(x, at(name + ".weight"), double(kind->eps));
    }
    Rows<T> centred = x;
    for (Index t = 0; t < x.rows; ++t) {
      T mean(0.0);
      for (Index i = 0; i < x.cols; ++i) mean = mean + x(t, i);
      mean = mean / T(double(x.cols));
      for (Index i = 0; i < x.cols; ++i) centred(t, i) = x(t, i) - mean;
    }
    Rows<T> y = rms(centred, at(name + ".weight"), double(std::get<LayerNormSpec>(spec).eps));
    for (Index t = 0; t < x.rows; ++t) {
      for (Index i = 0; i < x.cols; ++i) y(t, i) = y(t, i) + at(name + ".bias")[i];
    }
    return y;
  }

  // A block's tensor in the state: what it was, and what it is when the row has ended.
  T* take_state(Index floats) {
    T* own = options_.state.data() + position_;
    position_ += round_up(floats, Index{16});
    return own;
  }
  void end_state(const T* own, Index index, const T& last) {
    const auto i = static_cast<std::size_t>(own - options_.state.data() + index);
    if (i < options_.dstate.size()) extra_ = extra_ + last * T(options_.dstate[i]);
  }

  Rows<T> convolve(const std::string& name, const Rows<T>& x, Index d_conv, bool silu = true) {
    const Index before = d_conv - 1;
    const T* own = take_state(before * x.cols);
    const T* w = at(name + ".weight");
    const auto input = [&](Index i, Index c) {
      return i < before ? own[i * x.cols + c] : x(i - before, c);
    };
    Rows<T> y(x.rows, x.cols);
    for (Index c = 0; c < x.cols; ++c) {
      for (Index t = 0; t < x.rows; ++t) {
        T sum = has(name + ".bias") ? at(name + ".bias")[c] : T(0.0);
        for (Index k = 0; k < d_conv; ++k) sum = sum + w[c * d_conv + k] * input(t + k, c);
        y(t, c) = silu ? silu_of_scalar(sum) : sum;
      }
      for (Index i = 0; i < before; ++i) {
        end_state(own, i * x.cols + c, input(x.rows + i, c));
      }
    }
    return y;
  }

  Rows<T> block(const MambaSpec& unresolved, const std::string& path, const Rows<T>& x) {
    using std::exp;
    const MambaSpec spec = unresolved.resolved(spec_.d_model());
    const Index E = spec.d_inner;
    const Index N = spec.d_state;
    const Rows<T> xz = linear(path + "in_proj", x, 2 * E);
    const Rows<T> u = convolve(path + "conv1d", xz.columns(0, E), spec.d_conv);
    const Rows<T> dBC = linear(path + "x_proj", u, spec.dt_rank + 2 * N);
    Rows<T> delta = dBC.columns(0, spec.dt_rank);
    Rows<T> B = dBC.columns(spec.dt_rank, N);
    Rows<T> C = dBC.columns(spec.dt_rank + N, N);
    const std::pair<Rows<T>*, const char*> normed[] = {
        {&delta, "dt_layernorm"}, {&B, "b_layernorm"}, {&C, "c_layernorm"}};
    for (const auto& [part, name] : normed) {
      if (!(spec.inner_norm_eps >= 0.0F)) break;
      const T* weight = spec.inner_norm_weights ? at(path + name + ".weight") : nullptr;
      *part = rms(*part, weight, double(spec.inner_norm_eps));
    }
    const Rows<T> dt_raw = linear(path + "dt_proj", delta, E);
    const T* own = take_state(kernels::scan_size(E, N));
    Rows<T> y(x.rows, E);
    for (Index d = 0; d < E; ++d) {
      std::vector<T> h;
      for (Index n = 0; n < N; ++n) h.push_back(own[kernels::scan_offset(d, n, N)]);
      for (Index t = 0; t < x.rows; ++t) {
        const T dt = softplus_of_scalar(dt_raw(t, d));
        T sum = at(path + "D")[d] * u(t, d);
        for (Index n = 0; n < N; ++n) {
          T& state = h[static_cast<std::size_t>(n)];
          const T a = exp(T(0.0) - dt * exp(at(path + "A_log")[d * N + n]));
          state = a * state + dt * u(t, d) * B(t, n);
          sum = sum + C(t, n) * state;
        }
        y(t, d) = sum * silu_of_scalar(xz(t, E + d));
      }
      for (Index n = 0; n < N; ++n) {
        end_state(own, kernels::scan_offset(d, n, N), h[static_cast<std::size_t>(n)]);
      }
    }
    return linear(path + "out_proj", y, x.cols);
  }

  Rows<T> block(const Mamba2Spec& unresolved, const std::string& path, const Rows<T>& x) {
    using std::exp;
    const Mamba2Spec spec = unresolved.resolved(spec_.d_model());
    const Index N = spec.d_state;
    const Index P = spec.head_dim;
    const Index d_mlp = spec.d_mlp();
    const Index d_B = spec.n_group * N;
    Rows<T> parts = linear(path + "in_proj", x, spec.in_proj_rows());
    const std::pair<float, Index> factors[] = {
        {1.0F, 2 * d_mlp},    {spec.scales.z, spec.d_ssm}, {spec.scales.x, spec.d_ssm},
        {spec.scales.B, d_B}, {spec.scales.C, d_B},        {spec.scales.dt, spec.n_head()}};
    Index column = 0;
    for (const auto& [factor, width] : factors) {
      for (const Index end = column + width; column < end; ++column) {
        for (Index t = 0; t < x.rows; ++t) parts(t, column) = parts(t, column) * T(double(factor));
      }
    }
    const Rows<T> xBC = convolve(
        path + "conv1d", parts.columns(2 * d_mlp + spec.d_ssm, spec.conv_dim()), spec.d_conv);
    const T* own = take_state(spec.d_ssm * N);
    Rows<T> y(x.rows, spec.d_ssm);
    for (Index channel = 0; channel < spec.d_ssm; ++channel) {
      const Index h = channel / P;
      const Index group = h / (spec.n_head() / spec.n_group) * N;
      std::vector<T> S;
      for (Index n = 0; n < N; ++n) S.push_back(own[channel * N + n]);
      for (Index t = 0; t < x.rows; ++t) {
        T dt =
            softplus_of_scalar(parts(t, parts.cols - spec.n_head() + h) + at(path + "dt_bias")[h]);
        if (value_of(dt) < double(spec.dt_min)) dt = T(double(spec.dt_min));
        if (value_of(dt) > double(spec.dt_max)) dt = T(double(spec.dt_max));
        const T a = exp(T(0.0) - dt * exp(at(path + "A_log")[h]));
        const T& u = xBC(t, channel);
        T sum = at(path + "D")[spec.D_per_channel ? channel : h] * u;
        for (Index n = 0; n < N; ++n) {
          T& state = S[static_cast<std::size_t>(n)];
          state = a * state + dt * u * xBC(t, spec.d_ssm + group + n);
          sum = sum + xBC(t, spec.d_ssm + d_B + group + n) * state;
        }
        y(t, channel) = sum;
      }
      for (Index n = 0; n < N; ++n) {
        end_state(own, channel * N + n, S[static_cast<std::size_t>(n)]);
      }
    }
    const auto normalize = [&](Rows<T>& values) {
      const Index width = spec.d_ssm / spec.n_group;
      for (Index first = 0; first < spec.d_ssm; first += width) {
        const Rows<T> part = rms(values.columns(first, width), at(path + "norm.weight") + first,
                                 double(spec.norm_eps));
        for (Index t = 0; t < values.rows; ++t) {
          for (Index i = 0; i < width; ++i) values(t, first + i) = part(t, i);
        }
      }
    };
    if (spec.norm == GatedNorm::before_gate) normalize(y);
    for (Index t = 0; t < x.rows; ++t) {
      for (Index i = 0; i < y.cols; ++i) {
        y(t, i) = y(t, i) * silu_of_scalar(parts(t, 2 * d_mlp + i));
      }
    }
    if (spec.norm == GatedNorm::after_gate) normalize(y);
    Rows<T> out(x.rows, spec.d_inner);
    for (Index t = 0; t < x.rows; ++t) {
      for (Index i = 0; i < spec.d_inner; ++i) {
        out(t, i) = i < d_mlp ? silu_of_scalar(parts(t, i)) * parts(t, d_mlp + i) : y(t, i - d_mlp);
      }
    }
    return linear(path + "out_proj", out, x.cols);
  }

  Rows<T> block(const AttentionSpec& unresolved, const std::string& path, const Rows<T>& x) {
    using std::exp;
    const AttentionSpec spec = unresolved.resolved(spec_.d_model());
    const Index d = spec.d_head;
    const AttentionNames& names = spec.names;
    const Index d_q = spec.n_head * d;
    const Index d_kv = spec.n_kv_head * d;
    Rows<T> qkv(x.rows, d_q + 2 * d_kv);
    if (!names.qkv.empty()) {
      qkv = linear(path + names.qkv, x, qkv.cols);
    } else {
      const Rows<T> all[] = {
          adapted(path + names.q, path + names.q_adapter, spec.adapter_rank, x, d_q),
          adapted(path + names.k, path + names.k_adapter, spec.adapter_rank, x, d_kv),
          adapted(path + names.v, path + names.v_adapter, spec.adapter_rank, x, d_kv)};
      Index column = 0;
      for (const Rows<T>& part : all) {
        for (Index c = 0; c < part.cols; ++c, ++column) {
          for (Index t = 0; t < x.rows; ++t) qkv(t, column) = part(t, c);
        }
      }
    }
    if (spec.d_conv > 0) qkv = convolve(path + names.conv, qkv, spec.d_conv, false);
    Rows<T> q = qkv.columns(0, d_q);
    Rows<T> k = qkv.columns(d_q, d_kv);
    const Rows<T> v = qkv.columns(d_q + d_kv, d_kv);
    const std::vector<double> frequencies =
        spec.rotary ? spec.rotary->frequencies() : std::vector<double>();
    for (Rows<T>* rows : {&q, &k}) {
      if (!spec.rotary) break;
      const Index pairs = spec.rotary->dim / 2;
      for (Index t = 0; t < x.rows; ++t) {
        for (Index first = 0; first < rows->cols; first += d) {
          for (Index i = 0; i < pairs; ++i) {
            const double angle = double(t) * frequencies[static_cast<std::size_t>(i)];
            T& x0 = (*rows)(t, first + (spec.rotary->interleaved ? 2 * i : i));
            T& x1 = (*rows)(t, first + (spec.rotary->interleaved ? 2 * i + 1 : pairs + i));
            const T a = x0 * T(std::cos(angle)) - x1 * T(std::sin(angle));
            x1 = x1 * T(std::cos(angle)) + x0 * T(std::sin(angle));
            x0 = a;
          }
        }
      }
    }
    Rows<T> y(x.rows, spec.n_head * d);
    for (Index h = 0; h < spec.n_head; ++h) {
      const Index own = h / (spec.n_head / spec.n_kv_head) * d;
      for (Index t = 0; t < x.rows; ++t) {
        std::vector<T> p;
        T sum(0.0);
        const Index begin = spec.window > 0 ? std::max(Index{0}, t + 1 - spec.window) : 0;
        for (Index j = begin; j <= t; ++j) {
          T score(0.0);
          for (Index i = 0; i < d; ++i) score = score + q(t, h * d + i) * k(j, own + i);
          p.push_back(exp(score * T(double(spec.scale))));
          sum = sum + p.back();
        }
        for (Index j = begin; j <= t; ++j) {
          for (Index i = 0; i < d; ++i) {
            y(t, h * d + i) =
                y(t, h * d + i) + p[static_cast<std::size_t>(j - begin)] / sum * v(j, own + i);
          }
        }
      }
    }
    return linear(path + names.out, y, spec_.d_model());
  }

  static T activate(Activation activation, const T& x) {
    const T positive = value_of(x) > 0.0 ? x : T(0.0);
    switch (activation) {
      case Activation::silu:
        return silu_of_scalar(x);
      case Activation::relu_squared:
        return positive * positive;
      case Activation::gelu:
        return gelu_of_scalar(x);
      case Activation::relu:
        break;
    }
    return positive;
  }

  // A feed-forward network: [gate; factor] of a token, from one matrix or two.
  Rows<T> run(const MlpSpec& spec, const Rows<T>& up, const T* down, const T* down_bias) const {
    const Index H = spec.d_hidden;
    const Index gate = spec.gate_last ? H : 0;
    Rows<T> active(up.rows, H);
    for (Index t = 0; t < up.rows; ++t) {
      for (Index i = 0; i < H; ++i) {
        active(t, i) = activate(spec.activation, up(t, gate + i) * T(double(spec.gate_scale)));
        if (spec.gated) active(t, i) = active(t, i) * up(t, H - gate + i);
      }
    }
    return multiply(down, down_bias, active, spec_.d_model());
  }

  Rows<T> block(const MlpSpec& unresolved, const std::string& path, const Rows<T>& x) {
    const MlpSpec spec = unresolved.resolved(spec_.d_model());
    const Index H = spec.d_hidden;
    const Index rows = spec.gated && spec.gate.empty() ? 2 * H : H;
    Rows<T> up = adapted(path + spec.up, path + spec.adapter, spec.adapter_rank, x, rows);
    if (!spec.gate.empty()) {
      Rows<T> both(x.rows, 2 * H);
      const Rows<T> gate = linear(path + spec.gate, x, H);
      for (Index t = 0; t < x.rows; ++t) {
        for (Index i = 0; i < H; ++i) {
          both(t, i) = gate(t, i);
          both(t, H + i) = up(t, i);
        }
      }
      up = both;
    }
    const std::string bias = path + spec.down + ".bias";
    return run(spec, up, at(path + spec.down + ".weight"), has(bias) ? at(bias) : nullptr);
  }

  // The gates of token t by the router's rule; chosen by value.
  std::vector<T> gates(const MoeSpec& spec, const std::string& router, const Rows<T>& logits,
                       Index t) const {
    using kernels::RouterScore;
    using std::exp;
    const Index n = spec.n_expert;
    std::vector<T> score;
    std::vector<double> key;
    for (Index e = 0; e < n; ++e) {
      const T& logit = logits(t, e);
      score.push_back(spec.router.score == RouterScore::sigmoid   ? sigmoid_of_scalar(logit)
                      : spec.router.score == RouterScore::softmax ? exp(logit - log_sum(logits, t))
                                                                  : exp(logit));
      key.push_back(value_of(score.back()));
      if (spec.router.selection_bias) {
        key.back() += value_of(at(router + ".e_score_correction_bias")[e]);
      }
    }
    std::vector<T> gate(score.size(), T(0.0));
    T sum(1e-20);
    for (Index k = 0; k < spec.top_k; ++k) {
      std::size_t best = 0;
      for (std::size_t e = 1; e < key.size(); ++e) best = key[e] > key[best] ? e : best;
      gate[best] = score[best];
      sum = sum + score[best];
      key[best] = -1e300;
    }
    const bool divides =
        spec.router.normalize || spec.router.score == RouterScore::softmax_of_chosen;
    for (T& value : gate) {
      if (divides) value = value / sum;
      value = value * T(double(spec.router.scale));
    }
    return gate;
  }

  Rows<T> block(const MoeSpec& unresolved, const std::string& path, const Rows<T>& x) {
    using std::exp;
    const MoeSpec spec = unresolved.resolved(spec_.d_model());
    const std::string router = path + spec.names.router;
    const Rows<T> logits = linear(router, x, spec.n_expert);
    MlpSpec network{.d_hidden = spec.d_expert,
                    .activation = spec.activation,
                    .gated = spec.gated,
                    .up = spec.names.up,
                    .down = spec.names.down,
                    .gate = spec.names.gate};
    std::vector<Rows<T>> outputs;
    for (Index e = 0; e < spec.n_expert; ++e) {
      if (!spec.names.experts.empty()) {
        outputs.push_back(
            block(network, path + spec.names.experts + "." + std::to_string(e) + ".", x));
        continue;
      }
      const Index size = spec.d_expert * x.cols;
      const Index d_up = (spec.gated ? 2 : 1) * spec.d_expert;
      const T* up = at(path + spec.names.up + ".weight") + e * d_up * x.cols;
      outputs.push_back(run(network, multiply(up, nullptr, x, d_up),
                            at(path + spec.names.down + ".weight") + e * size, nullptr));
    }
    Rows<T> y(x.rows, x.cols);
    if (spec.d_shared != 0) {
      network.d_hidden = spec.d_shared;
      y = block(network, path + spec.names.shared + ".", x);
    }
    std::vector<double> share(static_cast<std::size_t>(spec.n_expert));
    std::vector<T> mean(share.size(), T(0.0));
    std::vector<double> taken(share.size());
    const double most = std::max(
        1.0, std::floor(options_.capacity * double(x.rows * spec.top_k) / double(spec.n_expert)));
    for (Index t = 0; t < x.rows; ++t) {
      const std::vector<T> gate = gates(spec, router, logits, t);
      const T lse = log_sum(logits, t);
      extra_ = extra_ + T(options_.z_loss) * lse * lse;
      for (std::size_t e = 0; e < share.size(); ++e) {
        mean[e] = mean[e] + exp(logits(t, static_cast<Index>(e)) - lse) / T(double(x.rows));
        if (static_cast<float>(value_of(gate[e])) == 0.0F) continue;  // sent nowhere
        share[e] += 1.0 / double(x.rows * spec.top_k);
        taken[e] += 1.0;
        if (options_.capacity > 0.0 && taken[e] > most) continue;
        for (Index i = 0; i < x.cols; ++i) y(t, i) = y(t, i) + gate[e] * outputs[e](t, i);
      }
    }
    for (std::size_t e = 0; e < share.size(); ++e) {
      const double factor = options_.balance * double(spec.n_expert * x.rows);
      extra_ = extra_ + T(factor * share[e]) * mean[e];
    }
    return y;
  }

  Rows<T> block(const SharedTransformerSpec& spec, const std::string& path, const Rows<T>& x) {
    const Rows<T> mixed = block(spec.attention, path + spec.attention_name + ".", x);
    const Rows<T> normed = norm(spec.norm, path + spec.norm_name, mixed);
    const Rows<T> y = block(spec.mlp, path + spec.mlp_name + ".", normed);
    return linear(own_ + spec.linear_name, y, y.cols);
  }

  template <class Other>
  Rows<T> block(const Other& spec, const std::string& path, const Rows<T>& /*x*/) {
    throw std::runtime_error("no reference for " + path + spec.to_string(spec_.d_model()));
  }

  ModelSpec spec_;
  const Parameters* parameters_;
  std::vector<T> values_;
  Options options_;
  T extra_{0.0};
  Index position_ = 0;
  Rows<T> embedding_;        // of the tokens
  std::string own_, owner_;  // layers: "layers.3.", and the one whose weights it uses
};

}  // namespace krait::test
