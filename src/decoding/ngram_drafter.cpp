// Drafters that need no model: they look for the end of the text further in front.

#include <fmt/format.h>

#include <algorithm>
#include <unordered_map>

#include "decoding/suffix_index.hpp"
#include "krait/decoding/drafter.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error bad_count(std::string_view what, std::string_view expected, Index found) {
  return {ErrorCode::bad_argument,
          fmt::format("[draft] {}: expected {}, found {}", what, expected, found)};
}

Result<void> check_history(Index history) {
  constexpr Index most = Index{1} << 28;
  if (history >= 2 && history <= most) return {};
  return bad_count("history", fmt::format("2 to {} tokens", most), history);
}

// A guess that follows so many tokens which stand further in front too. The numbers are those of
// English text by bytes; what is true of the text at hand, its user finds out.
double confidence_of(Index match) noexcept {
  return 1.0 - 1.0 / (1.0 + 0.35 * static_cast<double>(match));
}

class StatisticalDrafter : public Drafter {
 public:
  explicit StatisticalDrafter(Index history) : index_(history) {}

  Result<void> begin(const DraftSetting& /*setting*/) override {
    index_.clear();
    return {};
  }
  Result<void> observe(std::span<const Token> tokens) override {
    for (const Token token : tokens) index_.append(token);
    return {};
  }

 protected:
  const SuffixIndex& index() const noexcept { return index_; }

  // The longest suffix of the text and the draft that stands in the text too.
  SuffixIndex::Match match(const Draft& draft) const noexcept {
    SuffixIndex::Match match = index_.suffix();
    for (const Token token : draft.tokens) match = index_.follow(match, token);
    return match;
  }
  // A token of the text and the draft behind it.
  Token at(std::size_t i, const Draft& draft) const noexcept {
    const auto text = index_.tokens();
    return i < text.size() ? text[i] : draft.tokens[i - text.size()];
  }

 private:
  SuffixIndex index_;
};

class NgramDrafter final : public StatisticalDrafter {
 public:
  explicit NgramDrafter(const NgramOptions& options)
      : StatisticalDrafter(options.history), least_(options.least) {}

  std::string_view name(Index /*level*/) const noexcept override { return "ngram"; }

  Result<void> propose(Draft& draft, Index most, Index /*level*/) override {
    const SuffixIndex::Match found = match(draft);
    if (found.length < least_) return {};
    const std::size_t behind = index().last_end(found) + 1;
    for (Index i = 0; i < most; ++i) {
      draft.append(at(behind + static_cast<std::size_t>(i), draft),
                   DraftMark{.confidence = confidence_of(found.length + i)});
    }
    return {};
  }

  std::unique_ptr<Drafter> clone() const override { return std::make_unique<NgramDrafter>(*this); }

 private:
  Index least_;
};

class MaxGramDrafter final : public StatisticalDrafter {
 public:
  explicit MaxGramDrafter(MaxGramOptions options)
      : StatisticalDrafter(options.history), bigrams_(std::move(options.bigrams)) {}

  std::string_view name(Index /*level*/) const noexcept override { return "maxgram"; }

  Result<void> propose(Draft& draft, Index most, Index /*level*/) override {
    const Index end = draft.size() + most;
    while (draft.size() < end) {
      const SuffixIndex::Match found = match(draft);
      if (found.length == 0) {
        if (!fill(draft)) break;
        continue;
      }
      // What followed it, to the end of the text, and at least a token.
      std::size_t next = index().first_end(found) + 1;
      Index length = found.length;
      do {
        draft.append(at(next++, draft), DraftMark{.confidence = confidence_of(length++)});
      } while (draft.size() < end && next < index().tokens().size());
    }
    return {};
  }

  std::unique_ptr<Drafter> clone() const override {
    return std::make_unique<MaxGramDrafter>(*this);
  }

 private:
  // Appends the token that follows the last one most often elsewhere.
  bool fill(Draft& draft) const {
    if (index().tokens().empty()) return false;
    const Token last = draft.empty() ? index().tokens().back() : draft.tokens.back();
    if (last < 0 || last >= std::ssize(bigrams_)) return false;
    const Token next = bigrams_[static_cast<std::size_t>(last)];
    if (next < 0) return false;
    draft.append(next, DraftMark{.confidence = confidence_of(1)});
    return true;
  }

  std::vector<Token> bigrams_;
};

}  // namespace

Drafter::~Drafter() = default;
Index Drafter::backlog(Index /*level*/) const noexcept { return 0; }
Result<void> Drafter::catch_up() { return {}; }

Result<std::unique_ptr<Drafter>> ngram_drafter(const NgramOptions& options) {
  if (options.least < 1) return bad_count("least", "at least 1 token", options.least);
  KRAIT_RETURN_IF_ERROR(check_history(options.history));
  return std::unique_ptr<Drafter>(std::make_unique<NgramDrafter>(options));
}

Result<std::unique_ptr<Drafter>> maxgram_drafter(const MaxGramOptions& options) {
  KRAIT_RETURN_IF_ERROR(check_history(options.history));
  for (const Token token : options.bigrams) {
    if (token < -1 || token >= std::ssize(options.bigrams)) {
      return bad_count("bigrams", fmt::format("-1 or tokens below {}", options.bigrams.size()),
                       token);
    }
  }
  return std::unique_ptr<Drafter>(std::make_unique<MaxGramDrafter>(options));
}

Result<std::vector<Token>> bigram_table(std::span<const Token> text, Index vocab) {
  if (vocab < 1) return bad_count("vocabulary", "at least 1 token", vocab);
  std::unordered_map<std::uint64_t, Index> counts;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] < 0 || text[i] >= vocab) {
      return bad_count("text", fmt::format("token ids from 0 to {}", vocab - 1), text[i]);
    }
    if (i == 0) continue;
    ++counts[(static_cast<std::uint64_t>(text[i - 1]) << 32U) |
             static_cast<std::uint64_t>(text[i])];
  }
  std::vector<Token> table(static_cast<std::size_t>(vocab), -1);
  std::vector<Index> best(table.size(), 0);
  for (const auto& [pair, count] : counts) {
    const auto before = static_cast<std::size_t>(pair >> 32U);
    const auto next = static_cast<Token>(pair & 0xFFFFFFFFU);
    const bool is_better = count > best[before] || (count == best[before] && next < table[before]);
    if (!is_better) continue;
    best[before] = count;
    table[before] = next;
  }
  return table;
}

}  // namespace v0_1
}  // namespace krait
