#include "krait/loading/language_model.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <utility>

#include "io/json.hpp"
#include "krait/loading/adapter.hpp"
#include "krait/text/token_table.hpp"
#include "loading/sentencepiece_options.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// What the files of a checkpoint say about where texts begin and end.
class TextMarks {
 public:
  TextMarks(const Checkpoint& checkpoint, const Tokenizer& tokenizer)
      : checkpoint_(checkpoint), tokenizer_(tokenizer) {}

  Result<void> read() {
    // The first file that names a beginning is believed; every end that any of them names is one.
    KRAIT_RETURN_IF_ERROR(read_ids(checkpoint_.generation_config, "generation_config.json"));
    KRAIT_RETURN_IF_ERROR(read_ids(checkpoint_.config, checkpoint_.config_file));
    KRAIT_RETURN_IF_ERROR(read_texts(checkpoint_.tokenizer_config, "tokenizer_config.json"));
    return read_texts(checkpoint_.special_tokens, "special_tokens_map.json");
  }

  std::optional<Token> bos;
  std::vector<Token> ends;

 private:
  Result<Metadata> parse(const std::string& text, const std::string& file) const {
    const std::string name = checkpoint_.path + "/" + file;
    KRAIT_ASSIGN_OR_RETURN(Metadata values, parse_json(text, name));
    if (values.object() == nullptr) {
      return Error{ErrorCode::bad_config, fmt::format("[config] expected an object, found {} ({})",
                                                      json_text(values), name)};
    }
    return values;
  }

  Error wrong(const char* key, const char* expected, const Metadata& found,
              const std::string& file) const {
    return {ErrorCode::bad_config, fmt::format("[config] {}: expected {}, found {} ({}/{})", key,
                                               expected, json_text(found), checkpoint_.path, file)};
  }

  Result<std::vector<Token>> ids(const Metadata& found, const char* key,
                                 const std::string& file) const {
    std::vector<Token> result;
    if (found.is_null()) return result;
    const auto add = [&](const Metadata& id) {
      // Some files write -1 for none; what is beyond every vocabulary is no token either.
      const auto number = id.integer();
      if (number && *number >= 0 && *number <= std::numeric_limits<Token>::max()) {
        result.push_back(static_cast<Token>(*number));
      }
      return number.has_value();
    };
    const bool good = found.array() != nullptr
                          ? std::all_of(found.array()->begin(), found.array()->end(), add)
                          : add(found);
    if (!good) return wrong(key, "a token id or a list of them", found, file);
    return result;
  }

  Result<void> read_ids(const std::string& text, const std::string& file) {
    if (text.empty()) return {};
    KRAIT_ASSIGN_OR_RETURN(const Metadata values, parse(text, file));
    KRAIT_ASSIGN_OR_RETURN(const auto begins, ids(values["bos_token_id"], "bos_token_id", file));
    if (!bos && !begins.empty()) bos = begins.front();
    KRAIT_ASSIGN_OR_RETURN(const auto found, ids(values["eos_token_id"], "eos_token_id", file));
    ends.insert(ends.end(), found.begin(), found.end());
    return {};
  }

  // A token's text, or an object with it. A text that is no token marks nothing.
  Result<std::optional<Token>> token(const Metadata& found, const char* key,
                                     const std::string& file) const {
    if (found.is_null()) return std::optional<Token>();
    const Metadata& content = found.object() != nullptr ? found["content"] : found;
    if (content.text() == nullptr) return wrong(key, "a token's text", found, file);
    return tokenizer_.find(*content.text());
  }

  Result<void> read_texts(const std::string& text, const std::string& file) {
    if (text.empty()) return {};
    KRAIT_ASSIGN_OR_RETURN(const Metadata values, parse(text, file));
    KRAIT_ASSIGN_OR_RETURN(const auto begin, token(values["bos_token"], "bos_token", file));
    if (!bos) bos = begin;
    KRAIT_ASSIGN_OR_RETURN(const auto end, token(values["eos_token"], "eos_token", file));
    if (end) ends.push_back(*end);
    return {};
  }

  const Checkpoint& checkpoint_;
  const Tokenizer& tokenizer_;
};

Result<LanguageModel> load(Checkpoint checkpoint, const WeightOptions& options,
                           const std::string& adapter = {}) {
  KRAIT_ASSIGN_OR_RETURN(ModelConfig config, read_config(checkpoint));
  KRAIT_RETURN_IF_ERROR(add_adapter(adapter, config, checkpoint.weights));
  KRAIT_ASSIGN_OR_RETURN(auto tokenizer, make_tokenizer(checkpoint, config));
  // A tokenizer may have more ids than the model has rows, for tokens that were added to it alone.
  config.limit_vocab(tokenizer->vocab());
  TextMarks marks(checkpoint, *tokenizer);
  if (!config.is_byte_level) {  // there every id is a byte of text
    KRAIT_RETURN_IF_ERROR(marks.read());
    for (const Token end : marks.ends) {
      const auto& known = config.stop_tokens;
      if (std::find(known.begin(), known.end(), end) == known.end()) {
        config.stop_tokens.push_back(end);
      }
    }
    if (config.stop_tokens.empty()) {
      // Original checkpoints do not say how texts end; their tokenizer does.
      if (const auto end = tokenizer->find("<|endoftext|>")) config.stop_tokens.push_back(*end);
    }
  }
  KRAIT_ASSIGN_OR_RETURN(Model model,
                         build_model(config.spec, checkpoint.weights, config.prefix, options));
  return LanguageModel{std::move(model), std::move(tokenizer), std::move(config.stop_tokens),
                       marks.bos, read_chat_templates(checkpoint)};
}

}  // namespace

Result<SentencePieceOptions> sentencepiece_options(const Checkpoint& checkpoint) {
  SentencePieceOptions options;
  if (!checkpoint.tokenizer_config.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const Metadata config,
                           parse_json(checkpoint.tokenizer_config, "tokenizer_config.json"));
    options.add_bos = config["add_bos_token"].boolean().value_or(options.add_bos);
    options.add_eos = config["add_eos_token"].boolean().value_or(options.add_eos);
  }
  return options;
}

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
    return Error{ErrorCode::not_found,
                 fmt::format("[tokenizer] tokenizer.json: expected the tokenizer of the model, "
                             "found none ({})",
                             checkpoint.path)};
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
