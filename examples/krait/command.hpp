#pragma once

/// \file
/// What the commands of the program share.

#include <CLI/CLI.hpp>

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/krait.hpp"

namespace krait::cli {

/// Exit codes: a promise to scripts.
enum ExitCode : int { ok = 0, failed = 1, wrong_usage = 2, interrupted = 130 };

/// Options that most commands have.
struct CommonOptions {
  std::string model = "krait-bytes-moe";
  int threads = 0;  // 0: as many as the process may use
  std::string dtype = "file";
  std::string compute = "f32";
  std::string weights = "map";
  bool json = false;
};

/// Adds --threads.
void add_threads(CLI::App& app, int& threads);
/// So many threads, or, for 0, as many as the process may use.
std::unique_ptr<ThreadPool> make_threads(int threads);

/// The form of that name, which must be one.
WeightForm weight_form(const std::string& name);

/// Adds -m, --threads, --dtype, --weights; and --json with the given help.
void add_common(CLI::App& app, CommonOptions& options, const std::string& json_help);

/// The options of `load_…`, with progress on stderr.
LoadOptions load_options(const CommonOptions& options);

/// A language model with threads and a session for it.
struct Runtime {
  LanguageModel language_model;
  std::unique_ptr<ThreadPool> threads;
  std::unique_ptr<Session> session;

  const Model& model() const { return language_model.model; }
  const Tokenizer& tokenizer() const { return *language_model.tokenizer; }
};
Result<Runtime> start(const CommonOptions& options, const SessionOptions& session = {});
/// The same for a model whose tokenizer is not needed and may be missing.
Result<Runtime> start_without_tokenizer(const CommonOptions& options,
                                        const SessionOptions& session);

/// Where a text comes from: an argument, a file, or standard input.
struct TextSource {
  std::optional<std::string> argument;  // "-" is standard input
  std::string file;
};
Result<std::string> read_text(const TextSource& source);
/// The first `limit` bytes of a text file, cut between two characters.
Result<std::string> read_text_part(const std::string& file, std::optional<Index> limit,
                                   const Tokenizer& tokenizer);
Result<std::string> read_stream(std::FILE* stream, const std::string& name);

/// Writes text to standard output; the error names what the system said.
Result<void> print(std::string_view text);
/// Flushes standard output; to be called before success is reported.
Result<void> flush();
/// Prints one JSON object and a newline.
Result<void> print_json(const nlohmann::json& object);

/// Whether Ctrl-C was pressed. The first one asks the running command to end; a second one ends the
/// process as usual.
bool is_interrupted() noexcept;
void catch_signals();

/// A line on stderr that is rewritten on a terminal, and printed now and then elsewhere.
class ProgressLine {
 public:
  ProgressLine(std::string what, std::string unit)
      : what_(std::move(what)), unit_(std::move(unit)) {}
  ~ProgressLine();
  Flow operator()(Index done, Index total);

 private:
  std::string what_;
  std::string unit_;
  double last_ = 0.0;
  bool shown_ = false;
};

/// Seconds of a clock that never goes back.
double now();

/// Prints the error as one line and returns the exit code for it.
int report(const Error& error);

/// The error a cancelled command ends with.
Error interruption();

/// A list such as "1,2,3" of numbers from 0 to `largest`.
Result<std::vector<Index>> parse_numbers(std::string_view text, std::string_view option,
                                         Index largest);
Result<std::vector<Token>> parse_tokens(std::string_view text, std::string_view option,
                                        Index largest);

/// Adds the command to `app`; its callback returns the exit code through `result`.
void add_generate(CLI::App& app, int& result);
void add_chat(CLI::App& app, int& result);
void add_logits(CLI::App& app, int& result);
void add_tokenize(CLI::App& app, int& result);
void add_perplexity(CLI::App& app, int& result);
void add_inspect(CLI::App& app, int& result);
void add_evaluate(CLI::App& app, int& result);
void add_quantize(CLI::App& app, int& result);
void add_bench(CLI::App& app, int& result);

/// Sampler flags, named as in llama.cpp and Hugging Face.
struct SamplerFlags {
  SamplerOptions options;
  std::optional<std::uint64_t> seed;
  std::vector<std::string> logit_bias;

  void add(CLI::App& app);
  /// The options, with a seed drawn at random where none was given.
  Result<SamplerOptions> resolve(const Model& model) const;
};

}  // namespace krait::cli
