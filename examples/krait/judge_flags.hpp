#pragma once

/// \file
/// How a model judges answers.

#include <optional>
#include <string>

#include "command.hpp"
#include "krait/training.hpp"

namespace krait::cli {

struct JudgeFlags {
  std::string template_file;
  bool expected = false;
  std::optional<Index> samples;

  void add(Command& command);
  bool is_given() const noexcept { return expected || samples; }
  /// Throws WrongUsage for both --expected and --samples.
  void check() const;
  /// The options; without --expected and --samples the scores are those of `otherwise`. Errors:
  /// those of reading the template.
  Result<JudgeOptions> resolve(JudgeBy otherwise, std::uint64_t seed) const;
};

/// The lines of a file, which `option` names. Throws WrongUsage if it names none.
Result<StageInput> read_lines(const std::string& path, std::string_view option);

}  // namespace krait::cli
