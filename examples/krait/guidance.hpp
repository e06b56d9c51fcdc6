#pragma once

/// \file
/// The flags of guidance, for `generate` and `chat`.

#include <optional>
#include <string>

#include "command.hpp"

namespace krait::cli {

struct GuidanceFlags {
  double scale = 1.0;
  std::optional<std::string> negative_prompt;

  bool is_on() const { return scale != 1.0; }

  void add(Command& command);
  /// Throws WrongUsage for options that contradict each other.
  void check(bool has_drafter, const DrugFlags& drugs) const;
  Result<void> set(GenerationOptions& options, const LanguageModel& model) const;
};

}  // namespace krait::cli
