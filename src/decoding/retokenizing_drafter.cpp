// A drafter of another vocabulary: texts are what two tokenizers have in common, ids never are.

#include <algorithm>
#include <string>
#include <utility>

#include "core/utf8.hpp"
#include "decoding/clone_ptr.hpp"
#include "krait/decoding/drafter.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

bool begins_word(char byte) noexcept { return byte == ' ' || byte == '\n' || byte == '\t'; }

// Behind the last token that no later text changes: vocabularies of words have none in which a
// space follows something else. 0: nowhere.
std::size_t last_boundary(std::string_view text) noexcept {
  for (std::size_t i = text.size(); i-- > 1;) {
    if (begins_word(text[i]) && !begins_word(text[i - 1])) return i;
  }
  return 0;
}

// A tokenizer, for texts that go on others.
class Words {
 public:
  explicit Words(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {
    for (Token token = 0; token < tokenizer_->vocab() && is_bytewise_; ++token) {
      is_bytewise_ = tokenizer_->bytes(token).size() <= 1;
    }
  }

  const Tokenizer& operator*() const noexcept { return *tokenizer_; }
  const Tokenizer* operator->() const noexcept { return tokenizer_.get(); }

  // Whether every token is a byte, so that a text may be cut anywhere.
  bool is_bytewise() const noexcept { return is_bytewise_; }

  // The tokens of a text that goes on another. None where the tokenizer cannot take it.
  std::vector<Token> tokens_of(std::string_view text) const {
    Result<std::vector<Token>> tokens =
        tokenizer_->encode(text, {.parse_special = false, .before = TextBefore::text});
    return tokens ? std::move(*tokens) : std::vector<Token>();
  }

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  bool is_bytewise_ = true;
};

class RetokenizingDrafter final : public Drafter {
 public:
  RetokenizingDrafter(std::unique_ptr<Drafter> drafter, Words own, Words target)
      : drafter_(std::move(drafter)), own_(std::move(own)), target_(std::move(target)) {}

  Index levels() const noexcept override { return drafter_->levels(); }
  std::string_view name(Index level) const noexcept override { return drafter_->name(level); }
  Index backlog(Index level) const noexcept override { return drafter_->backlog(level); }
  Result<void> catch_up() override { return drafter_->catch_up(); }

  Result<void> begin(const DraftSetting& setting) override {
    rest_.clear();
    // Random numbers belong to places in the target's tokens; the best guess needs none.
    return drafter_->begin({.sampler = {.greedy = true}, .position = setting.position});
  }

  Result<void> observe(std::span<const Token> tokens) override {
    for (const Token token : tokens) {
      if (!target_->is_special(token)) rest_ += target_->bytes(token);
    }
    const std::size_t end = settled();
    if (end == 0) return {};
    std::vector<Token> known;
    for (std::string_view text = std::string_view(rest_).substr(0, end); !text.empty();) {
      // Bytes that are no text are left out.
      const std::size_t good = own_.is_bytewise() ? text.size() : utf8::first_ill_formed(text);
      const std::vector<Token> some = own_.tokens_of(text.substr(0, good));
      known.insert(known.end(), some.begin(), some.end());
      text.remove_prefix(good == text.size() ? good : good + utf8::step(text, good).length);
    }
    rest_.erase(0, end);
    return drafter_->observe(known);
  }

  Result<void> propose(Draft& draft, Index most, Index level) override {
    if (most < 1) return {};
    std::string begun = rest_;  // what the drafter is to begin with, then go on
    for (const Token token : draft.tokens) begun += target_->bytes(token);
    std::string text;
    Draft own;
    KRAIT_RETURN_IF_ERROR(extend(own, text, begun, begun.size() + 1, level));
    if (!text.starts_with(begun)) {
      // It would have written something else: it is told what is there.
      own = {};
      text.clear();
      for (const Token token : own_.tokens_of(begun)) {
        own.append(token, {});
        text += own_->bytes(token);
      }
      if (text != begun) return {};
    }
    const std::size_t wanted =
        static_cast<std::size_t>(most) * (target_.is_bytewise() ? 1 : bytes_per_token);
    KRAIT_RETURN_IF_ERROR(extend(own, text, begun, begun.size() + wanted, level));
    append(own, std::string_view(text).substr(begun.size()), begun.size(), most, level, draft);
    return {};
  }

