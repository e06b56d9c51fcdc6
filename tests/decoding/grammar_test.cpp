// Grammars and patterns against their definition, and the errors of their notations.
#include "krait/decoding/grammar.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <regex>

#include "core/utf8.hpp"
#include "tests/decoding/grammar_oracle.hpp"

namespace krait::grammar_test {
namespace {

using test::Oracle;
using test::RandomTrees;
using test::Tree;

Grammar regex(std::string_view pattern) { return Grammar::from_regex(pattern).value(); }
Grammar gbnf(std::string_view text) { return Grammar::from_gbnf(text).value(); }

void expect_texts(const Grammar& grammar, const std::vector<std::string>& texts,
                  const std::vector<std::string>& others) {
  for (const std::string& text : texts) EXPECT_TRUE(grammar.matches(text)) << text;
  for (const std::string& text : others) EXPECT_FALSE(grammar.matches(text)) << text;
}

TEST(Regex, AgreesWithTheStandardLibraryOnRandomPatterns) {
  RandomTrees random(1);
  int matched = 0;
  for (int round = 0; round < 300; ++round) {
    std::vector<Tree> rules = {random.tree(3, 0)};
    const std::string pattern = written(rules[0], false);
    const Grammar grammar = regex(pattern);
    const std::regex standard(pattern);
    Oracle oracle(rules);
    for (int i = 0; i < 20; ++i) {
      const std::string text = random.text(6);
      const bool is_match = oracle.matches(text);
      matched += is_match ? 1 : 0;
      ASSERT_EQ(grammar.matches(text), is_match) << pattern << " on " << text;
      // A class of the standard library is one of bytes.
      if (text.find('\xC3') == std::string::npos && pattern.find('\xC3') == std::string::npos) {
        ASSERT_EQ(std::regex_match(text, standard), is_match) << pattern << " on " << text;
      }
    }
  }
  EXPECT_GT(matched, 300);
}

TEST(Regex, ReadsWhatPatternsSay) {
  expect_texts(regex("a|bc|"), {"a", "bc", ""}, {"ab", "b", "abc"});
  expect_texts(regex("^(?:[a-c]{2,3}|x+?)$"), {"ab", "cab", "x", "xxx"}, {"a", "abca", "", "xa"});
  expect_texts(regex(R"(\d{3}-\w+\s\S)"), {"123-a_Z \xC3\xA9", "000-0\tx"},
               {"12-a x", "123-a  ", "123-\xC3\xA9 x", "\xD9\xA1\xD9\xA1\xD9\xA1-a x"});
  expect_texts(regex(R"([^\d\s]\D)"), {"ab", "\xC3\xA9-"}, {"1a", " a", "a1", "\xC2\xA0x"});
  expect_texts(regex(R"(\x41\u00e9\u{1F600}\uD83D\uDE00\.\n[\b\]\-a-])"),
               {"A\xC3\xA9\xF0\x9F\x98\x80\xF0\x9F\x98\x80.\n]",
                "A\xC3\xA9\xF0\x9F\x98\x80\xF0\x9F\x98\x80.\n-",
                "A\xC3\xA9\xF0\x9F\x98\x80\xF0\x9F\x98\x80.\n\b"},
               {"A\xC3\xA9\xF0\x9F\x98\x80\xF0\x9F\x98\x80.\nb"});
  expect_texts(regex("."), {"a", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x98\x80", " "},
               {"", "\n", "\xC3", "\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80", "aa"});
  expect_texts(regex(R"(\p{Lu}\P{L}\p{Greek})"), {"A1\xCE\xB1"}, {"a1\xCE\xB1", "AA\xCE\xB1"});
  expect_texts(regex("(?<year>[0-9]{4})(?P<rest>x{|y)"), {"2024x{", "2024y"}, {"2024x"});
  expect_texts(regex("[a-z]{100,200}"), {std::string(100, 'a'), std::string(200, 'z')},
               {std::string(99, 'a'), std::string(201, 'a')});
  expect_texts(regex("a{33,}b{0,40}"), {std::string(33, 'a'), std::string(90, 'a') + "bb"},
               {std::string(32, 'a'), std::string(33, 'a') + std::string(41, 'b')});
}

void expect_error(const Result<Grammar>& grammar, const std::string& message) {
  ASSERT_FALSE(grammar.has_value()) << message;
  EXPECT_EQ(grammar.error().message, message);
}

TEST(Regex, SaysWhatIsWrong) {
  const auto expect = [](std::string_view pattern, const std::string& rest) {
    expect_error(Grammar::from_regex(pattern), "[regex] pattern: expected " + rest);
  };
  expect("(a", "')', found the end (at byte 2)");
  expect("a)", "a group that was opened, found ')' (at byte 1)");
  expect("[a", "']', found the end (at byte 2)");
  expect("[]a]", "a character in the class, found ']' (at byte 1)");
  expect("[b-a]", "a range from a character to a larger one, found another (at byte 4)");
  expect("*a", "something to repeat, found '*' (at byte 0)");
  expect("a**", "something to repeat, found a repetition (at byte 3)");
  expect("a{3,2}", "bounds in ascending order, found {3,2} (at byte 6)");
  expect("a{9999999}", "a number of times of at most 1000000, and '}', found '9' (at byte 8)");
  expect("a\\", "a character behind '\\', found the end (at byte 2)");
  expect("\\q", "a known escape, found 'q' (at byte 1)");
  expect("\\x4", "hexadecimal digits of a character, found the end (at byte 3)");
  expect("\\ud800", "hexadecimal digits of a character, found the end (at byte 6)");
  const std::string finite = "what a finite automaton can decide, found ";
  expect("a\\012", finite + "a character in octal digits (at byte 3)");
  expect("[[:alpha:]]", finite + "a class of POSIX's within a class (at byte 1)");
  expect("(?=a)b", finite + "a look-around assertion (at byte 2)");
  expect("(a)\\1", finite + "a reference back to a group (at byte 4)");
  expect("a\\b", finite + "a word boundary (at byte 2)");
  expect("(?i)a", finite + "a group that begins with '(?' and 'i' (at byte 2)");
  expect("\\p{Klingon}", "a property of Unicode, found 'Klingon' (at byte 11)");
  expect("a\xFF", "UTF-8, found other bytes (at byte 1)");
  expect("a^b", "'^' at the beginning of the pattern or of an alternative, found it elsewhere");
  expect("(a$)*", "'$' at the end of the pattern or of an alternative, found it elsewhere");
  expect(std::string(300, '(') + std::string(300, ')'),
         "groups at most 200 deep, found more (at byte 201)");
  expect_error(Grammar::from_regex("a[^\\x{0}-\\x{10FFFF}]"),
               "[constraint] texts: expected at least one that is allowed, found none");
}

// Whatever a pattern is, it is compiled or refused soon.
TEST(Regex, BombsEndSoon) {
  using Clock = std::chrono::steady_clock;
  std::string nested = "a";
  for (int i = 0; i < 150; ++i) nested = "(" + nested + "|b){2,9}";
  std::string ambiguous = "(a|a)*(a|a)*(a|a)*(a|a)*(aa|a)*b";
  for (const std::string& pattern :
       {std::string("(a|b)*a(a|b){25}"), std::string("(a|b)*a(a|b){2000}"),
        std::string("(a{1,1000}){1,1000}"), std::string("((a{1,1000}){1,1000}){1,1000}"),
        std::string("((((a?){99}){99}){99}){99}"), std::string("(a*)*b"), std::string(5000, '.'),
        std::string("(?:a{0,1000}){0,1000}"), std::string("(.*)(.*)(.*)(.*)(.*)(.*)x{9999}"),
        std::string("(ab){1000000}"), nested, ambiguous}) {
    const auto begun = Clock::now();
    const auto grammar = Grammar::from_regex(pattern);
    if (grammar) {
      std::string text;
      for (int i = 0; i < 500; ++i) text += i % 7 == 3 ? 'b' : 'a';
      static_cast<void>(grammar->matches(text));
    } else {
      EXPECT_EQ(grammar.error().message.find('\n'), std::string::npos);
    }
    const double seconds = std::chrono::duration<double>(Clock::now() - begun).count();
    EXPECT_LT(seconds, 60.0) << pattern.substr(0, 60);
  }
  expect_texts(regex("(a|b)*a(a|b){25}"), {"ba" + std::string(25, 'b'), std::string(90, 'a')},
               {"b" + std::string(25, 'b'), "a"});
}

TEST(Gbnf, AgreesWithTheDefinitionOnRandomGrammars) {
  RandomTrees random(2);
  int compiled = 0;
  int matched = 0;
  for (int round = 0; round < 400; ++round) {
    const std::vector<Tree> rules = random.rules(1 + random.below(3));
    const auto grammar = Grammar::from_gbnf(written(rules), "r0");
    if (!grammar) {
      ASSERT_NE(grammar.error().message.find("left recursion"), std::string::npos)
          << grammar.error().message;
      continue;
    }
    ++compiled;
    Oracle oracle(rules);
    for (int i = 0; i < 12; ++i) {
      const std::string text = random.text(7);
      const bool is_match = oracle.matches(text);
      matched += is_match ? 1 : 0;
      ASSERT_EQ(grammar->matches(text), is_match) << written(rules) << " on " << text;
    }
  }
  EXPECT_GT(compiled, 150);
  EXPECT_GT(matched, 300);
}

TEST(Gbnf, ReadsItsNotation) {
  const Grammar list = gbnf(R"(# a list
root ::= item+   # items

# Items are lines.
item ::= "- " [^\r\n\x0b\x0c\u0085]+ "\n"
)");
  expect_texts(list, {"- a\n", "- a\n- \xC3\xA9 b\n"}, {"", "- \n", "- a", "a\n"});
  const Grammar arithmetic = gbnf(R"gbnf(
root  ::= (expr "=" ws term "\n")+
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \t\n]*
)gbnf");
  expect_texts(arithmetic, {"1=1\n", "x +(2*(y_1-3)) = z\n\n", "1=1\n2=2\n"},
               {"1=1", "1+=1\n", "(1=1\n", "1)=1\n", "1=1=1\n"});
  const Grammar lines =
      gbnf("root ::=\n  \"a\" (\n b\n | [b-]?\n \"c\" ) \n | \"d\"\nb ::= \"\\x41\\U0001F600\"");
  expect_texts(lines, {"aA\xF0\x9F\x98\x80", "abc", "a-c", "ac", "d"}, {"a", "ab", "acd", ""});
  expect_texts(gbnf("root ::= | \"x\"{2} | . [^a] \"\""), {"", "xx", "ab", "\n\n"}, {"x", "ba"});
  expect_texts(gbnf("root ::= \"(\" root? \")\""), {"()", "((()))"}, {"", "(()", "())"});
  // Rules that end in themselves, and in others.
  expect_texts(gbnf("root ::= \"a\" root | tail\ntail ::= \"b\" tail | \"c\" root | \"d\""),
               {"d", "aad", "abbcabd"}, {"", "a", "ab", "abc"});
  // The same text in many readings.
  expect_texts(gbnf("root ::= \"a\" root root | \"a\""), {"a", "aaa", std::string(41, 'a')},
               {"", "aa", std::string(40, 'a')});
  expect_texts(gbnf("\xEF\xBB\xBFroot ::= \"a\nb\""), {"a\nb"}, {"ab"});
  expect_texts(gbnf("root ::= [zaaya-cx]+"), {"abcxyz"}, {"d", "w"});
  EXPECT_TRUE(Grammar::from_gbnf("start ::= \"a\"", "start").value().matches("a"));
}

TEST(Gbnf, SaysWhatIsWrong) {
  const auto expect = [](std::string_view text, const std::string& rest) {
    expect_error(Grammar::from_gbnf(text), "[grammar] " + rest);
  };
  expect("", "rules: expected one named 'root', found none");
  expect("a ::= \"x\"", "rules: expected one named 'root', found none");
  expect("root ::= a\n\n b ::= \"b\"", "line 1: expected a rule that is defined, found 'a'");
  expect("root ::= \"a\"\nroot ::= \"b\"",
         "line 2: expected rules of different names, found a second 'root'");
  expect("root = \"a\"", "line 1: expected '::=', found '='");
  expect("root ::=\n \"a\nb", "line 3: expected '\"' at the end of a text, found the end");
  expect("root ::= [a", "line 1: expected ']', found the end");
  expect("root ::= (\"a\"", "line 1: expected ')', found the end");
  expect("root ::= \"a\")",
         "line 1: expected the end of the line or a part of the rule, found ')'");
  expect("root ::= \"\\q\"", "line 1: expected a known escape, found 'q'");
  expect("root ::= \"a\"{3,2}", "line 1: expected bounds in ascending order, found {3,2}");
  expect("root ::= \"a\"{x}", "line 1: expected numbers of at most 1000000 and '}', found 'x'");
  expect("root ::= <think>",
         "line 1: expected the end of the line or a part of the rule, found '<'");
  expect("root ::= \"a\"\n\"b\"", "line 2: expected the name of a rule, found '\"'");
  expect("root ::= \"\xFF\"", "line 1: expected UTF-8, found other bytes");
  expect("root ::= root \"a\" | \"a\"",
         "rule 'root': expected no left recursion, found root -> root");
  expect("root ::= e\ne ::= ws t\nt ::= e \"+\" | \"1\"\nws ::= \" \"*",
         "rule 'e': expected no left recursion, found e -> t -> e");
  expect_error(Grammar::from_gbnf("root ::= \"a\" root"),
               "[constraint] texts: expected at least one that is allowed, found none");
  const std::string large =
      "[constraint] grammar: expected one that comes to at most 500000 places when its repetitions "
      "are written out, found more";
  expect_error(Grammar::from_gbnf("root ::= (\"[\" root? \"]\"){1000000}"), large);
}

// Neither what is refused nor what is nearly too large costs more than its places.
TEST(Gbnf, RepetitionsThatAreTooManyAreRefusedSoon) {
  const auto begin = std::chrono::steady_clock::now();
  for (const char* text : {"root ::= (\"a\"?){1000000}", "root ::= (\"a\"?){400000}",
                           "root ::= (\"a\"?){0,240000}", "root ::= a{490000}\na ::= \"b\"?"}) {
    expect_error(Grammar::from_gbnf(text),
                 "[constraint] grammar: expected one that comes to at most 500000 places when its "
                 "repetitions are written out, found more");
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(60));
}

TEST(Gbnf, AmbiguityIsBounded) {
  using Clock = std::chrono::steady_clock;
  const auto begun = Clock::now();
  for (const char* text : {"root ::= \"a\" root root root | \"a\" root root | \"a\" root | \"a\"",
                           "root ::= x x x x x x\nx ::= \"a\" x x | \"a\" x | \"b\"?",
                           "root ::= (\"a\" root \"a\" | \"a\" root | \"a\" root root | \"a\")+"}) {
    const Grammar grammar = gbnf(text);
    EXPECT_TRUE(grammar.matches(std::string(60, 'a')));
    static_cast<void>(grammar.matches(std::string(400, 'a')));
  }
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - begun).count(), 60.0);
}

