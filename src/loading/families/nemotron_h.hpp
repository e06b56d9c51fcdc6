#pragma once

/// \file
/// What configurations of Nemotron-H say in several ways: for its family, and for its GGUF files.

#include <string_view>
#include <vector>

#include "loading/families/attention_parts.hpp"

namespace krait {
inline namespace v0_1 {

/// The kinds of layers, from a list of words, or else a letter for each.
Result<std::vector<LayerKind>> read_nemotron_layers(const ConfigReader& config);

}  // namespace v0_1
}  // namespace krait
