// Training from the command line: what is interrupted ends with the same bytes.

#include <iterator>
#include <sstream>

#include "tests/cli/cli.hpp"
#include "tests/cli/running.hpp"

namespace krait {
namespace {

class CliTrain : public Cli {
 protected:
  CliTrain() {
    test::write_file(path("config.json"), R"({"model_type": "mamba", "vocab_size": 256,
      "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 4, "expand": 2,
      "time_step_rank": 1, "tie_word_embeddings": true, "intermediate_size": 32})");
    std::string text;
    for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i * i) + " of a text\n";
    test::write_file(path("text"), text);
  }

  std::string command(const std::string& out) const {
    return "train --config " + path("config.json") + " --data " + path("text") + " --out " +
           path(out.c_str()) + " --log " + path((out + ".jsonl").c_str()) + run;
  }
  std::string weights(const char* out) const {
    return test::read_file(path((std::string(out) + "/model.safetensors").c_str()));
  }
  Index log_lines(const char* out) const {
    const std::string log = test::read_file(path((std::string(out) + ".jsonl").c_str()));
    return std::ranges::count(log, '\n');
  }

  static constexpr const char* run =
      " --steps 200 --batch 8 --length 100 --checkpoint-every 3 --schedule cosine --warmup 4";
};

TEST_F(CliTrain, KilledAndInterruptedItEndsWithTheSameBytes) {
  const json done = krait_json(command("whole"));
  EXPECT_EQ(done["steps"], 200);
  EXPECT_EQ(log_lines("whole"), 200);
  for (const int signal : {SIGKILL, SIGINT, SIGTERM}) {
    std::istringstream words(command("cut") + " --resume");
    const std::vector<std::string> arguments{std::istream_iterator<std::string>(words), {}};
    const std::string log = path("cut.jsonl");
    if (!std::filesystem::exists(log)) test::write_file(log, "");
    const Index before = log_lines("cut");
    Running running(arguments, path("out"), path("err"));
    Running::wait_for_lines(log, before + 5);
    running.signal(signal);
    const int code = running.wait();
    EXPECT_TRUE(code == 128 + SIGKILL || code == 130) << code << test::read_file(path("err"));
  }
  EXPECT_EQ(krait(command("cut") + " --resume --threads 1").code, 0);
  EXPECT_EQ(weights("whole"), weights("cut"));
  EXPECT_EQ(log_lines("cut"), 200);
  EXPECT_EQ(krait(command("cut") + " --resume").code, 0);
  EXPECT_EQ(weights("whole"), weights("cut"));
}

TEST_F(CliTrain, OtherOptionsAreRefused) {
  EXPECT_EQ(krait(command("a")).code, 0);
  expect_error(command("a") + " --resume --lr 0.5", 1, "lr: expected 0.001");
  expect_error(command("a"), 1, "expected");  // there is something
  expect_error(command("b") + " --lr 1e30 --clip 0", 1, "step 1: expected a finite loss");
  EXPECT_FALSE(std::filesystem::exists(path("b")));
  expect_error("train -m krait-bytes-draft --data /dev/null --out " + path("c") + " --steps 1", 1,
               "data: expected at least 2 tokens, found 0");
}

TEST_F(CliTrain, ExamplesAreLearned) {
  EXPECT_EQ(krait(command("base")).code, 0);
  test::write_file(path("e.jsonl"),
                   "{\"prompt\": \"Q\", \"response\": \"abc\"}\n"
                   "{\"prompt\": \"Z\", \"response\": \"xyz\"}\n");
  const std::string sft = "sft -m " + path("base") + " --data " + path("e.jsonl") + " --out ";
  EXPECT_EQ(krait(sft + path("s") + " --steps 80 --batch 2 --length 8 --lr 0.02").code, 0);
  EXPECT_EQ(krait_json("generate -m " + path("s") + " Q -n 3 --greedy")["text"], "abc");
  EXPECT_EQ(krait_json("generate -m " + path("s") + " Z -n 3 --greedy")["text"], "xyz");
  expect_error(sft + path("t") + " --steps 1 --length 3", 1,
               "line 1: expected a response of at most 3 tokens, found 4 with its end");
}

}  // namespace
}  // namespace krait
