// The keys of a GGUF file's vocabulary from a tokenizer.json.

#include <fmt/format.h>

#include <algorithm>

#include "io/json.hpp"
#include "krait/io/printable.hpp"
#include "krait/text/token_table.hpp"
#include "loading/layouts/gguf/export.hpp"
#include "loading/layouts/gguf/pre_kinds.hpp"
#include "loading/layouts/gguf/scored_table.hpp"
#include "loading/sentencepiece_options.hpp"
#include "text/pipeline/builder.hpp"
#include "text/sentencepiece/sentencepiece_table.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Error fail_export(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::unsupported, fmt::format("[convert] tokenizer.json {}: expected {}, found {}",
                                              what, expected, printable(found))};
}

// Whether two steps cut texts alike; what only other steps have is null in both.
bool same_step(const Metadata& a, const Metadata& b) {
  for (const char* key : {"type", "pattern", "behavior", "individual_digits"}) {
    if (!(a[key] == b[key])) return false;
  }
  const auto flag = [](const Metadata& step, const char* key, bool fallback) {
    return step[key].boolean().value_or(fallback);
  };
  return flag(a, "invert", false) == flag(b, "invert", false) &&
         flag(a, "add_prefix_space", false) == flag(b, "add_prefix_space", false) &&
         flag(a, "use_regex", true) == flag(b, "use_regex", true);
}

// The name of the way in which texts are cut.
Result<std::string_view> pre_kind(const Metadata& tokenizer) {
  const Metadata& pre = tokenizer["pre_tokenizer"];
  const Metadata list =
      pre["type"].is("Sequence") ? pre["pretokenizers"] : Metadata(Metadata::Array{pre});
  const bool ignores = tokenizer["model"]["ignore_merges"].boolean().value_or(false);
  for (const PreKind& kind : pre_kinds) {
    KRAIT_ASSIGN_OR_RETURN(const Metadata steps,
                           parse_json(fmt::format("[{}]", kind.steps), "kind"));
    if (kind.ignores_merges != ignores || steps.size() != list.size()) continue;
    bool is_same = true;
    for (std::size_t i = 0; i < list.size(); ++i) is_same = is_same && same_step(steps[i], list[i]);
    if (is_same) return kind.name;
  }
  return fail_export("pre_tokenizer", "one that llama.cpp has a name for", json_text(pre));
}

// llama.cpp composes no characters: like its converter, this lets NFC go.
Result<void> check_kind(const Metadata& tokenizer) {
  const Metadata& model = tokenizer["model"];
  const bool is_byte_level = !model["byte_fallback"].boolean().value_or(false) &&
                             (model["type"].is("BPE") || model["type"].is_null());
  if (!is_byte_level) return fail_export("model.type", "byte-level BPE", json_text(model["type"]));
  const Metadata& normalizer = tokenizer["normalizer"];
  if (normalizer.is_null() || normalizer["type"].is("NFC")) return {};
  return fail_export("normalizer", "none, or NFC", json_text(normalizer));
}

std::string merge_text(const Metadata& merge) {
  if (merge.text() != nullptr) return *merge.text();
  if (merge.size() != 2 || merge[0].text() == nullptr || merge[1].text() == nullptr) return {};
  return *merge[0].text() + " " + *merge[1].text();
}

struct Vocabulary {
  Metadata::Array tokens, types;

  Result<void> read(const Metadata& tokenizer, Index rows) {
    for (Index id = 0; id < rows; ++id) {
      tokens.emplace_back(fmt::format("[PAD{}]", id));
      types.emplace_back(static_cast<std::int64_t>(GgufTokenType::unused));
    }
    const Metadata& vocab = tokenizer["model"]["vocab"];
    if (vocab.object() == nullptr) return fail_export("model.vocab", "an object", json_text(vocab));
    for (const auto& [text, id] : *vocab.object()) {
      KRAIT_RETURN_IF_ERROR(set(id, text, GgufTokenType::normal));
    }
    const Metadata& added = tokenizer["added_tokens"];
    for (std::size_t i = 0; i < added.size(); ++i) {
      const std::string* text = added[i]["content"].text();
      const bool is_special = added[i]["special"].boolean().value_or(false);
      KRAIT_RETURN_IF_ERROR(set(added[i]["id"], text == nullptr ? "" : *text,
                                is_special ? GgufTokenType::control : GgufTokenType::user_defined));
    }
    return {};
  }

