#include "command.hpp"

#include <algorithm>
#include <array>
#include <functional>
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
  command.file("--lora", options.adapter,
               "Adapter of low rank over the model: a folder of PEFT's or MLX's files");
  add_threads(command, options.threads);
  std::vector<std::string> forms = {"file"};
  for (const WeightForm* form : weight_forms()) forms.emplace_back(form->name());
  command.choice("--dtype", options.dtype, std::move(forms),
                 "Form of the weights in memory; 'file' keeps what is stored");
  command.choice("--compute", options.compute, {"f32", "bf16"},
                 "Activations in matrix products; bf16 is for weights in bf16");
  command.choice("--kv-dtype", options.kv_dtype, {"f32", "f16", "bf16"},
                 "Keys and values that attention keeps; 16 bits halve the memory of long texts");
  command.choice("--weights", options.weights, {"map", "copy"},
                 "Map weight files, or copy them into memory");
  if (!json_help.empty()) command.flag("--json", options.json, json_help);
}

void SourceAndDestination::add(Command& command) {
  command.positional("source", source,
                     "Checkpoint directory, weight file, or the name of a bundled model");
  command.positional("destination", destination, "Folder to make");
}

void SourceAndDestination::check() const {
  if (!source || source->empty()) {
    throw WrongUsage("source", "a checkpoint", source ? "an empty name" : "none");
  }
  if (!destination || destination->empty()) {
    throw WrongUsage("destination", "the name of a new folder",
                     destination ? "an empty one" : "none");
  }
}

LoadOptions load_options(const CommonOptions& options, Executor* executor) {
  return {.weights = options.weights == "copy" ? WeightsMode::copy : WeightsMode::map,
          .form = options.dtype,
          .compute = options.compute == "bf16" ? Compute::bf16 : Compute::f32,
          .kv_dtype = options.kv_dtype == "f16"    ? DType::f16
                      : options.kv_dtype == "bf16" ? DType::bf16
                                                   : DType::f32,
          .progress = ProgressLine("loading", "bytes"),
          .executor = executor,
          .adapter = options.adapter};
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
  LanguageModel loaded{
      .model = std::move(model), .tokenizer = byte_tokenizer(), .stop_tokens = {}, .bos = {}};
  return with_session(std::move(loaded), std::move(threads), session);
}

Result<std::vector<Token>> read_tokens(const TextSource& source, std::string_view what,
                                       const LanguageModel& model, std::optional<Index> limit) {
  KRAIT_ASSIGN_OR_RETURN(const std::string text,
                         read_text_part(source, what, limit, *model.tokenizer));
  return model.tokenizer->encode(text, {.add_special = true});
}

namespace {

// llama.cpp's list, "a;b;c", or the same with commas.
std::vector<std::string> parse_names(const std::string& text) {
  std::vector<std::string> names(1);
  for (const char c : text) {
    if (c == ';' || c == ',') {
      names.emplace_back();
    } else if (c != ' ') {
      names.back() += c;
    }
  }
  return names;
}

}  // namespace

void SamplerFlags::add(Command& command, std::optional<std::uint64_t> otherwise) {
  options.temperature = 0.8;
  const auto check = [this]() -> Result<void> {
    return validate(options, std::numeric_limits<Token>::max());
  };
  command.real("--temperature", options.temperature,
               "Divides the logits; 0 takes the most probable token", [this, check] {
                 has_temperature = true;
                 return check();
               });
  command.number("--top-k", options.top_k, 0, std::numeric_limits<Token>::max(),
                 "Keep the k most probable tokens; 0: off");
  command.real("--top-p", options.top_p,
               "Keep the most probable tokens that together reach p; 1: off", check);
  command.real("--min-p", options.min_p,
               "Keep tokens of at least this part of the best one's probability; 0: off", check);
  command.real("--typical-p", options.typical_p,
               "Keep the most typical tokens that together reach p; 1: off", check);
  add_cuts(command, check);
  command.real("--repetition-penalty", options.repetition_penalty,
               "Divides the positive logits of tokens in the text; 1: off", check);
  command.real("--presence-penalty", options.presence_penalty,
               "Subtracted from the logits of tokens in the text", check);
  command.real("--frequency-penalty", options.frequency_penalty,
               "Subtracted for every occurrence in the text", check);
  add_penalties(command, check);
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
  const std::string order = "--samplers";
  command.custom(order, "A;B;C",
                 "The steps to take, in this order; a temperature that is not given is off then",
                 [this, order](const std::string& text) {
                   samplers = parse_names(text);
                   SamplerOptions known;
                   known.order = samplers;
                   const Result<void> checked = validate(known, std::numeric_limits<Token>::max());
                   if (!checked) throw WrongUsage(order, checked.error());
                 });
  command.flag("--greedy", options.greedy,
               "The most probable token; ignores all other sampling options");
  seed = otherwise;
  const std::string without = otherwise ? std::to_string(*otherwise) : "drawn at random";
  command.seed("--seed", seed, "Seed of the random numbers; " + without + " if not given");
}

