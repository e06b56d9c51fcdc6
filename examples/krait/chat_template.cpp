#include "chat_template.hpp"

#include <algorithm>
#include <cctype>
#include <nlohmann/json.hpp>
#include <utility>
#include <vector>

namespace krait::cli {
namespace {

using nlohmann::json;

// A piece of a template: text that is written as it is, an expression whose value is written, or a
// statement; the latter two in one spelling.
struct Piece {
  enum class Kind { text, expression, statement } kind;
  std::string content;

  friend bool operator==(const Piece&, const Piece&) = default;
};
using Kind = Piece::Kind;

bool is_space(char c) { return std::isspace(static_cast<unsigned char>(c)) != 0; }
bool is_word(char c) { return std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '_'; }

// The parts of an expression; strings as a quotation mark and their content.
using Words = std::vector<std::string>;

// The string at the beginning of `rest`, which is removed.
std::optional<std::string> take_string(std::string_view& rest) {
  std::string content = "\"";
  for (std::size_t i = 1; i < rest.size(); ++i) {
    if (rest[i] == rest[0]) {
      rest.remove_prefix(i + 1);
      return content;
    }
    if (rest[i] != '\\') {
      content += rest[i];
      continue;
    }
    if (++i == rest.size()) break;
    if (rest[i] == 'n') {
      content += '\n';
    } else if (rest[i] == 't') {
      content += '\t';
    } else if (rest[i] == '\\' || rest[i] == '\'' || rest[i] == '"') {
      content += rest[i];
    } else {
      break;
    }
  }
  return std::nullopt;
}

// In one spelling: m.role for m['role'], and m for `loop_variable`.
std::optional<Words> words_of(std::string_view rest, const std::string& loop_variable) {
  Words words;
  while (!rest.empty()) {
    if (is_space(rest[0])) {
      rest.remove_prefix(1);
    } else if (rest[0] == '\'' || rest[0] == '"') {
      const auto string = take_string(rest);
      if (!string) return std::nullopt;
      words.push_back(*string);
    } else if (is_word(rest[0])) {
      std::size_t end = 1;
      while (end < rest.size() && is_word(rest[end])) ++end;
      const std::string word(rest.substr(0, end));
      const bool is_field = !words.empty() && words.back() == ".";
      const bool is_turn = !is_field && word == loop_variable;
      words.push_back(is_turn ? "m" : word == "m" ? "another m" : word);
      rest.remove_prefix(end);
    } else {
      const bool is_double = rest.size() > 1 && rest[1] == '=';
      words.emplace_back(rest.substr(0, is_double ? 2 : 1));
      rest.remove_prefix(words.back().size());
    }
  }
  Words result;
  for (std::size_t i = 0; i < words.size(); ++i) {
    if (i > 0 && i + 2 < words.size() && words[i] == "[" && words[i + 2] == "]" &&
        words[i + 1][0] == '"') {
      result.insert(result.end(), {".", words[i + 1].substr(1)});
      i += 2;
    } else {
      result.push_back(words[i]);
    }
  }
  return result;
}

std::string join(const Words& words) {
  std::string text;
  for (const std::string& word : words) text += (text.empty() ? "" : " ") + word;
  return text;
}

// What `{{ … }}` writes: the operands of + and ~.
bool add_expression(const Words& words, std::vector<Piece>& pieces) {
  Words operand;
  int depth = 0;
  const auto finish = [&] {
    if (operand.empty()) return false;
    const bool is_string = operand.size() == 1 && operand[0][0] == '"';
    // Between turns; the conversation always ends with the beginning of a reply.
    if (join(operand) == "( \" if loop . last and not add_generation_prompt else \"\n )") {
      pieces.push_back({Kind::text, "\n"});
    } else {
      pieces.push_back({is_string ? Kind::text : Kind::expression,
                        is_string ? operand[0].substr(1) : join(operand)});
    }
    operand.clear();
    return true;
  };
  for (const std::string& word : words) {
    if (word == "(" || word == "[") ++depth;
    if (word == ")" || word == "]") --depth;
    if (depth > 0 || (word != "+" && word != "~")) {
      operand.push_back(word);
    } else if (!finish()) {
      return false;
    }
  }
  return finish();
}

// The end of a tag whose content begins at `begin`; strings may hold its mark.
std::size_t tag_end(std::string_view text, std::size_t begin, std::string_view mark) {
  char quote = 0;
  for (std::size_t i = begin; i < text.size(); ++i) {
    if (quote != 0) {
      if (text[i] == '\\') {
        ++i;
      } else if (text[i] == quote) {
        quote = 0;
      }
    } else if (text.substr(i, 2) == mark) {
      return i;
    } else if (mark[0] != '#' && (text[i] == '\'' || text[i] == '"')) {
      quote = text[i];
    }
  }
  return std::string_view::npos;
}

void strip_end(std::string& text) {
  while (!text.empty() && is_space(text.back())) text.pop_back();
}

// Without blanks after the last line break, if nothing else stands there.
void strip_line(std::string& text) {
  const std::size_t last = text.find_last_not_of(" \t");
  if (last == std::string::npos) {
    text.clear();
  } else if (text[last] == '\n') {
    text.resize(last + 1);
  }
}

// Takes a template apart; nothing where that fails. Comments are left out.
std::optional<std::vector<Piece>> take_apart(std::string_view rest) {
  if (rest.ends_with('\n')) rest.remove_suffix(1);
  std::vector<Piece> pieces;
  std::string loop_variable = "m";
  for (;;) {
    const std::size_t begin = std::min({rest.find("{{"), rest.find("{%"), rest.find("{#")});
    std::string text(rest.substr(0, begin));
    if (begin == std::string_view::npos) {
      pieces.push_back({Kind::text, text});
      return pieces;
    }
    const char type = rest[begin + 1];
    const std::string mark = {type == '{' ? '}' : type, '}'};
    const std::size_t end = tag_end(rest, begin + 2, mark);
    if (end == std::string_view::npos) return std::nullopt;
    std::string_view inside = rest.substr(begin + 2, end - begin - 2);
    rest.remove_prefix(end + 2);
    if (inside.starts_with('-')) {
      strip_end(text);
    } else if (type != '{' && !inside.starts_with('+')) {
      strip_line(text);
    }
    if (inside.starts_with('-') || inside.starts_with('+')) inside.remove_prefix(1);
    const bool strips = inside.ends_with('-');
    const bool keeps = inside.ends_with('+') && type != '{';
    if (strips || keeps) inside.remove_suffix(1);
    if (strips) {
      while (!rest.empty() && is_space(rest[0])) rest.remove_prefix(1);
    } else if (type != '{' && !keeps && rest.starts_with('\n')) {
      rest.remove_prefix(1);
    }
    pieces.push_back({Kind::text, text});
    if (type == '#') continue;
    auto words = words_of(inside, loop_variable);
    if (!words) return std::nullopt;
    if (type == '{') {
      if (!add_expression(*words, pieces)) return std::nullopt;
    } else {
      if (words->size() == 4 && (*words)[0] == "for" && (*words)[2] == "in") {
        loop_variable = std::exchange((*words)[1], "m");
      }
      pieces.push_back({Kind::statement, join(*words)});
    }
  }
}

// Goes through pieces that have to be what is expected.
class Reader {
 public:
  explicit Reader(std::vector<Piece> pieces) {
    // Neighbouring texts are one.
    for (Piece& piece : pieces) {
      if (piece.kind == Kind::text && !pieces_.empty() && pieces_.back().kind == Kind::text) {
        pieces_.back().content += piece.content;
      } else if (piece.kind != Kind::text || !piece.content.empty()) {
        pieces_.push_back(std::move(piece));
      }
    }
  }

