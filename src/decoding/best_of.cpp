#include "krait/decoding/best_of.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>
#include <vector>

#include "decoding/stopwatch.hpp"
#include "krait/decoding/generate.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

double score_of(const GenerationResult& result, BestBy by) {
  double sum = 0.0;
  for (const TokenLogProbs& token : result.log_probs) sum += static_cast<double>(token.log_prob);
  if (by == BestBy::sum || result.log_probs.empty()) return sum;
  return sum / static_cast<double>(result.log_probs.size());
}

class BestSearch {
 public:
  BestSearch(Session& session, const Tokenizer& tokenizer, GenerationOptions options, Index count,
             BestBy by, Progress progress)
      : session_(&session),
        tokenizer_(&tokenizer),
        options_(std::move(options)),
        count_(count),
        by_(by),
        progress_(progress) {
    if (!options_.log_probs) options_.log_probs = 0;
  }

  // Samples [first, last), in one pass over the weights per step.
  Result<void> together(const Sequence& start, Index first, Index last) {
    std::vector<Generation> texts;
    for (Index k = first; k < last; ++k) {
      Sequence sequence = start;
      options_.sampler.sequence = static_cast<std::uint32_t>(k);
      KRAIT_ASSIGN_OR_RETURN(Generation text, Generation::make(session_->model(), *tokenizer_,
                                                               std::move(sequence), options_));
      texts.push_back(std::move(text));
    }
    std::vector<Generation*> running;
    for (Generation& text : texts) running.push_back(&text);
    while (!std::ranges::all_of(texts, &Generation::is_finished)) {
      KRAIT_RETURN_IF_ERROR(advance_all(*session_, running));
      Index tokens = 0;
      for (const Generation& text : texts) tokens += std::ssize(text.result().tokens);
      KRAIT_RETURN_IF_ERROR(report(tokens));
    }
    for (Generation& text : texts) {
      text.finish();
      GenerationResult result = text.result();
      consider(std::move(result), text.release(), static_cast<std::uint32_t>(first++));
    }
    return {};
  }

  Result<void> alone(const Sequence& start, Index k) {
    Sequence sequence = start;
    options_.sampler.sequence = static_cast<std::uint32_t>(k);
    Result<void> reported;
    const auto show = [&](const GenerationEvent& event) {
      reported = report(event.count);
      return reported ? Flow::go_on : Flow::stop;
    };
    KRAIT_ASSIGN_OR_RETURN(GenerationResult result,
                           generate(*session_, *tokenizer_, sequence, options_, show));
    KRAIT_RETURN_IF_ERROR(reported);
    consider(std::move(result), std::move(sequence), static_cast<std::uint32_t>(k));
    return {};
  }

  Best take() { return std::move(*best_); }

 private:
  // `tokens` are those of the samples that are not considered yet.
  Result<void> report(Index tokens) {
    if (!progress_ || progress_(done_ + tokens, count_ * options_.max_tokens) == Flow::go_on) {
      return {};
    }
    return Error{ErrorCode::cancelled,
                 fmt::format("[best-of] samples: stopped after {} tokens", done_ + tokens)};
  }

  void consider(GenerationResult result, Sequence sequence, std::uint32_t index) {
    done_ += std::ssize(result.tokens);
    const double score = score_of(result, by_);
    if (best_ && score <= best_->score) return;
    best_ = Best{std::move(result), std::move(sequence), index, score};
  }

  Session* session_;
  const Tokenizer* tokenizer_;
  GenerationOptions options_;
  Index count_;
  BestBy by_;
  Progress progress_;
  Index done_ = 0;
  std::optional<Best> best_;
};

}  // namespace

Result<Best> best_of(Session& session, const Tokenizer& tokenizer, const Sequence& sequence,
                     const GenerationOptions& options, Index count, BestBy by, Progress progress) {
  constexpr Index most = Index{1} << 31;
  if (count < 1 || count > most) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[best-of] count: expected 1 to {}, found {}", most, count)};
  }
  if (options.speculation) {
    return Error{ErrorCode::bad_argument,
                 "[best-of] speculation: expected none, since it is for one text, found one"};
  }
  Stopwatch watch;
  Sequence start = sequence;
  // Noise is each sample's own.
  if (!options.drugs || !start.awaits_noise()) KRAIT_RETURN_IF_ERROR(prefill(session, start));
  const double prompt_seconds = watch.lap();
  BestSearch search(session, tokenizer, options, count, by, progress);
  const bool is_guided = options.guidance_scale != 1.0;
  const Index batch = is_guided ? 1 : std::max<Index>(1, session.options().max_batch);
  for (Index k = 0; k < count; k += batch) {
    KRAIT_RETURN_IF_ERROR(is_guided ? search.alone(start, k)
                                    : search.together(start, k, std::min(count, k + batch)));
  }
  Best best = search.take();
  best.result.prompt_tokens = sequence.pending;
  best.result.prompt_seconds = prompt_seconds;
  best.result.decode_seconds = watch.lap();
  return best;
}

}  // namespace v0_1
}  // namespace krait
