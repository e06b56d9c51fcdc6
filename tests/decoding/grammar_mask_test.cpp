// Which tokens a grammar allows: every token of small vocabularies, tried one by one; copies; spans
// that can only go on in one way.
#include <gtest/gtest.h>

#include <algorithm>

#include "krait/decoding/grammar.hpp"
#include "tests/decoding/grammar_oracle.hpp"
#include "tests/support/support.hpp"

namespace krait::grammar_mask_test {
namespace {

using test::ListTokenizer;
using test::Oracle;
using test::RandomTrees;
using test::Tree;

std::vector<std::string> every_byte() {
  std::vector<std::string> texts;
  for (int byte = 0; byte < 256; ++byte) texts.emplace_back(1, static_cast<char>(byte));
  return texts;
}

// All bytes, and texts of any bytes of the alphabet; behind them an end of text.
std::shared_ptr<const ListTokenizer> random_vocabulary(RandomTrees& random) {
  std::vector<std::string> texts = every_byte();
  const std::string bytes = "aab\xC3\xA9";
  for (int i = 0; i < 60; ++i) {
    std::string text;
    for (int n = 1 + random.below(6); n > 0; --n) {
      text += bytes[static_cast<std::size_t>(random.below(static_cast<int>(bytes.size())))];
    }
    texts.push_back(text);
  }
  texts.emplace_back();     // a row of padding
  texts.emplace_back("a");  // a second token of the same text
  texts.emplace_back("<end>");
  return std::make_shared<const ListTokenizer>(std::move(texts), 1);
}

// Whether it is made of bytes that the random grammars have; nothing else is ever allowed.
bool is_spelled(std::string_view bytes) {
  return !bytes.empty() && bytes.find_first_not_of("ab\xC3\xA9") == std::string_view::npos;
}

TokenMask mask_of(const Constraint& constraint, const Tokenizer& tokenizer) {
  TokenMask mask(tokenizer.vocab());
  constraint.restrict_to(mask);
  return mask;
}

std::shared_ptr<const Constraint> constrain(const Grammar& grammar,
                                            std::shared_ptr<const Tokenizer> tokenizer,
                                            std::vector<Token> stops = {}) {
  return grammar.constrain(Vocabulary(std::move(tokenizer), stops)).value();
}

// Follows random allowed tokens, and compares every mask on the way.
void expect_masks(const Grammar& grammar, Oracle& oracle, RandomTrees& random) {
  const auto tokenizer = random_vocabulary(random);
  const Token end = static_cast<Token>(tokenizer->vocab() - 1);
  auto constraint = constrain(grammar, tokenizer, {end})->clone();
  std::string text;
  for (int step = 0; step < 6; ++step) {
    const TokenMask mask = mask_of(*constraint, *tokenizer);
    std::vector<Token> allowed;
    for (Token token = 0; token < end; ++token) {
      const std::string_view bytes = tokenizer->bytes(token);
      const bool is_allowed = is_spelled(bytes) && oracle.is_prefix(text + std::string(bytes));
      ASSERT_EQ(mask.allows(token), is_allowed) << "'" << text << "' + '" << bytes << "'";
      if (is_allowed) allowed.push_back(token);
    }
    ASSERT_EQ(mask.allows(end), oracle.matches(text)) << text;
    if (allowed.empty()) return;
    const Token next =
        allowed[static_cast<std::size_t>(random.below(static_cast<int>(allowed.size())))];
    constraint->accept(next);
    text += tokenizer->bytes(next);
  }
}

TEST(GrammarMasks, AreWhatTryingEveryTokenGives) {
  RandomTrees random(3);
  int compiled = 0;
  for (int round = 0; round < 120; ++round) {
    const std::vector<Tree> rules = random.rules(1 + random.below(3));
    const auto grammar = Grammar::from_gbnf(written(rules), "r0");
    if (!grammar) continue;
    ++compiled;
    Oracle oracle(rules);
    SCOPED_TRACE(written(rules));
    expect_masks(*grammar, oracle, random);
    if (HasFatalFailure()) return;
  }
  EXPECT_GT(compiled, 40);
  for (int round = 0; round < 40; ++round) {
    const std::vector<Tree> rules = {random.tree(3, 0)};
    SCOPED_TRACE(written(rules[0], false));
    Oracle oracle(rules);
    expect_masks(Grammar::from_regex(written(rules[0], false)).value(), oracle, random);
    if (HasFatalFailure()) return;
  }
}

// Characters that are counted instead of written out.
TEST(GrammarMasks, OfCountedCharacters) {
  RandomTrees random(4);
  for (const auto& [least, most] : {std::pair(0, 40), {3, 33}, {35, 36}, {40, 40}, {34, -1}}) {
    Tree repeat{.kind = Tree::Kind::repeat, .least = least, .most = most};
    repeat.parts = {{.kind = Tree::Kind::chars, .choices = {"a", "\xC3\xA9"}}};
    Tree tail{.kind = Tree::Kind::literal, .text = "ab"};
    const std::vector<Tree> rules = {{.kind = Tree::Kind::seq, .parts = {repeat, tail}}};
    const Grammar grammar = Grammar::from_gbnf("root ::= " + written(rules[0], true)).value();
    const auto tokenizer = random_vocabulary(random);
    Oracle oracle(rules);
    for (int round = 0; round < 2; ++round) {
      auto constraint = constrain(grammar, tokenizer)->clone();
      std::string text;
      for (;;) {
        const TokenMask mask = mask_of(*constraint, *tokenizer);
        std::vector<Token> allowed;
        for (Token token = 0; token + 1 < tokenizer->vocab(); ++token) {
          const std::string_view bytes = tokenizer->bytes(token);
          const bool is_allowed = is_spelled(bytes) && oracle.is_prefix(text + std::string(bytes));
          ASSERT_EQ(mask.allows(token), is_allowed) << "'" << text << "' + '" << bytes << "'";
          if (is_allowed) allowed.push_back(token);
        }
        if (allowed.empty() || text.size() > 80) break;
        const auto pick = random.below(static_cast<int>(allowed.size()));
        constraint->accept(allowed[static_cast<std::size_t>(pick)]);
        text += tokenizer->bytes(allowed[static_cast<std::size_t>(pick)]);
      }
    }
  }
}

// A copy goes its own way, and the copied one stands where it stood.
TEST(GrammarMasks, RollBackWithCopies) {
  const auto tokenizer = std::make_shared<const ListTokenizer>(every_byte());
  const Grammar grammar =
      Grammar::from_gbnf("root ::= \"(\" root? \")\" | \"[\" root root \"]\" | [a-z]{1,50}")
          .value();
  const auto fresh = constrain(grammar, tokenizer);
  auto one = fresh->clone();
  std::vector<std::unique_ptr<Constraint>> kept;
  std::vector<std::string> texts;
  const std::string text = "([ab(c)])";
  for (const char c : text) {
    kept.push_back(one->clone());
    one->accept(static_cast<Token>(static_cast<unsigned char>(c)));
  }
  EXPECT_FALSE(mask_of(*one, *tokenizer).allows_any());
  for (std::size_t i = 0; i < text.size(); ++i) {
    // The same as one that was given the text anew.
    auto again = fresh->clone();
    for (const char c : text.substr(0, i)) again->accept(static_cast<Token>(c));
    const TokenMask mask = mask_of(*kept[i], *tokenizer);
    ASSERT_TRUE(std::ranges::equal(mask.words(), mask_of(*again, *tokenizer).words()));
    ASSERT_TRUE(mask.allows(text[i]));
  }
}

TEST(GrammarMasks, EndTextsWhereTheGrammarDoes) {
  std::vector<std::string> texts = every_byte();
  texts.emplace_back("<end>");
  texts.emplace_back("<other>");
  const auto tokenizer = std::make_shared<const ListTokenizer>(texts, 2);
  auto constraint =
      constrain(Grammar::from_regex("ab?").value(), tokenizer, {256, '!', -1, 900})->clone();
  EXPECT_FALSE(mask_of(*constraint, *tokenizer).allows(256));
  EXPECT_TRUE(mask_of(*constraint, *tokenizer).allows('a'));
  constraint->accept('a');
  EXPECT_TRUE(mask_of(*constraint, *tokenizer).allows(256));
  EXPECT_TRUE(mask_of(*constraint, *tokenizer).allows('!'));
  EXPECT_FALSE(mask_of(*constraint, *tokenizer).allows(257));
  auto ended = constraint->clone();
  ended->accept(256);
  EXPECT_FALSE(mask_of(*ended, *tokenizer).allows_any());
  constraint->accept('b');
  const TokenMask mask = mask_of(*constraint, *tokenizer);
  EXPECT_TRUE(mask.allows(256));
  EXPECT_FALSE(mask.allows('b'));
  constraint->accept('b');  // what the mask did not allow
  EXPECT_FALSE(mask_of(*constraint, *tokenizer).allows_any());
}

// What cannot be spelled is not begun.
TEST(GrammarMasks, LeaveOutWhatTheVocabularyCannotSpell) {
  const auto tokenizer =
      std::make_shared<const ListTokenizer>(std::vector<std::string>{"a", "b", "ax", "c"});
  auto constraint = constrain(Grammar::from_regex("(a|b)(x|c)").value(), tokenizer)->clone();
  EXPECT_FALSE(mask_of(*constraint, *tokenizer).allows(2));
  constraint->accept(0);
  EXPECT_TRUE(mask_of(*constraint, *tokenizer).allows(3));
  const auto none = Grammar::from_regex("(a|b)x").value().constrain(Vocabulary(tokenizer));
  ASSERT_FALSE(none.has_value());
  EXPECT_EQ(none.error().message,
            "[constraint] texts: expected at least one that is allowed, found none that can be "
            "written in the bytes for which the vocabulary has tokens");
}

// A mask of a model with fewer or more rows than the tokenizer has tokens.
TEST(GrammarMasks, OfOtherSizes) {
  const auto tokenizer = std::make_shared<const ListTokenizer>(every_byte());
  const auto constraint = constrain(Grammar::from_regex("[0-z]").value(), tokenizer);
  for (const Index size : {60, 100, 256, 300, 1000}) {
    TokenMask mask(size);
    constraint->restrict_to(mask);
    for (Token token = 0; token < size; ++token) {
      ASSERT_EQ(mask.allows(token), token >= '0' && token <= 'z') << token;
    }
    TokenMask some(size);
    some.forbid('1');
    constraint->restrict_to(some);
    EXPECT_FALSE(some.allows('1'));
    EXPECT_TRUE(some.allows('2'));
  }
}

// Also of vocabularies whose texts begin with a space that is not there.
TEST(GrammarMasks, AllowWhatMustFollow) {
  for (const char* name :
       {"bytes.json", "chars.json", "unigram.json", "bpe.model", "unigram.model"}) {
    const std::string file =
        test::read_file(test::data_dir() / "golden/tokenizers" / std::string(name));
    const auto tokenizer = std::string_view(name).ends_with(".json")
                               ? read_tokenizer_json(file).value()
                               : read_sentencepiece(file).value();
    const auto grammar = Grammar::from_regex("the same word again and then[ab]").value();
    const auto constraint = constrain(grammar, tokenizer)->clone();
    const std::vector<Token> forced = constraint->forced();
    EXPECT_GT(forced.size(), 3U) << name;
    for (const Token token : forced) {
      ASSERT_TRUE(mask_of(*constraint, *tokenizer).allows(token)) << name << token;
      constraint->accept(token);
    }
    EXPECT_TRUE(mask_of(*constraint, *tokenizer).allows_any());
  }
}

TEST(GrammarMasks, SayWhatMustFollow) {
  std::vector<std::string> texts = every_byte();
  for (const char* text : {"ab", "cde", "cdef", "<x"}) texts.emplace_back(text);
  texts.emplace_back("<x>");
  const auto tokenizer = std::make_shared<const ListTokenizer>(texts, 1);
  const auto forced = [&](const char* pattern) {
    return tokenizer->decode(constrain(Grammar::from_regex(pattern).value(), tokenizer)->forced());
  };
  EXPECT_EQ(forced("abcd(e|f)"), "ab");  // "cd" begins "cde"
  EXPECT_EQ(forced("abxyz(e|f)"), "abxyz");
  EXPECT_EQ(forced("a|b"), "");
  EXPECT_EQ(forced("ab?"), "");  // 'a' begins "ab"
  EXPECT_EQ(forced("x(y)?"), "x");
  EXPECT_EQ(forced("xy<x>"), "xy<x>");  // in plain tokens
  auto constraint = constrain(Grammar::from_regex("(x|y)zzz").value(), tokenizer)->clone();
  EXPECT_TRUE(constraint->forced().empty());
  constraint->accept('y');
  EXPECT_EQ(tokenizer->decode(constraint->forced()), "zzz");
}

}  // namespace
}  // namespace krait::grammar_mask_test
