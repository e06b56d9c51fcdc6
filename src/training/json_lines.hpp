#pragma once

// Lines of JSON: the one reader of all files of examples, and what its messages look like.

#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/function_ref.hpp"
#include "krait/core/metadata.hpp"
#include "krait/text/tokenizer.hpp"
#include "krait/training/rows.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// A line that is not empty.
struct JsonLine {
  Metadata json;
  std::string_view text;  // as it stands
  std::string_view file;
  Index number = 0;  // from 1

  Error error(ErrorCode code, std::string_view expected, std::string_view found) const;
  // The text of that name. Errors: bad_format.
  Result<std::string> string(std::string_view key) const;
};

// All lines in order; empty ones are left out. `name` is for messages, which give the line.
// `what`: "examples", of which at least one is expected.
Result<void> read_json_lines(std::string_view lines, std::string_view name, std::string_view what,
                             FunctionRef<Result<void>(const JsonLine&)> read);

// A member of an object: key, and value in JSON.
using JsonMember = std::pair<std::string_view, std::string>;

// The line, an object, with these members behind its own, of which it loses those of the same keys.
std::string with_members(const JsonLine& line, std::span<const JsonMember> more);

// The value as JSON on one line.
std::string json_of(const Metadata& value);
std::string json_of(std::string_view text);

// A prompt's tokens, at least one.
Result<std::vector<Token>> read_prompt(const JsonLine& line, const Tokenizer& tokenizer);
// The tokens of a prompt's answer and `end` behind them, at most `length`.
Result<std::vector<Token>> read_answer(const JsonLine& line, std::string_view key,
                                       const Tokenizer& tokenizer, Token end, Index length);

// Prompt and answer as a row.
Row join(std::span<const Token> prompt, std::span<const Token> answer);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
