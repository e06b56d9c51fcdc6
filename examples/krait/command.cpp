#include "command.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <random>

namespace krait::cli {

void add_threads(Command& command, int& threads) {
  command.number("--threads", threads, 0, 4096,
                 "Threads; 0: as many as the process may use (affinity and cgroup quota)");
}

std::unique_ptr<ThreadPool> make_threads(int threads) {
  const SignalsForMainThread signals;
  return std::make_unique<ThreadPool>(threads > 0 ? threads : available_threads());
}

void add_common(Command& command, CommonOptions& options, const std::string& json_help) {
  command.file("-m,--model", options.model,
               "Checkpoint directory, weight file, or the name of a bundled model");
  add_threads(command, options.threads);
  std::vector<std::string> forms = {"file"};
  for (const WeightForm* form : weight_forms()) forms.emplace_back(form->name());
  command.choice("--dtype", options.dtype, std::move(forms),
                 "Form of the weights in memory; 'file' keeps what is stored");
  command.choice("--compute", options.compute, {"f32", "bf16"},
                 "Activations in matrix products; bf16 is for weights in bf16");
  command.choice("--weights", options.weights, {"map", "copy"},
                 "Map weight files, or copy them into memory");
  if (!json_help.empty()) command.flag("--json", options.json, json_help);
}

LoadOptions load_options(const CommonOptions& options, Executor* executor) {
  return {.weights = options.weights == "copy" ? WeightsMode::copy : WeightsMode::map,
          .form = options.dtype,
          .compute = options.compute == "bf16" ? Compute::bf16 : Compute::f32,
          .progress = ProgressLine("loading", "bytes"),
          .executor = executor};
}

namespace {

Runtime with_session(LanguageModel loaded, std::unique_ptr<ThreadPool> threads,
                     const SessionOptions& session) {
  Runtime runtime{std::move(loaded), std::move(threads), nullptr};
  runtime.session = std::make_unique<Session>(runtime.model(), *runtime.threads, session);
  return runtime;
}

}  // namespace

Result<Runtime> start(const CommonOptions& options, const SessionOptions& session) {
  std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  KRAIT_ASSIGN_OR_RETURN(LanguageModel loaded,
                         load_language_model(options.model, load_options(options, threads.get())));
  return with_session(std::move(loaded), std::move(threads), session);
}

Result<Runtime> start_without_tokenizer(const CommonOptions& options,
                                        const SessionOptions& session) {
  std::unique_ptr<ThreadPool> threads = make_threads(options.threads);
  KRAIT_ASSIGN_OR_RETURN(Model model,
                         load_model(options.model, load_options(options, threads.get())));
  LanguageModel loaded{.model = std::move(model),
                       .tokenizer = byte_tokenizer(),
                       .stop_tokens = {},
                       .bos = {},
                       .tokenizer_config = {},
                       .chat_template = {}};
  return with_session(std::move(loaded), std::move(threads), session);
}

Result<std::vector<Token>> read_tokens(const TextSource& source, std::string_view what,
                                       const LanguageModel& model, std::optional<Index> limit) {
  KRAIT_ASSIGN_OR_RETURN(const std::string text,
                         read_text_part(source, what, limit, *model.tokenizer));
  return model.tokenizer->encode(text, {.add_special = true});
}

void SamplerFlags::add(Command& command) {
  options.temperature = 0.8;
  const auto check = [this]() -> Result<void> {
    return validate(options, std::numeric_limits<Token>::max());
  };
  command.real("--temperature", options.temperature,
               "Divides the logits; 0 takes the most probable token", check);
  command.number("--top-k", options.top_k, 0, std::numeric_limits<Token>::max(),
                 "Keep the k most probable tokens; 0: off");
  command.real("--top-p", options.top_p,
               "Keep the most probable tokens that together reach p; 1: off", check);
  command.real("--min-p", options.min_p,
               "Keep tokens of at least this part of the best one's probability; 0: off", check);
  command.real("--typical-p", options.typical_p,
               "Keep the most typical tokens that together reach p; 1: off", check);
  command.real("--repetition-penalty", options.repetition_penalty,
               "Divides the positive logits of tokens in the text; 1: off", check);
  command.real("--presence-penalty", options.presence_penalty,
               "Subtracted from the logits of tokens in the text", check);
  command.real("--frequency-penalty", options.frequency_penalty,
               "Subtracted for every occurrence in the text", check);
  const std::string bias = "--logit-bias";
  command.custom(
      bias, "TOKEN=BIAS", "Added to the logit of a token; -inf forbids it; may be repeated",
      [this, check, bias](const std::string& text) {
        const std::size_t equals = text.find('=');
        if (equals == std::string::npos) throw WrongUsage(bias, "TOKEN=BIAS", in_quotes(text));
        const Index token =
            parse_number(text.substr(0, equals), bias, 0, std::numeric_limits<Token>::max() - 1);
        options.logit_bias.emplace_back(static_cast<Token>(token),
                                        parse_real(text.substr(equals + 1), bias));
        if (const Result<void> checked = check(); !checked) throw WrongUsage(bias, checked.error());
      },
      "", true);
  command.flag("--greedy", options.greedy,
               "The most probable token; ignores all other sampling options");
  command.seed("--seed", seed, "Seed of the random numbers; drawn at random if not given");
}

SamplerOptions SamplerFlags::resolve(const Model& model) const {
  SamplerOptions resolved = options;
  for (const auto& [token, bias] : resolved.logit_bias) {
    check_tokens({token}, "--logit-bias", model.vocab() - 1);
  }
  resolved.seed = seed ? *seed : std::random_device{}();
  if (const Result<void> checked = validate(resolved, model.vocab()); !checked) {
    throw WrongUsage("sampling options", checked.error());
  }
  return resolved;
}

}  // namespace krait::cli
