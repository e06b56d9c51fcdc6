// Labels every byte of a file with one of 35 kinds of content: programming languages, markup, data,
// encodings. A published bidirectional Mamba (PyPI package typeseg, Apache-2.0) as a stack of
// krait's parts with one block of its own, and the weights under the names they were published
// with.
//
//   label_bytes WEIGHTS.safetensors INPUT [--logits OUT.npy] [--threads N]
//
// tests/data/label_bytes/model.safetensors are the weights. Standard output gets the pieces of the
// file, each with its label and its mean probability; OUT gets the logits, f32 [bytes, 35].
//
// Every byte sees the whole file, in both directions, so all of it is in memory at once: 9 KB for a
// byte.

#include <algorithm>
#include <array>
#include <charconv>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <memory>
#include <new>
#include <numbers>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/krait.hpp"

namespace {

using krait::Index;
using krait::MatrixView;
using krait::Result;

constexpr std::array labels = {"php",
                               "csharp",
                               "javascript_typescript",
                               "go",
                               "sql",
                               "rust",
                               "yaml",
                               "ruby",
                               "python",
                               "java",
                               "c_family",
                               "json",
                               "css",
                               "html",
                               "text",
                               "csv",
                               "shell",
                               "powershell",
                               "visual_basic",
                               "dockerfile",
                               "dart",
                               "gettext_catalog",
                               "kotlin",
                               "markdown",
                               "restructuredtext",
                               "scala",
                               "swift",
                               "tex",
                               "xml",
                               "svg",
                               "encoding_hex",
                               "encoding_base64",
                               "encoding_base32",
                               "encoding_base58",
                               "encoding_base85"};

constexpr Index n_label = std::ssize(labels);
constexpr Index vocab = 130;  // bytes below 128; 128: any other byte; 129: padding, not used here
constexpr Index n_layer = 6;
constexpr Index d_model = 256;
constexpr Index d_inner = 256;
constexpr Index d_state = 16;
constexpr Index dt_rank = 16;
constexpr Index d_conv = 4;
constexpr std::size_t most_bytes = std::size_t{1} << 20U;  // what a session runs at once
constexpr float dt_least = 1e-4F;                          // added to every time step

/// A Mamba block that reads the text in both directions: the same recurrence runs from the first
/// byte to the last and from the last to the first, and the two outputs are added. Unlike krait's
/// own, its convolution looks ahead (one input back, two ahead), its projections have biases, and
/// its time steps a least value. All of a text has to be in one run, since its first byte sees its
/// last.
class BidirectionalMamba final : public krait::Block {
 public:
  static Result<std::unique_ptr<const krait::Block>> bind(const krait::WeightScope& weights,
                                                          krait::Bookings& bookings) {
    using krait::Linear;
    namespace kernels = krait::kernels;
    auto block = std::make_unique<BidirectionalMamba>();
    const auto linear = [&](const char* name, Index out, Index in) {
      return Linear::bind(weights.scope(name), bookings, out, in, true);
    };
    KRAIT_ASSIGN_OR_RETURN(block->in_proj_, linear("in_proj", 2 * d_inner, d_model));
    KRAIT_ASSIGN_OR_RETURN(block->x_proj_, linear("x_proj", dt_rank + 2 * d_state, d_inner));
    KRAIT_ASSIGN_OR_RETURN(block->dt_proj_, linear("dt_proj", d_inner, dt_rank));
    KRAIT_ASSIGN_OR_RETURN(block->out_proj_, linear("out_proj", d_model, d_inner));
    const krait::WeightScope conv = weights.scope("conv1d");
    KRAIT_ASSIGN_OR_RETURN(block->conv_weight_, conv.get<float>("weight", {d_conv, 1, d_inner}));
    KRAIT_ASSIGN_OR_RETURN(block->conv_bias_, conv.get<float>("bias", {d_inner}));
    KRAIT_ASSIGN_OR_RETURN(block->D_, weights.get<float>("D", {d_inner}));
    // A = -exp(A_log) log2(e), where selective_scan wants it.
    KRAIT_ASSIGN_OR_RETURN(
        block->A_,
        weights.derive("A_log", {d_inner, d_state}, kernels::scan_size(d_inner, d_state),
                       [](std::span<const float> A_log, std::span<float> A) {
                         std::vector<float> exp_A(A_log.size());
                         kernels::exp(A_log, exp_A);
                         for (Index i = 0; i < d_inner * d_state; ++i) {
                           const Index at = kernels::scan_offset(i / d_state, i % d_state, d_state);
                           A[static_cast<std::size_t>(at)] =
                               -std::numbers::log2e_v<float> * exp_A[static_cast<std::size_t>(i)];
                         }
                       }));
    block->window_ = bookings.state(weights.path("window"), {d_conv - 1, d_inner});
    block->h_ = bookings.state(weights.path("h"), {kernels::scan_size(d_inner, d_state)});
    block->xz_ = bookings.scratch(2 * d_inner);
    block->u_ = bookings.scratch(d_inner);
    block->dBC_ = bookings.scratch(dt_rank + 2 * d_state);
    block->backward_BC_ = bookings.scratch(2 * d_state);
    block->dt_raw_ = bookings.scratch(d_inner);
    block->y_ = bookings.scratch(d_inner);
    return std::unique_ptr<const krait::Block>(std::move(block));
  }

