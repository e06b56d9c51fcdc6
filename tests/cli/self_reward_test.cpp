// The self-rewarding loop and its stages from the command line, on the letters task
// (examples/self_reward/letters.py), whose first model lies in tests/data/letters.

#include <fmt/format.h>

#include <filesystem>
#include <map>
#include <sstream>

#include "tests/cli/cli.hpp"
#include "tests/cli/running.hpp"

namespace krait::self_reward_test {
namespace {

namespace fs = std::filesystem;

class CliSelfReward : public Cli {
 protected:
  CliSelfReward() {
    std::string prompts;
    unsigned draw = 1;
    for (int i = 0; i < 1600; ++i) {
      draw = draw * 1664525U + 1013904223U;
      prompts += line(static_cast<char>('a' + (draw >> 29U)));
    }
    test::write_file(path("prompts.jsonl"), prompts);
    std::string evaluation;
    for (char letter = 'a'; letter <= 'h'; ++letter) evaluation += line(letter);
    test::write_file(path("evaluation.jsonl"), evaluation);
    test::write_file(path("judge.txt"), "J{prompt}{response}?");
  }

  static std::string line(char letter) {
    return json{{"prompt", std::string("Q") + letter + ">"},
                {"verify",
                 {{{"pattern", std::string(1, letter)}, {"points", 1}, {"most", 5}},
                  {{"pattern", "\\A(?!.{8}\\z)"}, {"points", -2}, {"most", 1}}}}}
               .dump() +
           "\n";
  }
  static std::string model() { return (test::data_dir() / "data" / "letters").string(); }

