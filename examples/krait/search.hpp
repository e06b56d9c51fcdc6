#pragma once

/// \file
/// How `generate` looks for a text: one sample, the best of several, or beam search; with guidance.

#include <optional>
#include <string>

#include "command.hpp"
#include "guidance.hpp"

namespace krait::cli {

/// A text, and by how much it was the best, where there were several.
struct Found {
  GenerationResult result;
  std::optional<double> score;
};

struct SearchFlags {
  Index num_beams = 1;
  double length_penalty = 1.0;
  Index best_of = 1;
  std::string best_by = "mean";
  std::optional<Index> log_probs;
  GuidanceFlags guidance;

  void add(Command& command);
  /// Throws WrongUsage for options that contradict each other.
  void check(Index count, bool json, bool has_drafter) const;
  /// A session with room for all texts that are run at once.
  SessionOptions session() const;
  /// Puts what was asked for into the options. Throws WrongUsage for what cannot be done together.
  Result<void> set(GenerationOptions& options, const LanguageModel& model,
                   const SamplerFlags& sampler) const;
  /// The text behind `sequence`, which becomes the text's. One that is chosen among several is
  /// shown when it is.
  Result<Found> run(Runtime& runtime, Sequence& sequence, const GenerationOptions& options,
                    GenerationCallback show) const;
};

}  // namespace krait::cli
