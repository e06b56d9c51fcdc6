// A model with matrices of about 2 bits per weight, in memory: the first 16 KiB of a text tell
// which errors matter, the 16 KiB behind them what is lost. Prints bytes, speed and bits per byte
// of the model before and after.

#include <chrono>
#include <cstdio>

#include "krait/krait.hpp"
#include "krait/tools.hpp"

namespace {

using namespace krait;

// Seconds per token of a text that is being written.
Result<double> seconds_per_token(const Model& model, Executor& executor) {
  constexpr int tokens = 500;
  Session session(model, executor);
  State state = model.initial_state();
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < tokens; ++i) KRAIT_RETURN_IF_ERROR(session.step(i % 100, state));
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() / tokens;
}

Result<void> measure(const char* name, const Model& model, const Tokenizer& tokenizer,
                     const std::string& text, Executor& executor) {
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, tokenizer.encode(text));
  KRAIT_ASSIGN_OR_RETURN(const double seconds, seconds_per_token(model, executor));
  Session session(model, executor, {.max_batch = 64});
  KRAIT_ASSIGN_OR_RETURN(const Perplexity quality, perplexity(session, tokenizer, tokens));
  std::printf("%-7s %8lld bytes of weights, %6.0f tokens/s, %.4f bits per byte\n", name,
              static_cast<long long>(token_cost(model).weights_bytes), 1.0 / seconds,
              quality.bits_per_byte());
  return {};
}

Result<void> run(const std::string& source, const std::string& text) {
  constexpr std::size_t size = 16384;
  if (text.size() < 2 * size) {
    return Error{ErrorCode::bad_argument, "[aqlm] text: expected 32 KiB, found less"};
  }
  ThreadPool threads;
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel before, load_language_model(source));
  KRAIT_ASSIGN_OR_RETURN(const CheckpointPlan plan, plan_checkpoint(source));
  KRAIT_ASSIGN_OR_RETURN(const AqlmWeights small,
                         quantize_aqlm(plan,
                                       {.scheme = {.codebooks = 2, .bits = 8, .in_group = 8},
                                        .preset = "fast",
                                        .calibration = text.substr(0, size)},
                                       threads));
  KRAIT_ASSIGN_OR_RETURN(const Model after,
                         build_model(plan.config.spec, small.weights, plan.config.prefix));
  std::printf("%zu matrices in %.2f bits per weight; all other weights are shared\n",
              small.report.matrices.size(), small.report.bits_per_weight);
  const std::string rest = text.substr(size, size);
  KRAIT_RETURN_IF_ERROR(measure("before", before.model, *before.tokenizer, rest, threads));
  return measure("after", after, *before.tokenizer, rest, threads);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: aqlm TEXT [CHECKPOINT]\n");
    return 2;
  }
  const auto text = read_text_file(argv[1]);
  const auto result = text ? run(argc > 2 ? argv[2] : "krait-bytes-2m", *text) : text.error();
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  return result ? 0 : 1;
}
