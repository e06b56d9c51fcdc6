#include "krait/loading/language_model.hpp"

#include <fmt/format.h>

#include <utility>

#include "io/json.hpp"
#include "krait/loading/adapter.hpp"
#include "krait/text/token_table.hpp"
#include "loading/sentencepiece_options.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Result<LanguageModel> load(Checkpoint checkpoint, const WeightOptions& options,
                           const std::string& adapter = {}) {
  KRAIT_ASSIGN_OR_RETURN(ModelConfig config, read_config(checkpoint));
  KRAIT_RETURN_IF_ERROR(add_adapter(adapter, config, checkpoint.weights));
  KRAIT_ASSIGN_OR_RETURN(auto tokenizer, make_tokenizer(checkpoint, config));
  // A tokenizer may have more ids than the model has rows, for tokens that were added to it alone.
  config.limit_vocab(tokenizer->vocab());
  KRAIT_ASSIGN_OR_RETURN(TextMarks marks, read_text_marks(checkpoint, *tokenizer));
  KRAIT_ASSIGN_OR_RETURN(Model model,
                         build_model(config.spec, checkpoint.weights, config.prefix, options));
  // An end that has no row is never said.
  std::erase_if(marks.ends, [&](Token end) { return end >= model.vocab(); });
  return LanguageModel{std::move(model), std::move(tokenizer), std::move(marks.ends), marks.bos,
                       read_chat_templates(checkpoint)};
}

}  // namespace

Result<std::vector<Token>> LanguageModel::encode_prompt(std::string_view text) const {
  KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenizer->encode(text, {.add_special = true}));
  if (tokens.empty()) {
    const auto begin = bos ? bos : tokenizer->find("<|endoftext|>");
    if (begin) {
      tokens.push_back(*begin);
    } else {
      KRAIT_ASSIGN_OR_RETURN(tokens, tokenizer->encode("\n"));
    }
  }
  for (const Token token : tokens) {
    if (token >= model.vocab_padded()) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[tokenizer] prompt: expected ids below {}, the rows of the model, "
                               "found {}, {}",
                               model.vocab_padded(), token,
                               json_text(std::string(tokenizer->bytes(token))))};
    }
  }
  return tokens;
}

Result<std::shared_ptr<const Tokenizer>> make_tokenizer(const Checkpoint& checkpoint,
                                                        const ModelConfig& config) {
  if (config.is_byte_level) return byte_tokenizer();
  if (checkpoint.token_table != nullptr) return read_token_table(*checkpoint.token_table);
  if (!checkpoint.sentencepiece.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const SentencePieceOptions options, sentencepiece_options(checkpoint));
    return read_sentencepiece(checkpoint.sentencepiece, options);
  }
  if (checkpoint.tokenizer.empty()) {
    const bool is_gguf = checkpoint.path.ends_with(".gguf");
    return Error{ErrorCode::not_found,
                 fmt::format("[tokenizer] {}: expected the tokenizer of the model, found none ({})",
                             is_gguf ? "tokenizer.ggml.model" : "tokenizer.json", checkpoint.path)};
  }
  return read_tokenizer_json(checkpoint.tokenizer);
}

Result<LanguageModel> load_language_model(const std::string& path, const LoadOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(Checkpoint checkpoint, open_model(path, options));
  return load(std::move(checkpoint), options.for_weights(), options.adapter);
}

Result<LanguageModel> load_language_model(const CheckpointBytes& bytes,
                                          const WeightOptions& options) {
  KRAIT_ASSIGN_OR_RETURN(Checkpoint checkpoint, open_checkpoint(bytes));
  return load(std::move(checkpoint), options);
}

}  // namespace v0_1
}  // namespace krait
