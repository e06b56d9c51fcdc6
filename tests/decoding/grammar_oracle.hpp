#pragma once

/// \file
/// Grammars by their definition, slowly: the places where a match of a part may end, as sets, until
/// nothing changes. And a tokenizer that is a list of texts.

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "krait/text/tokenizer.hpp"

namespace krait::test {

/// A grammar's expression, as a tree.
struct Tree {
  enum class Kind { literal, chars, seq, alt, repeat, rule };
  Kind kind = Kind::seq;
  std::string text = {};                  // literal
  std::vector<std::string> choices = {};  // chars: one of these characters
  std::vector<Tree> parts = {};
  int least = 0, most = 0;  // repeat; most < 0: without end
  std::size_t rule = 0;
};

/// What a grammar of trees matches. All of its rules must have some text.
class Oracle {
 public:
  explicit Oracle(std::vector<Tree> rules) : rules_(std::move(rules)) {}

  bool matches(std::string_view text) {
    solve(text);
    return ends_[{0, 0}].contains(text.size());
  }
  /// Whether some text of the grammar begins with this one.
  bool is_prefix(std::string_view text) {
    solve(text);
    return prefixes_.contains({0, 0});
  }

 private:
  using Place = std::pair<std::size_t, std::size_t>;  // rule, offset

  void solve(std::string_view text) {
    text_ = text;
    ends_.clear();
    prefixes_.clear();
    for (bool has_changed = true; has_changed;) {
      has_changed = false;
      for (std::size_t rule = 0; rule < rules_.size(); ++rule) {
        for (std::size_t at = 0; at <= text.size(); ++at) {
          const auto found = ends(rules_[rule], at);
          has_changed |= found != ends_[{rule, at}];
          ends_[{rule, at}] = found;
          if (is_cut(rules_[rule], at)) has_changed |= prefixes_.insert({rule, at}).second;
        }
      }
    }
  }

  std::set<std::size_t> ends(const Tree& tree, std::size_t at) {
    std::set<std::size_t> found;
    const std::string_view rest = text_.substr(at);
    switch (tree.kind) {
      case Tree::Kind::literal:
        if (rest.starts_with(tree.text)) found.insert(at + tree.text.size());
        break;
      case Tree::Kind::chars:
        for (const std::string& choice : tree.choices) {
          if (rest.starts_with(choice)) found.insert(at + choice.size());
        }
        break;
      case Tree::Kind::seq:
        found = {at};
        for (const Tree& part : tree.parts) found = ends(part, found);
        break;
      case Tree::Kind::alt:
        for (const Tree& part : tree.parts) found.merge(ends(part, at));
        break;
      case Tree::Kind::repeat: {
        std::set<std::size_t> places = {at};
        // Rounds beyond the length of the text add nothing.
        const int rounds = tree.most < 0 ? tree.least + static_cast<int>(text_.size()) : tree.most;
        for (int i = 0; i <= rounds; ++i) {
          if (i >= tree.least) found.insert(places.begin(), places.end());
          places = ends(tree.parts[0], places);
        }
        break;
      }
      case Tree::Kind::rule:
        found = ends_[{tree.rule, at}];
        break;
    }
    return found;
  }
  std::set<std::size_t> ends(const Tree& tree, const std::set<std::size_t>& places) {
    std::set<std::size_t> found;
    for (const std::size_t at : places) found.merge(ends(tree, at));
    return found;
  }

  // Whether the rest of the text is the beginning of a text of the tree, which may be all of it.
  bool is_cut(const Tree& tree, std::size_t at) {
    const std::string_view rest = text_.substr(at);
    switch (tree.kind) {
      case Tree::Kind::literal:
        return std::string_view(tree.text).starts_with(rest);
      case Tree::Kind::chars:
        return std::ranges::any_of(
            tree.choices, [&](const std::string& choice) { return choice.starts_with(rest); });
      case Tree::Kind::seq: {
        std::set<std::size_t> places = {at};
        for (const Tree& part : tree.parts) {
          for (const std::size_t place : places) {
            if (is_cut(part, place)) return true;
          }
          places = ends(part, places);
        }
        return places.contains(text_.size());
      }
      case Tree::Kind::alt:
        return std::ranges::any_of(tree.parts, [&](const Tree& part) { return is_cut(part, at); });
      case Tree::Kind::repeat: {
        std::set<std::size_t> places = {at};
        const int rounds = tree.most < 0 ? tree.least + static_cast<int>(text_.size()) : tree.most;
        for (int i = 0; i <= rounds; ++i) {
          if (i >= tree.least && places.contains(text_.size())) return true;
          if (i == tree.most) break;
          for (const std::size_t place : places) {
            if (is_cut(tree.parts[0], place)) return true;
          }
          places = ends(tree.parts[0], places);
        }
        return false;
      }
      case Tree::Kind::rule:
        return prefixes_.contains({tree.rule, at});
    }
    return false;
  }

  std::vector<Tree> rules_;
  std::string_view text_;
  std::map<Place, std::set<std::size_t>> ends_;
  std::set<Place> prefixes_;
};

/// Trees over the characters a, b and é. `rules`: how many rules a part may refer to.
class RandomTrees {
 public:
  explicit RandomTrees(unsigned seed) : random_(seed) {}

