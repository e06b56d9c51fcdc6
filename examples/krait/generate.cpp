#include <unistd.h>

#include <cstdio>
#include <utility>

#include "command.hpp"
#include "constraint_flags.hpp"
#include "draft.hpp"
#include "results.hpp"
#include "search.hpp"

namespace krait::cli {
namespace {

struct GenerateFlags {
  CommonOptions common;
  SamplerFlags sampler;
  DraftFlags draft;
  ConstraintFlags constraint;
  SearchFlags search;
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

void check(const GenerateFlags& options) {
  options.draft.check();
  if (options.prompt.argument && !options.prompt.file.empty()) {
    throw WrongUsage("--prompt-file", "no prompt beside it", in_quotes(*options.prompt.argument));
  }
  options.drugs.check();
  if (options.count > 1 && !options.state_out.empty()) {
    throw WrongUsage("--state-out", "one sample", "--count " + std::to_string(options.count));
  }
  if (options.drugs.has_doses && options.search.num_beams > 1) {
    throw WrongUsage("--drugs", "no --num-beams beside it", "one");
  }
  options.search.guidance.check(options.draft.is_given(), options.drugs);
  options.search.check(options.count, options.common.json, options.draft.is_given());
}

// A saved text goes on without a prompt where none is given.
Result<std::string> read_prompt(const GenerateFlags& options) {
  if (!options.state_in.empty() && !options.prompt.is_given()) return std::string();
  return read_text(options.prompt, "prompt");
}

// The text so far, with the prompt appended.
Result<Sequence> begin(const GenerateFlags& options, const std::string& prompt,
                       const Runtime& runtime) {
  Sequence sequence(runtime.model());
  if (!options.state_in.empty()) {
    KRAIT_ASSIGN_OR_RETURN(sequence, read_state(runtime.model(), options.state_in));
    // Within a word, too: a space is part of the prompt, or there is none.
    const bool has_unknown_text = sequence.tokens.empty() && sequence.state.position() > 0;
    const TextBefore before =
        has_unknown_text ? TextBefore::text : before_of(runtime.tokenizer(), sequence.tokens);
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                           runtime.tokenizer().encode(prompt, {.before = before}));
    sequence.append(tokens);
    if (sequence.pending > 0) return sequence;
  }
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                         runtime.language_model.encode_prompt(prompt));
  sequence.append(tokens);
  return sequence;
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

void print_drafts(const GenerationResult& generation) {
  std::fprintf(stderr, "drafts: %lld passes, %lld of %lld guesses accepted\n",
               static_cast<long long>(generation.target_passes),
               static_cast<long long>(generation.accepted),
               static_cast<long long>(generation.drafted));
}

Result<void> run(const GenerateFlags& options) {
  check(options);
  KRAIT_RETURN_IF_ERROR(check_destination("--state-out", options.state_out,
                                          {options.common.model, options.prompt.file}));
  if (!options.state_out.empty()) outlive_readers();
  KRAIT_ASSIGN_OR_RETURN(const std::optional<Grammar> grammar, options.constraint.compile());
  KRAIT_ASSIGN_OR_RETURN(
      Runtime runtime, start(options.common, options.draft.is_given() ? options.draft.session()
                                                                      : options.search.session()));
  GenerationOptions generation_options{.hold_back = !options.state_out.empty()};
  generation_options.max_tokens = options.tokens;
  generation_options.stop_strings = options.stops;
  generation_options.sampler = options.sampler.resolve(runtime.language_model);
  options.draft.resolve(generation_options.sampler, generation_options.acceptance);
  if (options.draft.is_given()) {
    KRAIT_ASSIGN_OR_RETURN(generation_options.speculation,
                           options.draft.load_drafter(runtime, options.common));
  }
  KRAIT_ASSIGN_OR_RETURN(generation_options.drugs, options.drugs.resolve(runtime.model()));
  if (!options.ignore_eos) generation_options.stop_tokens = runtime.language_model.stop_tokens;
  KRAIT_ASSIGN_OR_RETURN(generation_options.constraint, constrain(grammar, runtime.language_model,
                                                                  generation_options.stop_tokens));
  KRAIT_RETURN_IF_ERROR(
      options.search.set(generation_options, runtime.language_model, options.sampler));
  KRAIT_ASSIGN_OR_RETURN(const std::string prompt, read_prompt(options));
  KRAIT_ASSIGN_OR_RETURN(Sequence sequence, begin(options, prompt, runtime));
  if (options.echo && !options.common.json) {
    KRAIT_RETURN_IF_ERROR(print_all(prompt));
  }

  ProgressLine progress("prompt", "tokens");
  const Index prompt_tokens = sequence.pending;
  const double begun = now();
  // What samples have in common. Noise is each one's own.
  if (!generation_options.drugs || !sequence.awaits_noise()) {
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
    KRAIT_ASSIGN_OR_RETURN(Found found,
                           options.search.run(runtime, sample, generation_options, show));
    GenerationResult& generation = found.result;
    if (!options.state_out.empty()) KRAIT_RETURN_IF_ERROR(save_state(sample, options.state_out));
    KRAIT_RETURN_IF_ERROR(written);
    std::optional<DraftStatistics> drafts;
    if (options.draft.is_given()) drafts = generation_options.speculation->statistics();
    if (options.common.json) {
      generation.prompt_tokens = prompt_tokens;
      generation.prompt_seconds += prompt_seconds;
      samples.push_back({std::move(generation), generation_options.sampler.seed,
                         generation_options.sampler.sequence, drafts, found.score,
                         options.search.log_probs.has_value()});
    } else {
      // A line break of our own only where nobody could mistake it for the model's.
      if (options.count > 1 || isatty(STDOUT_FILENO) != 0) KRAIT_RETURN_IF_ERROR(print("\n"));
      KRAIT_RETURN_IF_ERROR(flush());
      print_figures(generation, prompt_tokens, prompt_seconds + generation.prompt_seconds,
                    generation_options.sampler);
      if (drafts) print_drafts(generation);
    }
    if (is_interrupted()) return interruption();
  }
  if (!options.common.json) return flush();
  return print_json(to_json(samples));
}

void declare(Command& command, GenerateFlags& options) {
  command.positional("prompt", options.prompt.argument,
                     "Text to continue; '-', or none where text is piped in and there is no "
                     "--state-in: standard input");
  command.file("--prompt-file", options.prompt.file, "Read the prompt from a file");
  command.number("-n,--tokens", options.tokens, 0, Index{1} << 31, "Tokens to generate, at most");
  options.sampler.add(command);
  options.draft.add(command);
  options.constraint.add(command);
  options.search.add(command);
  options.drugs.add(command);
  command.texts("--stop", options.stops, "End the text before this string; may be repeated");
  command.number("--count", options.count, 1, Index{1} << 31,
                 "Samples; sample k depends on the seed and k alone");
  command.flag("--echo", options.echo, "Print the prompt in front of the text");
  command.flag("--ignore-eos", options.ignore_eos, "Go on after an end-of-text token");
  command.file("--state-in", options.state_in, "Continue the sequence saved in this file");
  command.file("--state-out", options.state_out, "Save the sequence to this file at the end");
  add_common(
      command, options.common,
      "One JSON object: prompt_tokens, tokens, text, finish_reason, timings; with --draft also "
      "drafted, accepted, target_passes, levels, positions");
}

}  // namespace

void add_generate(CommandLine& line) {
  line.add<GenerateFlags>("generate", "Continues a text",
                          "krait generate \"It was a dark and stormy night\" -n 200 "
                          "--temperature 0.8 --seed 7",
                          declare, run);
}

}  // namespace krait::cli
