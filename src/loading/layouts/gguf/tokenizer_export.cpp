// The keys of a GGUF file's vocabulary from the files of a tokenizer.

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <map>

#include "io/json.hpp"
#include "krait/io/printable.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/text/token_table.hpp"
#include "loading/layouts/gguf/export.hpp"
#include "loading/layouts/gguf/gguf.hpp"
#include "loading/layouts/gguf/pre_kinds.hpp"
#include "loading/layouts/gguf/scored_table.hpp"
#include "loading/sentencepiece_options.hpp"
#include "text/gguf/pre_tokenizers.hpp"
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
    if (pre_tokenizer_flags(kind.name).ignores_merges != ignores) continue;
    if (steps.size() != list.size()) continue;
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

// The tokens of a byte-level tokenizer.json.
class ByteLevelTable {
 public:
  explicit ByteLevelTable(Index rows) {
    for (Index id = 0; id < rows; ++id) {
      table_.tokens.push_back(fmt::format("[PAD{}]", id));
      table_.types.push_back(static_cast<std::int32_t>(GgufTokenType::unused));
    }
  }

  Result<TokenTable> make(const Metadata& tokenizer) {
    KRAIT_RETURN_IF_ERROR(check_kind(tokenizer));
    KRAIT_ASSIGN_OR_RETURN(table_.pre, pre_kind(tokenizer));
    table_.model = "gpt2";
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
    const Metadata& merges = tokenizer["model"]["merges"];
    for (std::size_t i = 0; i < merges.size(); ++i) table_.merges.push_back(merge_text(merges[i]));
    return std::move(table_);
  }

 private:
  Result<void> set(const Metadata& id, const std::string& text, GgufTokenType type) {
    const auto number = id.whole();
    if (!number || *number >= table_.tokens.size()) {
      return fail_export("ids",
                         fmt::format("ids below {}, the rows of the model", table_.tokens.size()),
                         json_text(id));
    }
    table_.tokens[static_cast<std::size_t>(*number)] = text;
    table_.types[static_cast<std::size_t>(*number)] = static_cast<std::int32_t>(type);
    return {};
  }

  TokenTable table_;
};

// What the tokenizer puts around a text: at most one mark before it and one behind.
Result<void> read_ends(const Tokenizer& tokenizer, TokenTable& table) {
  KRAIT_ASSIGN_OR_RETURN(const auto plain, tokenizer.encode("a"));
  KRAIT_ASSIGN_OR_RETURN(const auto marked, tokenizer.encode("a", {.add_special = true}));
  const auto place = std::search(marked.begin(), marked.end(), plain.begin(), plain.end());
  const auto before = place - marked.begin();
  const auto after = std::ssize(marked) - before - std::ssize(plain);
  if (before > 1 || after > 1) {
    return fail_export("post_processor", "at most one token before and after a text",
                       fmt::format("{} and {}", before, after));
  }
  table.add_bos = before == 1;
  table.add_eos = after == 1;
  if (before == 1) table.bos = marked.front();
  if (after == 1) table.eos = marked.back();
  return {};
}

Result<void> check_rows(const TokenTable& table, Index rows) {
  if (std::ssize(table.tokens) <= rows) return {};
  return fail_export("tokens", fmt::format("at most {}, the rows of the model", rows),
                     fmt::to_string(table.tokens.size()));
}

// Marks that nothing puts around texts. llama.cpp knows three tokens that end one.
void set_marks(const TextMarks& marks, Index rows, TokenTable& table) {
  if (!table.add_bos.value_or(false) && marks.bos && *marks.bos < rows) table.bos = marks.bos;
  const bool is_added = table.add_eos.value_or(false);
  std::vector<Token> ends;
  if (is_added && table.eos) ends.push_back(*table.eos);
  std::ranges::copy_if(marks.ends, std::back_inserter(ends),
                       [&](Token id) { return id < rows && !(is_added && table.eos == id); });
  if (!ends.empty()) table.eos = ends[0];
  if (ends.size() > 1) table.more_marks.emplace_back("eot", ends[1]);
  if (ends.size() > 2) table.more_marks.emplace_back("eom", ends[2]);
}