void SamplerFlags::add_cuts(Command& command, const std::function<Result<void>()>& check) {
  command.real("--top-n-sigma", options.top_n_sigma,
               "Keep logits within n standard deviations of the largest; 0: off", check);
  command.real("--epsilon-cutoff", options.epsilon_cutoff,
               "Keep tokens of at least this probability; 0: off", check);
  command.real("--eta-cutoff", options.eta_cutoff,
               "The same, the less the more even all probabilities are; 0: off", check);
  command.real("--xtc-probability", options.xtc_probability,
               "How often to take out all top choices but the last; 0: off", check);
  command.real("--xtc-threshold", options.xtc_threshold, "Probability that makes a top choice",
               check);
  command.real("--dynatemp-range", options.dynatemp_range,
               "How far the temperature moves with the entropy; 0: off", check);
  command.real("--dynatemp-exp", options.dynatemp_exponent, "Power of the entropy in that", check);
  command.number("--mirostat", mirostat, 0, 2,
                 "Keep the surprise of the text even, version 1 or 2; 0: off");
  command.real("--mirostat-ent", options.mirostat_tau, "Bits a token that mirostat keeps to",
               check);
  command.real("--mirostat-lr", options.mirostat_eta, "Rate at which mirostat learns", check);
}

void SamplerFlags::add_penalties(Command& command, const std::function<Result<void>()>& check) {
  command.real("--dry-multiplier", options.dry_multiplier,
               "Penalty of a token that goes on with a repetition; 0: off", check);
  command.real("--dry-base", options.dry_base, "Factor for every token more of a repetition",
               check);
  command.number("--dry-allowed-length", options.dry_allowed_length, 1, Index{1} << 20,
                 "Tokens of a repetition that cost no more than the multiplier");
  command.number("--dry-penalty-last-n", options.dry_penalty_last_n, 1, Index{1} << 20,
                 "Tokens of the text among which repetitions are sought");
  command.texts("--dry-sequence-breaker", breakers,
                "Text that no repetition extends over, instead of line break, ':', '\"' and '*'; "
                "'none': no text does; may be repeated");
  command.texts("--bad-words", bad_words,
                "Text that is not to be written, alone or behind a space; may be repeated");
  command.number("--min-length", min_length, 0, Index{1} << 31,
                 "Tokens, prompt included, before which the text does not end");
}

SamplerOptions SamplerFlags::resolve(const LanguageModel& model) const {
  SamplerOptions resolved = options;
  const Index vocab = model.model.vocab();
  for (const auto& [token, bias] : resolved.logit_bias) {
    check_tokens({token}, "--logit-bias", vocab - 1);
  }
  resolved.seed = seed ? *seed : std::random_device{}();
  resolved.order = samplers;
  const auto lists = [&](std::string_view name) {
    return std::ranges::find(samplers, name) != samplers.end();
  };
  if (!samplers.empty() && !has_temperature && !lists("temperature")) resolved.temperature = 1.0;
  resolved.mirostat = static_cast<int>(mirostat);
  resolved.min_length = min_length;
  resolved.eos_tokens = model.stop_tokens;
  if (resolved.dry_multiplier > 0.0)
    resolved.dry_sequence_breakers = find_breakers(*model.tokenizer);
  for (const std::string& word : bad_words) {
    if (word.empty()) throw WrongUsage("--bad-words", "a text", "an empty one");
    for (const std::string& text : {word, " " + word}) {
      for (const TextBefore before : {TextBefore::nothing, TextBefore::text}) {
        const auto tokens = model.tokenizer->encode(text, {.before = before});
        if (!tokens) throw WrongUsage("--bad-words", tokens.error());
        // What has no row in the model is never written.
        if (std::ranges::any_of(*tokens, [&](Token token) { return token >= vocab; })) continue;
        if (std::ranges::find(resolved.bad_words, *tokens) != resolved.bad_words.end()) continue;
        resolved.bad_words.push_back(*tokens);
      }
    }
  }
  if (const Result<void> checked = validate(resolved, vocab); !checked) {
    throw WrongUsage(flag_of(checked.error()), checked.error());
  }
  return resolved;
}

std::vector<std::vector<Token>> SamplerFlags::find_breakers(const Tokenizer& tokenizer) const {
  std::vector<std::string> texts = breakers;
  if (texts.empty()) texts = {"\n", ":", "\"", "*"};
  std::vector<std::vector<Token>> sequences;
  for (const std::string& text : texts) {
    if (text == "none") continue;
    const auto found = tokens_spelling(tokenizer, text);
    if (!found) throw WrongUsage("--dry-sequence-breaker", found.error());
    sequences.insert(sequences.end(), found->begin(), found->end());
  }
  return sequences;
}

// The flag that an error of the options together is about.
std::string_view SamplerFlags::flag_of(const Error& error) {
  for (const auto& [what, flag] : {std::pair("order:", "--samplers"),
                                   {"mirostat:", "--mirostat"},
                                   {"min-length:", "--min-length"}}) {
    if (error.message.find(what) != std::string::npos) return flag;
  }
  return "sampling options";
}

}  // namespace krait::cli
