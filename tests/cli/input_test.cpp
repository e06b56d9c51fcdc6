// Where texts come from: arguments, files of every kind, pipes.

#include <sstream>

#include "tests/cli/cli.hpp"

namespace krait::input_test {
namespace {

class CliInput : public Cli {
 protected:
  static constexpr const char* program = KRAIT_PROGRAM;
  std::string run(const std::string& command) {
    const Outcome outcome = shell(command);
    EXPECT_EQ(outcome.code, 0) << command << ": " << outcome.err;
    return outcome.out;
  }
};

TEST_F(CliInput, TextsMayComeFromPipesAndDevices) {
  const std::string krait = program;
  const std::string text = "It was";
  const std::string ids = run(krait + " tokenize '" + text + "'");
  EXPECT_EQ(run("printf 'It was' | " + krait + " tokenize"), ids);
  EXPECT_EQ(run("printf 'It was' | " + krait + " tokenize -"), ids);
  EXPECT_EQ(run("printf 'It was' | " + krait + " tokenize --file -"), ids);
  EXPECT_EQ(run("printf 'It was' | " + krait + " tokenize --file /dev/stdin"), ids);
  EXPECT_EQ(run("mkfifo " + path("p") + "; printf 'It was' >" + path("p") + " & " + krait +
                " tokenize --file " + path("p")),
            ids);
  // A writer that takes its time.
  EXPECT_EQ(run("(printf 'It '; sleep 0.3; printf was) >" + path("p") + " & " + krait +
                " tokenize --file " + path("p")),
            ids);
  test::write_file(path("text"), text);
  EXPECT_EQ(run(krait + " tokenize --file " + path("text")), ids);
  EXPECT_EQ(run(krait + " tokenize <" + path("text")), ids);

  const std::string greedy = " -n 5 --greedy ";
  const std::string reply = run(krait + " generate" + greedy + "'It was'");
  EXPECT_EQ(run("printf 'It was' | " + krait + " generate" + greedy), reply);
  EXPECT_EQ(run("printf 'It was' | " + krait + " generate --prompt-file /dev/stdin" + greedy),
            reply);
  EXPECT_EQ(run("printf 'It was' | " + krait + " generate - --echo" + greedy), text + reply);
  EXPECT_EQ(run("printf 'It was' | " + krait + " logits"), run(krait + " logits --text 'It was'"));
  const std::string measured = run(krait + " perplexity " + path("text"));
  EXPECT_EQ(run("printf 'It was' | " + krait + " perplexity"), measured);
  EXPECT_EQ(run(krait + " perplexity - <" + path("text")), measured);
  EXPECT_EQ(run("printf 'It was' | " + krait + " evaluate --kl krait-bytes-moe"),
            run(krait + " evaluate --kl krait-bytes-moe --file " + path("text")));
}

TEST_F(CliInput, AFileIsReadToItsEndWhateverItsSize) {
  const std::string version = test::read_file("/proc/version");
  EXPECT_GT(version.size(), 10U);
  std::istringstream ids(run(std::string(program) + " tokenize --file /proc/version"));
  std::size_t count = 0;
  for (int id = 0; ids >> id;) ++count;
  EXPECT_EQ(count, version.size());
  // As much as is asked for of a text without end.
  EXPECT_EQ(krait_json("perplexity /dev/zero --limit 100")["tokens"], 100);
}

TEST_F(CliInput, AStateMayComeFromAPipe) {
  const std::string krait = program;
  const std::string whole = run(krait + " generate Once -n 20 --seed 1");
  const std::string first = run(krait + " generate Once -n 8 --seed 1 --state-out " + path("s"));
  EXPECT_EQ(first + run("cat " + path("s") + " | " + krait +
                        " generate -n 12 --seed 1 --state-in /dev/stdin"),
            whole);
  expect_error("generate a --state-in /dev/null", 1, "/dev/null");
}

TEST_F(CliInput, StreamsThatAreMissingAreErrors) {
  expect_error("generate - <&-", 1, "standard input");
  expect_error("tokenize --file " + directory_.path().string(), 1, "Is a directory");
  const Outcome closed = krait("tokenize a >&-");
  EXPECT_EQ(closed.code, 1);
  EXPECT_NE(closed.err.find("standard output"), std::string::npos) << closed.err;
}

TEST_F(CliInput, DecodingReadsWhatTokenizingPrints) {
  for (const char* list : {"104 101 121", "104,101,121", "[104,101,121]", " [ 104 , 101, 121 ] ",
                           "104, 101,  121", "104,101,121,"}) {
    EXPECT_EQ(run(std::string(program) + " tokenize --decode '" + list + "'"), "hey") << list;
  }
  const std::string krait = program;
  EXPECT_EQ(run(krait + " tokenize hello | " + krait + " tokenize --decode -"), "hello");
  EXPECT_EQ(run(krait + " tokenize hello --json | " + krait + " tokenize --decode -"), "hello");
  EXPECT_EQ(run(krait + " tokenize --decode ''"), "");
  EXPECT_EQ(run(krait + " tokenize --decode '[]' --json"), "{\"text\":\"\"}\n");
  EXPECT_EQ(run(krait + " logits --tokens '1 2 3'"), run(krait + " logits --tokens 1,2,3"));
}

TEST_F(CliInput, WhatIsReadIsNotWritten) {
  const std::string model = path("model");
  std::filesystem::copy(test::data_dir().parent_path() / "examples/models/krait-bytes-draft",
                        model);
  test::write_file(path("text"), std::string(400, 'a'));
  for (const char* part : {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"}) {
    test::write_file(path(part), "GGUF");
  }
  const std::string weights = model + "/model.safetensors";
  const std::string text = path("text");
  const std::string train = "train --config " + model + "/config.json --data " + text + " --out " +
                            path("out") + " --steps 1 --batch 1 --length 8 --log ";
  for (const std::string& command :
       {"generate hi -n 1 -m " + model + " --state-out " + weights,
        "generate hi -n 1 -m " + weights + " --state-out " + model + "/config.json",
        "generate hi -n 1 -m " + path("m-00001-of-00002.gguf") + " --state-out " +
            path("m-00002-of-00002.gguf"),
        "generate --prompt-file " + text + " -n 1 -m " + model + " --state-out " + text,
        "logits --text hi -m " + model + " --out " + weights,
        "logits --file " + text + " -m " + model + " --out " + text,
        "inspect " + model + " --spectrum " + model + "/config.json", train + text,
        train + model + "/config.json",
        "train -m " + model + train.substr(train.find(" --data")) + weights,
        "laser " + model + " " + path("d") + " --search --data " + text + " --svg " + text}) {
    SCOPED_TRACE(command);
    const std::string before =
        test::read_file(weights) + test::read_file(text) + test::read_file(model + "/config.json");
    const Outcome outcome = krait(command);
    EXPECT_EQ(outcome.code, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_NE(outcome.err.find(": expected a file that is not read, found one of "),
              std::string::npos)
        << outcome.err;
    EXPECT_TRUE(test::read_file(weights) + test::read_file(text) +
                    test::read_file(model + "/config.json") ==
                before);
  }
  // A state that goes on may take the place of the one before it.
  const std::string state = path("state");
  EXPECT_EQ(krait("generate hi -n 1 -m " + model + " --state-out " + state).code, 0);
  EXPECT_EQ(
      krait("generate -n 1 -m " + model + " --state-in " + state + " --state-out " + state).code,
      0);
  // The log is not where the result will be.
  const Outcome refused = krait(train + path("out"));
  EXPECT_NE(refused.err.find("log: expected a file beside the result"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path("out")));
}

TEST_F(CliInput, WeightsNeedARegularFile) {
  ASSERT_EQ(shell("mkfifo " + path("model.safetensors")).code, 0);
  expect_error("inspect " + path("model.safetensors"), 1, "expected a regular file");
}

}  // namespace
}  // namespace krait::input_test