 private:
  Result<void> set(const Metadata& id, const std::string& text, GgufTokenType type) {
    const auto number = id.whole();
    if (!number || *number >= tokens.size()) {
      return fail_export("ids", fmt::format("ids below {}, the rows of the model", tokens.size()),
                         json_text(id));
    }
    tokens[static_cast<std::size_t>(*number)] = Metadata(text);
    types[static_cast<std::size_t>(*number)] = Metadata(static_cast<std::int64_t>(type));
    return {};
  }
};

// Whether the tokenizer puts `mark` alone before (or after) a text.
struct Ends {
  std::optional<Token> begin, end;

  static Result<Ends> read(const std::string& json) {
    Ends ends;
    KRAIT_ASSIGN_OR_RETURN(const auto tokenizer, read_tokenizer_json(json));
    KRAIT_ASSIGN_OR_RETURN(const auto plain, tokenizer->encode("a"));
    KRAIT_ASSIGN_OR_RETURN(const auto marked, tokenizer->encode("a", {.add_special = true}));
    const auto place = std::search(marked.begin(), marked.end(), plain.begin(), plain.end());
    const auto before = place - marked.begin();
    const auto after = std::ssize(marked) - before - std::ssize(plain);
    if (before > 1 || after > 1) {
      return fail_export("post_processor", "at most one token before and after a text",
                         fmt::format("{} and {}", before, after));
    }
    if (before == 1) ends.begin = marked.front();
    if (after == 1) ends.end = marked.back();
    return ends;
  }
};

// An id of the configuration; of a list, the first.
std::optional<Token> token_of(const Metadata& config, const char* key) {
  const Metadata& value = config[key];
  const auto id = value.array() != nullptr ? value[0].integer() : value.integer();
  if (!id || *id < 0 || *id >= max_vocab) return std::nullopt;
  return static_cast<Token>(*id);
}

Result<void> check_rows(const TokenTable& table, Index rows) {
  if (std::ssize(table.tokens) <= rows) return {};
  return fail_export("tokens", fmt::format("at most {}, the rows of the model", rows),
                     fmt::to_string(table.tokens.size()));
}

void add_chat_template(const Checkpoint& checkpoint, ConfigObject& metadata) {
  if (checkpoint.chat_template.empty()) return;
  metadata.set("tokenizer.chat_template", checkpoint.chat_template);
}

// The keys of a table.
void export_table(const TokenTable& table, Index rows, ConfigObject& metadata) {
  const auto set = [&](const char* key, Metadata value) {
    metadata.set(fmt::format("tokenizer.ggml.{}", key), std::move(value));
  };
  Metadata::Array tokens(table.tokens.begin(), table.tokens.end());
  Metadata::Array types(table.types.begin(), table.types.end());
  Metadata::Array scores;
  for (const float score : table.scores) scores.emplace_back(static_cast<double>(score));
  types.resize(tokens.size(), Metadata(1));
  while (std::ssize(tokens) < rows) {
    tokens.emplace_back(fmt::format("[PAD{}]", tokens.size()));
    types.emplace_back(static_cast<std::int64_t>(GgufTokenType::unused));
    if (!scores.empty()) scores.emplace_back(-1000.0);
  }
  set("model", table.model);
  if (!table.pre.empty()) set("pre", table.pre);
  set("tokens", std::move(tokens));
  set("token_type", std::move(types));
  if (!scores.empty()) set("scores", std::move(scores));
  if (!table.merges.empty()) {
    set("merges", Metadata::Array(table.merges.begin(), table.merges.end()));
  }
  for (const auto& [key, id] :
       {std::pair("bos_token_id", table.bos), std::pair("eos_token_id", table.eos),
        std::pair("unknown_token_id", table.unknown),
        std::pair("seperator_token_id", table.separator)}) {
    if (id) set(key, *id);
  }
  for (const auto& [key, flag] :
       {std::pair("add_bos_token", table.add_bos), std::pair("add_eos_token", table.add_eos),
        std::pair("add_sep_token", table.add_sep),
        std::pair("add_space_prefix", table.add_space_prefix),
        std::pair("remove_extra_whitespaces", table.remove_extra_whitespaces)}) {
    if (flag) set(key, *flag);
  }
  if (!table.precompiled_charsmap.empty()) {
    Metadata::Array bytes;
    for (const char c : table.precompiled_charsmap) {
      bytes.emplace_back(static_cast<int>(static_cast<unsigned char>(c)));
    }
    set("precompiled_charsmap", std::move(bytes));
  }
}

}  // namespace

