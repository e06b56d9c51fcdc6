#pragma once

/// \file
/// Conversations in files.

#include <string>
#include <string_view>

#include "krait/krait.hpp"

namespace krait::cli {

/// JSON as values, in the order of the text; the last of equal keys counts, as in Python. `name` is
/// for messages. Errors: bad_format.
Result<Metadata> parse_variables(std::string_view json, const std::string& name);

/// A file's; the error names it.
Result<Metadata> read_variables(const std::string& path);

/// A conversation as a checkpoint's template writes it, and its tokens.
struct PrintedPrompt {
  std::string text;
  std::vector<Token> tokens;
};

/// For an object with "messages" and more variables of the template (see `chat_variables`).
Result<PrintedPrompt> print_prompt(const LanguageModel& model, const Metadata& variables,
                                   const std::string& name);

}  // namespace krait::cli
