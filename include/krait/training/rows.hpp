#pragma once

/// \file
/// Rows: what a model is trained on, row by row.

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/text/tokenizer.hpp"
#include "krait/training/train_options.hpp"

namespace krait {
inline namespace v0_1 {

/// Tokens of which each but the last is an input and each but the first `given` a target.
struct Row {
  std::vector<Token> tokens;  ///< at least 2
  Index given = 1;            ///< at least 1, and fewer than the tokens

  Index targets() const noexcept { return std::ssize(tokens) - given; }
};

/// Errors: bad_argument for a row without a target or without an input.
KRAIT_API Result<void> validate(const Row& row);

/// The rows of a run. A row is a function of its number alone.
class KRAIT_API RowSource {
 public:
  virtual ~RowSource();
  /// Row `index`, counted through all steps of a run.
  virtual Row row(Index index) = 0;
};

/// Where the rows of a run begin in a text of `tokens` tokens.
class KRAIT_API RowOrder {
 public:
  /// Of rows of `length` tokens.
  RowOrder(const TrainOptions& options, Index length, Index tokens)
      : options_(options), length_(length), tokens_(tokens) {}
  /// The first token of row `row` (counted through all steps).
  Index begin(Index row);

 private:
  TrainOptions options_;
  Index length_;
  Index tokens_;
  Index epoch_ = -1;
  Index phase_ = 0;
  std::vector<Index> pieces_;
};

/// Rows of options.length tokens and one more, cut out of a text whose end is followed by its
/// beginning. The text, at least 2 tokens, must outlive the object.
class KRAIT_API TextRows final : public RowSource {
 public:
  TextRows(const TrainOptions& options, std::span<const Token> text)
      : text_(text), length_(options.length), order_(options, length_, std::ssize(text)) {}
  Row row(Index index) override;

 private:
  std::span<const Token> text_;
  Index length_;
  RowOrder order_;
};

/// A text as rows of `length` tokens and one more, one behind the other; the last may be shorter.
KRAIT_API std::vector<Row> cut_rows(std::span<const Token> text, Index length);

/// Each row is one of several examples, at least one, which must outlive the object.
class KRAIT_API ExampleRows final : public RowSource {
 public:
  ExampleRows(const TrainOptions& options, std::span<const Row> examples)
      : examples_(examples), order_(options, 1, std::ssize(examples)) {}
  Row row(Index index) override;

 private:
  std::span<const Row> examples_;
  RowOrder order_;
};

/// Two answers to a prompt, of which the first is the better one.
struct PreferencePair {
  Row chosen;
  Row rejected;
  /// [targets] The log-probabilities of the answers' tokens by the reference model.
  std::vector<float> chosen_reference = {};
  std::vector<float> rejected_reference = {};
};

/// The pairs of a run; like `ExampleRows`.
class KRAIT_API PairRows final {
 public:
  PairRows(const TrainOptions& options, std::span<const PreferencePair> pairs)
      : pairs_(pairs), order_(options, 1, std::ssize(pairs)) {}
  const PreferencePair& pair(Index index);

 private:
  std::span<const PreferencePair> pairs_;
  RowOrder order_;
};

/// Reads examples from lines of JSON with `prompt` and `response`; the targets are the response's
/// tokens and `end` behind them. Of a prompt that is too long for rows of `length` tokens the
/// beginning is left out. Empty lines are left out. `name` is for messages, which give the line.
/// Errors: bad_format, bad_argument (an empty prompt, a response longer than `length`, no example).
KRAIT_API Result<std::vector<Row>> read_examples(std::string_view lines, std::string_view name,
                                                 const Tokenizer& tokenizer, Token end,
                                                 Index length);

/// The same for pairs, from lines with `prompt`, `chosen` and `rejected`. A prompt that is too long
/// for the longer answer loses its beginning for both.
KRAIT_API Result<std::vector<PreferencePair>> read_pairs(std::string_view lines,
                                                         std::string_view name,
                                                         const Tokenizer& tokenizer, Token end,
                                                         Index length);

}  // namespace v0_1
}  // namespace krait
