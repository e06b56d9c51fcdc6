#include "krait/training/rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/bad_argument.hpp"
#include "krait/core/rng.hpp"
#include "training/json_lines.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// The last `count` tokens, or all.
std::span<const Token> last(std::span<const Token> tokens, Index count) {
  return tokens.last(static_cast<std::size_t>(std::min(count, std::ssize(tokens))));
}

}  // namespace

Result<void> validate(const Row& row) {
  const Index tokens = std::ssize(row.tokens);
  if (tokens < 2)
    return bad_argument("training", "row", "at least 2 tokens", fmt::to_string(tokens));
  if (row.given >= 1 && row.given < tokens) return {};
  return bad_argument("training", "given", fmt::format("1 to {}", tokens - 1),
                      fmt::to_string(row.given));
}

RowSource::~RowSource() = default;

Index RowOrder::begin(Index row) {
  if (options_.order == DataOrder::sequential) {
    // row · length mod tokens, without overflow
    return row % tokens_ * (length_ % tokens_) % tokens_;
  }
  const Index pieces = std::max(Index{1}, tokens_ / length_);
  const Index epoch = row / pieces;
  if (epoch != epoch_) {
    epoch_ = epoch;
    const auto draw = [&](Index position, Index below) {
      const double u = random_uniform({.seed = options_.seed,
                                       .sequence = static_cast<std::uint32_t>(epoch),
                                       .position = static_cast<std::uint64_t>(position)});
      return static_cast<Index>(u * static_cast<double>(below));
    };
    pieces_.resize(static_cast<std::size_t>(pieces));
    std::iota(pieces_.begin(), pieces_.end(), Index{0});
    for (Index i = pieces - 1; i > 0; --i) {
      std::swap(pieces_[static_cast<std::size_t>(i)],
                pieces_[static_cast<std::size_t>(draw(i, i + 1))]);
    }
    phase_ = draw(0, std::min(length_, tokens_));
  }
  return (phase_ + pieces_[static_cast<std::size_t>(row % pieces)] * length_) % tokens_;
}

Row TextRows::row(Index index) {
  const Index begin = order_.begin(index);
  Row row;
  row.tokens.resize(static_cast<std::size_t>(length_) + 1);
  for (std::size_t i = 0; i < row.tokens.size(); ++i) {
    row.tokens[i] = text_[(static_cast<std::size_t>(begin) + i) % text_.size()];
  }
  return row;
}

std::vector<Row> cut_rows(std::span<const Token> text, Index length) {
  std::vector<Row> rows;
  const auto step = static_cast<std::size_t>(length);
  for (std::size_t first = 0; first + 1 < text.size(); first += step) {
    const auto part = text.subspan(first, std::min(step + 1, text.size() - first));
    rows.push_back({.tokens = {part.begin(), part.end()}});
  }
  return rows;
}

Row ExampleRows::row(Index index) {
  return examples_[static_cast<std::size_t>(order_.begin(index))];
}

const PreferencePair& PairRows::pair(Index index) {
  return pairs_[static_cast<std::size_t>(order_.begin(index))];
}

Result<std::vector<Row>> read_examples(std::string_view lines, std::string_view name,
                                       const Tokenizer& tokenizer, Token end, Index length) {
  std::vector<Row> examples;
  const auto read = [&](const training::JsonLine& line) -> Result<void> {
    KRAIT_ASSIGN_OR_RETURN(std::vector<Token> prompt, training::read_prompt(line, tokenizer));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> response,
                           training::read_answer(line, "response", tokenizer, end, length));
    const Index room = length + 1 - std::ssize(response);
    examples.push_back(training::join(last(prompt, room), response));
    return {};
  };
  KRAIT_RETURN_IF_ERROR(training::read_json_lines(lines, name, "examples", read));
  return examples;
}

Result<std::vector<PreferencePair>> read_pairs(std::string_view lines, std::string_view name,
                                               const Tokenizer& tokenizer, Token end,
                                               Index length) {
  std::vector<PreferencePair> pairs;
  const auto read = [&](const training::JsonLine& line) -> Result<void> {
    KRAIT_ASSIGN_OR_RETURN(std::vector<Token> prompt, training::read_prompt(line, tokenizer));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> chosen,
                           training::read_answer(line, "chosen", tokenizer, end, length));
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> rejected,
                           training::read_answer(line, "rejected", tokenizer, end, length));
    const Index room = length + 1 - std::max(std::ssize(chosen), std::ssize(rejected));
    const std::span<const Token> given = last(prompt, room);
    pairs.push_back(
        {.chosen = training::join(given, chosen), .rejected = training::join(given, rejected)});
    return {};
  };
  KRAIT_RETURN_IF_ERROR(training::read_json_lines(lines, name, "pairs", read));
  return pairs;
}

}  // namespace v0_1
}  // namespace krait
