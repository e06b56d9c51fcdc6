#include <unistd.h>

#include <cstdio>
#include <utility>

#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

struct Options {
  CommonOptions common;
  SamplerFlags sampler;
  DrugFlags drugs;
  TextSource prompt;
  Index tokens = 128;
  Index count = 1;
  std::vector<std::string> stops;
  bool echo = false;
  bool ignore_eos = false;
  std::string state_in;
  std::string state_out;
};

void check(const Options& options) {
  if (options.prompt.argument && !options.prompt.file.empty()) {
    throw WrongUsage("--prompt-file", "no prompt beside it", in_quotes(*options.prompt.argument));
  }
  options.drugs.check();
  if (options.count > 1 && !options.state_out.empty()) {
    throw WrongUsage("--state-out", "one sample", "--count " + std::to_string(options.count));
  }
}

// A saved text goes on without a prompt where none is given.
Result<std::string> read_prompt(const Options& options) {
  if (!options.state_in.empty() && !options.prompt.is_given()) return std::string();
  return read_text(options.prompt, "prompt");
}

// The text so far, with the prompt appended.
Result<Sequence> begin(const Options& options, const std::string& prompt, const Runtime& runtime) {
  Sequence sequence(runtime.model());
  if (!options.state_in.empty()) {
    KRAIT_ASSIGN_OR_RETURN(sequence, read_state(runtime.model(), options.state_in));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, runtime.tokenizer().encode(prompt));
    sequence.append(tokens);
    if (sequence.pending > 0) return sequence;
  }
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         runtime.language_model.encode_prompt(prompt));
  sequence.append(tokens);
  return sequence;
}

// Whether tokens are pending that were sampled, or noise is to be undone.
bool has_sampled(const Sequence& sequence) {
  for (Index i = std::ssize(sequence.tokens) - sequence.pending; i < std::ssize(sequence.tokens);
       ++i) {
    if (sequence.is_sampled(i)) return true;
  }
  return sequence.noised > 0;
}

void print_figures(const GenerationResult& generation, Index prompt_tokens, double prompt_seconds,
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
  check(options);
  KRAIT_RETURN_IF_ERROR(check_destination("--state-out", options.state_out));
  if (!options.state_out.empty()) outlive_readers();
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common));
  GenerationOptions generation_options{.hold_back = !options.state_out.empty()};
  generation_options.max_tokens = options.tokens;
  generation_options.stop_strings = options.stops;
  generation_options.sampler = options.sampler.resolve(runtime.model());
  KRAIT_ASSIGN_OR_RETURN(generation_options.drugs, options.drugs.resolve(runtime.model()));
  if (!options.ignore_eos) generation_options.stop_tokens = runtime.language_model.stop_tokens;
  KRAIT_ASSIGN_OR_RETURN(const std::string prompt, read_prompt(options));
  KRAIT_ASSIGN_OR_RETURN(Sequence sequence, begin(options, prompt, runtime));
  if (options.echo && !options.common.json) {
    KRAIT_RETURN_IF_ERROR(print_all(prompt));
  }

  ProgressLine progress("prompt", "tokens");
  const Index prompt_tokens = sequence.pending;
  const double begun = now();
  // What samples have in common. Noise is each one's own.
  if (!generation_options.drugs || !has_sampled(sequence)) {
    KRAIT_RETURN_IF_ERROR(prefill(*runtime.session, sequence, progress));
  }
  const double prompt_seconds = now() - begun;

  std::vector<Sample> samples;
  Result<void> written;
  for (Index k = 0; k < options.count; ++k) {
    Sequence sample = sequence;
    generation_options.sampler.sequence = static_cast<std::uint32_t>(k);
    const auto show = [&](const GenerationEvent& event) {
      if (!options.common.json && !event.text.empty() && written) {
        written = print_all(event.text);
      }
      return !written || is_interrupted() ? Flow::stop : Flow::go_on;
    };
    KRAIT_ASSIGN_OR_RETURN(
        GenerationResult generation,
        generate(*runtime.session, runtime.tokenizer(), sample, generation_options, show));
    if (!options.state_out.empty()) KRAIT_RETURN_IF_ERROR(save_state(sample, options.state_out));
    KRAIT_RETURN_IF_ERROR(written);
    if (options.common.json) {
      generation.prompt_tokens = prompt_tokens;
      generation.prompt_seconds += prompt_seconds;
      samples.push_back({std::move(generation), generation_options.sampler.seed,
                         generation_options.sampler.sequence});
    } else {
      // A line break of our own only where nobody could mistake it for the model's.
      if (options.count > 1 || isatty(STDOUT_FILENO) != 0) KRAIT_RETURN_IF_ERROR(print("\n"));
      KRAIT_RETURN_IF_ERROR(flush());
      print_figures(generation, prompt_tokens, prompt_seconds + generation.prompt_seconds,
                    generation_options.sampler);
    }
    if (is_interrupted()) return interruption();
  }
  if (!options.common.json) return flush();
  return print_json(to_json(samples));
}

void declare(Command& command, Options& options) {
  command.positional("prompt", options.prompt.argument,
                     "Text to continue; '-', or none where text is piped in and there is no "
                     "--state-in: standard input");
  command.file("--prompt-file", options.prompt.file, "Read the prompt from a file");
  command.number("-n,--tokens", options.tokens, 0, Index{1} << 31, "Tokens to generate, at most");
  options.sampler.add(command);
  options.drugs.add(command);
  command.texts("--stop", options.stops, "End the text before this string; may be repeated");
  command.number("--count", options.count, 1, Index{1} << 31,
                 "Samples; sample k depends on the seed and k alone");
  command.flag("--echo", options.echo, "Print the prompt in front of the text");
  command.flag("--ignore-eos", options.ignore_eos, "Go on after an end-of-text token");
  command.file("--state-in", options.state_in, "Continue the sequence saved in this file");
  command.file("--state-out", options.state_out, "Save the sequence to this file at the end");
  add_common(command, options.common,
             "One JSON object: prompt_tokens, tokens, text, finish_reason, timings");
}

}  // namespace

void add_generate(CommandLine& line) {
  line.add("generate", "Continues a text",
           "krait generate \"It was a dark and stormy night\" -n 200 "
           "--temperature 0.8 --seed 7",
           declare, run);
}

}  // namespace krait::cli
