// --json-schema, --grammar and --regex, as a user gives them.
#include <fstream>

#include "tests/cli/cli.hpp"

namespace krait::constraint_test {
namespace {

class CliConstraint : public Cli {
 protected:
  std::string write(const char* name, const std::string& text) {
    std::ofstream(path(name)) << text;
    return path(name);
  }
  json sample(const std::string& arguments) {
    return krait_json("generate 'The sailor said: ' -m krait-bytes-draft " + arguments);
  }
};

TEST_F(CliConstraint, WritesJsonOfASchema) {
  const std::string schema =
      R"({"type": "object", "properties": {"name": {"type": "string", "maxLength": 9},
      "rank": {"enum": ["captain", "cook"]}, "age": {"type": "integer", "minimum": 10, "maximum": 99}},
      "required": ["name", "rank", "age"]})";
  const std::string file = write("schema.json", schema);
  for (int seed = 0; seed < 8; ++seed) {
    const std::string sampling = " --temperature 2 -n 300 --seed " + std::to_string(seed);
    const json one = sample("--json-schema " + file + sampling);
    EXPECT_EQ(one["finish_reason"], "constraint");
    const json value = json::parse(one["text"].get<std::string>(), nullptr, false);
    ASSERT_FALSE(value.is_discarded()) << one;
    EXPECT_LE(value["name"].get<std::string>().size(), 36U);
    EXPECT_TRUE(value["rank"] == "captain" || value["rank"] == "cook");
    EXPECT_GE(value["age"].get<int>(), 10);
    EXPECT_LE(value["age"].get<int>(), 99);
    EXPECT_EQ(value.size(), 3U);
    EXPECT_EQ(sample("--json-schema '" + schema + "'" + sampling)["text"], one["text"]);
  }
  const json cut = sample("--json-schema " + file + " -n 4 --seed 1");
  EXPECT_EQ(cut["finish_reason"], "length");
  EXPECT_EQ(cut["tokens"].size(), 4U);
}

TEST_F(CliConstraint, WritesTextsOfAGrammarAndAPattern) {
  const std::string file = write("list.gbnf", "root ::= (\"- \" [a-z]{3,5} \"\\n\"){2}\n");
  const std::string list = sample("--grammar " + file + " --seed 3")["text"];
  EXPECT_EQ(std::count(list.begin(), list.end(), '\n'), 2);
  EXPECT_EQ(list.substr(0, 2), "- ");
  const std::string word = sample("--regex '[A-Z][a-z]{4}!' --temperature 0")["text"];
  ASSERT_EQ(word.size(), 6U);
  EXPECT_EQ(word.back(), '!');
  // Each sample is held to it.
  const json samples = krait_json("generate a --regex '[0-9]{5}' --count 3 --seed 4")["samples"];
  ASSERT_EQ(samples.size(), 3U);
  for (const json& one : samples) EXPECT_EQ(one["text"].get<std::string>().size(), 5U);
  EXPECT_EQ(shell("printf 'Who?\\nWhere?\\n' | " KRAIT_PROGRAM " chat --regex '[a-z]{3}\\.'").code,
            0);
}

TEST_F(CliConstraint, RefusesBeforeTheFirstToken) {
  const std::string bad = write("bad.gbnf", "root ::= \"a\" item\n\nother ::= [a\n");
  const std::string cut = write("cut.json", "{\"type\": ");
  const std::string empty = write("empty", "");
  const std::pair<std::string, std::string> cases[] = {
      {"--grammar " + bad, "[grammar] line 3: expected ']'"},
      {"--grammar " + bad, "(--grammar " + bad + ")"},
      {"--grammar " + empty, "[grammar] rules: expected one named 'root', found none"},
      {"--grammar " + path("none"), "No such file"},
      {"--json-schema " + cut, "(--json-schema " + cut + ")"},
      {"--json-schema " + path("none"), "No such file"},
      {"--json-schema '{\"uniqueItems\": true}'", "[json-schema] uniqueItems: expected"},
      {"--json-schema '{\"type\": \"integer\", \"minimum\": 2, \"maximum\": 1}'",
       "[constraint] texts: expected at least one that is allowed, found none"},
      {"--regex '(a'", "[regex] pattern: expected ')', found the end (at byte 2) (--regex)"},
      {"--regex '(?=a)b'", "a look-around assertion"},
      {"--regex '(ab){1000000}'", "places when its repetitions are written out"},
  };
  for (const auto& [arguments, part] : cases) expect_error("generate a " + arguments, 1, part);
  expect_error("chat --regex '(a' </dev/null", 1, "[regex] pattern: expected ')'");
}

}  // namespace
}  // namespace krait::constraint_test