  std::unique_ptr<Drafter> clone() const override {
    return std::make_unique<RetokenizingDrafter>(*this);
  }

 private:
  static constexpr std::size_t bytes_per_token = 4;  // of English prose

  // How much of the rest can be given to the drafter for good.
  std::size_t settled() const noexcept {
    if (own_.is_bytewise()) return rest_.size();
    const std::size_t boundary = last_boundary(rest_);
    // Languages without spaces: a cut within a word costs guesses, looking at all of it costs time.
    constexpr std::size_t most_rest = 256;
    if (rest_.size() - boundary <= most_rest) return boundary;
    return utf8::before(rest_, rest_.size());
  }

  // Asks for tokens until the text of all has `size` bytes, unless it leaves what it is to begin
  // with, or ends.
  Result<void> extend(Draft& own, std::string& text, std::string_view begun, std::size_t size,
                      Index level) {
    while (text.size() < size && agrees(text, begun)) {
      const Index before = own.size();
      const std::size_t step =
          own_.is_bytewise() ? size - text.size() : 1 + (size - text.size() - 1) / bytes_per_token;
      KRAIT_RETURN_IF_ERROR(drafter_->propose(own, static_cast<Index>(step), level));
      for (Index i = before; i < own.size(); ++i) {
        const Token token = own.tokens[static_cast<std::size_t>(i)];
        const std::string_view bytes = own_->bytes(token);
        if (own_->is_special(token) || bytes.empty())
          own.truncate(i);
        else
          text += bytes;
      }
      if (own.size() == before) return {};
    }
    return {};
  }
  static bool agrees(std::string_view text, std::string_view begun) noexcept {
    const std::size_t both = std::min(text.size(), begun.size());
    return text.substr(0, both) == begun.substr(0, both);
  }

  // Appends `text`, which begins at byte `at` of the drafter's tokens, in tokens of the target.
  void append(const Draft& own, std::string_view text, std::size_t at, Index most, Index level,
              Draft& draft) const {
    std::vector<Token> tokens = target_.tokens_of(text);
    // The last may be the beginning of a longer one.
    if (!target_.is_bytewise() && tokens.size() > 1) tokens.pop_back();
    std::size_t place = 0;  // in the text
    std::size_t i = 0;      // the drafter's token with that byte, which begins at `begin`
    std::size_t begin = 0;
    for (const Token token : tokens) {
      if (most-- == 0 || !text.substr(place).starts_with(target_->bytes(token))) return;
      while (i < own.tokens.size() && begin + own_->bytes(own.tokens[i]).size() <= at + place) {
        begin += own_->bytes(own.tokens[i]).size();
        ++i;
      }
      DraftMark mark = i < own.marks.size() ? own.marks[i] : DraftMark{.level = level};
      // Where the beginning of one of its tokens is right, the rest mostly is.
      if (begin < at + place) mark.confidence = 0.5 + 0.5 * mark.confidence;
      draft.append(token, mark);
      place += target_->bytes(token).size();
    }
  }

  ClonePtr<Drafter> drafter_;
  Words own_, target_;
  std::string rest_;  // of the text, behind what the drafter has observed
};

}  // namespace

std::unique_ptr<Drafter> retokenizing_drafter(std::unique_ptr<Drafter> drafter,
                                              std::shared_ptr<const Tokenizer> own,
                                              std::shared_ptr<const Tokenizer> target) {
  return std::make_unique<RetokenizingDrafter>(std::move(drafter), Words(std::move(own)),
                                               Words(std::move(target)));
}

}  // namespace v0_1
}  // namespace krait
