#include "decoding/draft_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <string_view>
#include <utility>

#include "krait/decoding/rejection.hpp"
#include "krait/io/printable.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// What steers the model's own draws: all that can be applied to any token on its own.
SamplerOptions without_memory(SamplerOptions options) {
  options.repetition_penalty = 1.0;
  options.presence_penalty = options.frequency_penalty = 0.0;
  options.dry_multiplier = 0.0;
  options.bad_words.clear();
  options.min_length = 0;
  options.mirostat = 0;
  std::erase_if(options.order, [&](const std::string& name) {
    return std::ranges::any_of(options.steps,
                               [&](const auto& step) { return step->name() == name; });
  });
  options.steps.clear();
  return options;
}

SessionOptions session_options() {
  return {.max_batch = 1, .max_verify = DraftModel::most_guesses + 1, .max_verify_batch = 1};
}

// p of a token by the model, before the sampler's steps.
double probability_of(Token token, std::span<const float> logits) noexcept {
  const double x = static_cast<double>(logits[static_cast<std::size_t>(token)]) -
                   static_cast<double>(kernels::log_sum_exp(logits));
  return std::clamp(std::exp(x), 0.0, 1.0);
}

std::size_t common(std::span<const Token> a, std::span<const Token> b) noexcept {
  return static_cast<std::size_t>(std::ranges::mismatch(a, b).in1 - a.begin());
}

}  // namespace

DraftModel::DraftModel(DraftModelOptions options, Executor& executor, Index level)
    : name_(std::move(options.name)),
      executor_(&executor),
      level_(level),
      session_(std::move(options.model), executor, session_options()) {
  checkpoints_.push_back({session_.model().initial_state(), 0});
}

DraftModel::DraftModel(const DraftModel& other)
    : name_(other.name_),
      executor_(other.executor_),
      level_(other.level_),
      session_(other.session_.model(), *other.executor_, session_options()),
      setting_(other.setting_),
      sampler_(other.sampler_),
      tokens_(other.tokens_),
      text_(other.text_),
      origin_(other.origin_),
      checkpoints_(other.checkpoints_.begin(),
                   other.checkpoints_.begin() + static_cast<std::ptrdiff_t>(other.live_)),
      live_(other.live_) {}

Result<void> DraftModel::begin(const DraftSetting& setting) {
  setting_ = setting;
  setting_.sampler = without_memory(setting.sampler);
  KRAIT_ASSIGN_OR_RETURN(sampler_, Sampler::make(setting_.sampler, model().vocab()));
  tokens_.clear();
  text_ = 0;
  origin_ = 0;
  live_ = 1;
  checkpoints_.front().state.reset();
  checkpoints_.front().consumed = 0;
  return {};
}

void DraftModel::observe(std::span<const Token> tokens) {
  const std::size_t right = common(std::span(tokens_).subspan(text_), tokens);
  tokens_.resize(text_ + right);
  pop_beyond(tokens_.size());
  tokens_.insert(tokens_.end(), tokens.begin() + static_cast<std::ptrdiff_t>(right), tokens.end());
  text_ += tokens.size();
  rebase();
}

void DraftModel::follow(std::span<const Token> ahead) {
  const std::size_t same = common(std::span(tokens_).subspan(text_), ahead);
  tokens_.resize(text_ + same);
  pop_beyond(tokens_.size());
  tokens_.insert(tokens_.end(), ahead.begin() + static_cast<std::ptrdiff_t>(same), ahead.end());
}

// The last token must be left to run, for its logits.
void DraftModel::pop_beyond(std::size_t agreed) noexcept {
  while (live_ > 1 && checkpoints_[live_ - 1].consumed > agreed) --live_;
}

void DraftModel::rebase() {
  while (live_ > 1 && checkpoints_[live_ - 1].consumed >= text_) --live_;
  std::swap(checkpoints_.front(), checkpoints_[live_ - 1]);
  live_ = 1;
  const std::size_t consumed = std::exchange(checkpoints_.front().consumed, 0);
  tokens_.erase(tokens_.begin(), tokens_.begin() + static_cast<std::ptrdiff_t>(consumed));
  text_ -= consumed;
  origin_ += static_cast<Index>(consumed);
}

DraftModel::Checkpoint& DraftModel::push() {
  if (live_ == checkpoints_.size()) {
    checkpoints_.push_back(checkpoints_[live_ - 1]);
  } else {
    checkpoints_[live_].state.copy_from(checkpoints_[live_ - 1].state);
    checkpoints_[live_].consumed = checkpoints_[live_ - 1].consumed;
  }
  return checkpoints_[live_++];
}

// A session's error, which names a layer, as that of this model: the one that it
// drafts for has layers of the same names.
Error DraftModel::named(Error error) const {
  constexpr std::string_view area = "[session] ";
  if (error.message.starts_with(area)) {
    error.message =
        fmt::format("[draft] drafter {}: {}", printable(name_), error.message.substr(area.size()));
  }
  return error;
}

