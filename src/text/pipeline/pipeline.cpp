#include "text/pipeline/pipeline.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Positions within a piece have 32 bits, and normalization can make a text longer.
constexpr std::size_t max_text_bytes = std::size_t{1} << 28;

// Where the tokens of recent short pieces stand in the result. A text repeats its words.
class PieceCache {
 public:
  explicit PieceCache(std::size_t text_bytes)
      : entries_(std::clamp<std::size_t>(std::bit_ceil(text_bytes / 8), 8, 8192)) {}

  static constexpr std::size_t longest_piece = 15;

  struct Entry {
    std::array<char, longest_piece + 1> key{};  // the piece, zeros, its length
    std::uint32_t count = 0;
    std::size_t begin = 0;
  };

  /// The entry for `piece`, whoever holds it now.
  Entry& entry_of(const std::array<char, longest_piece + 1>& key) noexcept {
    std::uint64_t low = 0;
    std::uint64_t high = 0;
    std::memcpy(&low, key.data(), 8);
    std::memcpy(&high, key.data() + 8, 8);
    const std::uint64_t mixed = (low ^ (high * 0xFF51AFD7ED558CCDU)) * 0x9E3779B97F4A7C15U;
    return entries_[static_cast<std::size_t>(mixed >> 40) & (entries_.size() - 1)];
  }

  static std::array<char, longest_piece + 1> key_of(std::string_view piece) noexcept {
    std::array<char, longest_piece + 1> key{};
    std::copy(piece.begin(), piece.end(), key.begin());
    key.back() = static_cast<char>(piece.size());
    return key;
  }

 private:
  std::vector<Entry> entries_;
};

}  // namespace

class Pipeline::Run {
 public:
  Run(const PipelineParts& parts, std::size_t text_bytes, const EncodeOptions& options)
      : parts_(parts),
        options_(options),
        cache_(text_bytes),
        room_(Normalizer::room_for(text_bytes)) {}

  Result<void> encode(std::string_view text) {
    if (options_.add_special) append(parts_.ends.before);
    KRAIT_RETURN_IF_ERROR(encode_text(text));
    if (options_.add_special) append(parts_.ends.after);
    return {};
  }

  std::vector<Token> take() { return std::move(tokens_); }

 private:
  void append(const std::vector<Token>& tokens) {
    tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
  }

  Result<void> encode_text(std::string_view text) {
    (options_.parse_special ? parts_.raw_matcher : parts_.raw_plain_matcher)
        .split(text, raw_parts_, options_.literal);
    for (const TextPart& part : raw_parts_) {
      if (part.token) {
        tokens_.push_back(*part.token);
      } else {
        cut_literal(part);
        KRAIT_RETURN_IF_ERROR(encode_raw(text.substr(part.begin, part.end - part.begin),
                                         part.begin == 0 ? options_.before : TextBefore::token));
      }
    }
    return {};
  }

  // The literal parts of a part, counted from its beginning; parts come in ascending order.
  void cut_literal(const TextPart& part) {
    literal_.clear();
    const std::span<const ByteRange> all = options_.literal;
    while (next_literal_ < all.size() && all[next_literal_].end <= part.begin) ++next_literal_;
    for (std::size_t i = next_literal_; i < all.size() && all[i].begin < part.end; ++i) {
      literal_.push_back({std::max(all[i].begin, part.begin) - part.begin,
                          std::min(all[i].end, part.end) - part.begin});
    }
  }

  // A text without tokens that are looked for before normalization.
  Result<void> encode_raw(std::string_view raw, TextBefore before) {
    // The room is that of the whole text, so that many short parts do not each grow to it.
    KRAIT_ASSIGN_OR_RETURN(
        const std::string_view text,
        parts_.normalizer.apply(raw, room_, normalized_, before == TextBefore::text));
    room_ -= std::min(room_, text.size());
    // Where normalization moved a text, it is not known which part of it is literal.
    const bool is_known = literal_.empty() || text == raw;
    (options_.parse_special && is_known ? parts_.normalized_matcher
                                        : parts_.normalized_plain_matcher)
        .split(text, normalized_parts_, is_known ? literal_ : std::vector<ByteRange>());
    for (const TextPart& part : normalized_parts_) {
      if (part.token) {
        tokens_.push_back(*part.token);
        continue;
      }
      KRAIT_RETURN_IF_ERROR(
          parts_.pre_tokenizer.split(text.substr(part.begin, part.end - part.begin), pieces_,
                                     part.begin == 0 ? before : TextBefore::token));
      for (const PreTokenizer::Piece piece : pieces_.pieces) {
        KRAIT_RETURN_IF_ERROR(
            encode_words(pieces_.text.substr(piece.begin, piece.end - piece.begin)));
      }
    }
    return {};
  }

