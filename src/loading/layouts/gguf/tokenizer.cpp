// The vocabulary of a GGUF file as the text of a tokenizer.json.

#include <fmt/format.h>

#include <limits>
#include <unordered_set>

#include "io/json.hpp"
#include "krait/io/printable.hpp"
#include "loading/layouts/gguf/gguf.hpp"
#include "loading/layouts/gguf/pre_kinds.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class Builder {
 public:
  Builder(const Metadata& metadata, const std::string& path) : metadata_(metadata), path_(path) {}

  Result<GgufTokenizer> run() {
    const std::string* model = metadata_["tokenizer.ggml.model"].text();
    tokens_ = metadata_["tokenizer.ggml.tokens"].array();
    GgufTokenizer result;
    if (model == nullptr || *model == "none" || *model == "no_vocab") return result;
    if (tokens_ == nullptr) return fail("tokens", "a list", "none");
    for (const Metadata& token : *tokens_) {
      if (token.text() == nullptr) return fail("tokens", "a list of strings", json_text(token));
    }
    types_ = metadata_["tokenizer.ggml.token_type"].array();
    if (types_ != nullptr && types_->size() != tokens_->size()) {
      return fail("token_type", fmt::format("one for each of {} tokens", tokens_->size()),
                  fmt::to_string(types_->size()));
    }
    KRAIT_ASSIGN_OR_RETURN(result.config, make_config());
    if (*model != "gpt2") {
      result.problem = unsupported("model", "gpt2", *model);
      return result;
    }
    const Metadata& pre = metadata_["tokenizer.ggml.pre"];
    std::string known;
    for (const PreKind& kind : pre_kinds) {
      if (pre.is(kind.name)) {
        KRAIT_ASSIGN_OR_RETURN(result.json, make_json(kind));
        return result;
      }
      known += fmt::format("{}{}", known.empty() ? "" : ", ", kind.name);
    }
    result.problem = unsupported("pre", "one of " + known, pre.is_null() ? "none" : json_text(pre));
    return result;
  }

 private:
  Error fail(std::string_view key, std::string_view expected, std::string_view found) const {
    return {ErrorCode::bad_format, fmt::format("[tokenizer] tokenizer.ggml.{}: expected {}, found "
                                               "{} ({})",
                                               key, expected, found, path_)};
  }
  std::string unsupported(std::string_view key, std::string_view expected,
                          std::string_view found) const {
    return printable(fail(key, expected, printable(found))).message;
  }

  TokenType type_of(std::size_t id) const {
    const auto type = types_ == nullptr ? std::nullopt : (*types_)[id].integer();
    return type ? static_cast<TokenType>(*type) : TokenType::normal;
  }

  Result<std::optional<std::size_t>> mark(const char* name) const {
    const std::string key = fmt::format("{}_token_id", name);
    const Metadata& value = metadata_["tokenizer.ggml." + key];
    const auto id = value.whole();
    if (value.is_null() || id == std::numeric_limits<std::uint32_t>::max()) {
      return std::optional<std::size_t>();
    }
    if (!id || *id >= tokens_->size()) {
      return fail(key, fmt::format("an id below {}", tokens_->size()), json_text(value));
    }
    return std::optional(static_cast<std::size_t>(*id));
  }

  bool flag(const char* key, bool fallback) const {
    return metadata_[std::string("tokenizer.ggml.") + key].boolean().value_or(fallback);
  }

  const std::string& text_of(std::size_t id) const { return *(*tokens_)[id].text(); }

  Result<std::string> make_config() const {
    Metadata::Object config;
    for (const char* name : {"bos", "eos"}) {
      KRAIT_ASSIGN_OR_RETURN(const auto id, mark(name));
      if (id) config.push_back({fmt::format("{}_token", name), text_of(*id)});
    }
    return full_json(Metadata(std::move(config)));
  }

  Result<std::string> make_json(const PreKind& kind) {
    const Metadata::Array* merges = metadata_["tokenizer.ggml.merges"].array();
    if (merges == nullptr) return fail("merges", "a list", "none");
    std::string json = R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)";
    append_added(json);
    json += R"(],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[)";
    json += kind.steps;
    json += R"(]},"post_processor":)";
    KRAIT_RETURN_IF_ERROR(append_ends(json, kind));
    json += R"(,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,)";
    json += R"("use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,)";
    json += R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,)";
    json += R"("byte_fallback":false,"ignore_merges":)";
    json += kind.ignores_merges ? "true" : "false";
    json += R"(,"vocab":{)";
    append_vocab(json);
    json += R"(},"merges":)";
    json += full_json(metadata_["tokenizer.ggml.merges"]);
    return json + "}}";
  }

  // Tokens that are found in texts by their spelling.
  void append_added(std::string& json) const {
    bool is_first = true;
    for (std::size_t id = 0; id < tokens_->size(); ++id) {
      const TokenType type = type_of(id);
      const bool is_special = type == TokenType::control || type == TokenType::unknown;
      if ((!is_special && type != TokenType::user_defined) || text_of(id).empty()) continue;
      json += fmt::format(R"({}{{"id":{},"content":)", is_first ? "" : ",", id);
      append_json_string(json, text_of(id));
      json += fmt::format(
          R"(,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":{}}})",
          is_special);
      is_first = false;
    }
  }

  // Rows that no text reaches are left out: they pad the matrices. Of equal texts, the first
  // counts.
  void append_vocab(std::string& json) const {
    std::unordered_set<std::string_view> texts;
    for (std::size_t id = 0; id < tokens_->size(); ++id) {
      if (type_of(id) == TokenType::unused || !texts.insert(text_of(id)).second) continue;
      if (texts.size() > 1) json += ',';
      append_json_string(json, text_of(id));
      json += fmt::format(":{}", id);
    }
  }

  // What is put around a text.
  Result<void> append_ends(std::string& json, const PreKind& kind) const {
    KRAIT_ASSIGN_OR_RETURN(auto bos, mark("bos"));
    KRAIT_ASSIGN_OR_RETURN(auto eos, mark("eos"));
    if (!flag("add_bos_token", kind.begins)) bos.reset();
    if (!flag("add_eos_token", false)) eos.reset();
    if (!bos && !eos) {
      json +=
          R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,"use_regex":true})";
      return {};
    }
    const auto piece = [&](std::size_t id) {
      Metadata::Object special = {{"id", text_of(id)}, {"type_id", 0}};
      return full_json(Metadata(Metadata::Object{{"SpecialToken", std::move(special)}}));
    };
    const std::string begin = bos ? piece(*bos) + "," : "";
    const std::string end = eos ? "," + piece(*eos) : "";
    json += fmt::format(
        R"({{"type":"TemplateProcessing","single":[{0}{{"Sequence":{{"id":"A","type_id":0}}}}{1}],)"
        R"("pair":[{0}{{"Sequence":{{"id":"A","type_id":0}}}}{1},)"
        R"({{"Sequence":{{"id":"B","type_id":1}}}}],"special_tokens":)",
        begin, end);
    Metadata::Object tokens;
    for (const auto& id : {bos, eos}) {
      if (!id || (!tokens.empty() && tokens.front().key == text_of(*id))) continue;
      tokens.push_back({text_of(*id), Metadata::Object{{"id", text_of(*id)},
                                                       {"ids", Metadata::Array{*id}},
                                                       {"tokens", Metadata::Array{text_of(*id)}}}});
    }
    json += full_json(Metadata(std::move(tokens)));
    json += '}';
    return {};
  }

  const Metadata& metadata_;
  const std::string& path_;
  const Metadata::Array* tokens_ = nullptr;
  const Metadata::Array* types_ = nullptr;
};

}  // namespace

Result<GgufTokenizer> read_gguf_tokenizer(const Metadata& metadata, const std::string& path) {
  return printable(Builder(metadata, path).run());
}

}  // namespace v0_1
}  // namespace krait
