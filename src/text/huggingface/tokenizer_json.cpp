#include <fmt/format.h>

#include <algorithm>
#include <optional>
#include <span>
#include <utility>

#include "io/json.hpp"
#include "text/bpe/bpe_tokenizer.hpp"
#include "text/bpe/byte_alphabet.hpp"
#include "text/huggingface/fields.hpp"

// Reads tokenizer.json. Nothing in it is trusted: every type and every id is checked.
namespace krait {
inline namespace v0_1 {
namespace {

using fields::describe;
using fields::mismatch;

constexpr Index max_vocab = Index{1} << 24;
constexpr std::size_t max_added_bytes = 1024;
constexpr std::size_t max_normalized_bytes = 16 * max_added_bytes;  // of an added token

// What the ids of the vocabulary are made from, before they are checked as a whole.
struct Entry {
  const std::string* written = nullptr;  // key of the vocabulary, or an added token's content
  bool is_of_model = false;
};

struct WrittenOf {
  std::span<const Entry> entries;
  std::string_view operator()(Token id) const {
    return *entries[static_cast<std::size_t>(id)].written;
  }
};

class Reader {
 public:
  explicit Reader(const Metadata& file) : file_(file), model_(file["model"]) {}

  Result<BpeParts> run() {
    KRAIT_RETURN_IF_ERROR(check_model());
    KRAIT_RETURN_IF_ERROR(check_decoder(file_["decoder"], "decoder"));
    KRAIT_ASSIGN_OR_RETURN(parts_.normalizer, Normalizer::read(file_["normalizer"]));
    KRAIT_ASSIGN_OR_RETURN(parts_.pre_tokenizer, PreTokenizer::read(file_["pre_tokenizer"]));
    KRAIT_RETURN_IF_ERROR(read_vocab());
    KRAIT_RETURN_IF_ERROR(read_added_tokens());
    KRAIT_RETURN_IF_ERROR(store_bytes());
    KRAIT_RETURN_IF_ERROR(read_merges());
    KRAIT_RETURN_IF_ERROR(make_matchers());
    KRAIT_ASSIGN_OR_RETURN(
        parts_.ends,
        read_post_processor(file_["post_processor"], static_cast<Index>(parts_.bytes.size())));
    return std::move(parts_);
  }

 private:
  static constexpr const char* vocab_name = "model.vocab";

  Result<void> check_model() {
    if (file_.object() == nullptr) {
      return mismatch(ErrorCode::bad_format, "file", "an object", describe(file_));
    }
    if (model_.object() == nullptr) {
      return mismatch(ErrorCode::bad_format, "model", "an object", describe(model_));
    }
    // Files from before 2021 do not name the type; what they hold shows it.
    const Metadata& type = model_["type"];
    const bool is_old = type.is_null() && model_["merges"].array() != nullptr;
    if (!is_old && !type.is("BPE")) {
      return mismatch(ErrorCode::unsupported, "model.type", "\"BPE\"", describe(type));
    }
    // An unknown-token is allowed: every byte has a token, so it never comes up.
    const Metadata& dropout = model_["dropout"];
    if (!dropout.is_null() && dropout.number() != 0.0) {
      return mismatch(ErrorCode::unsupported, "model.dropout", "null", describe(dropout));
    }
    for (const char* name : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      const Metadata& value = model_[name];
      if (!value.is_null() && !value.is("")) {
        return mismatch(ErrorCode::unsupported, fmt::format("model.{}", name), "null",
                        describe(value));
      }
    }
    KRAIT_ASSIGN_OR_RETURN(const bool byte_fallback,
                           fields::boolean(model_, "byte_fallback", "model", false));
    if (byte_fallback) {
      return mismatch(ErrorCode::unsupported, "model.byte_fallback", "false", "true");
    }
    KRAIT_ASSIGN_OR_RETURN(parts_.ignores_merges,
                           fields::boolean(model_, "ignore_merges", "model", false));
    return {};
  }

  Result<void> check_decoder(const Metadata& decoder, const std::string& where) {
    if (decoder.is_null()) return {};
    KRAIT_ASSIGN_OR_RETURN(const std::string_view type, fields::string(decoder, "type", where));
    if (type == "ByteLevel") return {};
    const Metadata& list = decoder["decoders"];
    if (type != "Sequence" || list.array() == nullptr) {
      return mismatch(ErrorCode::unsupported, where + ".type", "ByteLevel",
                      describe(decoder["type"]));
    }
    for (std::size_t i = 0; i < list.size(); ++i) {
      KRAIT_RETURN_IF_ERROR(check_decoder(list[i], fmt::format("{}.decoders[{}]", where, i)));
    }
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

  // Ids may leave gaps, but not so many that a small file takes much memory.
  Result<void> check_density(Token largest, std::size_t count, const char* where) {
    const std::size_t most = 2 * count + 4096;
    if (largest >= 0 && static_cast<std::size_t>(largest) >= most) {
      return mismatch(ErrorCode::bad_format, where,
                      fmt::format("ids below {} for {} tokens", most, count),
                      fmt::format("{}", largest));
    }
    return {};
  }

  Result<void> read_vocab() {
    const Metadata& vocab = model_["vocab"];
    if (vocab.object() == nullptr) {
      return mismatch(ErrorCode::bad_format, vocab_name, "an object", describe(vocab));
    }
    std::vector<std::pair<Token, const std::string*>> items;
    items.reserve(vocab.size());
    Token largest = -1;
    for (const auto& [key, value] : *vocab.object()) {
      const auto id = id_of(value);
      if (!id) return wrong_id(value, fmt::format("{}[{}]", vocab_name, describe(key)));
      items.emplace_back(*id, &key);
      largest = std::max(largest, *id);
    }
    KRAIT_RETURN_IF_ERROR(check_density(largest, items.size(), vocab_name));
    entries_.resize(static_cast<std::size_t>(largest + 1));
    index_ = TokenIndex(items.size());
    for (const auto& [id, written] : items) {
      Entry& entry = entries_[static_cast<std::size_t>(id)];
      if (entry.written != nullptr) {
        return mismatch(
            ErrorCode::bad_format, vocab_name, "every id once",
            fmt::format("{} for {} and {}", id, describe(*entry.written), describe(*written)));
      }
      entry = {written, true};
      index_.insert(id, written_of());
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
    Token largest = static_cast<Token>(entries_.size()) - 1;
    for (AddedToken& token : added_) {
      // What the vocabulary calls a token comes before what the list says, as in `tokenizers`.
      if (const auto of_model = index_.find(token.content, written_of())) token.id = *of_model;
      largest = std::max(largest, token.id);
    }
    KRAIT_RETURN_IF_ERROR(
        check_density(largest, model_["vocab"].size() + added_.size(), "added_tokens"));
    entries_.resize(static_cast<std::size_t>(largest + 1));
    for (std::size_t i = 0; i < added_.size(); ++i) {
      KRAIT_RETURN_IF_ERROR(enter(added_[i], fmt::format("added_tokens[{}]", i)));
    }
    return {};
  }

  Result<void> read_added_token(const Metadata& item, const std::string& where) {
    AddedToken token;
    KRAIT_ASSIGN_OR_RETURN(token.content, fields::string(item, "content", where));
    if (token.content.empty() || token.content.size() > max_added_bytes) {
      return mismatch(ErrorCode::unsupported, where + ".content",
                      fmt::format("1 to {} bytes", max_added_bytes),
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
    added_.push_back(std::move(token));
    return {};
  }

  // Gives an added token its id, which it may share with the same token of the model only.
  Result<void> enter(const AddedToken& token, const std::string& where) {
    Entry& entry = entries_[static_cast<std::size_t>(token.id)];
    if (entry.written != nullptr && (*entry.written != token.content || !entry.is_of_model)) {
      return mismatch(ErrorCode::bad_format, where + ".id", "an id no other token has",
                      fmt::format("{}, of {}", token.id, describe(*entry.written)));
    }
    if (entry.written == nullptr) entry = {&token.content, false};
    if (token.is_special) parts_.special.push_back(token.id);
    return {};
  }

  Result<void> store_bytes() {
    std::size_t of_model = 0;
    for (const Entry& entry : entries_) of_model += entry.is_of_model ? 1U : 0U;
    parts_.by_bytes = TokenIndex(of_model);
    const auto bytes_of = [this](Token id) { return parts_.bytes[id]; };
    std::string bytes;
    for (const Entry& entry : entries_) {
      bytes.clear();
      // A key with characters outside the byte alphabet is its own text; no merges lead to it.
      const bool is_written_in_bytes =
          entry.is_of_model && byte_alphabet::append_bytes(bytes, *entry.written);
      if (entry.written != nullptr && !is_written_in_bytes) bytes = *entry.written;
      parts_.bytes.append(bytes);
      if (is_written_in_bytes && !bytes.empty()) {
        parts_.by_bytes.insert(static_cast<Token>(parts_.bytes.size()) - 1, bytes_of);
      }
    }
    return {};
  }

  Result<void> read_merges() {
    const Metadata& merges = model_["merges"];
    if (merges.array() == nullptr) {
      return mismatch(ErrorCode::bad_format, "model.merges", "an array", describe(merges));
    }
    parts_.pairs = BytePairs(merges.size());
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(static_cast<unsigned char>(byte));
      const auto token = parts_.by_bytes.find({&c, 1}, [&](Token id) { return parts_.bytes[id]; });
      // These bytes are in no UTF-8, and some vocabularies leave them out.
      const bool can_occur = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
      if (!token && can_occur) {
        return mismatch(ErrorCode::bad_format, vocab_name, "a token for every byte",
                        fmt::format("none for 0x{:02x}", byte));
      }
      parts_.pairs.set_byte(static_cast<unsigned char>(byte), token.value_or(0));
    }
    for (std::size_t i = 0; i < merges.size(); ++i) {
      KRAIT_RETURN_IF_ERROR(read_merge(merges[i], i));
    }
    return {};
  }

  Result<void> read_merge(const Metadata& merge, std::size_t rank) {
    std::string_view left;
    std::string_view right;
    if (merge.text() != nullptr) {
      const std::string_view both = *merge.text();
      const std::size_t space = both.find(' ');
      left = both.substr(0, space);
      right = space == std::string_view::npos ? std::string_view{} : both.substr(space + 1);
    } else if (merge.size() == 2 && merge[0].text() != nullptr && merge[1].text() != nullptr) {
      left = *merge[0].text();
      right = *merge[1].text();
    }
    if (left.empty() || right.empty()) {
      return mismatch(ErrorCode::bad_format, fmt::format("model.merges[{}]", rank), "two tokens",
                      describe(merge));
    }
    joined_.assign(left).append(right);
    Token ids[3] = {};
    const std::string_view texts[3] = {left, right, joined_};
    for (int i = 0; i < 3; ++i) {
      const auto id = index_.find(texts[i], written_of());
      if (!id) {
        return mismatch(ErrorCode::bad_format, fmt::format("model.merges[{}]", rank),
                        fmt::format("tokens of {}", vocab_name), describe(std::string(texts[i])));
      }
      ids[i] = *id;
    }
    parts_.pairs.add_merge(ids[0], ids[1], static_cast<std::uint32_t>(rank), ids[2]);
    return {};
  }

  Result<void> make_matchers() {
    std::sort(parts_.special.begin(), parts_.special.end());
    // Special tokens come first: of two with the same text the first one is found.
    std::stable_partition(added_.begin(), added_.end(),
                          [](const AddedToken& token) { return token.is_special; });
    std::vector<AddedToken> raw;
    std::vector<AddedToken> normalized;
    std::string storage;
    for (const AddedToken& token : added_) {
      if (!token.is_normalized) {
        raw.push_back(token);
        continue;
      }
      KRAIT_ASSIGN_OR_RETURN(const std::string_view content,
                             parts_.normalizer.apply(token.content, max_normalized_bytes, storage));
      normalized.push_back(token);
      normalized.back().content = content;
    }
    const auto plain = [](std::vector<AddedToken> tokens) {
      std::erase_if(tokens, [](const AddedToken& token) { return token.is_special; });
      return AddedTokenMatcher(std::move(tokens));
    };
    parts_.raw_plain_matcher = plain(raw);
    parts_.normalized_plain_matcher = plain(normalized);
    parts_.raw_matcher = AddedTokenMatcher(std::move(raw));
    parts_.normalized_matcher = AddedTokenMatcher(std::move(normalized));
    parts_.added = std::move(added_);
    std::sort(parts_.added.begin(), parts_.added.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
    return {};
  }

  WrittenOf written_of() const { return {entries_}; }

  const Metadata& file_;
  const Metadata& model_;
  BpeParts parts_;
  std::vector<Entry> entries_;  // by id
  TokenIndex index_;            // by key of the vocabulary
  std::vector<AddedToken> added_;
  std::string joined_;
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
  KRAIT_ASSIGN_OR_RETURN(BpeParts parts, Reader(*file).run());
  return std::shared_ptr<const Tokenizer>(std::make_shared<const BpeTokenizer>(std::move(parts)));
}

}  // namespace v0_1
}  // namespace krait
