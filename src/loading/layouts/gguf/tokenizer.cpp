// The vocabulary of a GGUF file, and as the text of a tokenizer.json.

#include <fmt/format.h>

#include <algorithm>

#include "io/json.hpp"
#include "krait/io/printable.hpp"
#include "loading/layouts/gguf/gguf.hpp"
#include "loading/layouts/gguf/pre_kinds.hpp"
#include "text/gguf/pre_tokenizers.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

class Reader {
 public:
  Reader(const Metadata& metadata, const std::string& path) : metadata_(metadata), path_(path) {}

  Result<std::shared_ptr<const TokenTable>> run() {
    const std::string* model = value("model").text();
    if (model == nullptr || *model == "none" || *model == "no_vocab") {
      return std::shared_ptr<const TokenTable>();
    }
    TokenTable table;
    table.model = *model;
    if (const std::string* pre = value("pre").text()) table.pre = *pre;
    KRAIT_ASSIGN_OR_RETURN(table.tokens, texts("tokens"));
    KRAIT_ASSIGN_OR_RETURN(table.merges, texts("merges"));
    KRAIT_RETURN_IF_ERROR(read_numbers(table));
    KRAIT_RETURN_IF_ERROR(read_marks(table));
    for (const auto& [key, flag] :
         {std::pair("add_bos_token", &table.add_bos), std::pair("add_eos_token", &table.add_eos),
          std::pair("add_sep_token", &table.add_sep),
          std::pair("add_space_prefix", &table.add_space_prefix),
          std::pair("remove_extra_whitespaces", &table.remove_extra_whitespaces)}) {
      *flag = value(key).boolean();
    }
    const Metadata& charsmap = value("precompiled_charsmap");
    for (std::size_t i = 0; i < charsmap.size(); ++i) {
      table.precompiled_charsmap += static_cast<char>(charsmap[i].integer().value_or(0));
    }
    // Rows of the embedding that stand for nothing, unless the file begins or ends texts with them.
    std::size_t least = 0;
    for (const auto& mark : {table.bos, table.eos, table.unknown, table.separator}) {
      if (mark) least = std::max(least, static_cast<std::size_t>(*mark) + 1);
    }
    while (table.types.size() > least && table.types.size() == table.tokens.size() &&
           table.types.back() == static_cast<std::int32_t>(GgufTokenType::unused)) {
      table.types.pop_back();
      table.tokens.pop_back();
      if (table.scores.size() > table.tokens.size()) table.scores.pop_back();
    }
    return std::make_shared<const TokenTable>(std::move(table));
  }

 private:
  const Metadata& value(std::string_view key) const {
    return metadata_["tokenizer.ggml." + std::string(key)];
  }

  Error fail(std::string_view key, std::string_view expected, const Metadata& found) const {
    return {ErrorCode::bad_format,
            fmt::format("[tokenizer] tokenizer.ggml.{}: expected {}, found {} ({})", key, expected,
                        found.is_null() ? "none" : json_text(found), path_)};
  }

  Result<std::vector<std::string>> texts(std::string_view key) const {
    std::vector<std::string> texts;
    const Metadata& list = value(key);
    for (std::size_t i = 0; i < list.size(); ++i) {
      if (list[i].text() == nullptr) return fail(key, "a list of strings", list[i]);
      texts.push_back(*list[i].text());
    }
    return texts;
  }

  Result<void> read_numbers(TokenTable& table) const {
    const Metadata& types = value("token_type");
    for (std::size_t i = 0; i < types.size(); ++i) {
      const auto type = types[i].integer();
      if (!type || !std::in_range<std::int32_t>(*type)) {
        return fail("token_type", "a list of numbers", types[i]);
      }
      table.types.push_back(static_cast<std::int32_t>(*type));
    }
    const Metadata& scores = value("scores");
    for (std::size_t i = 0; i < scores.size(); ++i) {
      const auto score = scores[i].number();
      if (!score) return fail("scores", "a list of numbers", scores[i]);
      table.scores.push_back(static_cast<float>(*score));
    }
    return {};
  }

  // Some files write -1 for none; what no token has is none to llama.cpp, too.
  Result<std::optional<Token>> mark(const std::string& key, std::size_t count) const {
    const Metadata& id = value(key);
    if (id.is_null()) return std::optional<Token>();
    const auto number = id.integer();
    if (!number) return fail(key, "an id", id);
    if (*number < 0 || static_cast<std::uint64_t>(*number) >= count) return std::optional<Token>();
    return std::optional(static_cast<Token>(*number));
  }

  Result<void> read_marks(TokenTable& table) const {
    for (const auto& [key, id] :
         {std::pair("bos_token_id", &table.bos), std::pair("eos_token_id", &table.eos),
          std::pair("unknown_token_id", &table.unknown),
          std::pair("seperator_token_id", &table.separator)}) {
      KRAIT_ASSIGN_OR_RETURN(*id, mark(key, table.tokens.size()));
    }
    for (const char* name : {"eot", "eom", "padding", "mask", "cls", "fim_pre", "fim_suf",
                             "fim_mid", "fim_pad", "fim_rep", "fim_sep", "prefix", "suffix",
                             "middle"}) {  // the last three: of early files, for fim
      KRAIT_ASSIGN_OR_RETURN(const auto id,
                             mark(fmt::format("{}_token_id", name), table.tokens.size()));
      if (id) table.more_marks.emplace_back(name, *id);
    }
    return {};
  }

  const Metadata& metadata_;
  const std::string& path_;
};

// The text of a tokenizer.json, piece by piece.
class JsonText {
 public:
  JsonText(const TokenTable& table, const PreKind& kind)
      : table_(table), kind_(kind), flags_(pre_tokenizer_flags(kind.name)) {}

