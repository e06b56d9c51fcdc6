#include "krait/text/token_table.hpp"

#include <fmt/format.h>

#include <unordered_set>

#include "core/utf8.hpp"
#include "io/json.hpp"
#include "text/gguf/pre_tokenizers.hpp"
#include "text/huggingface/fields.hpp"
#include "text/pipeline/builder.hpp"
#include "text/sentencepiece/scored_vocabulary.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using fields::mismatch;

constexpr const char* tokens_name = "tokenizer.ggml.tokens";
constexpr const char* merges_name = "tokenizer.ggml.merges";

constexpr std::string_view byte_level_json = R"({"type": "ByteLevel"})";
constexpr std::string_view words_json = R"({"type": "Sequence", "decoders": [
  {"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "Fuse"},
  {"type": "Strip", "content": " ", "start": 1, "stop": 0}]})";

// The marks around texts of each kind of model, where the file does not name them.
struct Defaults {
  Token bos, end;
  bool adds_bos, adds_end;
};

class Reader {
 public:
  explicit Reader(const TokenTable& table) : table_(table) {}

  Result<std::shared_ptr<const Tokenizer>> run() {
    KRAIT_RETURN_IF_ERROR(check());
    if (table_.model == "gpt2") return read_byte_pairs();
    if (table_.model == "llama" || table_.model == "t5") return read_scored();
    if (table_.model == "bert") return read_words();
    return mismatch(ErrorCode::unsupported, "tokenizer.ggml.model", "gpt2, llama, t5 or bert",
                    fields::describe(table_.model));
  }

 private:
  static Result<void> check_count(std::size_t count, std::size_t tokens, const char* name) {
    if (count == 0 || count == tokens) return {};
    return mismatch(ErrorCode::bad_format, name, fmt::format("{} values", tokens),
                    fmt::format("{}", count));
  }

  Result<void> check() {
    const std::size_t count = table_.tokens.size();
    if (count == 0 || count > static_cast<std::size_t>(max_vocab)) {
      return mismatch(ErrorCode::bad_format, tokens_name, fmt::format("1 to {} tokens", max_vocab),
                      fmt::format("{}", count));
    }
    KRAIT_RETURN_IF_ERROR(check_count(table_.scores.size(), count, "tokenizer.ggml.scores"));
    KRAIT_RETURN_IF_ERROR(check_count(table_.types.size(), count, "tokenizer.ggml.token_type"));
    for (std::size_t i = 0; i < table_.types.size(); ++i) {
      if (table_.types[i] >= 1 && table_.types[i] <= 6) continue;
      return mismatch(ErrorCode::bad_format, fmt::format("tokenizer.ggml.token_type[{}]", i),
                      "1 to 6", fmt::format("{}", table_.types[i]));
    }
    // Some files have tokens without a text, to fill the rows of their model.
    names_.resize(count);
    std::unordered_set<std::string_view> texts;
    for (std::size_t i = 0; i < count; ++i) {
      const std::string& token = table_.tokens[i];
      const std::string where = fmt::format("{}[{}]", tokens_name, i);
      if (utf8::first_ill_formed(token) != token.size()) {
        return mismatch(ErrorCode::bad_format, where, "UTF-8", "other bytes");
      }
      if (token.empty()) names_[i] = fmt::format("[EMPTY_{}]", i);
      if (!texts.insert(text(i)).second) {
        return mismatch(ErrorCode::bad_format, where, "every text once",
                        fields::describe(std::string(text(i))) + " again");
      }
    }
    return {};
  }

  std::string_view text(std::size_t i) const {
    return table_.tokens[i].empty() ? names_[i] : table_.tokens[i];
  }
  TokenType type(std::size_t i) const {
    return table_.types.empty() ? TokenType::normal : static_cast<TokenType>(table_.types[i]);
  }

  Result<Token> id(std::optional<Token> given, Token fallback, const char* name) const {
    const Token token = given.value_or(fallback);
    if (token >= 0 && static_cast<std::size_t>(token) < table_.tokens.size()) return token;
    return mismatch(ErrorCode::bad_format, fmt::format("tokenizer.ggml.{}_token_id", name),
                    fmt::format("an id below {}", table_.tokens.size()), fmt::format("{}", token));
  }

  Result<TextEnds> ends(const Defaults& defaults, bool ends_with_separator = false) const {
    TextEnds result;
    if (table_.add_bos.value_or(defaults.adds_bos)) {
      KRAIT_ASSIGN_OR_RETURN(const Token bos, id(table_.bos, defaults.bos, "bos"));
      result.before.push_back(bos);
    }
    if (ends_with_separator) {
      if (table_.add_sep.value_or(defaults.adds_end)) {
        KRAIT_ASSIGN_OR_RETURN(const Token separator,
                               id(table_.separator, defaults.end, "seperator"));
        result.after.push_back(separator);
      }
    } else if (table_.add_eos.value_or(defaults.adds_end)) {
      KRAIT_ASSIGN_OR_RETURN(const Token eos, id(table_.eos, defaults.end, "eos"));
      result.after.push_back(eos);
    }
    return result;
  }

