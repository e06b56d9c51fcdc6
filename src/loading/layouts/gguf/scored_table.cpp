#include "loading/layouts/gguf/scored_table.hpp"

#include <fmt/format.h>

#include <map>
#include <set>

#include "io/json.hpp"
#include "krait/io/printable.hpp"
#include "loading/layouts/gguf/pre_kinds.hpp"
#include "text/huggingface/fields.hpp"
#include "text/stages/decoder.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view space_mark = "\xE2\x96\x81";

Error unlike(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::unsupported, fmt::format("[convert] tokenizer.json {}: expected {}, found {}",
                                              what, expected, printable(found))};
}

// Whether a text is the name of a byte, such as "<0x0A>".
bool is_byte_name(std::string_view text) {
  const auto byte = byte_of_token(text);
  return byte && text == fmt::format("<0x{:02X}>", *byte);
}

bool replaces_spaces(const Metadata& step) {
  return step["type"].is("Replace") && step["pattern"]["String"].is(" ") &&
         step["content"].is(space_mark);
}

// Whether a space goes before a text; an error where texts are changed in another way.
Result<bool> puts_space(const Metadata& tokenizer) {
  const Metadata& normalizer = tokenizer["normalizer"];
  const Metadata& pre = tokenizer["pre_tokenizer"];
  if (pre.is_null()) {
    const Metadata& steps = normalizer["normalizers"];
    if (replaces_spaces(normalizer)) return false;
    if (normalizer["type"].is("Sequence") && steps.size() == 2 && steps[0]["type"].is("Prepend") &&
        steps[0]["prepend"].is(space_mark) && replaces_spaces(steps[1])) {
      return true;
    }
    return unlike("normalizer", "a mark in front, and marks for spaces", json_text(normalizer));
  }
  const bool is_whole = normalizer.is_null() && pre["type"].is("Metaspace") &&
                        pre["split"].boolean() == false && pre["replacement"].is(space_mark);
  if (!is_whole) {
    return unlike("pre_tokenizer", "none, or Metaspace that does not split, and no normalizer",
                  json_text(pre));
  }
  return !pre["prepend_scheme"].is("never");
}

// Ids and texts, and how the merges make them.
class ScoredTable {
 public:
  explicit ScoredTable(Index rows) : rows_(rows) {}

  Result<TokenTable> make(const Metadata& tokenizer) {
    KRAIT_RETURN_IF_ERROR(read_tokens(tokenizer));
    KRAIT_RETURN_IF_ERROR(read_merges(tokenizer["model"]["merges"]));
    KRAIT_RETURN_IF_ERROR(check_splits());
    KRAIT_ASSIGN_OR_RETURN(table_.add_space_prefix, puts_space(tokenizer));
    table_.model = "llama";
    table_.pre = "default";
    return std::move(table_);
  }

 private:
  Result<void> read_tokens(const Metadata& tokenizer) {
    const Metadata& vocab = tokenizer["model"]["vocab"];
    if (vocab.object() == nullptr) return unlike("model.vocab", "an object", json_text(vocab));
    for (const auto& [text, id] : *vocab.object()) {
      const GgufTokenType type = tokenizer["model"]["unk_token"].is(text) ? GgufTokenType::unknown
                                 : is_byte_name(text)                     ? GgufTokenType::byte
                                                                          : GgufTokenType::normal;
      KRAIT_RETURN_IF_ERROR(set(id, text, type));
      ids_.emplace(text, static_cast<std::size_t>(*id.whole()));
    }
    const Metadata& added = tokenizer["added_tokens"];
    for (std::size_t i = 0; i < added.size(); ++i) {
      const std::string* text = added[i]["content"].text();
      if (text == nullptr) return unlike("added_tokens", "texts", json_text(added[i]));
      if (tokenizer["model"]["unk_token"].is(*text)) continue;
      const bool is_special = added[i]["special"].boolean().value_or(false);
      KRAIT_RETURN_IF_ERROR(set(added[i]["id"], *text,
                                is_special ? GgufTokenType::control : GgufTokenType::user_defined));
    }
    return {};
  }

  Result<void> set(const Metadata& id, const std::string& text, GgufTokenType type) {
    const auto number = id.whole();
    if (!number || *number >= static_cast<std::uint64_t>(rows_)) {
      return unlike("ids", fmt::format("ids below {}, the rows of the model", rows_),
                    json_text(id));
    }
    const auto place = static_cast<std::size_t>(*number);
    for (std::size_t i = table_.tokens.size(); i <= place; ++i) {
      table_.tokens.push_back(fmt::format("[PAD{}]", i));
      table_.types.push_back(static_cast<std::int32_t>(GgufTokenType::unused));
      table_.scores.push_back(0.0F);
    }
    table_.tokens[place] = text;
    table_.types[place] = static_cast<std::int32_t>(type);
    if (type == GgufTokenType::unknown) table_.unknown = static_cast<Token>(place);
    return {};
  }

  // The score of a token is minus the number of those that are merged before it.
  Result<void> read_merges(const Metadata& merges) {
    std::set<std::string, std::less<>> made;
    std::string last;
    for (std::size_t i = 0; i < merges.size(); ++i) {
      KRAIT_ASSIGN_OR_RETURN(auto pair, pair_of(merges[i]));
      const std::string whole = pair.first + pair.second;
      const auto id = ids_.find(whole);
      if (id == ids_.end()) return unlike("model.merges", "merges that make tokens", whole);
      if (whole != last && !made.insert(whole).second) {
        return unlike("model.merges", "those of a token one after another", whole);
      }
      last = whole;
      table_.scores[id->second] = -static_cast<float>(made.size());
      pairs_.insert(std::move(pair));
    }
    return {};
  }

  static Result<std::pair<std::string, std::string>> pair_of(const Metadata& merge) {
    if (const auto pair = fields::merge(merge)) {
      return std::pair(std::string(pair->first), std::string(pair->second));
    }
    return unlike("model.merges", "pairs of texts", json_text(merge));
  }

  // Of tokens that texts reach, every two that make them.
  Result<void> check_splits() const {
    for (const auto& [text, id] : ids_) {
      if (table_.types[id] != static_cast<std::int32_t>(GgufTokenType::normal)) continue;
      for (std::size_t cut = 1; cut < text.size(); ++cut) {
        const auto left = ids_.find(std::string_view(text).substr(0, cut));
        const auto right = ids_.find(std::string_view(text).substr(cut));
        if (left == ids_.end() || right == ids_.end()) continue;
        if (pairs_.contains({left->first, right->first})) continue;
        return unlike("model.merges", "all pairs that make a token, as SentencePiece has them",
                      fmt::format("no {} {}", left->first, right->first));
      }
    }
    return {};
  }

  Index rows_;
  TokenTable table_;
  std::map<std::string, std::size_t, std::less<>> ids_;
  std::set<std::pair<std::string, std::string>> pairs_;
};

}  // namespace

bool has_scored_pairs(const Metadata& tokenizer) {
  const Metadata& model = tokenizer["model"];
  return model["byte_fallback"].boolean().value_or(false) &&
         (model["type"].is("BPE") || model["type"].is_null());
}

Result<TokenTable> scored_table_of(const Metadata& tokenizer, Index rows) {
  const Metadata& model = tokenizer["model"];
  if (model["ignore_merges"].boolean().value_or(false)) {
    return unlike("model.ignore_merges", "false", "true");
  }
  return ScoredTable(rows).make(tokenizer);
}

}  // namespace v0_1
}  // namespace krait