  void forward(krait::BlockContext& ctx) const noexcept override {
    const auto xz = ctx.scratch(xz_, 2 * d_inner);              // [T, 2 d_inner]
    const auto z = xz.cols_from(d_inner, d_inner);              // [T, d_inner]
    const auto u = ctx.scratch(u_, d_inner);                    // [T, d_inner]
    const auto dBC = ctx.scratch(dBC_, dt_rank + 2 * d_state);  // [T, dt_rank + 2 d_state]
    const auto dt_raw = ctx.scratch(dt_raw_, d_inner);          // [T, d_inner]
    const auto BC = dBC.cols_from(dt_rank, 2 * d_state);        // [T, 2 d_state]
    const auto y = ctx.scratch(y_, d_inner);                    // [T, d_inner]

    in_proj_.apply(ctx, ctx.x, xz);  // [u; z] = in_proj(x)
    for_each_text(ctx, [&](const krait::SequenceRows& text, krait::Range channels) {
      convolve(text, xz.cols_from(0, d_inner), u, channels);
    });
    x_proj_.apply(ctx, u, dBC);  // [δ; B; C] = x_proj(u)
    dt_proj_.apply(ctx, dBC.cols_from(0, dt_rank), dt_raw);
    const auto backward_BC = ctx.scratch(backward_BC_, 2 * d_state);
    for (const krait::SequenceRows& text : ctx.sequences) {
      copy_backward(text, BC, backward_BC);
    }
    for_each_text(ctx, [&](const krait::SequenceRows& text, krait::Range channels) {
      raise_steps(text, dt_raw, y, channels);
      scan(text, u, dt_raw, BC, y, channels);
      turn(text, u, channels);
      turn(text, dt_raw, channels);
      scan(text, u, dt_raw, backward_BC, u, channels);
    });
    for (const krait::SequenceRows& text : ctx.sequences) {
      const Index last = text.first + text.count - 1;
      krait::parallel_for(ctx.executor, text.count, 16, krait::ItemCost::of(0, 40 * d_inner),
                          [&](krait::Range rows) {
                            for (Index t = rows.begin; t < rows.end; ++t) {
                              const auto row = y.row(text.first + t);
                              krait::kernels::add(row, u.row(last - t), row);
                              krait::kernels::silu_mul(row, z.row(text.first + t), row);
                            }
                          });
    }
    out_proj_.apply(ctx, y, ctx.x);  // x = out_proj(y silu(z))
  }

