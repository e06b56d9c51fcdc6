#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "decoding/steps/steps.hpp"
#include "decoding/steps/text_window.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Forbids the last token of each sequence where the text ends with all before it (transformers'
// NoBadWordsLogitsProcessor).
class BadWords final : public NamedStep<BadWords> {
 public:
  explicit BadWords(const std::vector<std::vector<Token>>& words)
      : NamedStep(bad_words_step.name), words_(words), text_(longest(words) - 1) {}

  void observe(std::span<const Token> tokens) noexcept override { text_.observe(tokens); }

  void apply(Candidates& candidates, const SamplerContext& /*context*/) noexcept override {
    for (const std::vector<Token>& word : words_) {
      if (!is_begun(word)) continue;
      if (const auto at = candidates.find(word.back())) {
        candidates.change_logit(*at, -std::numeric_limits<double>::infinity());
      }
    }
  }

 private:
  static std::size_t longest(const std::vector<std::vector<Token>>& words) noexcept {
    std::size_t longest = 1;
    for (const auto& word : words) longest = std::max(longest, word.size());
    return longest;
  }

  bool is_begun(const std::vector<Token>& word) const noexcept {
    const std::size_t before = word.size() - 1;
    if (before > text_.size()) return false;
    for (std::size_t i = 0; i < before; ++i) {
      if (text_.back(i) != word[before - 1 - i]) return false;
    }
    return true;
  }

  std::vector<std::vector<Token>> words_;
  TextWindow text_;
};

bool bad_words_is_on(const SamplerOptions& o) { return !o.bad_words.empty(); }

Result<void> check_bad_words(const SamplerOptions& o, Index vocab) {
  for (const std::vector<Token>& word : o.bad_words) {
    if (word.empty()) {
      return Error{ErrorCode::bad_argument,
                   "[sampler] bad words: expected at least one token in each, found none"};
    }
    for (const Token token : word) {
      if (token < 0 || token >= vocab) {
        return out_of_range("bad words", fmt::format("tokens from 0 to {}", vocab - 1), token);
      }
    }
  }
  return {};
}

std::unique_ptr<SamplerStep> make_bad_words(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<BadWords>(o.bad_words);
}

}  // namespace

const StepKind bad_words_step = {"bad_words", bad_words_is_on, check_bad_words, make_bad_words};

}  // namespace v0_1
}  // namespace krait
