// A form of weights of the application's own, without rebuilding krait: every weight is -1, 0 or 1
// times a scale of its row (Ma et al. 2024, arXiv:2402.17764), four of them to a byte. Said once,
// where the numbers lie and how to multiply with them, it is written, loaded and listed like
// krait's.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <random>

#include "krait/krait.hpp"
#include "krait/tools.hpp"

namespace {

using krait::Index;

constexpr Index row_bytes(Index in) { return (in + 3) / 4; }

// W[r,k] = scale[r] (code[r,k] - 1), codes of 2 bits, those of inputs 4 i … 4 i + 3 in byte i.
class TernaryMatrix final : public krait::WeightMatrix {
 public:
  TernaryMatrix(const std::uint8_t* codes, const float* scales, Index out, Index in)
      : WeightMatrix(out, in, out * (row_bytes(in) + Index{sizeof(float)})),
        codes_(codes),
        scales_(scales) {}

  // y[t,r] = scale[r] Σ_k ±x[t,k] (+ bias[r]), the terms in ascending order: the same bits for any
  // tokens beside t and for any threads.
  void product(const krait::ProductContext& ctx,
               const krait::ProductArgs& args) const noexcept override {
    const auto cost = krait::ItemCost::of(row_bytes(in()), 8 * in() * args.x.rows);
    krait::parallel_for(ctx.executor, out(), 16, cost, [&](krait::Range rows) {
      for (Index r = rows.begin; r < rows.end; ++r) {
        for (Index t = 0; t < args.x.rows; ++t) {
          float sum = 0.0F;
          for (Index k = 0; k < in(); ++k) sum += static_cast<float>(trit(r, k)) * args.x(t, k);
          sum *= scales_[r];
          args.y(t, r) = args.bias == nullptr ? sum : sum + args.bias[r];
        }
      }
    });
  }

  void row(Index r, std::span<float> values) const noexcept override {
    for (Index k = 0; k < in(); ++k) {
      values[static_cast<std::size_t>(k)] = static_cast<float>(trit(r, k)) * scales_[r];
    }
  }

 private:
  int trit(Index r, Index k) const noexcept {
    return (codes_[r * row_bytes(in()) + k / 4] >> (k % 4 * 2) & 3) - 1;
  }

  const std::uint8_t* codes_;  // [out, row_bytes(in)]
  const float* scales_;        // [out]
};

class TernaryForm final : public krait::RowForm {
 public:
  std::string_view name() const noexcept override { return "ternary"; }

  std::vector<krait::WeightPart> parts(Index out, Index in) const override {
    return {{"trits", krait::DType::u8, {out, row_bytes(in)}}, {"scale", krait::DType::f32, {out}}};
  }

  // The scale is the mean of |w| in the row.
  std::optional<krait::kernels::BadWeight> encode(
      krait::Executor&, const krait::TensorView& rows,
      std::span<std::byte* const> parts) const override {
    const Index in = rows.shape[1];
    std::vector<float> values(static_cast<std::size_t>(rows.size()));
    krait::convert_floats(rows, krait::DType::f32, values.data());
    for (Index r = 0; r < rows.shape[0]; ++r) {
      const float* w = values.data() + r * in;
      double sum = 0.0;
      for (Index k = 0; k < in; ++k) {
        if (!std::isfinite(w[k])) return krait::kernels::BadWeight{r, k};
        sum += std::abs(static_cast<double>(w[k]));
      }
      const auto scale = static_cast<float>(sum / static_cast<double>(in));
      auto* codes = reinterpret_cast<std::uint8_t*>(parts[0]) + r * row_bytes(in);
      std::fill_n(codes, row_bytes(in), std::uint8_t{0});
      for (Index k = 0; k < in; ++k) {
        const float q = scale == 0.0F ? 0.0F : std::clamp(std::round(w[k] / scale), -1.0F, 1.0F);
        codes[k / 4] = static_cast<std::uint8_t>(codes[k / 4] | int(q + 1.0F) << (k % 4 * 2));
      }
      std::memcpy(parts[1] + r * Index{sizeof scale}, &scale, sizeof scale);
    }
    return std::nullopt;
  }

