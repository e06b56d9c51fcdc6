#include "krait/decoding/beam_search.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <optional>
#include <utility>

#include "core/bad_argument.hpp"
#include "decoding/clone_ptr.hpp"
#include "decoding/exact_math.hpp"
#include "decoding/steps/steps.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/guidance.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/text/stream_decoder.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Result<void> check_sampler(const SamplerOptions& options) {
  if (options.greedy)
    return bad_argument("beams", "sampler", "steps that change logits", "'greedy'");
  if (options.gumbel)
    return bad_argument("beams", "sampler", "steps that change logits", "'gumbel'");
  constexpr const StepKind* known[] = {&penalties_step, &dry_step, &logit_bias_step,
                                       &bad_words_step, &min_length_step};
  for (const StepKind* kind : step_kinds()) {
    if (!kind->is_on(options) || std::ranges::find(known, kind) != std::end(known)) continue;
    return bad_argument("beams", "sampler",
                        "steps that change logits, and none that is about a draw",
                        fmt::format("'{}'", kind->name));
  }
  return {};
}

// A text that goes on, of which the last token is to be consumed.
struct Running {
  State state;
  std::vector<Token> tokens;  // behind the prompt
  double log_prob = 0.0;
  Sampler sampler;
  ClonePtr<Constraint> constraint;
  TokenMask mask;
  std::optional<Guidance> guidance;
};

// A token behind one of the texts that go on.
struct Choice {
  std::size_t parent = 0;
  Token token = 0;
  double log_prob = 0.0;
  ClonePtr<Constraint> constraint = {};
  TokenMask mask = TokenMask();
};

class BeamSearch {
 public:
  BeamSearch(Session& session, const Tokenizer& tokenizer, const GenerationOptions& options,
             const BeamOptions& beams)
      : session_(session),
        tokenizer_(tokenizer),
        options_(options),
        beams_(beams),
        vocab_(static_cast<std::size_t>(session.model().vocab())),
        row_(vocab_) {}

  Result<void> begin(Sequence start) {
    prompt_ = std::move(start.tokens);
    position_ = start.state.position() + 1;
    Running first;
    first.state = std::move(start.state);
    first.mask = TokenMask(session_.model().vocab());
    KRAIT_ASSIGN_OR_RETURN(first.sampler,
                           Sampler::make(options_.sampler, session_.model().vocab()));
    first.sampler.observe(prompt_);
    if (options_.constraint) first.constraint = options_.constraint->clone();
    if (first.constraint) first.constraint->restrict_to(first.mask);
    if (options_.guidance_scale != 1.0) {
      const std::span<const Token> negative = options_.negative_prompt;
      KRAIT_ASSIGN_OR_RETURN(
          first.guidance,
          Guidance::make(session_,
                         negative.empty() ? std::span<const Token>(prompt_).last(1) : negative,
                         options_.guidance_scale));
    }
    running_.push_back(std::move(first));
    return {};
  }

  // One token more. Whether the search goes on.
  Result<bool> step() {
    choices_.clear();
    // A text of which nothing is allowed to follow was complete before; the first one may be.
    if (running_.front().mask.allows_any()) {
      const Index texts = session_.options().max_batch / (running_.front().guidance ? 2 : 1);
      const auto batch = static_cast<std::size_t>(std::max<Index>(1, texts));
      for (std::size_t i = 0; i < running_.size(); i += batch) {
        KRAIT_RETURN_IF_ERROR(run(i, std::min(running_.size(), i + batch)));
      }
    }
    if (choices_.empty()) {
      for (const Running& text : running_)
        complete(text, {}, FinishReason::constraint, text.log_prob);
      return false;
    }
    std::ranges::stable_sort(choices_, std::greater<>(), &Choice::log_prob);
    choices_.resize(std::min(choices_.size(), considered()));
    advance(split());
    return goes_on();
  }

  std::vector<Beam> take() {
    found_.resize(std::min(found_.size(), static_cast<std::size_t>(beams_.num_return_sequences)));
    return std::move(found_);
  }

 private:
  std::size_t width() const noexcept { return static_cast<std::size_t>(beams_.num_beams); }

  // So many of the best continuations leave num_beams that do not end with a stop token.
  std::size_t considered() const noexcept {
    return std::max<std::size_t>(2, 1 + options_.stop_tokens.size()) * width();
  }

