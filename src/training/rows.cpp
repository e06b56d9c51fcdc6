#include "krait/training/rows.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "io/json.hpp"
#include "krait/core/rng.hpp"

namespace krait {
inline namespace v0_1 {

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

Row ExampleRows::row(Index index) {
  return examples_[static_cast<std::size_t>(order_.begin(index))];
}

namespace {

// The example on one line; `where` is "line 3".
Result<Row> read_example(std::string_view line, std::string_view name, const std::string& where,
                         const Tokenizer& tokenizer, Token end, Index length) {
  const auto fail = [&](ErrorCode code, std::string_view expected, const std::string& found) {
    return Error{code, fmt::format("[training] {}: expected {}, found {} ({})", where, expected,
                                   found, name)};
  };
  const Result<Metadata> json = parse_json(line, fmt::format("{}, {}", name, where));
  if (!json) return json.error();
  const std::string* texts[2] = {(*json)["prompt"].text(), (*json)["response"].text()};
  for (const int i : {0, 1}) {
    if (texts[i] != nullptr) continue;
    return fail(ErrorCode::bad_format,
                i == 0 ? "an object with the text \"prompt\"" : "the text \"response\"",
                json->object() == nullptr ? json_text(*json)
                                          : json_text((*json)[i == 0 ? "prompt" : "response"]));
  }
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> prompt,
                         tokenizer.encode(*texts[0], {.add_special = false}));
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> response,
                         tokenizer.encode(*texts[1], {.add_special = false}));
  response.push_back(end);
  if (prompt.empty()) {
    return fail(ErrorCode::bad_argument, "a prompt of at least one token", "an empty one");
  }
  if (std::ssize(response) > length) {
    return fail(ErrorCode::bad_argument, fmt::format("a response of at most {} tokens", length),
                fmt::format("{} with its end", response.size()));
  }
  const Index room = length + 1 - std::ssize(response);
  if (std::ssize(prompt) > room) prompt.erase(prompt.begin(), prompt.end() - room);
  Row row{.tokens = std::move(prompt)};
  row.given = std::ssize(row.tokens);
  row.tokens.insert(row.tokens.end(), response.begin(), response.end());
  return row;
}

}  // namespace

Result<std::vector<Row>> read_examples(std::string_view lines, std::string_view name,
                                       const Tokenizer& tokenizer, Token end, Index length) {
  std::vector<Row> examples;
  Index number = 0;
  while (!lines.empty()) {
    const std::size_t stop = std::min(lines.find('\n'), lines.size());
    std::string_view line = lines.substr(0, stop);
    lines.remove_prefix(std::min(stop + 1, lines.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    KRAIT_ASSIGN_OR_RETURN(
        Row row, read_example(line, name, fmt::format("line {}", number), tokenizer, end, length));
    examples.push_back(std::move(row));
  }
  if (examples.empty()) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[training] data: expected examples, found none ({})", name)};
  }
  return examples;
}

}  // namespace v0_1
}  // namespace krait
