#pragma once

/// \file
/// What a text has to look like, as options of `generate` and `chat`.

#include <memory>
#include <optional>
#include <string>

#include "command.hpp"

namespace krait::cli {

/// --json-schema, --grammar and --regex, of which one may be given.
struct ConstraintFlags {
  std::optional<std::string> schema;  // a file, or the schema itself
  std::string grammar;                // a file
  std::optional<std::string> regex;

  void add(Command& command);
  /// Compiles what was given, nothing if nothing was; to be called before the work. The errors name
  /// the option. Throws WrongUsage where two are given.
  Result<std::optional<Grammar>> compile() const;
};

/// The constraint for a model's texts; null without a grammar.
Result<std::shared_ptr<const Constraint>> constrain(const std::optional<Grammar>& grammar,
                                                    const LanguageModel& model,
                                                    const std::vector<Token>& stop_tokens);

}  // namespace krait::cli
