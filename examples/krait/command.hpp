#pragma once

/// \file
/// What the commands of the program share.

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "command_line.hpp"
#include "input.hpp"
#include "krait/krait.hpp"
#include "terminal.hpp"

namespace krait::cli {

/// Options that most commands have.
struct CommonOptions {
  std::string model = "krait-bytes-moe";
  int threads = 0;  // 0: as many as the process may use
  std::string dtype = "file";
  std::string compute = "f32";
  std::string kv_dtype = "f32";
  std::string weights = "map";
  std::string adapter;
  bool json = false;
};

/// Adds --threads.
void add_threads(Command& command, int& threads);
/// So many threads, or, for 0, as many as the process may use.
std::unique_ptr<ThreadPool> make_threads(int threads);

/// Adds -m, --lora, --threads, --dtype, --compute, --kv-dtype, --weights; and --json with the given
/// help.
void add_common(Command& command, CommonOptions& options, const std::string& json_help);

/// The arguments of commands that write a checkpoint made of another.
struct SourceAndDestination {
  std::optional<std::string> source;
  std::optional<std::string> destination;

  void add(Command& command);
  /// Throws WrongUsage where one is missing or empty.
  void check() const;
};

/// The options of `load_…`, with progress on stderr.
LoadOptions load_options(const CommonOptions& options, Executor* executor = nullptr);

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

/// The tokens of a whole text, or of its first `limit` bytes, with what its tokenizer puts around
/// one. `what` names it where there is none.
Result<std::vector<Token>> read_tokens(const TextSource& source, std::string_view what,
                                       const LanguageModel& model,
                                       std::optional<Index> limit = std::nullopt);

/// Sampler flags, named as in llama.cpp and Hugging Face.
struct SamplerFlags {
  SamplerOptions options;
  std::optional<std::uint64_t> seed;
  bool has_temperature = false;  ///< it was given
  std::vector<std::string> samplers;
  Index mirostat = 0;
  Index min_length = 0;
  std::vector<std::string> breakers;
  std::vector<std::string> bad_words;

  /// `otherwise`: the seed where none is given, in place of one that is drawn at random.
  void add(Command& command, std::optional<std::uint64_t> otherwise = std::nullopt);
  /// The options, with their seed. Throws WrongUsage for what the model cannot take, and for
  /// options that contradict each other.
  SamplerOptions resolve(const LanguageModel& model) const;

 private:
  void add_cuts(Command& command, const std::function<Result<void>()>& check);
  void add_penalties(Command& command, const std::function<Result<void>()>& check);
  std::vector<std::vector<Token>> find_breakers(const Tokenizer& tokenizer) const;
  static std::string_view flag_of(const Error& error);
};

/// Noise inside the model.
struct DrugFlags {
  DrugPlan plan;
  bool has_doses = false;
  std::string first;  // of the flags that say more of --drugs

  void add(Command& command);
  /// All but --drugs itself.
  void add_plan(Command& command);
  /// Throws WrongUsage for flags that say more of --drugs where that is not given.
  void check() const;
  /// For this model; null where nothing is turned.
  Result<std::shared_ptr<const Drugs>> resolve(const Model& model) const;
};

/// Adds the command to the program.
void add_generate(CommandLine& line);
void add_chat(CommandLine& line);
void add_logits(CommandLine& line);
void add_tokenize(CommandLine& line);
void add_perplexity(CommandLine& line);
void add_inspect(CommandLine& line);
void add_evaluate(CommandLine& line);
void add_convert(CommandLine& line);
void add_quantize(CommandLine& line);
void add_aqlm(CommandLine& line);
void add_laser(CommandLine& line);
void add_drugs_report(CommandLine& line);
void add_train(CommandLine& line);
void add_sft(CommandLine& line);
void add_dpo(CommandLine& line);
void add_prompts(CommandLine& line);
void add_candidates(CommandLine& line);
void add_judge(CommandLine& line);
void add_pairs(CommandLine& line);
void add_self_reward(CommandLine& line);
void add_merge(CommandLine& line);
void add_bench(CommandLine& line);

}  // namespace krait::cli
