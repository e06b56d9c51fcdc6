#pragma once

/// \file
/// The texts of a checkpoint: what lies beside the weights.

#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/loading/checkpoint.hpp"

namespace krait {
inline namespace v0_1 {

/// Reads all but the configuration that is in `folder`: tokenizer, chat templates, options of
/// generation.
KRAIT_API Result<void> read_texts_beside(const std::string& folder, Checkpoint& checkpoint);

/// That `write_texts` can write the vocabulary, which a GGUF file may have in a kind that no
/// tokenizer.json has. Errors: unsupported.
KRAIT_API Result<void> check_texts(const Checkpoint& checkpoint);

/// Writes the texts to a folder, as the files that they are read from; `config` in place of the
/// configuration. The vocabulary of a GGUF file becomes a tokenizer.json.
KRAIT_API Result<void> write_texts(const Checkpoint& checkpoint, std::string_view config,
                                   const std::string& folder);

}  // namespace v0_1
}  // namespace krait
