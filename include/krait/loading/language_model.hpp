#pragma once

/// \file
/// LanguageModel: a model with its tokenizer.

#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/loading/chat_templates.hpp"
#include "krait/loading/registry.hpp"
#include "krait/text/tokenizer.hpp"

namespace krait {
inline namespace v0_1 {

/// Everything text generation needs of a checkpoint.
struct LanguageModel {
  Model model;
  std::shared_ptr<const Tokenizer> tokenizer;
  std::vector<Token> stop_tokens;  ///< rows that end a text; none for byte-level models
  std::optional<Token> bos;        ///< id that begins a text, where the checkpoint names one
  ChatTemplates chat_templates = {};

  /// Ids of a prompt, with what the tokenizer's file puts around a text. Without any, a text begins
  /// with `bos`, else with the tokenizer's "<|endoftext|>", else with a line break. Errors: those
  /// of Tokenizer::encode; bad_argument for a token that the model has no row for.
  KRAIT_API Result<std::vector<Token>> encode_prompt(std::string_view text) const;
};

/// Opens a checkpoint (see open_checkpoint), or a bundled model by its name. Errors as
/// load_model; unsupported where the tokenizer is of a kind that is not read.
KRAIT_API Result<LanguageModel> load_language_model(const std::string& path,
                                                    const LoadOptions& options = {});

/// The same for a checkpoint in memory.
KRAIT_API Result<LanguageModel> load_language_model(const CheckpointBytes& bytes,
                                                    const WeightOptions& options = {});

/// The tokenizer of a checkpoint: that of its tokenizer.json, or bytes for a byte-level model.
KRAIT_API Result<std::shared_ptr<const Tokenizer>> make_tokenizer(const Checkpoint& checkpoint,
                                                                  const ModelConfig& config);

/// Where texts begin and end.
struct TextMarks {
  std::optional<Token> bos;
  std::vector<Token> ends;  ///< each once, those of the configuration first
};

/// What the files of a checkpoint say of it: the first one that names a beginning is believed, and
/// every end that any of them names is one; none for byte_tokenizer(). Errors: bad_format,
/// bad_config.
KRAIT_API Result<TextMarks> read_text_marks(const Checkpoint& checkpoint,
                                            const Tokenizer& tokenizer);

}  // namespace v0_1
}  // namespace krait