// What is long is read in time that grows as it does.
TEST(Gbnf, LengthIsCheap) {
  using Clock = std::chrono::steady_clock;
  const auto begun = Clock::now();
  std::string chain = "root ::= r0\n";
  for (int i = 0; i < 20'000; ++i) {
    chain += "r" + std::to_string(i) + " ::= \"a\" r" + std::to_string(i + 1) + " \"b\"\n";
  }
  const Grammar grammar = gbnf(chain + "r20000 ::= \"c\"");
  EXPECT_FALSE(grammar.matches("aacbb"));
  std::string letters;
  for (char32_t code = 0x4E00; code < 0x4E00 + 2 * 1000; code += 2) utf8::append(letters, code);
  EXPECT_TRUE(gbnf("root ::= [" + letters + "]").matches(letters.substr(0, 3)));
  EXPECT_LT(std::chrono::duration<double>(Clock::now() - begun).count(), 20.0);
}

// Depth costs memory, not the call stack.
TEST(Gbnf, NestingMayBeDeep) {
  const Grammar grammar = gbnf("root ::= \"(\" root \")\" root | \"\"");
  const std::size_t depth = 200'000;
  EXPECT_TRUE(grammar.matches(std::string(depth, '(') + std::string(depth, ')')));
  EXPECT_FALSE(grammar.matches(std::string(depth, '(') + std::string(depth - 1, ')')));
  std::string wide;
  for (int i = 0; i < 50'000; ++i) wide += "()";
  EXPECT_TRUE(grammar.matches(wide));
}

}  // namespace
}  // namespace krait::grammar_test
