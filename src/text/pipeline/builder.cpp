#include "text/pipeline/builder.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "io/json.hpp"
#include "text/huggingface/fields.hpp"
#include "text/models/byte_pair_model.hpp"
#include "text/models/scored_pairs.hpp"
#include "text/models/word_piece.hpp"
#include "text/pipeline/byte_alphabet.hpp"

// Nothing in a tokenizer file is trusted: every id is checked.
namespace krait {
inline namespace v0_1 {
namespace {

using fields::mismatch;

constexpr std::size_t max_normalized_bytes = 16 * max_token_bytes;  // of an added token
constexpr std::size_t max_vocab_bytes = std::size_t{1} << 28;
constexpr std::string_view mark = "\xE2\x96\x81";

std::string quoted(std::string_view text) { return json_text(std::string(text)); }

// What has an id.
struct Entry {
  std::string_view content;
  bool is_there = false;
  bool is_of_model = false;
};

class Builder {
 public:
  explicit Builder(PipelineSource source)
      : source_(std::move(source)), parts_(std::make_unique<PipelineParts>()) {}

  Result<std::unique_ptr<PipelineParts>> run() {
    parts_->normalizer = std::move(source_.normalizer);
    parts_->pre_tokenizer = std::move(source_.pre_tokenizer);
    parts_->decoder = std::move(source_.decoder);
    KRAIT_RETURN_IF_ERROR(enter_vocab());
    KRAIT_RETURN_IF_ERROR(enter_added_tokens());
    KRAIT_RETURN_IF_ERROR(store_bytes());
    KRAIT_RETURN_IF_ERROR(make_model());
    KRAIT_RETURN_IF_ERROR(make_matchers());
    return std::move(parts_);
  }

 private:
  using Kind = PipelineSource::Kind;

  // Ids may leave gaps, but not so many that a small file takes much memory.
  static Result<void> check_density(Token largest, std::size_t count, const char* where) {
    const std::size_t most = 2 * count + 4096;
    if (largest >= 0 && static_cast<std::size_t>(largest) >= most) {
      return mismatch(ErrorCode::bad_format, where,
                      fmt::format("ids below {} for {} tokens", most, count),
                      fmt::format("{}", largest));
    }
    return {};
  }

  Entry& entry_of(Token id) { return entries_[static_cast<std::size_t>(id)]; }

  Result<void> enter_vocab() {
    Token largest = -1;
    std::size_t bytes = 0;
    for (const auto& item : source_.items) {
      largest = std::max(largest, item.id);
      bytes += item.text.size();
    }
    if (bytes > max_vocab_bytes) {
      return mismatch(ErrorCode::unsupported, source_.vocab_name,
                      fmt::format("tokens of at most {} bytes in all", max_vocab_bytes),
                      fmt::format("{}", bytes));
    }
    KRAIT_RETURN_IF_ERROR(check_density(largest, source_.items.size(), source_.vocab_name));
    entries_.resize(static_cast<std::size_t>(largest + 1));
    index_ = TokenIndex(source_.items.size());
    for (const auto& item : source_.items) {
      Entry& entry = entry_of(item.id);
      if (entry.is_there) {
        return mismatch(
            ErrorCode::bad_format, source_.vocab_name, "every id once",
            fmt::format("{} for {} and {}", item.id, quoted(entry.content), quoted(item.text)));
      }
      entry = {item.text, true, true};
      index_.insert(item.id, content_of());
    }
    return {};
  }

  Result<void> enter_added_tokens() {
    Token largest = static_cast<Token>(entries_.size()) - 1;
    for (AddedToken& token : source_.added) {
      // What the vocabulary calls a token comes before what the list says, as in `tokenizers`.
      if (const auto of_model = index_.find(token.content, content_of())) token.id = *of_model;
      largest = std::max(largest, token.id);
    }
    KRAIT_RETURN_IF_ERROR(
        check_density(largest, source_.items.size() + source_.added.size(), "added_tokens"));
    entries_.resize(static_cast<std::size_t>(largest + 1));
    for (std::size_t i = 0; i < source_.added.size(); ++i) {
      KRAIT_RETURN_IF_ERROR(enter(source_.added[i], i));
    }
    special_.resize(entries_.size());
    for (const Token token : parts_->special) special_[static_cast<std::size_t>(token)] = true;
    return {};
  }

  // Gives an added token its id, which it may share with the same token of the model only.
  Result<void> enter(const AddedToken& token, std::size_t i) {
    Entry& entry = entry_of(token.id);
    if (entry.is_there && (entry.content != token.content || !entry.is_of_model)) {
      return mismatch(ErrorCode::bad_format, fmt::format("added_tokens[{}].id", i),
                      "an id no other token has",
                      fmt::format("{}, of {}", token.id, quoted(entry.content)));
    }
    if (!entry.is_there) entry = {token.content, true, false};
    if (token.is_special) parts_->special.push_back(token.id);
    return {};
  }

  // Pieces of text are bytes. Those without a token are left out, as in `tokenizers`, unless there
  // is a token for what is unknown.
  bool takes_bytes() const {
    if (source_.kind != Kind::byte_pairs || !parts_->pre_tokenizer.is_byte_level() ||
        parts_->normalizer.writes_bytes() || !parts_->decoder.gives_bytes() ||
        !source_.prefix.empty() || !source_.suffix.empty()) {
      return false;
    }
    if (!source_.unknown) return true;
    std::string written;
    for (unsigned byte = 0; byte < 256; ++byte) {
      // These bytes are in no UTF-8, and some vocabularies leave them out.
      if (byte == 0xC0 || byte == 0xC1 || byte >= 0xF5) continue;
      written.clear();
      const char c = static_cast<char>(static_cast<unsigned char>(byte));
      byte_alphabet::append_written(written, {&c, 1});
      if (!index_.find(written, content_of())) return false;
    }
    return true;
  }

  Result<void> store_bytes() {
    is_in_bytes_ = takes_bytes();
    if (!is_in_bytes_) parts_->pre_tokenizer.keep_written();
    std::vector<bool> is_found(entries_.size());
    std::string bytes;
    for (std::size_t i = 0; i < entries_.size(); ++i) {
      const Entry& entry = entries_[i];
      bytes.clear();
      if (!entry.is_of_model) {
        bytes = entry.content;
      } else if (is_in_bytes_) {
        // A content with characters outside the byte alphabet is its own text, to which no merges
        // lead.
        is_found[i] = byte_alphabet::append_bytes(bytes, entry.content);
        if (!is_found[i]) bytes = entry.content;
      } else {
        KRAIT_ASSIGN_OR_RETURN(bytes, parts_->decoder.inside(entry.content));
        is_found[i] = true;
      }
      is_found[i] = is_found[i] && !bytes.empty();
      parts_->bytes.append(bytes);
    }
    index_bytes(is_found);
    if (!is_in_bytes_) {
      for (const Entry& entry : entries_) parts_->contents.append(entry.content);
    }
    return {};
  }

  // Of tokens with equal bytes the first is found, and those of single bytes last.
  void index_bytes(const std::vector<bool>& is_found) {
    parts_->by_bytes = TokenIndex(source_.items.size());
    const auto bytes_of = [this](Token id) { return parts_->bytes[id]; };
    const bool has_bytes = parts_->decoder.has_bytes();
    for (const bool is_second : {false, true}) {
      if (is_second && !has_bytes) break;
      for (std::size_t i = 0; i < entries_.size(); ++i) {
        if (!is_found[i]) continue;
        if (has_bytes && byte_of_token(entries_[i].content).has_value() != is_second) continue;
        const auto id = static_cast<Token>(i);
        if (is_in_bytes_ || !parts_->by_bytes.find(parts_->bytes[id], bytes_of)) {
          parts_->by_bytes.insert(id, bytes_of);
        }
      }
    }
  }

  Result<void> make_model() {
    if (source_.unknown) source_.unknown_id = index_.find(*source_.unknown, content_of());
    switch (source_.kind) {
      case Kind::byte_pairs:
        return make_byte_pairs();
      case Kind::unigram:
        return make_unigram();
      case Kind::word_piece:
      case Kind::word_level:
        return make_word_piece();
      case Kind::scored_pairs:
        return make_scored_pairs();
    }
    return {};
  }

  // For models that look at the bytes of a text once for each byte of a token.
  Result<void> check_sizes() const {
    for (const auto& item : source_.items) {
      if (item.text.size() <= max_token_bytes) continue;
      return mismatch(ErrorCode::unsupported, fmt::format("{}[{}]", source_.vocab_name, item.id),
                      fmt::format("at most {} bytes", max_token_bytes),
                      fmt::format("{}", item.text.size()));
    }
    return {};
  }

  std::optional<ByteTokens> byte_tokens() const {
    if (!source_.falls_back_to_bytes) return std::nullopt;
    ByteTokens result;
    for (unsigned byte = 0; byte < 256; ++byte) {
      result[byte] = index_.find(fmt::format("<0x{:02X}>", byte), content_of()).value_or(-1);
    }
    return result;
  }

  TokenType type_of(Token id) const {
    return source_.types.empty() ? TokenType::normal : source_.types[static_cast<std::size_t>(id)];
  }

  double score_of(Token id) const {
    return source_.scores.empty() ? 0 : source_.scores[static_cast<std::size_t>(id)];
  }

  Result<void> make_byte_pairs() {
    BytePairParts model;
    model.ignores_merges = source_.ignores_merges;
    model.special = special_;
    model.pairs = BytePairs(source_.merges.size());
    bool makes_special = false;
    KRAIT_RETURN_IF_ERROR(add_merges(model.pairs, false, makes_special));
    if (makes_special) {
      model.plain_pairs = BytePairs(source_.merges.size());
      KRAIT_RETURN_IF_ERROR(add_merges(*model.plain_pairs, true, makes_special));
    }
    if (is_in_bytes_) {
      model.texts = &parts_->bytes;
      model.by_text = &parts_->by_bytes;
      set_bytes(model.pairs);
      if (model.plain_pairs) set_bytes(*model.plain_pairs);
      parts_->model = std::make_unique<BytePairModel>(std::move(model));
      return {};
    }
    parts_->by_content = index_;
    model.texts = &parts_->contents;
    model.by_text = &parts_->by_content;
    model.prefix = source_.prefix;
    model.suffix = source_.suffix;
    model.unknown = source_.unknown_id;
    model.fuses_unknown = source_.fuses_unknown;
    model.bytes = byte_tokens();
    if (source_.unknown && !source_.unknown_id) {
      return mismatch(ErrorCode::bad_format, "model.unk_token", "a token of model.vocab",
                      quoted(*source_.unknown));
    }
    parts_->cuts_at_marks =
        can_be_cut() && model.prefix.empty() && model.suffix.empty() && !source_.ignores_merges;
    parts_->model = std::make_unique<CharacterPairModel>(std::move(model));
    return {};
  }

  void set_bytes(BytePairs& pairs) const {
    for (unsigned byte = 0; byte < 256; ++byte) {
      const char c = static_cast<char>(static_cast<unsigned char>(byte));
      const auto token =
          parts_->by_bytes.find({&c, 1}, [&](Token id) { return parts_->bytes[id]; });
      const bool can_occur = byte != 0xC0 && byte != 0xC1 && byte < 0xF5;
      pairs.set_byte(static_cast<unsigned char>(byte),
                     token.value_or(can_occur ? BytePairs::no_token : 0));
    }
  }

  Result<void> add_merges(BytePairs& pairs, bool is_plain, bool& makes_special) const {
    std::string joined;
    for (std::size_t rank = 0; rank < source_.merges.size(); ++rank) {
      const auto& [left, right] = source_.merges[rank];
      if (right.size() < source_.prefix.size()) {
        return mismatch(ErrorCode::bad_format, fmt::format("{}[{}]", source_.merges_name, rank),
                        fmt::format("a token that begins with {}", quoted(source_.prefix)),
                        quoted(right));
      }
      joined.assign(left).append(right.substr(source_.prefix.size()));
      Token ids[3] = {};
      const std::string_view texts[3] = {left, right, joined};
      for (int i = 0; i < 3; ++i) {
        const auto id = index_.find(texts[i], content_of());
        if (!id) {
          return mismatch(ErrorCode::bad_format, fmt::format("{}[{}]", source_.merges_name, rank),
                          fmt::format("tokens of {}", source_.vocab_name), quoted(texts[i]));
        }
        ids[i] = *id;
      }
      if (is_in(special_, ids[2])) {
        makes_special = true;
        if (is_plain) continue;
      }
      pairs.add_merge(ids[0], ids[1], static_cast<std::uint32_t>(rank), ids[2]);
    }
    return {};
  }

  // Whether no token has a mark behind something else: then nothing is joined across.
  bool can_be_cut() const {
    if (!index_.find(mark, content_of())) return false;
    return std::none_of(source_.items.begin(), source_.items.end(), [](const auto& item) {
      std::string_view rest = item.text;
      while (rest.starts_with(mark)) rest.remove_prefix(mark.size());
      return rest.find(mark) != rest.npos;
    });
  }

  Result<void> make_unigram() {
    KRAIT_RETURN_IF_ERROR(check_sizes());
    UnigramParts model;
    model.special = special_;
    model.unknown = source_.unknown_id;
    if (model.unknown && static_cast<std::size_t>(*model.unknown) >= source_.items.size()) {
      return mismatch(ErrorCode::bad_format, "model.unk_id",
                      fmt::format("an id below {}", source_.items.size()),
                      fmt::format("{}", *model.unknown));
    }
    model.bytes = byte_tokens();
    double lowest = std::numeric_limits<double>::infinity();
    for (const auto& item : source_.items) {
      if (type_of(item.id) == TokenType::normal) lowest = std::min(lowest, score_of(item.id));
    }
    model.unknown_score = lowest - 10.0;
    model.scores = source_.scores;
    model.scores.resize(entries_.size());
    for (const auto& item : source_.items) {
      const TokenType type = type_of(item.id);
      if (type != TokenType::normal && type != TokenType::user_defined) continue;
      // Goes before what the text could be otherwise: the scores of others are below zero.
      if (type == TokenType::user_defined) model.scores[static_cast<std::size_t>(item.id)] = -0.1;
      model.tokens.emplace_back(item.text, item.id);
    }
    // `tokenizers` adds up from the begin of a piece, whose rounding decides between equal ways.
    parts_->cuts_at_marks = !source_.types.empty() && can_be_cut();
    parts_->model = std::make_unique<Unigram>(std::move(model));
    return {};
  }

  Result<void> make_word_piece() {
    KRAIT_RETURN_IF_ERROR(check_sizes());
    WordPieceParts model;
    model.special = special_;
    model.unknown = source_.unknown_id;
    model.continuing_prefix = source_.prefix;
    model.word_prefix = source_.word_prefix;
    model.longest_word = source_.longest_word;
    if (source_.kind == Kind::word_level) {
      model.takes_whole_words = true;
      model.longest_word = std::numeric_limits<std::size_t>::max();
    }
    for (const auto& item : source_.items) model.tokens.emplace_back(item.text, item.id);
    parts_->model = std::make_unique<WordPiece>(std::move(model));
    return {};
  }

  Result<void> make_scored_pairs() {
    KRAIT_RETURN_IF_ERROR(check_sizes());
    ScoredPairsParts model;
    model.unknown = source_.unknown_id;
    model.bytes = byte_tokens();
    for (const auto& item : source_.items) {
      const TokenType type = type_of(item.id);
      if (type != TokenType::normal && type != TokenType::user_defined &&
          type != TokenType::unused) {
        continue;
      }
      model.pieces.push_back({item.text, item.id, static_cast<float>(score_of(item.id)),
                              type == TokenType::user_defined, type == TokenType::unused});
    }
    parts_->cuts_at_marks = can_be_cut();
    parts_->model = std::make_unique<ScoredPairs>(model);
    return {};
  }

  Result<void> make_matchers() {
    auto& added = source_.added;
    std::sort(parts_->special.begin(), parts_->special.end());
    // Special tokens come first: of two with the same text the first one is found.
    std::stable_partition(added.begin(), added.end(),
                          [](const AddedToken& token) { return token.is_special; });
    std::vector<AddedToken> raw;
    std::vector<AddedToken> normalized;
    std::string storage;
    for (const AddedToken& token : added) {
      if (!token.is_normalized) {
        raw.push_back(token);
        continue;
      }
      KRAIT_ASSIGN_OR_RETURN(
          const std::string_view content,
          parts_->normalizer.apply(token.content, max_normalized_bytes, storage));
      normalized.push_back(token);
      normalized.back().content = content;
    }
    const auto plain = [](std::vector<AddedToken> tokens) {
      std::erase_if(tokens, [](const AddedToken& token) { return token.is_special; });
      return AddedTokenMatcher(std::move(tokens));
    };
    parts_->raw_plain_matcher = plain(raw);
    parts_->normalized_plain_matcher = plain(normalized);
    parts_->raw_matcher = AddedTokenMatcher(std::move(raw));
    parts_->normalized_matcher = AddedTokenMatcher(std::move(normalized));
    parts_->added = std::move(added);
    std::sort(parts_->added.begin(), parts_->added.end(),
              [](const AddedToken& a, const AddedToken& b) { return a.content < b.content; });
    return {};
  }

  struct ContentOf {
    const std::vector<Entry>* entries;
    std::string_view operator()(Token id) const {
      return (*entries)[static_cast<std::size_t>(id)].content;
    }
  };
  ContentOf content_of() const { return {&entries_}; }

  PipelineSource source_;
  std::unique_ptr<PipelineParts> parts_;
  std::vector<Entry> entries_;  // by id
  TokenIndex index_;            // of the vocabulary, by content
  SpecialTokens special_;
  bool is_in_bytes_ = false;
};

}  // namespace

Result<std::unique_ptr<PipelineParts>> build_pipeline(PipelineSource source) {
  return Builder(std::move(source)).run();
}

}  // namespace v0_1
}  // namespace krait
