#include "text/stages/pretokenizer.hpp"

#include <fmt/format.h>

#include <algorithm>

#include "core/utf8.hpp"
#include "text/huggingface/fields.hpp"
#include "text/pipeline/byte_alphabet.hpp"
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
  const auto marks = std::count_if(result.steps_.begin(), result.steps_.end(),
                                   [](const Step& step) { return step.kind == Kind::metaspace; });
  if (marks > 4) {  // each may make the pieces longer
    return mismatch(ErrorCode::unsupported, "pre_tokenizer", "at most 4 steps Metaspace", "more");
  }
  if (count > 1) {
    return mismatch(ErrorCode::unsupported, "pre_tokenizer", "one step ByteLevel", "several");
  }
  return result;
}

bool PreTokenizer::is_byte_level() const noexcept {
  return std::any_of(steps_.begin(), steps_.end(),
                     [](const Step& step) { return step.kind == Kind::byte_level; });
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
  } else if (type == "Whitespace") {
    step.kind = Kind::words;
    keep_matches_only(step);
  } else if (type == "WhitespaceSplit") {
    step.kind = Kind::white_space;
    step.behavior = Behavior::removed;
  } else if (type == "BertPreTokenizer") {
    Step spaces;
    spaces.kind = Kind::white_space;
    spaces.behavior = Behavior::removed;
    steps_.push_back(std::move(spaces));
    step.kind = Kind::punctuation;
  } else if (type == "Metaspace") {
    return add_metaspace(pre_tokenizer, where);
  } else if (type == "CharDelimiterSplit") {
    step.kind = Kind::character;
    step.behavior = Behavior::removed;
    KRAIT_ASSIGN_OR_RETURN(step.code, fields::character(pre_tokenizer, "delimiter", where));
  } else if (type == "UnicodeScripts") {
    step.kind = Kind::scripts;
    keep_matches_only(step);
  } else if (type == "FixedLength") {
    step.kind = Kind::fixed_length;
    const Metadata& length = pre_tokenizer["length"];
    const auto value = length.is_null() ? std::uint64_t{5} : length.whole().value_or(0);
    if (value == 0) {
      return mismatch(ErrorCode::bad_format, where + ".length", "a number from 1 on",
                      describe(length));
    }
    step.length = static_cast<std::size_t>(value);
    keep_matches_only(step);
  } else {
    return mismatch(ErrorCode::unsupported, where + ".type",
                    "ByteLevel, Split, Digits, Punctuation, Whitespace, WhitespaceSplit, "
                    "BertPreTokenizer, Metaspace, CharDelimiterSplit, UnicodeScripts, FixedLength "
                    "or Sequence",
                    describe(pre_tokenizer["type"]));
  }
  steps_.push_back(std::move(step));
  return {};
}

Result<void> PreTokenizer::add_metaspace(const Metadata& pre_tokenizer, const std::string& where) {
  Step step;
  step.kind = Kind::metaspace;
  Step cut;
  cut.kind = Kind::character;
  cut.behavior = Behavior::merged_with_next;
  KRAIT_ASSIGN_OR_RETURN(cut.code, fields::character(pre_tokenizer, "replacement", where));
  utf8::append(step.mark, cut.code);
  const Metadata& scheme = pre_tokenizer["prepend_scheme"];
  KRAIT_ASSIGN_OR_RETURN(const bool adds,
                         fields::boolean(pre_tokenizer, "add_prefix_space", where, true));
  if (scheme.is("first")) {
    step.prepends = Prepends::first;
  } else if (scheme.is("never") || (scheme.is_null() && !adds)) {
    step.prepends = Prepends::never;
  } else if (!scheme.is_null() && !scheme.is("always")) {
    return mismatch(ErrorCode::unsupported, where + ".prepend_scheme", "always, first or never",
                    describe(scheme));
  }
  KRAIT_ASSIGN_OR_RETURN(const bool is_cut, fields::boolean(pre_tokenizer, "split", where, true));
  steps_.push_back(std::move(step));
  if (is_cut) steps_.push_back(std::move(cut));
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

Result<void> PreTokenizer::split(std::string_view text, Scratch& scratch, TextBefore before) const {
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
      add_prefix_spaces(before, scratch);
    }
    if (step.kind == Kind::byte_level) {
      if (i + 1 < steps_.size() || keeps_written_) {
        write_bytes(scratch);
        is_written_in_bytes = !keeps_written_;
      }
      continue;
    }
    if (step.kind == Kind::metaspace) {
      write_marks(step, before, scratch);
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
      cut_by_characters(step, text, cutter);
    }
    cutter.finish(text.size());
  }
  return {};
}

