#include "search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace krait::cli {
namespace {

// Shows all of a text at once.
void show_all(const GenerationResult& result, GenerationCallback show) {
  if (result.tokens.empty()) return;
  show({result.tokens.back(), result.text, std::ssize(result.tokens)});
}

constexpr auto while_not_interrupted = [](Index /*done*/, Index /*total*/) {
  return is_interrupted() ? Flow::stop : Flow::go_on;
};

}  // namespace

void SearchFlags::add(Command& command) {
  command.number("--num-beams", num_beams, 1, 1000,
                 "Search for the most probable text with so many beams; 1: draw one");
  command.real("--length-penalty", length_penalty,
               "Beams: divides log-probabilities by length^p; above 0 prefers long texts",
               [this]() -> Result<void> {
                 if (std::fabs(length_penalty) <= 20.0) return {};
                 return Error{ErrorCode::bad_argument, "expected a number from -20 to 20, found " +
                                                           std::to_string(length_penalty)};
               });
  command.number("--best-of", best_of, 1, Index{1} << 31,
                 "Draw so many texts and show the most probable");
  command.choice("--best-by", best_by, {"mean", "sum"},
                 "Log-probability by which it is: of a token on average, or of the text");
  guidance.add(command);
  command.number("--logprobs", log_probs, 0, std::numeric_limits<Token>::max(),
                 "With --json: log-probabilities of tokens, and of so many others beside each");
}

void SearchFlags::check(Index count, bool json, bool has_drafter) const {
  if (has_drafter && (num_beams > 1 || best_of > 1)) {
    throw WrongUsage("--draft", "no --num-beams or --best-of beside it", "one");
  }
  if (num_beams > 1 && best_of > 1) {
    throw WrongUsage("--num-beams", "no --best-of beside it", std::to_string(best_of));
  }
  for (const auto& [flag, value] : {std::pair("--num-beams", num_beams), {"--best-of", best_of}}) {
    if (value > 1 && count > 1)
      throw WrongUsage(flag, "no --count beside it", std::to_string(count));
  }
  if (num_beams == 1 && length_penalty != 1.0) {
    throw WrongUsage("--length-penalty", "--num-beams beside it", "none");
  }
  if (best_of == 1 && best_by != "mean") {
    throw WrongUsage("--best-by", "--best-of beside it", "none");
  }
  if (log_probs && !json) throw WrongUsage("--logprobs", "--json beside it", "none");
  if (log_probs && num_beams > 1) {
    throw WrongUsage("--logprobs", "no --num-beams beside it", std::to_string(num_beams));
  }
}

SessionOptions SearchFlags::session() const {
  SessionOptions options;
  // Best-of runs as many at once as a pass over the weights serves well.
  constexpr Index texts_of_best = 16;
  const Index texts = std::max(num_beams, guidance.is_on() ? 1 : std::min(best_of, texts_of_best));
  options.max_batch = std::max(options.max_batch, guidance.is_on() ? 2 * texts : texts);
  return options;
}

Result<void> SearchFlags::set(GenerationOptions& options, const LanguageModel& model,
                              const SamplerFlags& sampler) const {
  if (log_probs && *log_probs > model.model.vocab()) {
    throw WrongUsage("--logprobs", "at most " + std::to_string(model.model.vocab()),
                     std::to_string(*log_probs));
  }
  options.log_probs = log_probs;
  KRAIT_RETURN_IF_ERROR(guidance.set(options, model));
  if (num_beams == 1) return {};
  if (!sampler.has_temperature) options.sampler.temperature = 1.0;
  const BeamOptions beams{.num_beams = num_beams, .length_penalty = length_penalty};
  const Result<void> checked = validate(beams, options, model.model);
  if (!checked) throw WrongUsage("--num-beams", checked.error());
  return {};
}

Result<Found> SearchFlags::run(Runtime& runtime, Sequence& sequence,
                               const GenerationOptions& options, GenerationCallback show) const {
  Session& session = *runtime.session;
  if (num_beams > 1) {
    const double begun = now();
    KRAIT_ASSIGN_OR_RETURN(std::vector<Beam> beams,
                           beam_search(session, runtime.tokenizer(), sequence, options,
                                       {.num_beams = num_beams, .length_penalty = length_penalty},
                                       while_not_interrupted));
    beams.front().result.decode_seconds = now() - begun;
    sequence = std::move(beams.front().sequence);
    show_all(beams.front().result, show);
    return Found{std::move(beams.front().result), beams.front().score};
  }
  if (best_of > 1) {
    KRAIT_ASSIGN_OR_RETURN(
        Best best,
        krait::best_of(session, runtime.tokenizer(), sequence, options, best_of,
                       best_by == "sum" ? BestBy::sum : BestBy::mean, while_not_interrupted));
    sequence = std::move(best.sequence);
    show_all(best.result, show);
    return Found{std::move(best.result), best.score};
  }
  KRAIT_ASSIGN_OR_RETURN(GenerationResult result,
                         generate(session, runtime.tokenizer(), sequence, options, show));
  return Found{std::move(result), std::nullopt};
}

}  // namespace krait::cli
