#include "krait/training/rows.hpp"

#include <gtest/gtest.h>

#include <string>

namespace krait::rows_test {
namespace {

std::vector<Token> bytes(std::string_view text) { return {text.begin(), text.end()}; }

Result<std::vector<Row>> read(std::string_view lines, Index length = 100) {
  return read_examples(lines, "f.jsonl", *byte_tokenizer(), 0, length);
}

TEST(Examples, HaveTheResponseAndItsEndForTargets) {
  const std::vector<Row> rows = read(
                                    "{\"prompt\": \"ab\", \"response\": \"cd\"}\n\n"
                                    "{\"response\": \"\", \"prompt\": \"x\", \"id\": 3}")
                                    .value();
  ASSERT_EQ(rows.size(), 2U);
  std::vector<Token> expected = bytes("abcd");
  expected.push_back(0);
  EXPECT_EQ(rows[0].tokens, expected);
  EXPECT_EQ(rows[0].given, 2);
  EXPECT_EQ(rows[0].targets(), 3);
  EXPECT_EQ(rows[1].tokens, (std::vector<Token>{'x', 0}));
  EXPECT_EQ(rows[1].targets(), 1);
}

TEST(Examples, LoseTheBeginningOfALongPrompt) {
  const std::vector<Row> rows =
      read("{\"prompt\": \"0123456789\", \"response\": \"ab\"}", 6).value();
  std::vector<Token> expected = bytes("6789ab");
  expected.push_back(0);
  EXPECT_EQ(rows[0].tokens, expected);
  EXPECT_EQ(rows[0].targets(), 3);
}

TEST(Examples, OfAnotherFormAreRefusedWithTheirLine) {
  const std::string good = "{\"prompt\": \"a\", \"response\": \"b\"}\n";
  const auto message = [](const std::string& lines) { return read(lines, 4).error().message; };
  EXPECT_EQ(message(""), "[training] data: expected examples, found none (f.jsonl)");
  EXPECT_EQ(message("\n  \n"), "[training] data: expected examples, found none (f.jsonl)");
  EXPECT_EQ(message(good + "\n{\"prompt\": \"a\"}"),
            "[training] line 3: expected the text \"response\", found null (f.jsonl)");
  EXPECT_EQ(message(good + "{\"prompt\": 3, \"response\": \"b\"}"),
            "[training] line 2: expected the text \"prompt\", found 3 (f.jsonl)");
  EXPECT_EQ(message("[1]"),
            "[training] line 1: expected an object with the text \"prompt\", found [1] (f.jsonl)");
  EXPECT_EQ(message("{\"prompt\": \"\", \"response\": \"b\"}"),
            "[training] line 1: expected a prompt of at least one token, found an empty one "
            "(f.jsonl)");
  EXPECT_EQ(message("{\"prompt\": \"a\", \"response\": \"bcde\"}"),
            "[training] line 1: expected a response of at most 4 tokens, found 5 with its end "
            "(f.jsonl)");
  EXPECT_NE(message(good + "{\"prompt\"").find("line 2"), std::string::npos);
}

TEST(Pairs, ShareWhatIsKeptOfTheirPrompt) {
  const auto read_them = [&](const std::string& lines) {
    return read_pairs(lines, "p.jsonl", *byte_tokenizer(), 0, 5);
  };
  const auto pairs =
      read_them("{\"prompt\": \"abcd\", \"chosen\": \"x\", \"rejected\": \"yz\"}").value();
  ASSERT_EQ(pairs.size(), 1U);
  EXPECT_EQ(pairs[0].chosen.tokens, (std::vector<Token>{'b', 'c', 'd', 'x', 0}));
  EXPECT_EQ(pairs[0].rejected.tokens, (std::vector<Token>{'b', 'c', 'd', 'y', 'z', 0}));
  EXPECT_EQ(pairs[0].chosen.given, 3);
  EXPECT_EQ(pairs[0].rejected.targets(), 3);
  EXPECT_EQ(read_them("").error().message, "[training] data: expected pairs, found none (p.jsonl)");
  EXPECT_EQ(read_them("{\"prompt\": \"a\", \"chosen\": \"b\"}").error().message,
            "[training] line 1: expected the text \"rejected\", found null (p.jsonl)");
  EXPECT_EQ(
      read_them("{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"12345\"}").error().message,
      "[training] line 1: expected a rejected answer of at most 5 tokens, found 6 with its end "
      "(p.jsonl)");
}

TEST(ExampleRows, SequentialOnesComeInTurn) {
  const std::vector<Row> examples = {{{1, 2}}, {{3, 4}}, {{5, 6}}};
  TrainOptions options;
  options.order = DataOrder::sequential;
  ExampleRows rows(options, examples);
  for (const Index i : {0, 1, 2, 3, 7}) {
    EXPECT_EQ(rows.row(i).tokens, examples[static_cast<std::size_t>(i % 3)].tokens);
  }
  options.order = DataOrder::shuffled;
  ExampleRows shuffled(options, examples);
  for (Index epoch = 0; epoch < 4; ++epoch) {
    Token sum = 0;
    for (Index i = 0; i < 3; ++i) sum += shuffled.row(3 * epoch + i).tokens.front();
    EXPECT_EQ(sum, 9);
  }
}

TEST(TextRows, BeginAgainBehindTheEnd) {
  const std::vector<Token> text = {0, 1, 2, 3, 4, 5, 6};
  TrainOptions options;
  options.order = DataOrder::sequential;
  options.length = 3;
  TextRows rows(options, text);
  EXPECT_EQ(rows.row(0).tokens, (std::vector<Token>{0, 1, 2, 3}));
  EXPECT_EQ(rows.row(2).tokens, (std::vector<Token>{6, 0, 1, 2}));
  EXPECT_EQ(rows.row(2).targets(), 3);
}

}  // namespace
}  // namespace krait::rows_test