namespace {

// The scripts of Japanese are one.
std::size_t script_of(char32_t code) {
  static const auto place_of = [](std::string_view name) {
    const auto names = unicode::script_names();
    const auto found = std::find_if(names.begin(), names.end(),
                                    [&](const auto& entry) { return entry.name == name; });
    return static_cast<std::size_t>(found - names.begin());
  };
  static const std::size_t han = place_of("han");
  static const std::size_t hiragana = place_of("hiragana");
  static const std::size_t katakana = place_of("katakana");
  if (code == 0x30FC) return han;
  const std::size_t script = unicode::script(code);
  return script == hiragana || script == katakana ? han : script;
}

bool has_no_script(char32_t code) {
  return code == ' ' || unicode::category(code) == unicode::Category::cn ||
         unicode::category(code) == unicode::Category::co;
}

}  // namespace

// Steps that need no more than one code point after another. Matches are pieces; what lies between
// them is cut off or left out by the step's behavior.
void PreTokenizer::cut_by_characters(const Step& step, std::string_view text, Cutter& cutter) {
  std::size_t open = text.size();  // where the run begins that is not given out yet
  std::size_t kind = 0;            // of that run
  std::size_t count = 0;
  for (std::size_t position = 0; position < text.size();) {
    const std::size_t begin = position;
    const char32_t code = utf8::next(text, position);
    bool is_match = false;
    switch (step.kind) {
      case Kind::digits:
        is_match = unicode::kind(code) == unicode::Kind::number;
        break;
      case Kind::punctuation:
        is_match = unicode::is_punctuation(code);
        break;
      case Kind::white_space:
        is_match = unicode::is_space(code);
        break;
      case Kind::character:
        is_match = code == step.code;
        break;
      default: {
        // Runs of one kind; a run that ends goes out.
        bool has_kind = true;
        std::size_t next = kind;
        bool is_new = false;
        if (step.kind == Kind::words) {
          has_kind = !unicode::is_space(code);
          next = unicode::is_word(code) ? 1 : 2;
          is_new = !has_kind || next != kind;
        } else if (step.kind == Kind::scripts) {
          next = has_no_script(code) ? kind : script_of(code) + 1;
          is_new = next != kind;
          has_kind = next != 0;
        } else {
          is_new = count++ % step.length == 0;
        }
        if (!is_new) continue;
        if (open < begin) cutter.add_match(open, begin);
        open = has_kind ? begin : text.size();
        kind = has_kind ? next : 0;
        continue;
      }
    }
    if (is_match) cutter.add_match(begin, position);
  }
  if (open < text.size()) cutter.add_match(open, text.size());
}

// Puts a space before every piece that does not begin with one.
void PreTokenizer::add_prefix_spaces(TextBefore before, Scratch& scratch) {
  std::string& text = scratch.other_storage;
  text.clear();
  for (Piece& piece : scratch.pieces) {
    const std::size_t begin = text.size();
    const bool goes_on = before == TextBefore::text && piece.begin == 0;
    if (scratch.text[piece.begin] != ' ' && !goes_on) text += ' ';
    text += scratch.text.substr(piece.begin, piece.end - piece.begin);
    piece = {begin, text.size()};
  }
  std::swap(scratch.storage, scratch.other_storage);
  scratch.text = scratch.storage;
}

// Writes the mark for every space, and before pieces that do not begin with one.
void PreTokenizer::write_marks(const Step& step, TextBefore before, Scratch& scratch) {
  std::string& text = scratch.other_storage;
  text.clear();
  for (Piece& piece : scratch.pieces) {
    const std::size_t begin = text.size();
    const std::string_view old = scratch.text.substr(piece.begin, piece.end - piece.begin);
    const bool is_first = piece.begin == 0;
    const bool may_add =
        step.prepends == Prepends::always
            ? !is_first || before != TextBefore::text
            : step.prepends == Prepends::first && is_first && before == TextBefore::nothing;
    if (may_add && !old.starts_with(' ') && !old.starts_with(step.mark)) text += step.mark;
    for (std::size_t from = 0; from < old.size();) {
      const std::size_t to = std::min(old.find(' ', from), old.size());
      text += old.substr(from, to - from);
      if (to < old.size()) text += step.mark;
      from = to + 1;
    }
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
