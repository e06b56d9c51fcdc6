#include <unistd.h>

#include <cstdio>

#include "command.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  SamplerFlags sampler;
  TextSource prompt;
  Index tokens = 128;
  Index count = 1;
  std::vector<std::string> stops;
  bool echo = false;
  bool ignore_eos = false;
  std::string state_in;
  std::string state_out;
};

// The text so far, with the prompt appended. An empty text begins with the end-of-text mark, which
// is what models are trained to find between texts, or with a line break.
Result<Sequence> begin(const Options& options, const Runtime& runtime) {
  KRAIT_ASSIGN_OR_RETURN(const std::string prompt, read_text(options.prompt));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, runtime.tokenizer().encode(prompt));
  Sequence sequence(runtime.model());
  if (!options.state_in.empty()) {
    KRAIT_ASSIGN_OR_RETURN(sequence, load_state(runtime.model(), options.state_in));
  }
  sequence.append(tokens);
  if (sequence.pending == 0) {
    const auto& stops = runtime.language_model.stop_tokens;
    sequence.append({{stops.empty() ? Token{'\n'} : stops.front()}});
  }
  return sequence;
}

nlohmann::json to_json(const Generation& generation, const SamplerOptions& sampler) {
  const double decoded = static_cast<double>(generation.tokens.size());
  return {{"prompt_tokens", generation.prompt_tokens},
          {"tokens", generation.tokens},
          {"text", generation.text},
          {"finish_reason", to_string(generation.reason)},
          {"seed", sampler.seed},
          {"sequence", sampler.sequence},
          {"timings",
           {{"prompt_seconds", generation.prompt_seconds},
            {"decode_seconds", generation.decode_seconds},
            {"decode_tokens_per_second",
             generation.decode_seconds > 0.0 ? decoded / generation.decode_seconds : 0.0}}}};
}

void print_figures(const Generation& generation, Index prompt_tokens, double prompt_seconds,
                   const SamplerOptions& sampler) {
  const auto rate = [](double count, double seconds) {
    return seconds > 0.0 ? count / seconds : 0.0;
  };
  const auto decoded = static_cast<double>(generation.tokens.size());
  std::fprintf(
      stderr, "prompt %lld tokens, %.1f tokens/s; decode %zu tokens, %.1f tokens/s; seed %llu\n",
      static_cast<long long>(prompt_tokens),
      rate(static_cast<double>(prompt_tokens), prompt_seconds), generation.tokens.size(),
      rate(decoded, generation.decode_seconds), static_cast<unsigned long long>(sampler.seed));
}

Result<void> run(const Options& options) {
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  KRAIT_ASSIGN_OR_RETURN(Sequence sequence, begin(options, runtime));
  GenerationOptions generation_options{.hold_back = !options.state_out.empty()};
  generation_options.max_tokens = options.tokens;
  generation_options.stop_strings = options.stops;
  const Result<SamplerOptions> sampler = options.sampler.resolve(runtime.model());
  if (!sampler) return sampler.error();
  generation_options.sampler = *sampler;
  if (!options.ignore_eos) generation_options.stop_tokens = runtime.language_model.stop_tokens;
  if (options.echo && !options.common.json) {
    KRAIT_ASSIGN_OR_RETURN(const std::string prompt, read_text(options.prompt));
    KRAIT_RETURN_IF_ERROR(print(prompt));
  }

  ProgressLine progress("prompt", "tokens");
  const Index prompt_tokens = sequence.pending;
  const double begun = now();
  KRAIT_RETURN_IF_ERROR(prefill(*runtime.session, sequence, progress));
  const double prompt_seconds = now() - begun;

  nlohmann::json samples = nlohmann::json::array();
  Result<void> written;
  for (Index k = 0; k < options.count; ++k) {
    Sequence sample = sequence;
    generation_options.sampler.sequence = static_cast<std::uint32_t>(k);
    const auto show = [&](const GenerationEvent& event) {
      if (!options.common.json && !event.text.empty()) {
        written = print(event.text);
        if (written) written = flush();
      }
      return !written || is_interrupted() ? Flow::stop : Flow::go_on;
    };
    KRAIT_ASSIGN_OR_RETURN(Generation generation, generate(*runtime.session, runtime.tokenizer(),
                                                           sample, generation_options, show));
    KRAIT_RETURN_IF_ERROR(written);
    if (options.common.json) {
      generation.prompt_tokens = prompt_tokens;
      generation.prompt_seconds += prompt_seconds;
      samples.push_back(to_json(generation, generation_options.sampler));
    } else {
      // A line break of our own only where nobody could mistake it for the model's.
      if (options.count > 1 || isatty(STDOUT_FILENO) != 0) KRAIT_RETURN_IF_ERROR(print("\n"));
      KRAIT_RETURN_IF_ERROR(flush());
      print_figures(generation, prompt_tokens, prompt_seconds + generation.prompt_seconds,
                    generation_options.sampler);
    }
    if (!options.state_out.empty()) KRAIT_RETURN_IF_ERROR(save_state(sample, options.state_out));
    if (is_interrupted()) return interruption();
  }
  if (!options.common.json) return flush();
  return print_json(options.count == 1 ? samples.front() : nlohmann::json{{"samples", samples}});
}

}  // namespace

void add_generate(CLI::App& app, int& result) {
  auto options = std::make_shared<Options>();
  CLI::App* command = app.add_subcommand("generate", "Continues a text");
  command->add_option("prompt", options->prompt.argument, "Text to continue; '-': standard input");
  command->add_option("--prompt-file", options->prompt.file, "Read the prompt from a file")
      ->excludes("prompt");
  command->add_option("-n,--tokens", options->tokens, "Tokens to generate, at most")
      ->check(CLI::Range(Index{0}, Index{1} << 31))
      ->capture_default_str();
  options->sampler.add(*command);
  command->add_option("--stop", options->stops, "End the text before this string; may be repeated")
      ->take_all();
  auto* count = command
                    ->add_option("--count", options->count,
                                 "Samples; sample k depends on the seed and k alone")
                    ->check(CLI::Range(Index{1}, Index{1} << 31))
                    ->capture_default_str();
  command->add_flag("--echo", options->echo, "Print the prompt in front of the text");
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on after an end-of-text token");
  command->add_option("--state-in", options->state_in, "Continue the sequence saved in this file");
  command
      ->add_option("--state-out", options->state_out, "Save the sequence to this file at the end")
      ->excludes(count);
  add_common(*command, options->common,
             "One JSON object: prompt_tokens, tokens, text, finish_reason, timings");
  command->footer(
      "Example: krait generate \"It was a dark and stormy night\" -n 200 "
      "--temperature 0.8 --seed 7");
  command->callback([options, &result] {
    const Result<void> outcome = run(*options);
    result = outcome ? ok : report(outcome.error());
  });
}

}  // namespace krait::cli
