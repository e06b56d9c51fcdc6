#pragma once

/// \file
/// Writes a checkpoint in another file format.

#include <optional>
#include <string>
#include <vector>

#include "krait/core/dtype.hpp"
#include "krait/core/error.hpp"
#include "krait/core/flow.hpp"

namespace krait {
inline namespace v0_1 {

struct ConvertOptions {
  /// Type of the weight matrices: f32, f16 or bf16. Absent: as stored; what only GGUF can hold
  /// becomes f32 elsewhere.
  std::optional<DType> dtype = {};
  /// One GGUF file instead of a folder of transformers.
  bool to_gguf = false;
  /// Tensor bytes of a safetensors file, above which another one is begun; at least 1.
  Index shard_bytes = 5'000'000'000;
};

struct ConvertSummary {
  Index tensors = 0;
  Index bytes = 0;                 ///< of all tensors
  std::vector<std::string> files;  ///< that hold them
  /// Names and types of tensors that krait does not read and the model does not use.
  std::vector<std::string> left_out;
};

/// Writes the checkpoint at `source` (see open_model) to `destination`:
///
/// - a new folder that transformers loads: config.json, model.safetensors or its shards with their
///   index, and the files of the tokenizer, the chat templates and of generation. Tensors keep
///   their names, values and types. Of a GGUF source, configuration and tokenizer are made from its
///   metadata, and A_log from A; original files of state-spaces get transformers' names.
/// - a GGUF file that llama.cpp loads, of the architectures that krait reads. Matrices keep type or
///   blocks, everything else is written in f32; the vocabulary comes from tokenizer.json or
///   tokenizer.model.
///
/// The destination appears whole or not at all. The same source gives the same bytes. Errors: those
/// of open_model and read_config; bad_argument (a source in krait's own forms where values would
/// change, a destination that exists or lies in the source), unsupported (a family, tokenizer or
/// type that the format cannot hold), bad_format (a weight that the type cannot represent),
/// io_failed, cancelled.
Result<ConvertSummary> convert_checkpoint(const std::string& source, const std::string& destination,
                                          const ConvertOptions& options, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
