#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>

#include "krait/decoding/generate.hpp"
#include "training/stages.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using training::JsonLine;

// An answer's entry in `responses`.
std::string answer_json(const GenerationResult& result, std::uint64_t seed) {
  std::vector<Token> tokens = result.tokens;
  double log_p = 0.0;
  for (const TokenLogProbs& token : result.log_probs) log_p += static_cast<double>(token.log_prob);
  if (result.reason == FinishReason::stop_token) tokens.push_back(result.log_probs.back().token);
  return fmt::format("{{\"text\": {}, \"tokens\": [{}], \"logp\": {}, \"seed\": {}}}",
                     training::json_of(std::string_view(result.text)), fmt::join(tokens, ", "),
                     log_p, seed);
}

class AnswerSampler {
 public:
  AnswerSampler(const LanguageModel& model, Executor& executor, const CandidateOptions& options,
                Token end, Index total, Progress progress)
      : model_(&model),
        options_(options),
        total_(total),
        progress_(progress),
        session_(model.model, executor,
                 {.chunk = training::most_tokens, .max_batch = training::most_texts}) {
    generation_.max_tokens = options.max_tokens;
    generation_.sampler = options.sampler;
    generation_.stop_tokens = model.stop_tokens;
    if (generation_.stop_tokens.empty()) generation_.stop_tokens = {end};
    generation_.log_probs = 0;
  }

  // The lines [first, last) with their answers.
  Result<std::vector<std::string>> answer(std::span<const JsonLine> lines, Index first) {
    done_ = first;
    std::vector<std::vector<std::string>> answers(lines.size());
    for (std::size_t i = 0; i < lines.size(); ++i) {
      KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> prompt,
                             training::read_prompt(lines[i], *model_->tokenizer));
      Sequence sequence(model_->model, prompt);
      KRAIT_RETURN_IF_ERROR(prefill(session_, sequence));
      generation_.sampler.seed =
          training::line_seed(options_.sampler.seed, first + static_cast<Index>(i));
      for (Index k = 0; k < options_.count; ++k) {
        KRAIT_RETURN_IF_ERROR(begin(sequence, k, answers[i]));
      }
    }
    KRAIT_RETURN_IF_ERROR(finish());
    std::vector<std::string> result;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      std::vector<training::JsonMember> more;
      if (lines[i].json["id"].is_null()) {
        more.emplace_back("id", fmt::to_string(first + static_cast<Index>(i)));
      }
      more.emplace_back("responses", fmt::format("[{}]", fmt::join(answers[i], ", ")));
      more.emplace_back("model", fmt::format("\"{}\"", model_->model.fingerprint()));
      result.push_back(training::with_members(lines[i], more));
    }
    return result;
  }

 private:
  Result<void> begin(const Sequence& prompt, Index k, std::vector<std::string>& answers) {
    if (std::ssize(texts_) == training::most_texts) KRAIT_RETURN_IF_ERROR(finish());
    generation_.sampler.sequence = static_cast<std::uint32_t>(k);
    Sequence sequence = prompt;
    KRAIT_ASSIGN_OR_RETURN(Generation text, Generation::make(model_->model, *model_->tokenizer,
                                                             std::move(sequence), generation_));
    texts_.push_back(std::move(text));
    places_.push_back({&answers, generation_.sampler.seed});
    return {};
  }

  // Samples what was begun.
  Result<void> finish() {
    std::vector<Generation*> running;
    for (Generation& text : texts_) running.push_back(&text);
    while (!std::ranges::all_of(texts_, &Generation::is_finished)) {
      KRAIT_RETURN_IF_ERROR(advance_all(session_, running));
      if (progress_ && progress_(done_, total_) == Flow::stop) {
        return training::cancelled("candidates", done_, total_);
      }
    }
    for (std::size_t i = 0; i < texts_.size(); ++i) {
      texts_[i].finish();
      places_[i].answers->push_back(answer_json(texts_[i].result(), places_[i].seed));
    }
    texts_.clear();
    places_.clear();
    return {};
  }

  struct Place {
    std::vector<std::string>* answers;
    std::uint64_t seed;
  };
  const LanguageModel* model_;
  CandidateOptions options_;
  Index total_;
  Index done_ = 0;  // lines
  Progress progress_;
  Session session_;
  GenerationOptions generation_;
  std::vector<Generation> texts_;
  std::vector<Place> places_;  // of the texts
};

Result<void> check(const CandidateOptions& options, std::span<const JsonLine> lines) {
  const auto at_least_one = [](std::string_view what, Index found) -> Result<void> {
    if (found >= 1) return {};
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] {}: expected at least 1, found {}", what, found)};
  };
  KRAIT_RETURN_IF_ERROR(at_least_one("count", options.count));
  KRAIT_RETURN_IF_ERROR(at_least_one("tokens", options.max_tokens));
  for (const JsonLine& line : lines) KRAIT_RETURN_IF_ERROR(training::check_unanswered(line));
  return {};
}

}  // namespace

Result<std::vector<std::string>> training::candidates(const LanguageModel& model,
                                                      Executor& executor, const StageInput& prompts,
                                                      const CandidateOptions& options,
                                                      const std::string& destination,
                                                      Progress progress) {
  KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines, training::lines_of(prompts, "prompts"));
  KRAIT_RETURN_IF_ERROR(check(options, lines));
  KRAIT_ASSIGN_OR_RETURN(const Token end, end_of_answer(model.stop_tokens, *model.tokenizer));
  KRAIT_ASSIGN_OR_RETURN(
      training::LineFile file,
      training::LineFile::open(
          destination, fmt::format("candidates {} {} {} {} {} {}", model.model.fingerprint(),
                                   training::hash_of(prompts.text), end, options.count,
                                   options.max_tokens, training::describe(options.sampler))));
  AnswerSampler sampler(model, executor, options, end, std::ssize(lines), progress);
  const Index group = std::max<Index>(1, training::most_texts / options.count);
  for (Index first = file.size(); first < std::ssize(lines); first += group) {
    const Index count = std::min(group, std::ssize(lines) - first);
    const auto part =
        std::span(lines).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> answered, sampler.answer(part, first));
    for (const std::string& line : answered) KRAIT_RETURN_IF_ERROR(file.write(line));
    if (progress && progress(file.size(), std::ssize(lines)) == Flow::stop &&
        file.size() < std::ssize(lines)) {
      return training::cancelled("candidates", file.size(), std::ssize(lines));
    }
  }
  return file.commit();
}

Result<void> write_candidates(const LanguageModel& model, Executor& executor,
                              const StageInput& prompts, const CandidateOptions& options,
                              const std::string& destination, Progress progress) {
  const auto lines = training::candidates(model, executor, prompts, options, destination, progress);
  return lines ? Result<void>() : Result<void>(lines.error());
}

}  // namespace v0_1
}  // namespace krait
