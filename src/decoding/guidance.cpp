#include "krait/decoding/guidance.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "krait/core/float_environment.hpp"
#include "krait/kernels/softmax.hpp"

namespace krait {
inline namespace v0_1 {

Result<Guidance> Guidance::make(Session& session, std::span<const Token> negative, double scale) {
  if (negative.empty()) {
    return Error{ErrorCode::bad_argument,
                 "[guidance] negative prompt: expected at least one token, found none"};
  }
  if (!std::isfinite(scale)) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[guidance] scale: expected a finite number, found {}", scale)};
  }
  Guidance guidance;
  guidance.scale_ = scale;
  guidance.vocab_ = static_cast<std::size_t>(session.model().vocab());
  guidance.state_ = session.model().initial_state();
  guidance.tokens_.assign(1, negative.back());
  guidance.negative_.resize(guidance.vocab_);
  if (negative.size() > 1) {
    KRAIT_RETURN_IF_ERROR(session.prefill(negative.first(negative.size() - 1), guidance.state_));
  }
  return guidance;
}

RunItem Guidance::beside(const RunItem& item) {
  RunItem negative{.tokens = {}, .state = &state_, .logits = item.logits};
  if (!has_begun_ && item.logits == RunItem::Logits::none) return negative;
  if (has_begun_) {
    tokens_.assign(item.tokens.begin(), item.tokens.end());
  } else if (item.tentative) {  // what is behind the prompts is the same in both
    tokens_.insert(tokens_.end(), item.tokens.begin() + 1, item.tokens.end());
  }
  has_begun_ = true;
  negative.tokens = tokens_;
  negative.tentative = item.tentative;
  return negative;
}

MatrixView<const float> Guidance::combine(MatrixView<const float> logits,
                                          MatrixView<const float> negative) {
  const FloatEnvironment environment;
  constexpr auto largest = static_cast<double>(std::numeric_limits<float>::max());
  scores_.resize(static_cast<std::size_t>(logits.rows) * vocab_);
  for (Index row = 0; row < logits.rows; ++row) {
    const auto scores = std::span(scores_).subspan(static_cast<std::size_t>(row) * vocab_, vocab_);
    kernels::log_softmax(logits.row(row).first(vocab_), scores);
    kernels::log_softmax(negative.row(row).first(vocab_), negative_);
    for (std::size_t i = 0; i < vocab_; ++i) {
      const auto u = static_cast<double>(negative_[i]);
      const double score = scale_ * (static_cast<double>(scores[i]) - u) + u;
      scores[i] = static_cast<float>(std::clamp(score, -largest, largest));
    }
  }
  return {scores_.data(), logits.rows, static_cast<Index>(vocab_)};
}

Result<RunOutput> Guidance::run(Session& session, const RunItem& item) {
  const RunItem items[] = {item, beside(item)};
  if (items[1].tokens.empty()) return session.run({&item, 1});
  KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session.run(items));
  const MatrixView<const float> scores = combine(output.logits(0), output.logits(1));
  rows_ = scores.rows;
  return RunOutput(scores, {&rows_, 1});
}

}  // namespace v0_1
}  // namespace krait
