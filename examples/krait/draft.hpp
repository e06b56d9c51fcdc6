#pragma once

/// \file
/// --draft and what belongs to it.

#include <memory>
#include <optional>
#include <string>

#include "command.hpp"

namespace krait::cli {

/// Who drafts, how much, and when a guess is right.
class DraftFlags {
 public:
  /// Adds --draft, --draft-length, and --accept where that is chosen.
  void add(Command& command, bool with_acceptance = true);

  bool is_given() const { return !spec_.empty(); }
  /// Throws WrongUsage for what makes no sense without --draft.
  void check() const;
  /// A session that has room for the drafts.
  SessionOptions session() const;
  /// What --accept asks for. Throws WrongUsage where the sampling contradicts it.
  void resolve(SamplerOptions& sampler, Acceptance& acceptance) const;
  /// Loads the drafters. Errors: those of loading; bad_argument (another vocabulary than the
  /// model's, a model that stands twice in a cascade).
  Result<std::shared_ptr<Speculation>> load_drafter(const Runtime& runtime,
                                                    const CommonOptions& common) const;

 private:
  std::string spec_;
  std::optional<Index> length_;
  bool is_length_given_ = false;
  std::string accept_ = "match";
};

}  // namespace krait::cli
