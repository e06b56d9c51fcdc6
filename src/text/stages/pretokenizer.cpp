#include "text/stages/pretokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/utf8.hpp"
#include "text/bpe/byte_alphabet.hpp"
#include "text/huggingface/fields.hpp"
#include "text/unicode/unicode.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using fields::describe;
using fields::mismatch;

constexpr std::string_view gpt2_pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

}  // namespace

// Takes the matches of a pattern in one text after another and makes pieces of them and of what
// lies between them.
class PreTokenizer::Cutter {
 public:
  Cutter(const Step& step, std::vector<Piece>& pieces) : step_(step), pieces_(pieces) {}

  /// Begins with another text; `offset` is added to all positions in it.
  void start(std::size_t offset) noexcept {
    offset_ = offset;
    position_ = 0;
    has_open_ = false;
  }

  void add_match(std::size_t begin, std::size_t end) {
    if (position_ < begin) add({offset_ + position_, offset_ + begin}, false);
    add({offset_ + begin, offset_ + end}, true);
    position_ = end;
  }

  void finish(std::size_t size) {
    if (position_ < size) add({offset_ + position_, offset_ + size}, false);
    close();
  }

 private:
  void add(Piece piece, bool is_match) {
    is_match = is_match != step_.inverted;
    switch (step_.behavior) {
      case Behavior::isolated:
        return put(piece);
      case Behavior::removed:
        if (!is_match) put(piece);
        return;
      case Behavior::contiguous:
        join(piece, is_match == was_match_);
        break;
      case Behavior::merged_with_previous:
        join(piece, is_match && !was_match_);
        break;
      case Behavior::merged_with_next:
        join(piece, was_match_ && !is_match);
        break;
    }
    was_match_ = is_match;
  }

  void join(Piece piece, bool is_same_piece) {
    if (has_open_ && is_same_piece) {
      open_.end = piece.end;
      return;
    }
    close();
    open_ = piece;
    has_open_ = true;
  }

  void close() {
    if (has_open_) put(open_);
    has_open_ = false;
  }

  void put(Piece piece) {
    if (piece.begin < piece.end) pieces_.push_back(piece);
  }

  const Step& step_;
  std::vector<Piece>& pieces_;
  std::size_t offset_ = 0;
  std::size_t position_ = 0;
  Piece open_;  // may still be joined by what follows
  bool has_open_ = false;
  bool was_match_ = false;
};

Result<PreTokenizer> PreTokenizer::read(const Metadata& pre_tokenizer) {
  PreTokenizer result;
  if (!pre_tokenizer.is_null()) {
    KRAIT_RETURN_IF_ERROR(
        fields::steps(pre_tokenizer, "pretokenizers", "pre_tokenizer",
                      [&](std::string_view type, const Metadata& step, const std::string& where) {
                        return result.add(type, step, where);
                      }));
  }
  const auto count = std::count_if(result.steps_.begin(), result.steps_.end(),
                                   [](const Step& step) { return step.kind == Kind::byte_level; });
  if (count != 1) {
    return mismatch(ErrorCode::unsupported, "pre_tokenizer", "one step ByteLevel",
                    count == 0 ? "none" : "several");
  }
  return result;
}

Result<void> PreTokenizer::add(std::string_view type, const Metadata& pre_tokenizer,
                               const std::string& where) {
  Step step;
  if (type == "ByteLevel") {
    step.kind = Kind::byte_level;
    KRAIT_ASSIGN_OR_RETURN(const bool adds_prefix_space,
                           fields::boolean(pre_tokenizer, "add_prefix_space", where, {}));
    KRAIT_ASSIGN_OR_RETURN(const bool uses_regex,
                           fields::boolean(pre_tokenizer, "use_regex", where, true));
    step.adds_prefix_space = adds_prefix_space && !uses_regex;
    if (uses_regex) {
      Step cut;
      cut.kind = Kind::gpt2;
      cut.adds_prefix_space = adds_prefix_space;
      steps_.push_back(std::move(cut));
    }
    steps_.push_back(std::move(step));
    return {};
  }
  if (type == "Split") {
    KRAIT_ASSIGN_OR_RETURN(step, read_split(pre_tokenizer, where));
  } else if (type == "Digits") {
    step.kind = Kind::digits;
    KRAIT_ASSIGN_OR_RETURN(const bool individual,
                           fields::boolean(pre_tokenizer, "individual_digits", where, false));
    step.behavior = individual ? Behavior::isolated : Behavior::contiguous;
  } else if (type == "Punctuation") {
    step.kind = Kind::punctuation;
    KRAIT_ASSIGN_OR_RETURN(step.behavior, read_behavior(pre_tokenizer, where, Behavior::isolated));
  } else {
    return mismatch(ErrorCode::unsupported, where + ".type",
                    "ByteLevel, Split, Digits, Punctuation or Sequence",
                    describe(pre_tokenizer["type"]));
  }
  steps_.push_back(std::move(step));
  return {};
}

