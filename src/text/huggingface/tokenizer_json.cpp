#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <utility>

#include "io/json.hpp"
#include "text/huggingface/fields.hpp"
#include "text/pipeline/builder.hpp"

// Reads tokenizer.json. Nothing in it is trusted: every type is checked here, every id by the
// builder.
namespace krait {
inline namespace v0_1 {
namespace {

using fields::describe;
using fields::mismatch;

class Reader {
 public:
  explicit Reader(const Metadata& file) : file_(file), model_(file["model"]) {}

  Result<std::unique_ptr<PipelineParts>> run() {
    KRAIT_RETURN_IF_ERROR(read_model());
    KRAIT_ASSIGN_OR_RETURN(source_.normalizer, Normalizer::read(file_["normalizer"]));
    KRAIT_ASSIGN_OR_RETURN(source_.pre_tokenizer, PreTokenizer::read(file_["pre_tokenizer"]));
    const bool is_byte_level =
        source_.pre_tokenizer.is_byte_level() || source_.normalizer.writes_bytes();
    KRAIT_ASSIGN_OR_RETURN(source_.decoder, TokenDecoder::read(file_["decoder"], is_byte_level));
    KRAIT_RETURN_IF_ERROR(read_added_tokens());
    KRAIT_ASSIGN_OR_RETURN(auto parts, build_pipeline(std::move(source_)));
    KRAIT_ASSIGN_OR_RETURN(
        parts->ends,
        read_post_processor(file_["post_processor"], static_cast<Index>(parts->bytes.size())));
    return parts;
  }

 private:
  using Kind = PipelineSource::Kind;
  static constexpr const char* vocab_name = "model.vocab";

  Result<void> read_model() {
    if (file_.object() == nullptr) {
      return mismatch(ErrorCode::bad_format, "file", "an object", describe(file_));
    }
    if (model_.object() == nullptr) {
      return mismatch(ErrorCode::bad_format, "model", "an object", describe(model_));
    }
    // Files from before 2021 do not name the type; what they hold shows it.
    const Metadata& type = model_["type"];
    if (type.is("BPE") || (type.is_null() && model_["merges"].array() != nullptr)) {
      return read_byte_pairs();
    }
    if (type.is("Unigram")) return read_unigram();
    if (type.is("WordPiece") || type.is("WordLevel")) return read_words(type.is("WordPiece"));
    return mismatch(ErrorCode::unsupported, "model.type", "BPE, Unigram, WordPiece or WordLevel",
                    describe(type));
  }

  Result<void> read_byte_pairs() {
    const Metadata& dropout = model_["dropout"];
    if (!dropout.is_null() && dropout.number() != 0.0) {
      return mismatch(ErrorCode::unsupported, "model.dropout", "null", describe(dropout));
    }
    KRAIT_RETURN_IF_ERROR(read_text("continuing_subword_prefix", source_.prefix));
    KRAIT_RETURN_IF_ERROR(read_text("end_of_word_suffix", source_.suffix));
    KRAIT_ASSIGN_OR_RETURN(source_.falls_back_to_bytes,
                           fields::boolean(model_, "byte_fallback", "model", false));
    KRAIT_ASSIGN_OR_RETURN(source_.fuses_unknown,
                           fields::boolean(model_, "fuse_unk", "model", false));
    KRAIT_ASSIGN_OR_RETURN(source_.ignores_merges,
                           fields::boolean(model_, "ignore_merges", "model", false));
    if (!model_["unk_token"].is_null()) {
      KRAIT_ASSIGN_OR_RETURN(source_.unknown, fields::string(model_, "unk_token", "model"));
    }
    KRAIT_RETURN_IF_ERROR(read_vocab());
    return read_merges();
  }

  Result<void> read_text(const char* name, std::string& text) {
    if (model_[name].is_null()) return {};
    KRAIT_ASSIGN_OR_RETURN(text, fields::string(model_, name, "model"));
    return {};
  }

  Result<void> read_words(bool is_word_piece) {
    source_.kind = is_word_piece ? Kind::word_piece : Kind::word_level;
    KRAIT_ASSIGN_OR_RETURN(source_.unknown, fields::string(model_, "unk_token", "model"));
    if (is_word_piece) {
      KRAIT_ASSIGN_OR_RETURN(source_.prefix,
                             fields::string(model_, "continuing_subword_prefix", "model"));
      const Metadata& most = model_["max_input_chars_per_word"];
      if (!most.whole()) {
        return mismatch(ErrorCode::bad_format, "model.max_input_chars_per_word", "a number",
                        describe(most));
      }
      source_.longest_word = static_cast<std::size_t>(*most.whole());
    }
    return read_vocab();
  }

  Result<void> read_unigram() {
    source_.kind = Kind::unigram;
    KRAIT_ASSIGN_OR_RETURN(source_.falls_back_to_bytes,
                           fields::boolean(model_, "byte_fallback", "model", false));
    if (const Metadata& unknown = model_["unk_id"]; !unknown.is_null()) {
      const auto id = id_of(unknown);
      if (!id) return wrong_id(unknown, "model.unk_id");
      source_.unknown_id = *id;
    }
    return fields::elements(
        model_, "vocab", "model",
        [&](const Metadata& item, const std::string& where) { return add_scored(item, where); });
  }

  // ["▁the", -3.5]
  Result<void> add_scored(const Metadata& item, const std::string& where) {
    const std::string* const text = item[0].text();
    const auto score = item[1].number();
    if (item.size() != 2 || text == nullptr || !score) {
      return mismatch(ErrorCode::bad_format, where, "a token and its score", describe(item));
    }
    if (static_cast<Index>(source_.items.size()) >= max_vocab) {
      return mismatch(ErrorCode::bad_format, vocab_name,
                      fmt::format("at most {} tokens", max_vocab), "more");
    }
    source_.items.push_back({*text, static_cast<Token>(source_.items.size())});
    source_.scores.push_back(*score);
    return {};
  }

  static std::optional<Token> id_of(const Metadata& value) {
    const auto id = value.whole();
    if (!id || *id >= static_cast<std::uint64_t>(max_vocab)) return std::nullopt;
    return static_cast<Token>(*id);
  }

  static Error wrong_id(const Metadata& value, const std::string& where) {
    return mismatch(ErrorCode::bad_format, where, fmt::format("an id below {}", max_vocab),
                    describe(value));
  }

  Result<void> read_vocab() {
    const Metadata& vocab = model_["vocab"];
    if (vocab.object() == nullptr) {
      return mismatch(ErrorCode::bad_format, vocab_name, "an object", describe(vocab));
    }
    source_.items.reserve(vocab.size());
    for (const auto& [key, value] : *vocab.object()) {
      const auto id = id_of(value);
      if (!id) return wrong_id(value, fmt::format("{}[{}]", vocab_name, describe(key)));
      source_.items.push_back({key, *id});
    }
    return {};
  }

  Result<void> read_merges() {
    const Metadata& merges = model_["merges"];
    if (merges.array() == nullptr) {
      return mismatch(ErrorCode::bad_format, "model.merges", "an array", describe(merges));
    }
    source_.merges.reserve(merges.size());
    for (std::size_t i = 0; i < merges.size(); ++i) {
      const Metadata& merge = merges[i];
      if (merge.text() != nullptr && merge.text()->starts_with("#version")) continue;
      const auto pair = fields::merge(merge);
      if (!pair || pair->first.empty() || pair->second.empty()) {
        return mismatch(ErrorCode::bad_format, fmt::format("model.merges[{}]", i), "two tokens",
                        describe(merge));
      }
      source_.merges.emplace_back(pair->first, pair->second);
    }
    return {};
  }

  Result<void> read_added_tokens() {
    const Metadata& list = file_["added_tokens"];
    if (!list.is_null() && list.array() == nullptr) {
      return mismatch(ErrorCode::bad_format, "added_tokens", "an array", describe(list));
    }
    for (std::size_t i = 0; i < list.size(); ++i) {
      KRAIT_RETURN_IF_ERROR(read_added_token(list[i], fmt::format("added_tokens[{}]", i)));
    }
    return {};
  }

  Result<void> read_added_token(const Metadata& item, const std::string& where) {
    AddedToken token;
    KRAIT_ASSIGN_OR_RETURN(token.content, fields::string(item, "content", where));
    if (token.content.empty() || token.content.size() > max_token_bytes) {
      return mismatch(ErrorCode::unsupported, where + ".content",
                      fmt::format("1 to {} bytes", max_token_bytes),
                      fmt::format("{}", token.content.size()));
    }
    const auto id = id_of(item["id"]);
    if (!id) return wrong_id(item["id"], where + ".id");
    token.id = *id;
    KRAIT_ASSIGN_OR_RETURN(token.is_special, fields::boolean(item, "special", where, false));
    KRAIT_ASSIGN_OR_RETURN(token.is_single_word,
                           fields::boolean(item, "single_word", where, false));
    KRAIT_ASSIGN_OR_RETURN(token.strips_left, fields::boolean(item, "lstrip", where, false));
    KRAIT_ASSIGN_OR_RETURN(token.strips_right, fields::boolean(item, "rstrip", where, false));
    KRAIT_ASSIGN_OR_RETURN(token.is_normalized,
                           fields::boolean(item, "normalized", where, !token.is_special));
    source_.added.push_back(std::move(token));
    return {};
  }

  const Metadata& file_;
  const Metadata& model_;
  PipelineSource source_;
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> read_tokenizer_json(std::string_view json_text) {
  auto file = parse_json(json_text, "tokenizer.json", JsonWords::none);
  if (!file) {
    constexpr std::string_view area = "[json] ";
    std::string message = std::move(file).error().message;
    if (message.starts_with(area)) message.replace(0, area.size(), "[tokenizer] file: ");
    return Error{ErrorCode::bad_format, std::move(message)};
  }
  KRAIT_ASSIGN_OR_RETURN(auto parts, Reader(*file).run());
  return std::shared_ptr<const Tokenizer>(std::make_shared<const Pipeline>(std::move(parts)));
}

}  // namespace v0_1
}  // namespace krait
