#pragma once

/// \file
/// Speculation: drafts for a text, as long as pays.

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "krait/decoding/drafter.hpp"
#include "krait/decoding/generation.hpp"

namespace krait {
inline namespace v0_1 {

/// How much is drafted.
struct SpeculationOptions {
  /// Tokens of every draft, as far as the drafter has as many; 0: none. Nothing: as many as pay, by
  /// what was accepted and how long it took so far, each position guessed by the level that is
  /// worth most there. Then the time lost to drafts that were wrong is bounded: about three steps,
  /// and 2 % of all steps.
  std::optional<Index> length = {};
  /// The first row of the paper's K, in increments: how many tokens each level is to guess of a
  /// draft of fixed length. Empty: equal parts, the first level's not the smallest.
  std::vector<Index> shares = {};
};

/// What became of drafted tokens.
struct DraftCount {
  Index drafted = 0;
  Index accepted = 0;
};

/// The same by who guessed them, and by where in a draft they stood. The sums are those of
/// `GenerationResult`.
struct DraftStatistics {
  struct Level {
    std::string name;
    DraftCount count;
  };
  std::vector<Level> levels;
  std::vector<DraftCount> positions;
};

/// Asks a drafter for drafts of one text and follows what becomes of them. `generate` does it if
/// `GenerationOptions::speculation` has one; whoever runs several texts at once does it so, with a
/// speculation for each:
///
///     KRAIT_RETURN_IF_ERROR(speculation.begin(text.sequence(), options));
///     while (!text.is_finished()) {
///       KRAIT_RETURN_IF_ERROR(speculation.propose(text, most));
///       KRAIT_RETURN_IF_ERROR(advance_all(session, {&pointer_to_text, 1}));
///       KRAIT_RETURN_IF_ERROR(speculation.observe(text));
///     }
///
/// A copy goes its own way, as a copy of the generation does.
class KRAIT_API Speculation {
 public:
  /// Most tokens of a draft.
  static constexpr Index most_tokens = 64;
  /// Of those whose length is chosen by what pays.
  static constexpr Index most_chosen = 15;

  /// Errors: bad_argument (options, no drafter).
  static Result<Speculation> make(std::unique_ptr<Drafter> drafter,
                                  const SpeculationOptions& options = {});

  Speculation(const Speculation& other);
  Speculation(Speculation&& other) noexcept;
  Speculation& operator=(const Speculation& other);
  Speculation& operator=(Speculation&& other) noexcept;
  ~Speculation();

  /// Begins to draft for a text, behind its end. A drafter that knows the beginning of it, since it
  /// drafted for it before and by the same options, goes on; else it consumes all of it. Errors:
  /// those of the drafter.
  Result<void> begin(const Sequence& text, const GenerationOptions& options);

  /// Before a step: proposes a draft of at most `most` tokens, or none. Errors: those of the
  /// drafter and of `Generation::propose`.
  Result<void> propose(Generation& text, Index most);

  /// After the step. Errors: those of the drafter.
  Result<void> observe(const Generation& text);

  /// Since `begin`.
  const DraftStatistics& statistics() const noexcept;

 private:
  class Impl;
  explicit Speculation(std::unique_ptr<Impl> impl) noexcept;

  std::unique_ptr<Impl> impl_;
};

}  // namespace v0_1
}  // namespace krait