Result<void> export_gguf_tokenizer(const Checkpoint& checkpoint, const Metadata& config, Index rows,
                                   ConfigObject& metadata) {
  const auto set = [&](const char* key, Metadata value) {
    metadata.set(fmt::format("tokenizer.ggml.{}", key), std::move(value));
  };
  if (checkpoint.token_table != nullptr) {
    export_table(*checkpoint.token_table, rows, metadata);
    add_chat_template(checkpoint, metadata);
    return {};
  }
  if (!checkpoint.sentencepiece.empty()) {
    KRAIT_ASSIGN_OR_RETURN(SentencePieceOptions options, sentencepiece_options(checkpoint));
    std::erase_if(options.added, [&](const AddedPiece& token) { return token.id >= rows; });
    KRAIT_ASSIGN_OR_RETURN(const TokenTable table,
                           sentencepiece_table(checkpoint.sentencepiece, options));
    KRAIT_RETURN_IF_ERROR(check_rows(table, rows));
    export_table(table, rows, metadata);
    add_chat_template(checkpoint, metadata);
    return {};
  }
  if (checkpoint.tokenizer.empty()) {
    set("model", std::string("no_vocab"));
    return {};
  }
  KRAIT_ASSIGN_OR_RETURN(const Metadata tokenizer,
                         parse_json(checkpoint.tokenizer, "tokenizer.json", JsonWords::none));
  if (has_scored_pairs(tokenizer)) {
    KRAIT_ASSIGN_OR_RETURN(TokenTable table, scored_table_of(tokenizer, rows));
    KRAIT_ASSIGN_OR_RETURN(const Ends ends, Ends::read(checkpoint.tokenizer));
    table.bos = ends.begin ? ends.begin : token_of(config, "bos_token_id");
    table.eos = ends.end ? ends.end : token_of(config, "eos_token_id");
    table.add_bos = ends.begin.has_value();
    table.add_eos = ends.end.has_value();
    export_table(table, rows, metadata);
    add_chat_template(checkpoint, metadata);
    return {};
  }
  KRAIT_RETURN_IF_ERROR(check_kind(tokenizer));
  KRAIT_ASSIGN_OR_RETURN(const std::string_view kind, pre_kind(tokenizer));
  Vocabulary vocabulary;
  KRAIT_RETURN_IF_ERROR(vocabulary.read(tokenizer, rows));
  Metadata::Array merges;
  const Metadata& list = tokenizer["model"]["merges"];
  for (std::size_t i = 0; i < list.size(); ++i) merges.emplace_back(merge_text(list[i]));
  KRAIT_ASSIGN_OR_RETURN(const Ends ends, Ends::read(checkpoint.tokenizer));
  const auto bos = ends.begin ? ends.begin : token_of(config, "bos_token_id");
  const auto eos = ends.end ? ends.end : token_of(config, "eos_token_id");
  set("model", std::string("gpt2"));
  set("pre", std::string(kind));
  set("tokens", std::move(vocabulary.tokens));
  set("token_type", std::move(vocabulary.types));
  set("merges", std::move(merges));
  if (bos) set("bos_token_id", *bos);
  if (eos) set("eos_token_id", *eos);
  set("add_bos_token", ends.begin.has_value());
  set("add_eos_token", ends.end.has_value());
  add_chat_template(checkpoint, metadata);
  return {};
}

}  // namespace v0_1
}  // namespace krait
