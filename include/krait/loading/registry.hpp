#pragma once

/// \file
/// From a checkpoint to a model: config.json to spec, and everything at once.

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/function.hpp"
#include "krait/loading/checkpoint.hpp"
#include "krait/models/builder.hpp"

namespace krait {
inline namespace v0_1 {

/// What a configuration says, beside the spec.
struct ModelConfig {
  ModelSpec spec;
  std::string prefix;              ///< what the tensors' names begin with
  std::string wrapper;             ///< of it, what no family has: "module" where all begin with it
  std::vector<Token> stop_tokens;  ///< end-of-text ids of this file; see read_text_marks for all
  std::vector<std::string> ignored;  ///< keys that were not understood, for reports
  bool is_byte_level = false;        ///< vocabulary of 256 and no tokenizer: ids are bytes

  /// Says that the tokenizer knows only ids below `vocab`; the head's other rows are padding.
  void limit_vocab(Index vocab) noexcept {
    EmbeddingSpec& embedding = spec.embedding;
    embedding.vocab_padded = embedding.rows();
    if (vocab < embedding.vocab) embedding.vocab = vocab;
  }
};

/// Reads a checkpoint's config.json, of transformers or of the original state-spaces repository,
/// together with the names of its tensors. Errors: bad_config, unsupported (names the known
/// families).
KRAIT_API Result<ModelConfig> read_config(const Checkpoint& checkpoint);

/// Names of the model families this version can read, for messages and help.
KRAIT_API std::vector<std::string_view> known_families();

/// How a model is loaded.
struct LoadOptions {
  WeightsMode weights = WeightsMode::map;
  std::string form = "file";  ///< see WeightOptions::form
  Compute compute = Compute::f32;
  DType kv_dtype = DType::f32;  ///< see WeightOptions::kv_dtype
  /// Bytes read; only called where weights are copied.
  Function<Flow(Index done, Index total)> progress = {};
  Executor* executor = nullptr;  ///< threads that make q8 and q4 of floats; null: the caller's

  /// An adapter of low rank over the weights (see loading/adapter.hpp); empty: none.
  std::string adapter = {};

  /// Forms of the application's own, beside krait's.
  std::vector<std::shared_ptr<const WeightForm>> forms = {};

  WeightOptions for_weights() const {
    return {.form = form,
            .compute = compute,
            .kv_dtype = kv_dtype,
            .executor = executor,
            .forms = forms};
  }
};

/// Opens the checkpoint at `path` (see open_checkpoint), or the bundled model of that name if no
/// such file exists.
KRAIT_API Result<Checkpoint> open_model(const std::string& path, const LoadOptions& options = {});

/// A checkpoint's plan, with the configuration it came from.
struct CheckpointPlan {
  ModelPlan plan;
  ModelConfig config;
  Checkpoint checkpoint;
};

/// What loading the checkpoint would take; reads no weight but the few bytes that tell whether a
/// tied head is one.
KRAIT_API Result<CheckpointPlan> plan_checkpoint(const std::string& path,
                                                 const LoadOptions& options = {});

/// Just the model.
KRAIT_API Result<Model> load_model(const std::string& path, const LoadOptions& options = {});

}  // namespace v0_1
}  // namespace krait
