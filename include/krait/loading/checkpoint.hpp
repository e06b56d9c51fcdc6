#pragma once

/// \file
/// Checkpoint: what a published model consists of, whatever its files are called.

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "krait/core/flow.hpp"
#include "krait/core/function.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/io/weight_store.hpp"

namespace krait {
inline namespace v0_1 {

struct TokenTable;

/// A text and what it is called.
struct NamedText {
  std::string name;
  std::string text;
};

/// The parts of a checkpoint. Configuration and tokenizer are kept as the bytes they were found
/// as: reading them is the business of `registry.hpp` and of the text floor.
struct Checkpoint {
  std::string path;                         ///< as given, for messages
  std::string config;                       ///< config.json or params.json
  std::string config_file = "config.json";  ///< which of the two
  WeightStore weights;
  std::string tokenizer;                       ///< tokenizer.json; empty if there is none
  std::string tokenizer_config;                ///< tokenizer_config.json; empty if there is none
  std::string chat_template;                   ///< chat_template.jinja; empty if there is none
  std::vector<NamedText> more_chat_templates;  ///< additional_chat_templates/NAME.jinja, by NAME
  std::string generation_config;               ///< generation_config.json; empty if there is none
  std::string special_tokens;                  ///< special_tokens_map.json; empty if there is none
  std::string added_tokens;                    ///< added_tokens.json; empty if there is none
  std::string sentencepiece;  ///< tokenizer.model, where there is no tokenizer.json
  std::string sentencepiece_file = "tokenizer.model";  ///< or tokenizer.model.v3
  std::shared_ptr<const TokenTable> token_table;       ///< the vocabulary of a GGUF file, else null
  std::vector<std::string> files;                      ///< of weights, or the index of shards
};

struct CheckpointOptions {
  WeightsMode weights = WeightsMode::map;
  /// Called while weights are copied, in bytes; never for mapped ones.
  Function<Flow(Index done, Index total)> progress = {};
};

/// Opens a checkpoint:
/// - a directory with config.json, or Mistral's params.json, and model.safetensors or
///   pytorch_model.bin (original state-spaces files), or the shards of either with
///   model.safetensors.index.json or pytorch_model.bin.index.json, or consolidated.safetensors;
/// - a .safetensors or .bin file, whose configuration and tokenizer.json lie beside it;
/// - a .gguf file, or the first of those that llama.cpp split a model into
///   (NAME-00001-of-00003.gguf), which is turned into the checkpoint that it was made from:
///   configuration and chat template as the texts of their files, tensors under transformers'
///   names.
///
/// Every length, offset and shape is checked; nothing in a .bin file is executed. Formats that are
/// recognised but not read (other archives) give `unsupported`.
KRAIT_API Result<Checkpoint> open_checkpoint(const std::string& path,
                                             const CheckpointOptions& options = {});

/// The same from bytes in memory. Weight files are safetensors, .bin archives, or one GGUF file, or
/// all of a model that is split, in their order, without more; they are used in place and must
/// outlive the checkpoint.
struct CheckpointBytes {
  std::string config;
  std::vector<std::span<const std::byte>> weights;
  std::string tokenizer;
};
KRAIT_API Result<Checkpoint> open_checkpoint(const CheckpointBytes& bytes);

}  // namespace v0_1
}  // namespace krait
