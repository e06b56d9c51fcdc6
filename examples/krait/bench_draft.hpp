#pragma once

/// \file
/// bench --draft.

#include <optional>
#include <string>

#include "draft.hpp"

namespace krait::cli {

/// Decodes greedily behind the first half of a text, with drafts and without, in turns: as many
/// tokens as the other half has, or `most`.
Result<void> bench_draft(const CommonOptions& common, const DraftFlags& draft,
                         const std::string& file, std::optional<Index> most, Index repeat);

}  // namespace krait::cli