Result<PreTokenizer::Step> PreTokenizer::read_split(const Metadata& pre_tokenizer,
                                                    const std::string& where) const {
  Step step;
  KRAIT_ASSIGN_OR_RETURN(step.pattern, Pattern::read(pre_tokenizer["pattern"], where + ".pattern"));
  if (pre_tokenizer["behavior"].is_null()) {
    return mismatch(ErrorCode::bad_format, where + ".behavior", "a string", "null");
  }
  KRAIT_ASSIGN_OR_RETURN(step.behavior, read_behavior(pre_tokenizer, where, Behavior::isolated));
  KRAIT_ASSIGN_OR_RETURN(step.inverted, fields::boolean(pre_tokenizer, "invert", where, false));
  if (step.pattern->regex_text() == gpt2_pattern) {
    step.kind = Kind::gpt2;
  }
  return step;
}

Result<PreTokenizer::Behavior> PreTokenizer::read_behavior(const Metadata& pre_tokenizer,
                                                           const std::string& where,
                                                           Behavior fallback) {
  if (pre_tokenizer["behavior"].is_null()) return fallback;
  KRAIT_ASSIGN_OR_RETURN(const std::string_view name,
                         fields::string(pre_tokenizer, "behavior", where));
  if (name == "Removed") return Behavior::removed;
  if (name == "Isolated") return Behavior::isolated;
  if (name == "MergedWithPrevious") return Behavior::merged_with_previous;
  if (name == "MergedWithNext") return Behavior::merged_with_next;
  if (name == "Contiguous") return Behavior::contiguous;
  return mismatch(ErrorCode::unsupported, where + ".behavior",
                  "Removed, Isolated, MergedWithPrevious, MergedWithNext or Contiguous",
                  describe(pre_tokenizer["behavior"]));
}

Result<void> PreTokenizer::split(std::string_view text, Scratch& scratch) const {
  scratch.text = text;
  scratch.pieces.clear();
  scratch.searches.resize(steps_.size());
  if (!text.empty()) {
    scratch.pieces.push_back({0, text.size()});
  }
  bool is_written_in_bytes = false;
  for (std::size_t i = 0; i < steps_.size(); ++i) {
    const Step& step = steps_[i];
    if (step.adds_prefix_space) {
      add_prefix_spaces(scratch);
    }
    if (step.kind == Kind::byte_level) {
      if (i + 1 < steps_.size()) {
        write_bytes(scratch);
        is_written_in_bytes = true;
      }
      continue;
    }
    KRAIT_RETURN_IF_ERROR(cut(step, scratch.searches[i], scratch));
  }
  if (is_written_in_bytes) {
    read_bytes(scratch);
  }
  return {};
}

Result<void> PreTokenizer::cut(const Step& step, std::optional<PatternSearch>& search,
                               Scratch& scratch) const {
  std::swap(scratch.pieces, scratch.other_pieces);
  scratch.pieces.clear();
  if (step.kind == Kind::pattern && !search) {
    search.emplace(*step.pattern);
  }
  Cutter cutter(step, scratch.pieces);
  for (const Piece outer : scratch.other_pieces) {
    const std::string_view text = scratch.text.substr(outer.begin, outer.end - outer.begin);
    cutter.start(outer.begin);
    if (step.kind == Kind::gpt2) {
      for (std::size_t position = 0; position < text.size();) {
        const std::size_t end = end_of_gpt2_piece(text, position);
        cutter.add_match(position, end);
        position = end;
      }
    } else if (step.kind == Kind::pattern) {
      search->start(text);
      while (true) {
        KRAIT_ASSIGN_OR_RETURN(const RegexMatch match, search->next());
        if (!match.found) break;
        cutter.add_match(match.begin, match.end);
      }
    } else {
      for (std::size_t position = 0; position < text.size();) {
        const std::size_t begin = position;
        const char32_t code = utf8::next(text, position);
        const bool is_match = step.kind == Kind::digits
                                  ? unicode::kind(code) == unicode::Kind::number
                                  : unicode::is_punctuation(code);
        if (is_match) cutter.add_match(begin, position);
      }
    }
    cutter.finish(text.size());
  }
  return {};
}

// Puts a space before every piece that does not begin with one.
void PreTokenizer::add_prefix_spaces(Scratch& scratch) {
  std::string& text = scratch.other_storage;
  text.clear();
  for (Piece& piece : scratch.pieces) {
    const std::size_t begin = text.size();
    if (scratch.text[piece.begin] != ' ') text += ' ';
    text += scratch.text.substr(piece.begin, piece.end - piece.begin);
    piece = {begin, text.size()};
  }
  std::swap(scratch.storage, scratch.other_storage);
  scratch.text = scratch.storage;
}

void PreTokenizer::write_bytes(Scratch& scratch) {
  std::string& text = scratch.other_storage;
  text.clear();
  for (Piece& piece : scratch.pieces) {
    const std::size_t begin = text.size();
    byte_alphabet::append_written(text, scratch.text.substr(piece.begin, piece.end - piece.begin));
    piece = {begin, text.size()};
  }
  std::swap(scratch.storage, scratch.other_storage);
  scratch.text = scratch.storage;
}

void PreTokenizer::read_bytes(Scratch& scratch) {
  std::string& text = scratch.other_storage;
  text.clear();
  for (Piece& piece : scratch.pieces) {
    const std::size_t begin = text.size();
    byte_alphabet::append_bytes(text, scratch.text.substr(piece.begin, piece.end - piece.begin));
    piece = {begin, text.size()};
  }
  std::swap(scratch.storage, scratch.other_storage);
  scratch.text = scratch.storage;
}

}  // namespace v0_1
}  // namespace krait