  bool take(Kind kind, std::string_view content) {
    if (at_end() || pieces_[next_].kind != kind || pieces_[next_].content != content) return false;
    ++next_;
    return true;
  }
  bool statement(std::string_view content) { return take(Kind::statement, content); }
  bool expression(std::string_view content) { return take(Kind::expression, content); }
  bool text(std::string_view content) { return take(Kind::text, content); }
  std::string text() {
    return at_end() || pieces_[next_].kind != Kind::text ? "" : pieces_[next_++].content;
  }
  bool at_end() const { return next_ == pieces_.size(); }

 private:
  std::vector<Piece> pieces_;
  std::size_t next_ = 0;
};

// A turn of the system for conversations without one; false if what stands there is something else.
bool take_system(Reader& reader, bool in_loop, std::string& opening) {
  constexpr std::string_view asked = "messages [ 0 ] . role != \"system";
  if (!reader.statement((in_loop ? "if loop . first and " : "if ") + std::string(asked))) {
    return true;
  }
  opening += reader.text();
  return reader.statement("endif");
}

}  // namespace

std::optional<TurnTemplate> read_turns(std::string_view jinja, const std::string& bos,
                                       const std::string& eos) {
  auto pieces = take_apart(jinja);
  if (!pieces) return std::nullopt;
  for (Piece& piece : *pieces) {
    if (piece.kind != Kind::expression) continue;
    if (piece.content == "bos_token") piece = {Kind::text, bos};
    if (piece.content == "eos_token") piece = {Kind::text, eos};
  }
  Reader reader(std::move(*pieces));
  // A default for what is always given here.
  if (reader.statement("if not add_generation_prompt is defined") ||
      reader.statement("if add_generation_prompt is not defined")) {
    if (!reader.statement("set add_generation_prompt = false") || !reader.statement("endif")) {
      return std::nullopt;
    }
  }
  TurnTemplate turns;
  turns.opening = reader.text();
  if (!take_system(reader, false, turns.opening) || !reader.statement("for m in messages") ||
      !take_system(reader, true, turns.opening)) {
    return std::nullopt;
  }
  const std::string before_role = reader.text();
  if (!reader.expression("m . role")) return std::nullopt;
  const std::string after_role = reader.text();
  if (!reader.expression("m . content")) return std::nullopt;
  turns.after_text = reader.text();
  turns.before_user = before_role + "user" + after_role;
  turns.before_reply = before_role + "assistant" + after_role;
  if (turns.after_text.empty() || !reader.statement("endfor") ||
      !reader.statement("if add_generation_prompt") || !reader.text(turns.before_reply) ||
      !reader.statement("endif") || !reader.at_end()) {
    return std::nullopt;
  }
  return turns;
}

std::optional<std::string> find_template(const LanguageModel& model) {
  if (!model.chat_template.empty()) return model.chat_template;
  if (model.tokenizer_config.empty()) return std::nullopt;
  const json config = json::parse(model.tokenizer_config, nullptr, false);
  if (!config.is_object()) return "";
  const auto it = config.find("chat_template");
  if (it == config.end() || it->is_null()) return std::nullopt;
  if (it->is_string()) return it->get<std::string>();
  if (!it->is_array()) return "";
  for (const json& entry : *it) {
    if (!entry.is_object() || !entry.contains("template")) continue;
    if (entry.value("name", json()) == "default" && entry["template"].is_string()) {
      return entry["template"].get<std::string>();
    }
  }
  return "";
}

std::string named_token(const LanguageModel& model, const std::string& name) {
  const json config = json::parse(model.tokenizer_config, nullptr, false);
  if (!config.is_object()) return "";
  json token = config.value(name, json());
  if (token.is_object()) token = token.value("content", json());
  return token.is_string() ? token.get<std::string>() : "";
}

}  // namespace krait::cli