  // n^length_penalty.
  double length(std::size_t tokens) const noexcept {
    const double power = beams_.length_penalty * log_positive(static_cast<double>(tokens));
    return power > 0.0 ? 1.0 / exp_nonpositive(-power) : exp_nonpositive(power);
  }

  // Texts [first, last).
  Result<void> run(std::size_t first, std::size_t last) {
    std::vector<RunItem> items;
    for (std::size_t i = first; i < last; ++i) {
      Running& text = running_[i];
      const Token& token = text.tokens.empty() ? prompt_.back() : text.tokens.back();
      items.push_back({.tokens = {&token, 1}, .state = &text.state});
      if (text.guidance) items.push_back(text.guidance->beside(items.back()));
    }
    KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session_.run(items));
    Index item = 0;
    for (std::size_t i = first; i < last; ++i) {
      const MatrixView<const float> logits = output.logits(item++);
      if (auto& guidance = running_[i].guidance) {
        score(i, guidance->combine(logits, output.logits(item++)).row(0));
      } else {
        kernels::log_softmax(logits.row(0).first(vocab_), row_);
        score(i, row_);
      }
    }
    return {};
  }

  void score(std::size_t parent, std::span<const float> log_probs) {
    Running& text = running_[parent];
    const Index position = position_ + std::ssize(text.tokens);
    for (const Candidate& c : text.sampler.best(log_probs, position, considered(), text.mask)) {
      choices_.push_back({parent, c.token, text.log_prob + c.logit});
    }
  }

  // Completes the texts that end, and returns those that go on.
  std::vector<Choice> split() {
    std::vector<Choice> next;
    for (std::size_t i = 0; i < choices_.size(); ++i) {
      Choice& choice = choices_[i];
      const std::optional<FinishReason> reason = end_of(choice);
      if (reason && i < width()) {
        complete(running_[choice.parent], choice.token, *reason, choice.log_prob);
      }
      if (!reason && next.size() < width()) next.push_back(std::move(choice));
    }
    return next;
  }

  // Why the text ends with its token. If it does not, the choice knows what may follow.
  std::optional<FinishReason> end_of(Choice& choice) const {
    const Running& parent = running_[choice.parent];
    if (is_stop(choice.token)) return FinishReason::stop_token;
    if (std::ssize(parent.tokens) + 1 == options_.max_tokens) return FinishReason::max_tokens;
    choice.mask = TokenMask(session_.model().vocab());
    if (!parent.constraint) return std::nullopt;
    choice.constraint = parent.constraint;
    choice.constraint->accept(choice.token);
    choice.constraint->restrict_to(choice.mask);
    if (choice.mask.allows_any()) return std::nullopt;
    return FinishReason::constraint;
  }

  bool is_stop(Token token) const noexcept {
    return std::ranges::find(options_.stop_tokens, token) != options_.stop_tokens.end();
  }

  void complete(const Running& text, std::optional<Token> token, FinishReason reason,
                double log_prob) {
    const std::size_t count = text.tokens.size() + (token ? 1 : 0);
    const double score = log_prob / length(std::max<std::size_t>(1, count));
    if (found_.size() == width() && score <= found_.back().score) return;
    Beam beam{.result = {}, .log_prob = log_prob, .score = score, .sequence = {}};
    beam.result.reason = reason;
    beam.result.tokens = text.tokens;
    if (token && reason != FinishReason::stop_token) beam.result.tokens.push_back(*token);
    beam.result.text = text_of(beam.result);
    beam.sequence.state = text.state;
    beam.sequence.tokens = prompt_;
    for (const Token sampled : text.tokens) beam.sequence.push_sampled(sampled);
    if (token) beam.sequence.push_sampled(*token);
    beam.sequence.pending = 1;
    const auto place = std::ranges::upper_bound(found_, score, std::greater<>(), &Beam::score);
    found_.insert(place, std::move(beam));
    if (found_.size() > width()) found_.pop_back();
  }

  std::string text_of(const GenerationResult& result) const {
    StreamDecoder decoder;
    std::string text;
    for (const Token token : result.tokens) {
      text += decoder.push(tokenizer_.is_special(token) ? "" : tokenizer_.bytes(token));
    }
    if (result.reason != FinishReason::max_tokens) text += decoder.finish();
    return text;
  }

  // The last that goes on from a text takes it; the others copy it.
  void advance(std::vector<Choice> next) {
    std::vector<std::size_t> uses(running_.size());
    for (const Choice& choice : next) ++uses[choice.parent];
    std::vector<Running> grown;
    for (Choice& choice : next) {
      Running& parent = running_[choice.parent];
      grown.push_back(--uses[choice.parent] == 0 ? std::move(parent) : parent);
      Running& text = grown.back();
      text.tokens.push_back(choice.token);
      text.log_prob = choice.log_prob;
      text.sampler.observe({&choice.token, 1});
      text.constraint = std::move(choice.constraint);
      text.mask = std::move(choice.mask);
    }
    running_ = std::move(grown);
  }

  bool goes_on() const noexcept {
    using EarlyStopping = BeamOptions::EarlyStopping;
    if (running_.empty()) return false;
    if (found_.size() < width()) return true;
    if (beams_.early_stopping == EarlyStopping::yes) return false;
    const bool can_grow =
        beams_.early_stopping == EarlyStopping::never && beams_.length_penalty > 0.0;
    const std::size_t tokens =
        can_grow ? static_cast<std::size_t>(options_.max_tokens) : running_.front().tokens.size();
    return running_.front().log_prob / length(tokens) > found_.back().score;
  }

  Session& session_;
  const Tokenizer& tokenizer_;
  const GenerationOptions& options_;
  const BeamOptions& beams_;
  std::size_t vocab_;
  std::vector<Token> prompt_;
  Index position_ = 0;  // of the first token behind the prompt
  std::vector<Running> running_;
  std::vector<Choice> choices_;
  std::vector<float> row_;
  std::vector<Beam> found_;  // best first
};

}  // namespace

