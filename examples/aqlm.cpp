// A checkpoint with matrices of about 2 bits per weight: the first 16 KiB of a text tell which
// errors matter, the 16 KiB behind them what is lost. Prints bytes, speed and bits per byte of the
// model before and after.

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <random>

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

Result<void> measure(const char* name, const std::string& path, const std::string& text,
                     Executor& executor) {
  KRAIT_ASSIGN_OR_RETURN(const LanguageModel lm, load_language_model(path));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, lm.tokenizer->encode(text));
  KRAIT_ASSIGN_OR_RETURN(const double seconds, seconds_per_token(lm.model, executor));
  Session session(lm.model, executor, {.max_batch = 64});
  KRAIT_ASSIGN_OR_RETURN(const Perplexity quality, perplexity(session, *lm.tokenizer, tokens));
  std::printf("%-7s %8lld bytes of weights, %6.0f tokens/s, %.4f bits per byte\n", name,
              static_cast<long long>(token_cost(lm.model).weights_bytes), 1.0 / seconds,
              quality.bits_per_byte());
  return {};
}

Result<void> run(const std::string& source, const std::string& folder, const std::string& text) {
  constexpr std::size_t size = 16384;
  if (text.size() < 2 * size) {
    return Error{ErrorCode::bad_argument, "[aqlm] text: expected 32 KiB, found less"};
  }
  ThreadPool threads;
  KRAIT_ASSIGN_OR_RETURN(const AqlmReport report,
                         quantize_aqlm(source, folder,
                                       {.scheme = {.codebooks = 2, .bits = 8, .in_group = 8},
                                        .preset = "fast",
                                        .calibration = text.substr(0, size)},
                                       threads));
  std::printf("%zu matrices in %.2f bits per weight\n", report.matrices.size(),
              report.bits_per_weight);
  KRAIT_RETURN_IF_ERROR(measure("before", source, text.substr(size, size), threads));
  return measure("after", folder, text.substr(size, size), threads);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "usage: aqlm TEXT [CHECKPOINT]\n");
    return 2;
  }
  namespace fs = std::filesystem;
  const fs::path folder =
      fs::temp_directory_path() / ("krait-aqlm-" + std::to_string(std::random_device{}()));
  const auto text = read_text_file(argv[1]);
  const auto result =
      text ? run(argc > 2 ? argv[2] : "krait-bytes-2m", folder.string(), *text) : text.error();
  if (!result) std::fprintf(stderr, "%s\n", result.error().message.c_str());
  std::error_code ignored;
  fs::remove_all(folder, ignored);
  return result ? 0 : 1;
}