  void add_items(PipelineSource& source) const {
    source.vocab_name = tokens_name;
    source.merges_name = merges_name;
    for (std::size_t i = 0; i < table_.tokens.size(); ++i) {
      source.items.push_back({text(i), static_cast<Token>(i)});
      const bool is_special = type(i) == TokenType::control || type(i) == TokenType::unknown;
      if (!is_special && type(i) != TokenType::user_defined) continue;
      AddedToken token;
      token.content = text(i);
      token.id = static_cast<Token>(i);
      token.is_special = is_special;
      source.added.push_back(std::move(token));
    }
  }

  static Result<std::shared_ptr<const Tokenizer>> build(PipelineSource source, TextEnds ends) {
    KRAIT_ASSIGN_OR_RETURN(auto parts, build_pipeline(std::move(source)));
    parts->ends = std::move(ends);
    return std::shared_ptr<const Tokenizer>(std::make_shared<const Pipeline>(std::move(parts)));
  }

  static Result<TokenDecoder> decoder(std::string_view json) {
    KRAIT_ASSIGN_OR_RETURN(const Metadata steps, parse_json(json, "decoder"));
    return TokenDecoder::read(steps, false);
  }

  Result<std::shared_ptr<const Tokenizer>> read_byte_pairs() {
    KRAIT_ASSIGN_OR_RETURN(NamedPreTokenizer pre, named_pre_tokenizer(table_.pre));
    PipelineSource source;
    add_items(source);
    source.pre_tokenizer = std::move(pre.pre_tokenizer);
    source.ignores_merges = pre.flags.ignores_merges;
    KRAIT_ASSIGN_OR_RETURN(source.decoder, decoder(byte_level_json));
    for (std::size_t i = 0; i < table_.merges.size(); ++i) {
      const std::string_view merge = table_.merges[i];
      const std::size_t space = merge.find(' ', 1);
      if (space == merge.npos || space + 1 == merge.size()) {
        return mismatch(ErrorCode::bad_format, fmt::format("{}[{}]", merges_name, i), "two tokens",
                        fields::describe(table_.merges[i]));
      }
      source.merges.emplace_back(merge.substr(0, space), merge.substr(space + 1));
    }
    KRAIT_ASSIGN_OR_RETURN(TextEnds around, ends({11, 11, pre.flags.adds_bos, false}));
    return build(std::move(source), std::move(around));
  }

  Result<std::shared_ptr<const Tokenizer>> read_scored() {
    const bool is_unigram = table_.model == "t5";
    ScoredVocabulary vocabulary;
    vocabulary.name = tokens_name;
    vocabulary.is_unigram = is_unigram;
    vocabulary.falls_back_to_bytes = !is_unigram;
    vocabulary.cuts_user_defined = true;
    for (std::size_t i = 0; i < table_.tokens.size(); ++i) {
      vocabulary.pieces.push_back(
          {text(i), table_.scores.empty() ? 0.0F : table_.scores[i], type(i)});
    }
    vocabulary.spaces.adds_dummy_prefix = table_.add_space_prefix.value_or(!is_unigram);
    vocabulary.spaces.removes_extra_spaces =
        is_unigram && table_.remove_extra_whitespaces.value_or(false);
    vocabulary.charsmap = table_.precompiled_charsmap;
    KRAIT_ASSIGN_OR_RETURN(const Token unknown, id(table_.unknown, is_unigram ? 2 : 0, "unknown"));
    vocabulary.unknown = unknown;
    KRAIT_ASSIGN_OR_RETURN(vocabulary.ends,
                           is_unigram ? ends({-1, 1, false, true}) : ends({1, 2, true, false}));
    return make_scored_tokenizer(std::move(vocabulary));
  }

  Result<std::shared_ptr<const Tokenizer>> read_words() {
    PipelineSource source;
    add_items(source);
    source.kind = PipelineSource::Kind::word_piece;
    source.word_prefix = "\xE2\x96\x81";
    source.longest_word = std::size_t{1} << 30U;
    KRAIT_ASSIGN_OR_RETURN(source.unknown_id, id(table_.unknown, 100, "unknown"));
    const bool lowers = table_.lowercase.value_or(true);
    KRAIT_ASSIGN_OR_RETURN(
        source.normalizer,
        Normalizer::read(Metadata::Object{{"type", std::string("BertNormalizer")},
                                          {"clean_text", true},
                                          {"handle_chinese_chars", true},
                                          {"strip_accents", table_.strip_accents.value_or(lowers)},
                                          {"lowercase", lowers}}));
    KRAIT_ASSIGN_OR_RETURN(
        source.pre_tokenizer,
        PreTokenizer::read(Metadata::Object{{"type", std::string("BertPreTokenizer")}}));
    KRAIT_ASSIGN_OR_RETURN(source.decoder, decoder(words_json));
    KRAIT_ASSIGN_OR_RETURN(TextEnds around, ends({101, 102, true, true}, true));
    return build(std::move(source), std::move(around));
  }

  const TokenTable& table_;
  std::vector<std::string> names_;  // of tokens without a text
};

}  // namespace

Result<std::shared_ptr<const Tokenizer>> read_token_table(const TokenTable& table) {
  return Reader(table).run();
}

}  // namespace v0_1
}  // namespace krait