Result<void> DraftModel::catch_up() {
  if (text_ < 2) return {};
  KRAIT_RETURN_IF_ERROR(consume(text_ - 1));
  rebase();
  return {};
}

// The tokens before `end` that the last checkpoint has not consumed, on a new one.
Result<void> DraftModel::consume(std::size_t end) {
  Checkpoint& now = push();
  const auto rest = std::span<const Token>(tokens_).subspan(now.consumed, end - now.consumed);
  const Result<std::span<const float>> done = session_.prefill(rest, now.state);
  if (!done) {
    --live_;
    return named(done.error());
  }
  now.consumed = end;
  return {};
}

Result<void> DraftModel::review(Draft& draft, Index from, double lenience) {
  const auto first = static_cast<std::size_t>(from);
  follow(std::span(draft.tokens).first(first));
  if (tokens_.empty()) {  // nothing can be drawn behind nothing
    draft.truncate(from);
    return {};
  }
  while (live_ > 1 && checkpoints_[live_ - 1].consumed >= tokens_.size()) --live_;
  const std::size_t guesses = draft.tokens.size() - first;
  constexpr auto room = static_cast<std::size_t>(most_guesses) + 1;
  if (tokens_.size() - checkpoints_[live_ - 1].consumed + guesses > room) {
    KRAIT_RETURN_IF_ERROR(consume(tokens_.size() - 1));
  }
  const std::size_t place = tokens_.size();  // where the first guess stands
  tokens_.insert(tokens_.end(), draft.tokens.begin() + from, draft.tokens.end());
  Checkpoint& now = push();
  const RunItem item{.tokens = std::span<const Token>(tokens_).subspan(now.consumed),
                     .state = &now.state,
                     .logits = guesses > 0 ? RunItem::Logits::all : RunItem::Logits::last,
                     .tentative = guesses > 0};
  const Result<RunOutput> output = session_.run({&item, 1});
  if (!output) {
    --live_;
    return named(output.error());
  }
  const MatrixView<const float> logits = output->logits(0);
  const auto row = [&](std::size_t guess) {
    return logits.row(logits.rows - static_cast<Index>(1 + guesses - guess))
        .first(static_cast<std::size_t>(model().vocab()));
  };
  std::size_t right = 0;
  while (right < guesses && judge(row(right), place + right, lenience, draft, first + right)) {
    ++right;
  }
  if (right == guesses) draw(row(right), place + right, draft);
  if (guesses > 0) {
    const auto kept = static_cast<Index>(place + right - now.consumed);
    KRAIT_RETURN_IF_ERROR(session_.keep(kept, now.state));
  }
  now.consumed = place + right;
  tokens_.resize(place + right);
  tokens_.push_back(draft.tokens.back());
  return {};
}

void DraftModel::draw(std::span<const float> logits, std::size_t place, Draft& draft) {
  if (setting_.acceptance == Acceptance::match) {
    own(sampler_.sample(logits, position(place)), {}, logits, draft);
    return;
  }
  TokenLaw law = sampler_.law(logits, position(place));
  const Token token = KeyedOracle(setting_.sampler, position(place), level_ + 1).pick(law);
  own(token, std::move(law), logits, draft);
}

// Whether a guess is right; if not, its place and what follows are taken by a token of its own.
bool DraftModel::judge(std::span<const float> logits, std::size_t place, double lenience,
                       Draft& draft, std::size_t guess) {
  const Token guessed = draft.tokens[guess];
  Token token = 0;
  TokenLaw law;
  bool is_right = false;
  if (setting_.acceptance == Acceptance::match) {
    token = sampler_.sample(logits, position(place));
    is_right = token == guessed;
    if (!is_right && lenience > 1.0) {
      const float best = logits[static_cast<std::size_t>(kernels::argmax(logits))];
      const float guessed_logit = logits[static_cast<std::size_t>(guessed)];
      is_right =
          static_cast<double>(guessed_logit) + std::log(lenience) >= static_cast<double>(best);
    }
  } else {
    const TokenLaw p = sampler_.law(logits, position(place));
    KeyedOracle oracle(setting_.sampler, position(place), level_ + 1);
    auto reviewed = review_guess(p, guessed, draft.laws[guess], lenience, oracle);
    token = reviewed.token;
    law = std::move(reviewed.law);
    is_right = reviewed.is_accepted;
    if (is_right) draft.laws[guess] = law;
  }
  if (is_right) {
    draft.marks[guess].confidence = probability_of(guessed, logits);
    return true;
  }
  draft.truncate(static_cast<Index>(guess));
  own(token, std::move(law), logits, draft);
  return false;
}

void DraftModel::own(Token token, TokenLaw law, std::span<const float> logits, Draft& draft) const {
  if (setting_.acceptance == Acceptance::match) law = TokenLaw::one_hot(token);
  draft.append(token, std::move(law),
               {.level = level_, .confidence = probability_of(token, logits)});
}

}  // namespace v0_1
}  // namespace krait