  static json config(const char* by) {
    return {{"model", model()},
            {"iterations", 4},
            {"seed", 3},
            {"prompts", "prompts.jsonl"},
            {"prompts_per_iteration", 400},
            {"candidates", {{"count", 4}, {"n", 12}, {"temperature", 1.0}, {"top_p", 1.0}}},
            {"judge", {{"by", by}, {"template", "judge.txt"}}},
            {"dpo", {{"epochs", 2}, {"batch", 16}, {"lr", 4e-5}, {"beta", 0.1}}},
            {"evaluate",
             {{"prompts", "evaluation.jsonl"}, {"count", 50}, {"n", 12}, {"temperature", 1.0}}}};
  }
  static json small() {
    json small = config("expected");
    small["iterations"] = 2;
    small["prompts_per_iteration"] = 60;
    small["evaluate"]["count"] = 4;
    return small;
  }
  std::string command(const char* name, const json& config, const char* out) const {
    test::write_file(path((std::string(name) + ".json").c_str()), config.dump());
    return "self-reward " + path((std::string(name) + ".json").c_str()) + " --out " + path(out);
  }
  json read(const std::string& name) const {
    return json::parse(test::read_file(path(name.c_str())));
  }
  std::vector<json> lines(const std::string& name) const {
    std::vector<json> lines;
    std::istringstream text(test::read_file(path(name.c_str())));
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  }
  // The verifiable scores of the first model and the last.
  std::pair<double, double> course(const char* by) {
    EXPECT_EQ(krait(command(by, config(by), by)).code, 0);
    const json report = read(std::string(by) + "/report.json");
    EXPECT_EQ(report["iterations"].size(), 4U);
    return {report["first"]["verifiable"]["mean"], report["iterations"][3]["verifiable"]["mean"]};
  }
  // All files of a run but the log, which has times, and what a killed process was writing.
  std::map<std::string, std::string> files(const char* out) const {
    std::map<std::string, std::string> result;
    for (const auto& entry : fs::recursive_directory_iterator(path(out))) {
      const fs::path name = entry.path().filename();
      if (!entry.is_regular_file() || name == "dpo.jsonl" || name.extension() == ".tmp") continue;
      result[fs::relative(entry.path(), path(out)).string()] = test::read_file(entry.path());
    }
    return result;
  }
  void expect_same(const char* out, const char* expected) const {
    const auto found = files(out);
    const auto wanted = files(expected);
    EXPECT_EQ(found.size(), wanted.size());
    for (const auto& [name, text] : wanted) {
      EXPECT_TRUE(found.contains(name) && found.at(name) == text) << name;
    }
  }
};

// The task has a truth, so that a judge that flatters itself could not pass.
TEST_F(CliSelfReward, OnLettersAModelTeachesItselfAndChanceTeachesNothing) {
  const auto [first, self] = course("expected");
  const auto [same, chance] = course("random");
  const auto [again, truth] = course("verify");
  EXPECT_EQ(first, same);
  EXPECT_EQ(first, again);
  EXPECT_GT(self - first, 1.0);
  EXPECT_LT(chance - first, 0.2);
  EXPECT_GT(self, truth - 0.4);

  const json report = read("expected/iteration-1/report.json");
  EXPECT_EQ(report["pairs"]["kept"].get<int>() + report["pairs"]["discarded"]["tied"].get<int>(),
            400);
  EXPECT_GT(report["margin"], 0.0);
  EXPECT_GT(report["reward_accuracy"], 0.8);
  EXPECT_GT(report["judge_accuracy"], 0.9);
  EXPECT_EQ(report["verifiable"]["n"], 400);
  EXPECT_LT(report["verifiable"]["low"], report["verifiable"]["mean"]);
  EXPECT_GT(report["verifiable"]["high"], report["verifiable"]["mean"]);
  // By the rules answers are often as good as each other.
  const int tied = read("verify/iteration-1/report.json")["pairs"]["discarded"]["tied"].get<int>();
  EXPECT_GT(tied, 0);
  EXPECT_NE(test::read_file(path("verify/report.md")).find(fmt::format(" / {} tied |", tied)),
            std::string::npos);
  const std::string drawing = test::read_file(path("expected/report.svg"));
  for (const char* panel : {"verifiable score", "judge accuracy", "pairs kept", "margin",
                            "reward accuracy", "KL to the model before", "tokens of answers"}) {
    EXPECT_NE(drawing.find(panel), std::string::npos) << panel;
  }
  // Pairs have their reference: that of the model before, over the answer and its end.
  const json pair = lines("expected/iteration-1/pairs.jsonl").front();
  for (const json& candidate : lines("expected/iteration-1/candidates.jsonl")) {
    if (candidate["id"] != pair["id"]) continue;
    for (const json& response : candidate["responses"]) {
      if (response["text"] != pair["chosen"] || response["tokens"].back() != 0) continue;
      EXPECT_NEAR(response["logp"], pair["ref_logp_c"], 1e-4);
    }
  }
}

TEST_F(CliSelfReward, InterruptedAtAnyStageItEndsWithTheSameBytes) {
  const std::string whole = command("whole", small(), "whole");
  EXPECT_EQ(krait(whole).code, 0);
  const std::string cut = command("cut", small(), "cut");
  std::istringstream words(cut);
  const std::vector<std::string> arguments{std::istream_iterator<std::string>(words), {}};
  int signal = SIGKILL;
  for (const char* stage :
       {"iteration-1/candidates.jsonl", "iteration-1/scored.jsonl", "iteration-1/pairs.jsonl",
        "iteration-1/dpo.jsonl", "iteration-1/report.json", "iteration-2/pairs.jsonl"}) {
    Running running(arguments, path("out"), path("err"));
    const std::string file = path("cut/") + stage;
    Running::wait_for_lines(file, 1);
    running.signal(signal);
    const int code = running.wait();
    EXPECT_TRUE(code == (signal == SIGINT ? 130 : 128 + SIGKILL) || code == 0)
        << code << test::read_file(path("err"));
    signal = signal == SIGKILL ? SIGINT : SIGKILL;
  }
  EXPECT_EQ(krait(cut).code, 0);
  expect_same("cut", "whole");
  EXPECT_EQ(krait(cut).code, 0);  // of a finished run
  json other = small();
  other["dpo"]["lr"] = 1e-5;
  expect_error(command("cut", other, "cut"), 1, "dpo.lr: expected 4e-05, as in the");
  other = small();
  other["model"] = "krait-bytes-draft";
  expect_error(command("cut", other, "cut"), 1, "model: expected ");
  test::write_file(path("prompts.jsonl"), line('a'));
  expect_error(cut, 1, "prompts: expected ");
  expect_same("cut", "whole");
}

TEST_F(CliSelfReward, AReplayIsPartOfTheConfiguration) {
  test::write_file(path("judged.jsonl"),
                   "{\"prompt\": \"JQa>aaabbbcc?\", \"response\": \"3\"}\n"
                   "{\"prompt\": \"JQb>aaacccaaaaa?\", \"response\": \"0\"}\n");
  json with = small();
  with["iterations"] = 1;
  with["dpo"]["replay"] = {{"file", "judged.jsonl"}, {"weight", 0.3}};
  EXPECT_EQ(krait(command("with", with, "with")).code, 0);
  for (const json& step : lines("with/iteration-1/dpo.jsonl")) {
    EXPECT_GT(step["loss/replay"], 0.0);
  }
  EXPECT_EQ(krait(command("with", with, "with")).code, 0);
  json other = with;
  other["dpo"]["replay"]["weight"] = 0.4;
  expect_error(command("with", other, "with"), 1, "dpo.replay.weight: expected 0.3, as in the");
  other["dpo"].erase("replay");
  expect_error(command("with", other, "with"), 1, "dpo.replay.weight: expected 0.3, as in the");
  test::write_file(path("judged.jsonl"), "{\"prompt\": \"a\", \"response\": \"b\"}\n");
  expect_error(command("with", with, "with"), 1, "dpo.replay.file: expected ");
  other["dpo"]["replay"] = {{"file", "judged.jsonl"}, {"share", 1}};
  expect_error(command("w", other, "w"), 1, "dpo.replay.share: expected one of file, weight");
  other["dpo"]["replay"] = {{"weight", 1}};
  expect_error(command("w", other, "w"), 1, "dpo.replay.file: expected a text, found none");
  other["dpo"]["replay"] = {{"file", "judged.jsonl"}, {"weight", 0}};
  expect_error(command("w", other, "w"), 1, "replay: expected a weight above 0");
  test::write_file(path("judged.jsonl"), "{\"prompt\": \"a\"}\n");
  expect_error(command("w", with, "w"), 1, "line 1: expected the text \"response\", found ");
  EXPECT_FALSE(fs::exists(path("w")));
}

TEST_F(CliSelfReward, StagesGiveWhatTheLoopGives) {
  const std::string few = path("few.jsonl");
  test::write_file(few, line('a') + line('b') + line('c'));
  const std::string sample = "candidates -m " + model() + " --prompts " + few +
                             " --count 3 -n 12 --seed 7 --out " + path("c.jsonl");
  EXPECT_EQ(krait_json(sample)["out"], path("c.jsonl"));
  const std::string c = test::read_file(path("c.jsonl"));
  EXPECT_EQ(krait(sample + " --threads 1").code, 0);
  const std::string unseeded = "candidates -m " + model() + " --prompts " + few + " -n 12 --out ";
  EXPECT_EQ(krait(unseeded + path("a.jsonl")).code, 0);
  EXPECT_EQ(krait(unseeded + path("b.jsonl")).code, 0);
  EXPECT_EQ(test::read_file(path("a.jsonl")), test::read_file(path("b.jsonl")));
  EXPECT_EQ(test::read_file(path("c.jsonl")), c);
  const std::string judge = "judge -m " + model() + " --in " + path("c.jsonl") + " --template " +
                            path("judge.txt") + " --out " + path("s.jsonl");
  EXPECT_EQ(krait(judge + " --expected").code, 0);
  for (const json& line : lines("s.jsonl")) {
    ASSERT_EQ(line["scores"].size(), 3U);
    for (const json& mean : line["mean"]) {
      EXPECT_GE(mean, 0.0);
      EXPECT_LE(mean, 5.0);
    }
  }
  const std::string pairs = "pairs --in " + path("s.jsonl") + " --out " + path("p.jsonl");
  const json counts = krait_json(pairs);
  EXPECT_EQ(counts["kept"].get<std::size_t>(), lines("p.jsonl").size());
  EXPECT_EQ(counts["discarded"].size(), 5U);
  expect_error("pairs --in " + path("p.jsonl") + " --anchor-rejected " + path("s.jsonl") +
                   " --out " + path("s.jsonl"),
               1, "--out: expected ");
  EXPECT_EQ(krait(judge + " --samples 5 --seed 2").code, 0);
  for (const json& line : lines("s.jsonl")) EXPECT_EQ(line["raw"][0].size(), 5U);
  EXPECT_EQ(krait("dpo -m " + model() + " --data " + path("p.jsonl") + " --out " + path("m") +
                  " --steps 1")
                .code,
            0);
}

TEST_F(CliSelfReward, BadInputIsRefused) {
  json wrong = small();
  wrong["dpo"]["epoch"] = 3;
  expect_error(command("w", wrong, "w"), 1, "[self-reward] dpo.epoch: expected one of epochs, ");
  wrong = small();
  wrong["iteration"] = 3;
  expect_error(command("w", wrong, "w"), 1, "[self-reward] iteration: expected one of model, ");
  wrong = small();
  wrong["judge"]["by"] = "chance";
  expect_error(command("w", wrong, "w"), 1,
               "judge.by: expected one of expected, samples, verify, random, found 'chance'");
  wrong = small();
  wrong["iterations"] = 0;
  expect_error(command("w", wrong, "w"), 1, "iterations: expected a whole number of at least 1");
  wrong = small();
  wrong.erase("prompts");
  expect_error(command("w", wrong, "w"), 1, "prompts: expected a text, found none");
  wrong = small();
  wrong["dpo"]["beta"] = -1;
  expect_error(command("w", wrong, "w"), 1, "beta: expected a finite number above 0, found -1");
  wrong = small();
  wrong["prompts"] = "nowhere.jsonl";
  expect_error(command("w", wrong, "w"), 1, "nowhere.jsonl");
  wrong = small();
  for (const auto& [section, key, value, expected] :
       {std::tuple<const char*, const char*, json, const char*>{"candidates", "top_p", 7,
                                                                "top-p: expected"},
        {"judge", "template", "template.txt", "template: expected {response} in it"},
        {"evaluate", "text", "letter.txt", "evaluate.text: expected at least 2 tokens"}}) {
    wrong = small();
    wrong["judge"]["by"] = "expected";
    wrong[section][key] = value;
    test::write_file(path("template.txt"), "Rate {prompt}: ");
    test::write_file(path("letter.txt"), "x");
    expect_error(command("w", wrong, "early"), 1, expected);
    EXPECT_FALSE(fs::exists(path("early"))) << expected;  // no folder that is another run's
  }
  wrong = small();
  wrong["pairs"] = {{"min_gap", 9}};
  expect_error(command("w", wrong, "w"), 1, "pairs: expected at least one, found none: ");
  wrong = small();
  wrong["dpo"]["lr"] = 1e30;
  wrong["dpo"]["clip"] = 0;
  expect_error(command("w", wrong, "nan"), 1, "step 1: expected a finite loss");
  fs::create_directory(path("other"));
  test::write_file(path("other/file"), "x");
  expect_error(command("w", small(), "other"), 1, "expected a new folder or one of this run");
  expect_error("self-reward --out x", 2, "config: expected a configuration file, found none");
  expect_error("self-reward " + path("prompts.jsonl"), 2, "--out: expected ");

  const std::string on = " -m " + model();
  expect_error("candidates" + on + " --out x", 2, "--prompts: expected a file, found none");
  test::write_file(path("bad.jsonl"), "{\"prompt\": \"a\"}\n\n{\"prompt\": 5}\n");
  expect_error("candidates" + on + " --prompts " + path("bad.jsonl") + " --out " + path("x"), 1,
               "line 3: expected the text \"prompt\", found 5");
  expect_error("judge" + on + " --in " + path("bad.jsonl") + " --out " + path("x"), 2,
               "--expected: expected either it or --samples, found none");
  expect_error("judge" + on + " --expected --in " + path("bad.jsonl") + " --out " + path("x"), 1,
               "line 3: expected the text \"prompt\", found 5");
  expect_error("pairs --in " + path("bad.jsonl") + " --out " + path("x") + " --min-gap -1", 2,
               "--min-gap: expected a finite number of at least 0, found -1");
  expect_error("pairs --in " + path("judge.txt") + " --out " + path("x"), 1, "line 1");
  EXPECT_FALSE(fs::exists(path("x")));
  expect_error("prompts" + on + " --seed-data " + path("evaluation.jsonl") + " --out " + path("x") +
                   " --count 3 --max-rouge 2",
               2, "--max-rouge: expected 0 to 1, found 2");
}

}  // namespace
}  // namespace krait::self_reward_test