  std::string description() const override { return "BidirectionalMamba"; }

 private:
  template <class F>
  static void for_each_text(const krait::BlockContext& ctx, F&& f) {
    const auto cost = krait::ItemCost::of(0, ctx.x.rows * (32 * d_state + 128));
    krait::parallel_for(ctx.executor, d_inner, 64, cost, [&](krait::Range channels) {
      for (const krait::SequenceRows& text : ctx.sequences) f(text, channels);
    });
  }

  static MatrixView<float> part(const krait::SequenceRows& text, MatrixView<float> rows) {
    return rows.rows_from(text.first, text.count);
  }

  // u[t] = silu(bias + Σ_k weight[k] x[t - 1 + k]), x being 0 before the text and behind it. To the
  // causal convolution this is the output two tokens later: it begins with two inputs in its window
  // and reads two zeros at the end.
  void convolve(const krait::SequenceRows& text, MatrixView<float> inputs, MatrixView<float> output,
                krait::Range channels) const noexcept {
    constexpr Index ahead = 2;
    const auto x = part(text, inputs);
    const auto u = part(text, output);
    const MatrixView<float> window(text.slot(window_).data(), d_conv - 1, d_inner);
    for (Index c = channels.begin; c < channels.end; ++c) {
      window(0, c) = 0.0F;
      for (Index t = 0; t < ahead; ++t) window(1 + t, c) = t < x.rows ? x(t, c) : 0.0F;
      for (Index t = 0; t < x.rows; ++t) u(t, c) = t + ahead < x.rows ? x(t + ahead, c) : 0.0F;
    }
    krait::kernels::conv1d_silu({.x = u,
                                 .weight = conv_weight_.data(),
                                 .bias = conv_bias_.data(),
                                 .d_conv = d_conv,
                                 .state = window.data,
                                 .y = u,
                                 .channels = channels});
  }

  // Changes dt_raw so that softplus gives dt_least more: with k = ln(1 - e^-dt_least),
  // softplus(r + dt_least + softplus(k - r)) = softplus(r) + dt_least.
  static void raise_steps(const krait::SequenceRows& text, MatrixView<float> dt_raw,
                          MatrixView<float> scratch, krait::Range channels) noexcept {
    const float k = std::log(-std::expm1(-dt_least));
    const auto dt = part(text, dt_raw).cols_from(channels.begin, channels.size());
    const auto more = part(text, scratch).cols_from(channels.begin, channels.size());
    for (Index t = 0; t < dt.rows; ++t) {
      for (Index c = 0; c < dt.cols; ++c) more(t, c) = k - dt(t, c);
      krait::kernels::softplus(more.row(t), more.row(t));
      for (Index c = 0; c < dt.cols; ++c) dt(t, c) += dt_least + more(t, c);
    }
  }

  // y = scan(u), from a state of zeros.
  void scan(const krait::SequenceRows& text, MatrixView<float> u, MatrixView<float> dt_raw,
            MatrixView<float> BC, MatrixView<float> y, krait::Range channels) const noexcept {
    namespace kernels = krait::kernels;
    const std::span<float> h = text.slot(h_);
    const auto first = static_cast<std::size_t>(kernels::scan_offset(channels.begin, 0, d_state));
    const auto count = static_cast<std::size_t>(kernels::scan_size(channels.size(), d_state));
    std::ranges::fill(h.subspan(first, count), 0.0F);
    kernels::selective_scan({.u = part(text, u),
                             .dt_raw = part(text, dt_raw),
                             .B = part(text, BC).cols_from(0, d_state),
                             .C = part(text, BC).cols_from(d_state, d_state),
                             .z = {},
                             .A = A_.data(),
                             .D = D_.data(),
                             .h = h.data(),
                             .d_state = d_state,
                             .y = part(text, y),
                             .channels = channels});
  }