  std::shared_ptr<const krait::WeightMatrix> matrix(std::span<const krait::TensorView> parts,
                                                    Index out, Index in) const override {
    return std::make_shared<TernaryMatrix>(static_cast<const std::uint8_t*>(parts[0].data),
                                           static_cast<const float*>(parts[1].data), out, in);
  }
};

// The state and all logits of a prompt in runs of `chunk` tokens.
struct Outcome {
  krait::State state;
  std::vector<float> logits;
};

krait::Result<Outcome> run_in_chunks(const krait::Model& model, krait::Executor& executor,
                                     std::span<const krait::Token> prompt, std::size_t chunk) {
  krait::Session session(model, executor);
  Outcome outcome{model.initial_state(), {}};
  const Index vocab = model.vocab_padded();
  outcome.logits.resize(prompt.size() * static_cast<std::size_t>(vocab));
  krait::MatrixView<float> logits(outcome.logits.data(), std::ssize(prompt), vocab);
  for (std::size_t first = 0; first < prompt.size(); first += chunk) {
    const auto part = prompt.subspan(first, std::min(chunk, prompt.size() - first));
    KRAIT_RETURN_IF_ERROR(session.prefill_all(
        part, outcome.state, logits.rows_from(static_cast<Index>(first), std::ssize(part))));
  }
  return outcome;
}

krait::Result<void> run(const std::string& source, const std::string& folder) {
  using namespace krait;
  const auto ternary = std::make_shared<TernaryForm>();
  SerialExecutor serial;
  KRAIT_ASSIGN_OR_RETURN(const QuantizeSummary summary,
                         quantize_checkpoint(source, folder, *ternary, serial));
  std::printf("%d matrices in ternary, %d bytes of %d\n",
              static_cast<int>(summary.forms.at("ternary")), static_cast<int>(summary.bytes_after),
              static_cast<int>(summary.bytes_before));

  // The checkpoint says what form it has; whoever loads it brings the form.
  const auto without = load_model(folder);
  std::printf("without the form: %s\n", without ? "loaded" : without.error().message.c_str());
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel loaded,
                         load_language_model(folder, {.forms = {ternary}}));
  const Model& model = loaded.model;
  for (const TensorUse& use : model.plan().tensors) {
    if (use.role != TensorRole::matrix) continue;
    std::printf("%s %s %s %d\n", use.name.c_str(), use.form.c_str(), to_string(use.shape).c_str(),
                static_cast<int>(use.bytes));
  }

  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> prompt,
                         loaded.tokenizer->encode("In the beginning"));
  Session session(model, serial);
  Sequence text(model, prompt);
  KRAIT_ASSIGN_OR_RETURN(
      const GenerationResult result,
      generate(session, *loaded.tokenizer, text, {.max_tokens = 24, .sampler = {.greedy = true}}));
  std::printf("it writes %d bytes\n", static_cast<int>(result.text.size()));

  ThreadPool three(3);
  KRAIT_ASSIGN_OR_RETURN(const Outcome whole, run_in_chunks(model, serial, prompt, prompt.size()));
  bool is_same = true;
  for (const std::size_t chunk : {1U, 5U, 16U}) {
    for (Executor* executor : {static_cast<Executor*>(&serial), static_cast<Executor*>(&three)}) {
      KRAIT_ASSIGN_OR_RETURN(const Outcome other, run_in_chunks(model, *executor, prompt, chunk));
      is_same = is_same && other.state == whole.state &&
                std::memcmp(other.logits.data(), whole.logits.data(),
                            whole.logits.size() * sizeof(float)) == 0;
    }
  }
  std::printf("chunks and threads: %s\n", is_same ? "the same bits" : "different");
  return {};
}

}  // namespace

int main(int argc, char** argv) {
  namespace fs = std::filesystem;
  const fs::path folder =
      fs::temp_directory_path() / ("krait-ternary-" + std::to_string(std::random_device{}()));
  const auto result = run(argc > 1 ? argv[1] : "krait-bytes-draft", folder.string());
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return result ? 0 : 1;
}