// The table of a checkpoint that is no GGUF file.
Result<TokenTable> make_table(const Checkpoint& checkpoint, Index rows) {
  TokenTable table;
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!checkpoint.sentencepiece.empty()) {
    KRAIT_ASSIGN_OR_RETURN(SentencePieceOptions options, sentencepiece_options(checkpoint));
    std::erase_if(options.added, [&](const auto& token) { return token.id >= rows; });
    KRAIT_ASSIGN_OR_RETURN(table, sentencepiece_table(checkpoint.sentencepiece, options));
    KRAIT_RETURN_IF_ERROR(check_rows(table, rows));
    KRAIT_ASSIGN_OR_RETURN(tokenizer, read_sentencepiece(checkpoint.sentencepiece, options));
  } else {
    KRAIT_ASSIGN_OR_RETURN(const Metadata json,
                           parse_json(checkpoint.tokenizer, "tokenizer.json", JsonWords::none));
    if (has_scored_pairs(json)) {
      KRAIT_ASSIGN_OR_RETURN(table, scored_table_of(json, rows));
    } else {
      KRAIT_ASSIGN_OR_RETURN(table, ByteLevelTable(rows).make(json));
    }
    KRAIT_ASSIGN_OR_RETURN(tokenizer, read_tokenizer_json(checkpoint.tokenizer));
    KRAIT_RETURN_IF_ERROR(read_ends(*tokenizer, table));
  }
  KRAIT_ASSIGN_OR_RETURN(const TextMarks marks, read_text_marks(checkpoint, *tokenizer));
  set_marks(marks, rows, table);
  return table;
}

// As gguf-py writes them: the others have their names in the keys, and in a list.
Result<void> export_chat_templates(const Checkpoint& checkpoint, ConfigObject& metadata) {
  const ChatTemplates templates = read_chat_templates(checkpoint);
  if (templates.problem) return *templates.problem;
  std::map<std::string, std::string> others;
  for (const NamedText& source : templates.sources) {
    const std::string name = gguf_template_name(source.name);
    if (name == "default") {
      metadata.set("tokenizer.chat_template", source.text);
    } else if (!name.empty()) {
      others.try_emplace(name, source.text);
    }
  }
  Metadata::Array names;
  for (const auto& [name, text] : others) {
    metadata.set("tokenizer.chat_template." + name, text);
    names.emplace_back(name);
  }
  if (!names.empty()) metadata.set("tokenizer.chat_templates", std::move(names));
  return {};
}

// The keys of a table.
void export_table(const TokenTable& table, Index rows, ConfigObject& metadata) {
  const auto set = [&](std::string_view key, Metadata value) {
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
  if (!table.merges.empty() || table.model == "gpt2") {  // which llama.cpp asks for there
    set("merges", Metadata::Array(table.merges.begin(), table.merges.end()));
  }
  for (const auto& [key, id] :
       {std::pair("bos_token_id", table.bos), std::pair("eos_token_id", table.eos),
        std::pair("unknown_token_id", table.unknown),
        std::pair("seperator_token_id", table.separator)}) {
    if (id) set(key, *id);
  }
  for (const auto& [name, id] : table.more_marks) {
    set(fmt::format("{}_token_id", name), id);
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

Result<void> export_gguf_tokenizer(const Checkpoint& checkpoint, Index rows,
                                   ConfigObject& metadata) {
  if (checkpoint.token_table != nullptr) {
    export_table(*checkpoint.token_table, rows, metadata);
  } else if (checkpoint.sentencepiece.empty() && checkpoint.tokenizer.empty()) {
    metadata.set("tokenizer.ggml.model", std::string("no_vocab"));
    return {};
  } else {
    KRAIT_ASSIGN_OR_RETURN(const TokenTable table, make_table(checkpoint, rows));
    export_table(table, rows, metadata);
  }
  return export_chat_templates(checkpoint, metadata);
}

}  // namespace v0_1
}  // namespace krait
