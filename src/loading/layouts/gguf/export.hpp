#pragma once

#include <optional>
#include <string>
#include <vector>

#include "io/gguf.hpp"
#include "krait/core/metadata.hpp"
#include "krait/loading/checkpoint.hpp"
#include "loading/layouts/gguf/architecture.hpp"

namespace krait {
inline namespace v0_1 {

/// A tensor of a checkpoint of transformers, for a GGUF file.
struct GgufSource {
  std::string name;  ///< in transformers
  GgufType type;     ///< that it would have
  std::vector<Index> extents;
  bool is_matrix = false;  ///< everything else is written in f32
};

/// What becomes of it.
struct GgufExportTensor {
  std::size_t source = 0;  ///< which of them it is made from
  GgufOutput output;       ///< of an expert's matrix, the stack that it is in
  GgufValues values = GgufValues::same;
  GgufRows rows = GgufRows::all;        ///< of the source's matrices
  std::vector<RowFactor> factors = {};  ///< of its rows; empty: 1
  Index expert = -1;                    ///< its place in the stack; -1: it is no expert's
};

struct GgufExport {
  Metadata metadata;
  std::vector<GgufExportTensor> tensors;  ///< one or more for each source
  std::vector<GgufMadeTensor> made;       ///< in f32, behind them
  Index pair_rows = 0;                    ///< rows of a head, for those in pairs
};

/// Describes a checkpoint as llama.cpp has it. `config` is transformers' config.json, `spec` the
/// model that krait makes of it. Errors:
/// unsupported (a model that has no architecture here, a tensor without a name, a tokenizer of
/// another kind), bad_config.
KRAIT_API Result<GgufExport> export_gguf(const Checkpoint& checkpoint, const std::string& config,
                                         const ModelSpec& spec,
                                         const std::vector<GgufSource>& tensors);

/// Adds the keys of the vocabulary, which has `rows` tokens, and of chat templates, from the files
/// of the tokenizer.
Result<void> export_gguf_tokenizer(const Checkpoint& checkpoint, Index rows,
                                   ConfigObject& metadata);

}  // namespace v0_1
}  // namespace krait