  std::string run() {
    json_ = R"({"version":"1.0","truncation":null,"padding":null,"added_tokens":[)";
    append_added();
    json_ += R"(],"normalizer":null,"pre_tokenizer":{"type":"Sequence","pretokenizers":[)";
    json_ += kind_.steps;
    json_ += R"(]},"post_processor":)";
    append_ends();
    json_ += R"(,"decoder":{"type":"ByteLevel","add_prefix_space":true,"trim_offsets":true,)";
    json_ += R"("use_regex":true},"model":{"type":"BPE","dropout":null,"unk_token":null,)";
    json_ += R"("continuing_subword_prefix":null,"end_of_word_suffix":null,"fuse_unk":false,)";
    json_ += fmt::format(R"("byte_fallback":false,"ignore_merges":{},"vocab":{{)",
                         flags_.ignores_merges);
    for (std::size_t id = 0; id < table_.tokens.size(); ++id) {
      if (id > 0) json_ += ',';
      append_json_string(json_, table_.tokens[id]);
      json_ += fmt::format(":{}", id);
    }
    json_ += R"(},"merges":[)";
    for (std::size_t i = 0; i < table_.merges.size(); ++i) {
      if (i > 0) json_ += ',';
      append_json_string(json_, table_.merges[i]);
    }
    return json_ + "]}}";
  }

 private:
  // Tokens that are found in texts by their spelling.
  void append_added() {
    bool is_first = true;
    for (std::size_t id = 0; id < table_.types.size() && id < table_.tokens.size(); ++id) {
      const auto type = static_cast<GgufTokenType>(table_.types[id]);
      const bool is_special = type == GgufTokenType::control || type == GgufTokenType::unknown;
      if (!is_special && type != GgufTokenType::user_defined) continue;
      json_ += fmt::format(R"({}{{"id":{},"content":)", is_first ? "" : ",", id);
      append_json_string(json_, table_.tokens[id]);
      json_ += fmt::format(
          R"(,"single_word":false,"lstrip":false,"rstrip":false,"normalized":false,"special":{}}})",
          is_special);
      is_first = false;
    }
  }

  // What is put around a text.
  void append_ends() {
    std::optional<Token> bos, eos;
    if (table_.add_bos.value_or(flags_.adds_bos)) bos = table_.bos;
    if (table_.add_eos.value_or(false)) eos = table_.eos;
    if (!bos && !eos) {
      json_ += R"({"type":"ByteLevel","add_prefix_space":true,"trim_offsets":false,)";
      json_ += R"("use_regex":true})";
      return;
    }
    const auto text = [&](Token id) { return table_.tokens[static_cast<std::size_t>(id)]; };
    const auto piece = [&](Token id) {
      Metadata::Object special = {{"id", text(id)}, {"type_id", 0}};
      return full_json(Metadata(Metadata::Object{{"SpecialToken", std::move(special)}}));
    };
    const std::string begin = bos ? piece(*bos) + "," : "";
    const std::string end = eos ? "," + piece(*eos) : "";
    json_ += fmt::format(
        R"({{"type":"TemplateProcessing","single":[{0}{{"Sequence":{{"id":"A","type_id":0}}}}{1}],)"
        R"("pair":[{0}{{"Sequence":{{"id":"A","type_id":0}}}}{1},)"
        R"({{"Sequence":{{"id":"B","type_id":1}}}}],"special_tokens":)",
        begin, end);
    Metadata::Object tokens;
    for (const auto& id : {bos, eos}) {
      if (!id || (!tokens.empty() && tokens.front().key == text(*id))) continue;
      tokens.push_back({text(*id), Metadata::Object{{"id", text(*id)},
                                                    {"ids", Metadata::Array{*id}},
                                                    {"tokens", Metadata::Array{text(*id)}}}});
    }
    json_ += full_json(Metadata(std::move(tokens)));
    json_ += '}';
  }

  const TokenTable& table_;
  const PreKind& kind_;
  PreTokenizerFlags flags_;
  std::string json_;
};

Error unsupported(std::string_view key, std::string_view expected, std::string_view found) {
  return {ErrorCode::unsupported,
          fmt::format("[tokenizer] tokenizer.ggml.{}: expected {}, found {}", key, expected,
                      found.empty() ? "none" : printable(found))};
}

}  // namespace

Result<std::shared_ptr<const TokenTable>> read_gguf_vocabulary(const Metadata& metadata,
                                                               const std::string& path) {
  return printable(Reader(metadata, path).run());
}

std::string gguf_template_name(std::string_view name) {
  constexpr std::string_view kept =
      "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
  std::string result(name);
  std::ranges::replace_if(
      result, [&](char c) { return kept.find(c) == kept.npos; }, '_');
  return result;
}

std::string tokenizer_config_of(const TokenTable& table) {
  Metadata::Object config;
  for (const auto& [key, id] :
       {std::pair("bos_token", table.bos), std::pair("eos_token", table.eos)}) {
    if (id && static_cast<std::size_t>(*id) < table.tokens.size()) {
      config.push_back({key, table.tokens[static_cast<std::size_t>(*id)]});
    }
  }
  return full_json(Metadata(std::move(config)));
}

Result<std::string> tokenizer_json_of(const TokenTable& table) {
  if (table.model != "gpt2") return unsupported("model", "gpt2", table.model);
  std::string known;
  for (const PreKind& kind : pre_kinds) {
    if (table.pre == kind.name) return JsonText(table, kind).run();
    known += fmt::format("{}{}", known.empty() ? "" : ", ", kind.name);
  }
  return unsupported("pre", "one of " + known, table.pre);
}

}  // namespace v0_1
}  // namespace krait
