#include "krait/decoding/language_model.hpp"

#include <fmt/format.h>

#include <utility>

namespace krait::inline v0_1 {
namespace {

Result<LanguageModel> load(const Checkpoint& checkpoint, const WeightOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(ModelConfig config, read_config(checkpoint));
  KRAIT_ASSIGN_OR_RETURN(auto tokenizer, make_tokenizer(checkpoint, config));
  if (tokenizer->vocab() > config.spec.embedding.rows()) {
    return Error{ErrorCode::bad_config,
                 fmt::format("[tokenizer] vocabulary: expected at most {} ids, the rows of the "
                             "model's head, found {} ({})",
                             config.spec.embedding.rows(), tokenizer->vocab(), checkpoint.path)};
  }
  config.limit_vocab(tokenizer->vocab());
  if (config.stop_tokens.empty() && !config.is_byte_level) {
    // Original checkpoints do not say how texts end; their tokenizer does.
    if (const auto end = tokenizer->find("<|endoftext|>")) config.stop_tokens.push_back(*end);
  }
  KRAIT_ASSIGN_OR_RETURN(Model model,
                         build_model(config.spec, checkpoint.weights, config.prefix, options));
  return LanguageModel{std::move(model), std::move(tokenizer), std::move(config.stop_tokens),
                       checkpoint.tokenizer_config, checkpoint.chat_template};
}

}  // namespace

Result<std::shared_ptr<const Tokenizer>> make_tokenizer(const Checkpoint& checkpoint,
                                                        const ModelConfig& config) {
  if (config.is_byte_level) return byte_tokenizer();
  if (checkpoint.tokenizer.empty()) {
    return Error{ErrorCode::not_found,
                 fmt::format("[tokenizer] tokenizer.json: expected the tokenizer of the model, "
                             "found {} ({})",
                             checkpoint.has_sentencepiece
                                 ? "tokenizer.model; SentencePiece is not read by this version"
                                 : "none",
                             checkpoint.path)};
  }
  return read_tokenizer_json(checkpoint.tokenizer);
}

Result<LanguageModel> load_language_model(const std::string& path, const LoadOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const Checkpoint checkpoint, open_model(path, options));
  return load(checkpoint, options.for_weights());
}

Result<LanguageModel> load_language_model(const CheckpointBytes& bytes,
                                          const WeightOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(const Checkpoint checkpoint, open_checkpoint(bytes));
  return load(checkpoint, options);
}

}  // namespace krait::inline v0_1