  static void copy_backward(const krait::SequenceRows& text, MatrixView<float> from,
                            MatrixView<float> to) noexcept {
    const Index last = text.first + text.count - 1;
    for (Index t = 0; t < text.count; ++t) {
      std::ranges::copy(from.row(last - t), to.row_data(text.first + t));
    }
  }

  // Puts the rows into the opposite order.
  static void turn(const krait::SequenceRows& text, MatrixView<float> rows,
                   krait::Range channels) noexcept {
    const auto x = part(text, rows).cols_from(channels.begin, channels.size());
    for (Index t = 0; t < x.rows / 2; ++t)
      std::ranges::swap_ranges(x.row(t), x.row(x.rows - 1 - t));
  }

  krait::Linear in_proj_;               // [2 d_inner, d_model]
  krait::Linear x_proj_;                // [dt_rank + 2 d_state, d_inner]
  krait::Linear dt_proj_;               // [d_inner, dt_rank]
  krait::Linear out_proj_;              // [d_model, d_inner]
  std::span<const float> conv_weight_;  // [d_conv, 1, d_inner]
  std::span<const float> conv_bias_;    // [d_inner]
  std::span<const float> A_;            // layout of kernels/selective_scan.hpp
  std::span<const float> D_;            // [d_inner]
  krait::StateSlot window_, h_;         // working memory: a text begins anew in every run
  krait::ScratchSlot xz_, u_, dBC_, backward_BC_, dt_raw_, y_;
};

krait::ModelBuilder stack() {
  using namespace krait;
  constexpr LayerNormSpec norm{.eps = 1e-6F};
  return ModelBuilder{}
      .embedding("embedding", {.vocab = vocab, .d_model = d_model})
      .repeat(n_layer,
              [&](LayerBuilder& layer) {
                layer.residual("norm", norm, "mixer",
                               CustomSpec{"BidirectionalMamba", "", BidirectionalMamba::bind});
              })
      .final_norm("norm_f", norm)
      .tied_head();  // not used: the labels have a head of their own
}

/// A tensor as published, and as the stack has it.
struct Published {
  std::string name;
  krait::Shape shape;
  std::string ours;
};

std::vector<Published> published_tensors() {
  std::vector<Published> all;
  const auto dense = [&](const std::string& name, const std::string& ours, Index in, Index out) {
    all.push_back({name + "__kernel", {in, out}, ours + ".weight"});
    all.push_back({name + "__bias", {out}, ours + ".bias"});
  };
  const auto norm = [&](const std::string& name, const std::string& ours) {
    all.push_back({name + "__scale", {d_model}, ours + ".weight"});
    all.push_back({name + "__bias", {d_model}, ours + ".bias"});
  };
  all.push_back({"Embed_0__embedding", {vocab, d_model}, "embedding.weight"});
  for (Index i = 0; i < n_layer; ++i) {
    const std::string layer = "CheckpointMambaBlock1D_" + std::to_string(i) + "__";
    const std::string ours = "layers." + std::to_string(i) + ".";
    norm(layer + "LayerNorm_0", ours + "norm");
    dense(layer + "Dense_0", ours + "mixer.in_proj", d_model, 2 * d_inner);
    all.push_back({layer + "Conv_0__kernel", {d_conv, 1, d_inner}, ours + "mixer.conv1d.weight"});
    all.push_back({layer + "Conv_0__bias", {d_inner}, ours + "mixer.conv1d.bias"});
    dense(layer + "Dense_1", ours + "mixer.x_proj", d_inner, dt_rank + 2 * d_state);
    dense(layer + "Dense_2", ours + "mixer.dt_proj", dt_rank, d_inner);
    all.push_back({layer + "A_log", {d_inner, d_state}, ours + "mixer.A_log"});
    all.push_back({layer + "D", {d_inner}, ours + "mixer.D"});
    dense(layer + "Dense_3", ours + "mixer.out_proj", d_inner, d_model);
  }
  norm("LayerNorm_0", "norm_f");
  dense("Dense_0", "labels", d_model, n_label);
  return all;
}

krait::Error bad_input(const std::string& path, const std::string& what,
                       const std::string& expected, const std::string& found) {
  return {krait::ErrorCode::bad_format, "[label_bytes] " + what + ": expected " + expected +
                                            ", found " + found + " (" + path + ")"};
}

/// The file's tensors under the names of the stack, matrices as [out, in].
Result<krait::WeightStore> open_weights(const std::string& path) {
  using namespace krait;
  KRAIT_ASSIGN_OR_RETURN(const auto file, open_file(path));
  WeightStore stored;
  KRAIT_RETURN_IF_ERROR(read_safetensors(file, stored));
  WeightStore weights;
  const std::vector<Published> published = published_tensors();
  for (const auto& [name, entry] : stored.entries()) {
    if (std::ranges::find(published, name, &Published::name) == published.end()) {
      return bad_input(
          path, name, "none of that name",
          std::string(to_string(entry.tensor.dtype)) + " " + to_string(entry.tensor.shape));
    }
  }
  for (const Published& tensor : published) {
    const WeightStore::Entry* entry = stored.find(tensor.name);
    const std::string expected = "f32 " + to_string(tensor.shape);
    if (entry == nullptr) return bad_input(path, tensor.name, expected, "no such tensor");
    const TensorView& view = entry->tensor;
    if (view.dtype != DType::f32 || view.shape != tensor.shape) {
      return bad_input(path, tensor.name, expected,
                       std::string(to_string(view.dtype)) + " " + to_string(view.shape));
    }
    const std::span<const float> values = view.as<float>();
    if (!std::ranges::all_of(values, [](float value) { return std::isfinite(value); })) {
      return bad_input(path, tensor.name, "finite numbers", "NaN or infinity");
    }
    if (view.shape.rank() != 2 || !tensor.name.ends_with("__kernel")) {
      weights.add(tensor.ours, view, file, path);
      continue;
    }
    const Index in = view.shape[0];
    const Index out = view.shape[1];
    auto matrix = std::make_shared<Tensor>(DType::f32, Shape{out, in});
    const std::span<float> turned = matrix->as<float>();
    for (Index i = 0; i < in * out; ++i) {
      turned[static_cast<std::size_t>(i % out * in + i / out)] =
          values[static_cast<std::size_t>(i)];
    }
    weights.add(tensor.ours, matrix->view(), matrix, path);
  }
  return weights;
}

struct Options {
  std::string weights;
  std::string input;
  std::string logits;
  int threads = krait::available_threads();
};

std::optional<Options> parse(std::span<char* const> arguments) {
  Options options;
  std::vector<std::string> files;
  for (std::size_t i = 1; i < arguments.size(); ++i) {
    const std::string_view argument = arguments[i];
    if (argument == "--logits" || argument == "--threads") {
      if (++i == arguments.size()) return std::nullopt;
      const std::string_view value = arguments[i];
      if (argument == "--logits") {
        options.logits = value;
        continue;
      }
      const char* end = value.data() + value.size();
      const auto [rest, error] = std::from_chars(value.data(), end, options.threads);
      if (error != std::errc() || rest != end || options.threads < 1 || options.threads > 1024) {
        return std::nullopt;
      }
    } else if (argument.starts_with("--")) {
      return std::nullopt;
    } else {
      files.emplace_back(argument);
    }
  }
  if (files.size() != 2) return std::nullopt;
  options.weights = files[0];
  options.input = files[1];
  return options;
}

/// Logits [bytes, n_label].
Result<std::vector<float>> label(const krait::WeightStore& weights, krait::Executor& executor,
                                 std::span<const krait::Token> bytes) {
  using namespace krait;
  KRAIT_ASSIGN_OR_RETURN(const Model model, stack().build(weights));
  const Index count = std::ssize(bytes);
  std::vector<float> hidden(static_cast<std::size_t>(count * d_model));
  std::vector<float> logits(static_cast<std::size_t>(count * n_label));
  if (count == 0) return logits;
  const MatrixView<float> h(hidden.data(), count, d_model);
  const SessionOptions options{.chunk = count, .max_batch = 1, .max_verify = 0};
  KRAIT_RETURN_IF_ERROR(validate(options, model));
  Session session(model, executor, options);
  State state = model.initial_state();
  KRAIT_RETURN_IF_ERROR(session.hidden(bytes, state, h));
  const auto tensor = [&](const char* name) { return weights.find(name)->tensor; };
  kernels::product({executor, {}}, {tensor("labels.weight").data, DType::f32, n_label, d_model},
                   {.x = h,
                    .bias = tensor("labels.bias").as<float>().data(),
                    .y = {logits.data(), count, n_label}});
  return logits;
}

/// A stretch of bytes for which the same label is the most probable.
struct Run {
  Index begin = 0;
  Index end = 0;
  std::size_t label = 0;
  double probability = 0.0;  ///< mean over the bytes
};

std::vector<Run> runs_of(MatrixView<const float> logits) {
  std::vector<Run> runs;
  for (Index t = 0; t < logits.rows; ++t) {
    const auto row = logits.row(t);
    const auto best = std::ranges::max_element(row);
    const auto label = static_cast<std::size_t>(best - row.begin());
    if (runs.empty() || runs.back().label != label) runs.push_back({t, t, label, 0.0});
    runs.back().end = t + 1;
    runs.back().probability += std::exp(double{*best} - double{krait::kernels::log_sum_exp(row)});
  }
  for (Run& run : runs) run.probability /= static_cast<double>(run.end - run.begin);
  return runs;
}

Result<void> run(const Options& options) {
  using namespace krait;
  KRAIT_ASSIGN_OR_RETURN(const WeightStore weights, open_weights(options.weights));
  KRAIT_ASSIGN_OR_RETURN(const std::string input, read_text_file(options.input));
  std::optional<NpyWriter> file;
  if (!options.logits.empty()) {
    KRAIT_ASSIGN_OR_RETURN(file, NpyWriter::create(options.logits, n_label));
  }
  std::vector<Token> bytes;
  for (const char c : input) {
    bytes.push_back(std::min<Token>(static_cast<unsigned char>(c), 128));
  }
  if (input.size() > most_bytes) {
    return bad_input(options.input, "input", "at most " + std::to_string(most_bytes) + " bytes",
                     std::to_string(input.size()));
  }
  ThreadPool threads(options.threads);
  const auto start = std::chrono::steady_clock::now();
  KRAIT_ASSIGN_OR_RETURN(const std::vector<float> values, label(weights, threads, bytes));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  const MatrixView<const float> logits(values.data(), std::ssize(bytes), n_label);
  for (Index t = 0; file && t < logits.rows; ++t) KRAIT_RETURN_IF_ERROR(file->write(logits.row(t)));
  if (file) KRAIT_RETURN_IF_ERROR(file->commit());
  for (const Run& run : runs_of(logits)) {
    std::printf("%td-%td %s %.2f\n", run.begin, run.end, labels[run.label], run.probability);
  }
  std::fprintf(stderr, "%zu bytes in %.3f s: %.0f bytes/s on %d threads\n", bytes.size(),
               seconds.count(), static_cast<double>(bytes.size()) / seconds.count(),
               options.threads);
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  const auto options = parse({argv, static_cast<std::size_t>(argc)});
  if (!options) {
    std::fprintf(stderr,
                 "usage: label_bytes WEIGHTS.safetensors INPUT [--logits OUT.npy] "
                 "[--threads N]\n");
    return 2;
  }
  Result<void> result;
  try {
    result = run(*options);
  } catch (const std::bad_alloc&) {
    result = krait::Error{krait::ErrorCode::no_memory, "[label_bytes] no memory for this input"};
  }
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  return result ? 0 : 1;
}