  // Cuts a piece before every mark that follows something else.
  Result<void> encode_words(std::string_view piece) {
    constexpr std::string_view mark = "\xE2\x96\x81";
    std::size_t from = 0;  // search on from here: behind the marks that the rest begins with
    while (parts_.cuts_at_marks) {
      while (piece.substr(from).starts_with(mark)) from += mark.size();
      const std::size_t at = piece.find(mark, from);
      if (at == piece.npos) break;
      KRAIT_RETURN_IF_ERROR(encode_piece(piece.substr(0, at)));
      piece.remove_prefix(at);
      from = 0;
    }
    return encode_piece(piece);
  }

  Result<void> encode_piece(std::string_view piece) {
    if (piece.size() > PieceCache::longest_piece) return encode_new(piece);
    const auto key = PieceCache::key_of(piece);
    PieceCache::Entry& entry = cache_.entry_of(key);
    if (entry.key == key) {
      // Room first: the tokens to copy stand in the same vector.
      const std::size_t size = tokens_.size();
      tokens_.resize(size + entry.count);
      std::copy_n(tokens_.begin() + static_cast<std::ptrdiff_t>(entry.begin), entry.count,
                  tokens_.begin() + static_cast<std::ptrdiff_t>(size));
      return {};
    }
    const std::size_t begin = tokens_.size();
    KRAIT_RETURN_IF_ERROR(encode_new(piece));
    entry = {key, static_cast<std::uint32_t>(tokens_.size() - begin), begin};
    return {};
  }

  Result<void> encode_new(std::string_view piece) {
    // The matchers have found all special tokens but those that are literal.
    const bool is_plain = !options_.parse_special || !options_.literal.empty();
    return parts_.model->encode(piece, is_plain, scratch_, tokens_);
  }

  const PipelineParts& parts_;
  const EncodeOptions& options_;
  PieceCache cache_;
  std::size_t room_;  // bytes that normalized parts may still take
  std::vector<Token> tokens_;
  std::vector<TextPart> raw_parts_, normalized_parts_;
  std::vector<ByteRange> literal_;
  std::size_t next_literal_ = 0;
  std::string normalized_;
  PreTokenizer::Scratch pieces_;
  ModelScratch scratch_;
};

Result<std::vector<Token>> Pipeline::encode(std::string_view text,
                                            const EncodeOptions& options) const {
  if (text.size() > max_text_bytes) {
    return fields::mismatch(ErrorCode::bad_argument, "text",
                            fmt::format("at most {} bytes", max_text_bytes),
                            fmt::format("{}", text.size()));
  }
  if (const std::size_t offset = utf8::first_ill_formed(text); offset != text.size()) {
    return fields::mismatch(ErrorCode::bad_argument, "text", "UTF-8",
                            fmt::format("byte 0x{:02x} at offset {}",
                                        static_cast<unsigned char>(text[offset]), offset));
  }
  Run run(*parts_, text.size(), options);
  KRAIT_RETURN_IF_ERROR(run.encode(text));
  return run.take();
}

std::string Pipeline::decode(const std::vector<Token>& tokens, bool with_special) const {
  if (parts_->decoder.is_plain()) return Tokenizer::decode(tokens, with_special);
  std::vector<std::string> contents;
  contents.reserve(tokens.size());
  for (const Token token : tokens) {
    if (token < 0 || static_cast<std::size_t>(token) >= parts_->contents.size()) continue;
    const std::string_view content = parts_->contents[token];
    if (content.empty()) continue;  // no token has this id
    if (with_special || !is_special(token)) contents.emplace_back(content);
  }
  auto text = parts_->decoder.decode(std::move(contents));
  // A pattern that takes too many steps on this text.
  return text ? *std::move(text) : Tokenizer::decode(tokens, with_special);
}

std::string_view Pipeline::bytes(Token token) const noexcept {
  if (token < 0 || static_cast<std::size_t>(token) >= parts_->bytes.size()) {
    return {};
  }
  return parts_->bytes[token];
}

bool Pipeline::is_special(Token token) const noexcept {
  return std::binary_search(parts_->special.begin(), parts_->special.end(), token);
}

std::optional<Token> Pipeline::find(std::string_view text) const {
  const auto added = std::lower_bound(
      parts_->added.begin(), parts_->added.end(), text,
      [](const AddedToken& token, std::string_view value) { return token.content < value; });
  if (added != parts_->added.end() && added->content == text) {
    return added->id;
  }
  return parts_->by_bytes.find(text, [&](Token id) { return parts_->bytes[id]; });
}

}  // namespace v0_1
}  // namespace krait
