// Two models' answers compared, on the letters task (examples/self_reward/letters.py).

#include <sstream>

#include "tests/cli/cli.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace krait::evaluate_test {
namespace {

class CliCompare : public Cli {
 protected:
  CliCompare() {
    std::string prompts;
    for (char letter = 'a'; letter <= 'h'; ++letter) {
      const json rules = {{{"pattern", std::string(1, letter)}, {"points", 1}, {"most", 5}},
                          {{"pattern", "\\A(?!.{8}\\z)"}, {"points", -2}, {"most", 1}}};
      prompts += line(letter, {{"verify", rules}});
    }
    test::write_file(path("prompts.jsonl"), prompts);
    test::write_file(path("judge.txt"), "J{prompt}{response}?");
  }

  static std::string line(char letter, json more) {
    more["prompt"] = std::string("Q") + letter + ">";
    return more.dump() + "\n";
  }
  static std::string letters() { return (test::data_dir() / "data" / "letters").string(); }
  std::string command(const std::string& model, const std::string& against) const {
    return "evaluate -m " + model + " --against " + against + " --prompts " +
           path("prompts.jsonl") + " --count 6 -n 12";
  }
  // A model that learned what the best answers are.
  std::string better() {
    std::string examples;
    for (char letter = 'a'; letter <= 'h'; ++letter) {
      examples += line(letter, {{"response", std::string(8, letter)}});
    }
    test::write_file(path("best.jsonl"), examples);
    EXPECT_EQ(krait("sft -m " + letters() + " --data " + path("best.jsonl") + " --out " +
                    path("better") + " --steps 20 --lr 1e-3")
                  .code,
              0);
    return path("better");
  }
};

TEST_F(CliCompare, AModelTiesWithItself) {
  const std::string text = path("text");
  test::write_file(text, "Qa>aabbccddQb>hgfedcba");
  for (const std::string& by :
       {std::string(), " --expected --template " + path("judge.txt"),
        " --samples 3 --template " + path("judge.txt") + " --judge " + letters()}) {
    const json found = krait_json(command(letters(), letters()) + by + " --held-out " + text);
    EXPECT_EQ(found["ties"]["rate"], 1.0) << by;
    EXPECT_EQ(found["wins"]["rate"], 0.0);
    EXPECT_EQ(found["losses"]["rate"], 0.0);
    EXPECT_EQ(found["difference"]["mean"], 0.0);
    EXPECT_EQ(found["compared"], 48);
    EXPECT_EQ(found["prompts"], 8);
    EXPECT_EQ(found["unparsable"], 0);
    EXPECT_EQ(found["model"], found["against"]);
    EXPECT_GT(found["model"]["length"], 7.0);
    EXPECT_EQ(found["model"]["perplexity"],
              krait_json("perplexity " + text + " -m " + letters())["perplexity"]);
  }
}

TEST_F(CliCompare, ABetterModelWins) {
  const std::string better = this->better();
  const json found = krait_json(command(better, letters()));
  EXPECT_EQ(found["by"], "verify");
  EXPECT_GT(found["wins"]["low"], 0.5);
  EXPECT_GT(found["difference"]["low"], 1.0);
  EXPECT_NEAR(found["model"]["score"].get<double>() - found["against"]["score"].get<double>(),
              found["difference"]["mean"], 1e-9);
  EXPECT_FALSE(found["model"].contains("perplexity"));
  // From the other side it is the same.
  json mirrored = krait_json(command(letters(), better) + " --threads 1");
  EXPECT_EQ(mirrored["losses"], found["wins"]);
  EXPECT_EQ(mirrored["ties"], found["ties"]);
  EXPECT_EQ(mirrored["difference"]["mean"], -found["difference"]["mean"].get<double>());
  EXPECT_EQ(mirrored["against"], found["model"]);
  // A judge that has learned to judge finds so, too; by the models' own answers, as candidates has
  // them.
  for (const char* by : {" --expected", " --samples 3"}) {
    const json judged = krait_json(command(better, letters()) + by + " --template " +
                                   path("judge.txt") + " --judge " + letters());
    EXPECT_GT(judged["wins"]["low"], 0.5) << by;
    EXPECT_EQ(judged["model"]["length"], found["model"]["length"]);
  }
  EXPECT_EQ(krait("candidates -m " + better + " --prompts " + path("prompts.jsonl") +
                  " --count 6 -n 12 --temperature 1 --out " + path("c.jsonl"))
                .code,
            0);
  std::istringstream answers(test::read_file(path("c.jsonl")));
  double tokens = 0.0;
  for (std::string line; std::getline(answers, line);) {
    const json answered = json::parse(line);
    for (const json& response : answered["responses"]) {
      tokens += static_cast<double>(response["tokens"].size());
    }
  }
  EXPECT_DOUBLE_EQ(tokens / 48.0, found["model"]["length"]);
  const std::string table = krait(command(better, letters())).out;
  for (const char* part :
       {"wins ", "ties ", "losses ", "difference +", "48 answers to 8 prompts"}) {
    EXPECT_NE(table.find(part), std::string::npos) << table;
  }
}

TEST_F(CliCompare, BadInputIsRefused) {
  const std::string model = letters();
  const std::string start = "evaluate -m " + model + " --against " + model;
  const auto prompts = [&](const char* name, const std::string& text) {
    test::write_file(path(name), text);
    return start + " --prompts " + path(name);
  };
  const std::string all = start + " --prompts " + path("prompts.jsonl");
  test::write_file(path("no_place.txt"), "Rate {prompt}: ");
  test::write_file(path("no_digit.txt"), "{prompt}{response}");
  test::write_file(path("letter.txt"), "x");
  const std::string words = path("words");
  write_checkpoint(
      words,
      R"({"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 259})");
  test::write_file(words + "/tokenizer.json", test::small_tokenizer().dump());
  struct Row {
    std::string arguments;
    int code;
    const char* message;
  };
  for (const Row& row : {
           Row{"evaluate -m " + model, 2, "--kl: expected a reference model, or --against with "},
           {start + " --kl krait-bytes-2m", 2, ", found both"},
           {start, 2, "--prompts: expected a file of prompts, found none"},
           {all + " --file x", 2, "--file: expected --kl beside it, found --against"},
           {"evaluate --kl x --count 3", 2, "--count: expected --against beside it, found --kl"},
           {all + " --judge x", 2, "--judge: expected --expected or --samples beside it"},
           {all + " --template x", 2, "--template: expected --expected or --samples beside it"},
           {all + " --expected --samples 2", 2, "--expected: expected either it or --samples"},
           {all + " --temperature -1", 2, "--temperature: expected "},
           {all + " --top-p 2", 2, "--top-p: expected "},
           {all + " --count 0", 2, "--count: expected "},
           {all + " --expected --template " + path("no_place.txt"), 1,
            "template: expected {response} in it"},
           {all + " --samples 2 --template " + path("no_digit.txt"), 1,
            "scores: expected one at least of both models' answers to a prompt, found none"},
           {all + " --held-out " + path("letter.txt"), 1,
            "held-out: expected at least 2 tokens, found 1 ("},
           {all + " --expected --judge " + path("nowhere"), 1, "nowhere"},
           {start + " --prompts " + path("nowhere.jsonl"), 1, "nowhere.jsonl"},
           {prompts("empty.jsonl", "\n"), 1, "expected prompts, found none"},
           {prompts("plain.jsonl", line('a', {})), 1, "line 1: expected rules, \"verify\", found"},
           {prompts("bad.jsonl", line('a', {}) + "\n{\"prompt\": 5}\n") + " --expected", 1,
            "line 3: expected the text \"prompt\", found 5"},
           {prompts("done.jsonl", line('a', {{"responses", json::array()}})) + " --expected", 1,
            "line 1: expected no \"responses\", found some"},
           {"evaluate -m " + model + " --against " + words + " --prompts " + path("prompts.jsonl"),
            1, "against: expected a model with 256 tokens, found one with "},
       }) {
    expect_error(row.arguments, row.code, row.message);
  }
}

}  // namespace
}  // namespace krait::evaluate_test
