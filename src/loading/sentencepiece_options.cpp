#include "loading/sentencepiece_options.hpp"

#include <fmt/format.h>

#include <charconv>
#include <limits>
#include <map>
#include <set>

#include "io/json.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using AddedPieces = std::map<Token, AddedPiece>;

Error wrong_added(std::string_view file, std::string_view expected, const Metadata& found) {
  return {ErrorCode::bad_config,
          fmt::format("[tokenizer] {}: expected {}, found {}", file, expected, json_text(found))};
}

// The texts of special_tokens_map.json: each alone, as an object with it, or in a list.
void collect_special(const Metadata& value, std::set<std::string>& texts) {
  if (value.text() != nullptr) texts.insert(*value.text());
  if (value["content"].text() != nullptr) texts.insert(*value["content"].text());
  if (value.array() == nullptr) return;
  for (const Metadata& item : *value.array()) {
    const Metadata& content = item.object() != nullptr ? item["content"] : item;
    if (content.text() != nullptr) texts.insert(*content.text());
  }
}

// added_tokens.json has ids by texts.
Result<void> read_added_tokens(const Checkpoint& checkpoint, AddedPieces& added) {
  if (checkpoint.added_tokens.empty()) return {};
  constexpr const char* file = "added_tokens.json";
  KRAIT_ASSIGN_OR_RETURN(const Metadata ids, parse_json(checkpoint.added_tokens, file));
  std::set<std::string> special;
  if (!checkpoint.special_tokens.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const Metadata marks,
                           parse_json(checkpoint.special_tokens, "special_tokens_map.json"));
    if (marks.object() != nullptr) {
      for (const auto& [key, value] : *marks.object()) collect_special(value, special);
    }
  }
  if (ids.object() == nullptr) return wrong_added(file, "ids of texts", ids);
  for (const auto& [text, id] : *ids.object()) {
    const auto number = id.whole();
    if (!number || *number > std::numeric_limits<Token>::max() || text.empty()) {
      return wrong_added(file, "ids of texts", id);
    }
    const auto token = static_cast<Token>(*number);
    added[token] = {token, text, special.contains(text)};
  }
  return {};
}

// `added_tokens_decoder` of tokenizer_config.json has objects by ids.
Result<void> read_added_decoder(const Metadata& config, AddedPieces& added) {
  const Metadata& entries = config["added_tokens_decoder"];
  const auto wrong = [](const Metadata& found) {
    return wrong_added("added_tokens_decoder", "tokens with a content, by ids", found);
  };
  if (entries.is_null()) return {};
  if (entries.object() == nullptr) return wrong(entries);
  for (const auto& [key, value] : *entries.object()) {
    Token id = 0;
    const char* const end = key.data() + key.size();
    const auto [rest, error] = std::from_chars(key.data(), end, id);
    const std::string* text = value["content"].text();
    if (error != std::errc() || rest != end || id < 0) return wrong(Metadata(key));
    if (text == nullptr || text->empty()) return wrong(value);
    added[id] = {id, *text, value["special"].boolean().value_or(false)};
  }
  return {};
}

}  // namespace

Result<SentencePieceOptions> sentencepiece_options(const Checkpoint& checkpoint) {
  SentencePieceOptions options;
  AddedPieces added;
  KRAIT_RETURN_IF_ERROR(read_added_tokens(checkpoint, added));
  if (!checkpoint.tokenizer_config.empty()) {
    KRAIT_ASSIGN_OR_RETURN(const Metadata config,
                           parse_json(checkpoint.tokenizer_config, "tokenizer_config.json"));
    options.add_bos = config["add_bos_token"].boolean().value_or(options.add_bos);
    options.add_eos = config["add_eos_token"].boolean().value_or(options.add_eos);
    KRAIT_RETURN_IF_ERROR(read_added_decoder(config, added));
  }
  for (auto& [id, piece] : added) options.added.push_back(std::move(piece));
  return options;
}

}  // namespace v0_1
}  // namespace krait