  int below(int n) { return std::uniform_int_distribution<int>(0, n - 1)(random_); }

  Tree tree(int depth, int rules) {
    const int kind = below(depth == 0 ? 2 : rules > 0 ? 7 : 6);
    switch (kind) {
      case 0: {
        Tree literal{.kind = Tree::Kind::literal};
        for (int i = below(4); i > 0; --i) literal.text += letter();
        return literal;
      }
      case 1: {
        Tree chars{.kind = Tree::Kind::chars};
        for (int i = 1 + below(2); i > 0; --i) chars.choices.push_back(letter());
        return chars;
      }
      case 2:
      case 3: {
        Tree seq{.kind = Tree::Kind::seq};
        for (int i = 1 + below(3); i > 0; --i) seq.parts.push_back(tree(depth - 1, rules));
        return seq;
      }
      case 4: {
        Tree alt{.kind = Tree::Kind::alt};
        for (int i = 1 + below(3); i > 0; --i) alt.parts.push_back(tree(depth - 1, rules));
        return alt;
      }
      case 5: {
        Tree repeat{.kind = Tree::Kind::repeat, .least = below(3)};
        repeat.most = below(2) == 0 ? -1 : repeat.least + below(3);
        repeat.parts.push_back(tree(depth - 1, rules));
        return repeat;
      }
      default:
        return {.kind = Tree::Kind::rule, .rule = static_cast<std::size_t>(below(rules))};
    }
  }

  /// Rules that each have some text.
  std::vector<Tree> rules(int count) {
    std::vector<Tree> rules;
    for (int i = 0; i < count; ++i) {
      Tree alt{.kind = Tree::Kind::alt};
      alt.parts.push_back(tree(1, 0));
      alt.parts.push_back(tree(3, count));
      rules.push_back(alt);
    }
    return rules;
  }

  std::string letter() {
    constexpr const char* letters[] = {"a", "a", "b", "\xC3\xA9"};
    return letters[below(4)];
  }
  std::string text(int most) {
    std::string text;
    for (int i = below(most + 1); i > 0; --i) text += letter();
    return text;
  }

 private:
  std::mt19937 random_;
};

/// The tree in a notation; `rule` names rules.
inline std::string written(const Tree& tree, bool is_gbnf) {
  const auto group = [&](const std::string& body) { return (is_gbnf ? "(" : "(?:") + body + ")"; };
  switch (tree.kind) {
    case Tree::Kind::literal:
      return is_gbnf ? '"' + tree.text + '"' : group(tree.text);
    case Tree::Kind::chars: {
      std::string members;
      for (const std::string& choice : tree.choices) members += choice;
      return "[" + members + "]";
    }
    case Tree::Kind::seq: {
      std::string all;
      for (const Tree& part : tree.parts) all += written(part, is_gbnf) + (is_gbnf ? " " : "");
      return group(all);
    }
    case Tree::Kind::alt: {
      std::string all;
      for (const Tree& part : tree.parts) all += (all.empty() ? "" : "|") + written(part, is_gbnf);
      return group(all);
    }
    case Tree::Kind::repeat:
      return group(written(tree.parts[0], is_gbnf)) + "{" + std::to_string(tree.least) + "," +
             (tree.most < 0 ? "" : std::to_string(tree.most)) + "}";
    case Tree::Kind::rule:
      return "r" + std::to_string(tree.rule);
  }
  return {};
}

inline std::string written(const std::vector<Tree>& rules) {
  std::string text;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    text += "r" + std::to_string(i) + " ::= " + written(rules[i], true) + "\n";
  }
  return text;
}

/// Tokens that are these texts; the last `special` of them are special.
class ListTokenizer final : public Tokenizer {
 public:
  explicit ListTokenizer(std::vector<std::string> texts, std::size_t special = 0)
      : texts_(std::move(texts)), first_special_(texts_.size() - special) {}

  // The longest token that fits, again and again.
  Result<std::vector<Token>> encode(std::string_view text,
                                    const EncodeOptions& /*options*/) const override {
    std::vector<Token> tokens;
    while (!text.empty()) {
      std::size_t best = texts_.size();
      for (std::size_t i = 0; i < first_special_; ++i) {
        if (texts_[i].empty() || !text.starts_with(texts_[i])) continue;
        if (best == texts_.size() || texts_[i].size() > texts_[best].size()) best = i;
      }
      if (best == texts_.size()) return Error{ErrorCode::bad_argument, "[list] no token"};
      tokens.push_back(static_cast<Token>(best));
      text.remove_prefix(texts_[best].size());
    }
    return tokens;
  }
  std::string_view bytes(Token token) const noexcept override {
    return texts_[static_cast<std::size_t>(token)];
  }
  Index vocab() const noexcept override { return std::ssize(texts_); }
  bool is_special(Token token) const noexcept override {
    return static_cast<std::size_t>(token) >= first_special_;
  }
  std::optional<Token> find(std::string_view text) const override {
    const auto place = std::ranges::find(texts_, text);
    if (place == texts_.end()) return std::nullopt;
    return static_cast<Token>(place - texts_.begin());
  }

 private:
  std::vector<std::string> texts_;
  std::size_t first_special_;
};

}  // namespace krait::test