Result<void> validate(const BeamOptions& beams, const GenerationOptions& options,
                      const Model& model) {
  constexpr Index most = 1000;
  if (beams.num_beams < 1 || beams.num_beams > most) {
    return bad_argument("beams", "num_beams", fmt::format("1 to {}", most),
                        fmt::to_string(beams.num_beams));
  }
  if (!(std::fabs(beams.length_penalty) <= 20.0)) {
    return bad_argument("beams", "length_penalty", "a number from -20 to 20",
                        fmt::to_string(beams.length_penalty));
  }
  if (beams.num_return_sequences < 1 || beams.num_return_sequences > beams.num_beams) {
    return bad_argument("beams", "num_return_sequences", fmt::format("1 to {}", beams.num_beams),
                        fmt::to_string(beams.num_return_sequences));
  }
  KRAIT_RETURN_IF_ERROR(validate(options, model));
  if (options.max_tokens < 1)
    return bad_argument("beams", "tokens", "at least 1", fmt::to_string(options.max_tokens));
  if (!std::ranges::all_of(options.stop_strings, &std::string::empty)) {
    return bad_argument("beams", "search", "no stop strings, but stop tokens", "some");
  }
  if (options.speculation) return bad_argument("beams", "search", "no drafts", "some");
  if (options.log_probs) return bad_argument("beams", "search", "no log-probabilities", "some");
  if (options.drugs) return bad_argument("beams", "search", "no noise", "some");
  KRAIT_RETURN_IF_ERROR(validate(options.sampler, model.vocab()));
  return check_sampler(options.sampler);
}

Result<std::vector<Beam>> beam_search(Session& session, const Tokenizer& tokenizer,
                                      const Sequence& sequence, const GenerationOptions& options,
                                      const BeamOptions& beams, Progress progress) {
  KRAIT_RETURN_IF_ERROR(validate(beams, options, session.model()));
  KRAIT_RETURN_IF_ERROR(validate(sequence));
  if (sequence.pending < 1) return bad_argument("beams", "prompt", "at least one token", "none");
  Sequence start = sequence;
  start.unshown = 0;
  KRAIT_RETURN_IF_ERROR(prefill(session, start));
  BeamSearch search(session, tokenizer, options, beams);
  KRAIT_RETURN_IF_ERROR(search.begin(std::move(start)));
  bool goes_on = true;
  for (Index done = 1; goes_on; ++done) {
    KRAIT_ASSIGN_OR_RETURN(goes_on, search.step());
    if (goes_on && progress && progress(done, options.max_tokens) == Flow::stop) {
      return Error{
          ErrorCode::cancelled,
          fmt::format("[beams] search: stopped after {} of {} tokens", done, options.max_tokens)};
    }
  }
  std::vector<Beam> found = search.take();
  for (Beam& beam : found) beam.result.prompt_tokens = sequence.pending;
  return found;
}

}  // namespace v0_1
}  // namespace krait
