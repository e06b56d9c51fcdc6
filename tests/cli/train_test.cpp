// Training from the command line: what is interrupted ends with the same bytes.

#include <cmath>
#include <iterator>
#include <sstream>

#include "tests/cli/cli.hpp"
#include "tests/cli/running.hpp"

namespace krait::train_test {
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

TEST_F(CliTrain, WeightsThatAreNotFiniteAreNoResult) {
  const std::string wild = "train --config " + path("config.json") + " --data " + path("text") +
                           " --out " + path("wild") + " --steps 1 --batch 1 --length 8 --clip 0";
  for (const std::string& end : {std::string(" --lr 1e6 --dtype f16"), std::string(" --lr 1e39")}) {
    const Outcome outcome = krait(wild + end);
    EXPECT_EQ(outcome.code, 1) << end;
    EXPECT_NE(outcome.err.find("embeddings.weight: expected weights that "), std::string::npos)
        << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(path("wild")));
    std::filesystem::remove_all(path("wild.partial"));
  }
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

TEST_F(CliTrain, DrawsItsLosses) {
  const std::string held_out = " --held-out " + path("held");
  test::write_file(path("held"), "line 4 of a text\nline 9 of a text\n");
  EXPECT_EQ(krait(command("a") + held_out).code, 0);
  EXPECT_NE(test::read_file(path("a.jsonl.svg")).find("held-out loss"), std::string::npos);
  EXPECT_NE(test::read_file(path("a.jsonl")).find("held_out_loss"), std::string::npos);
  test::write_file(path("e.jsonl"), "{\"prompt\": \"Q\", \"response\": \"abc\"}\n");
  test::write_file(path("p.jsonl"),
                   "{\"prompt\": \"Q\", \"chosen\": \"a\", \"rejected\": \"b\"}\n");
  for (const auto& [kind, data] : {std::pair{"sft", "e.jsonl"}, {"dpo", "p.jsonl"}}) {
    const std::string log = path(kind);
    EXPECT_EQ(
        krait(std::string(kind) + " -m " + path("a") + " --data " + path(data) + " --held-out " +
              path(data) + " --steps 3 --length 8 --out " + log + "-out --log " + log)
            .code,
        0);
    EXPECT_NE(test::read_file(log + ".svg").find("held-out loss"), std::string::npos) << kind;
  }
  std::filesystem::create_directory(path("b.jsonl.svg"));
  expect_error(command("b"), 1, "log: expected a file, found a folder");
  expect_error(command("c") + " --held-out /dev/null", 1,
               "held-out: expected at least 2 tokens, found 0");
}

TEST_F(CliTrain, LearnsFromATeacher) {
  EXPECT_EQ(krait(command("a") + " --teacher krait-bytes-draft --distill 0.5 --temperature 2").code,
            0);
  EXPECT_NE(test::read_file(path("a.jsonl")).find("\"kl\": "), std::string::npos);
  const json with = krait_json(command("b") + " --memory --teacher krait-bytes-draft --distill 1");
  const json without = krait_json(command("b") + " --memory");
  EXPECT_GT(with["workspaces"], without["workspaces"]);
  expect_error(command("b") + " --distill 0.5", 2, "--teacher: expected a model beside --distill");
  expect_error(command("b") + " --teacher krait-bytes-draft", 2, "--distill: expected what");
  expect_error(command("b") + " --teacher krait-bytes-draft --distill 2", 2, "expected 0 to 1");
  expect_error(command("b") + " --teacher " + golden("hf_f32") + " --distill 1", 1,
               "teacher: expected a model with 256 tokens, found one with");
}

TEST_F(CliTrain, TellsItsMemoryAndDoesNotTrain) {
  const std::string config = "train --config " + path("config.json") + " --data " + path("text");
  const json memory = krait_json(config + " --memory --length 100 --threads 1");
  // 256 embeddings, two layers and the final norm, each tensor from a multiple of 16 floats on.
  const Index floats =
      256 * 16 + 2 * (16 + 2 * 32 * 16 + 32 * 4 + 32 + 9 * 32 + 32 + 32 + 32 * 4 + 32 + 16 * 32) +
      16;
  EXPECT_EQ(memory["optimizer"], 8 * floats);
  EXPECT_EQ(memory["gradients"], 4 * 4 * floats);
  EXPECT_EQ(memory["activations"]["kept"], 3 * 100 * 16 * 4);
  EXPECT_GE(memory["weights"], 4 * floats);
  Index sum =
      memory["activations"]["kept"].get<Index>() + memory["activations"]["recomputed"].get<Index>();
  for (const char* part : {"weights", "gradients", "optimizer", "workspaces", "data"}) {
    sum += memory[part].get<Index>();
  }
  EXPECT_EQ(memory["total"], sum);
  const Outcome text = krait(config + " --memory --out " + path("m"));
  EXPECT_EQ(text.code, 0);
  EXPECT_NE(text.out.find("recomputed: of one block, or of the head"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(path("m")));
  test::write_file(path("e.jsonl"), "{\"prompt\": \"Q\", \"response\": \"abc\"}\n");
  const json sft = krait_json("sft -m krait-bytes-draft --data " + path("e.jsonl") +
                              " --memory --lora r=2,targets=in");
  EXPECT_GT(sft["mapped"].get<Index>(), 10 * sft["optimizer"].get<Index>());
}

class CliDpo : public CliTrain {
 protected:
  CliDpo() {
    EXPECT_EQ(krait("train --config " + path("config.json") + " --data " + path("text") +
                    " --out " + path("base") + " --steps 30 --length 20 --lr 0.01")
                  .code,
              0);
    std::string pairs;
    for (int i = 0; i < 40; ++i) {
      pairs += "{\"prompt\": \"Q" + std::to_string(i % 7) +
               ":\", \"chosen\": \"yes\", \"rejected\": \"no " + std::to_string(i) + "\"}\n";
    }
    test::write_file(path("pairs.jsonl"), pairs);
  }

  std::string dpo(const std::string& out, const char* data = "pairs.jsonl") const {
    return "dpo -m " + path("base") + " --data " + path(data) + " --out " + path(out.c_str());
  }
  std::vector<json> log(const char* name) const {
    std::vector<json> lines;
    std::istringstream text(test::read_file(path(name)));
    for (std::string line; std::getline(text, line);) lines.push_back(json::parse(line));
    return lines;
  }
};

TEST_F(CliDpo, KilledAndInterruptedItEndsWithTheSameBytes) {
  const auto command = [this](const std::string& out) {
    return dpo(out) + " --log " + path((out + ".jsonl").c_str()) +
           " --steps 200 --lr 1e-3 --checkpoint-every 3 --loss ipo --sft 0.1 --ld-alpha 0.5";
  };
  const json done = krait_json(command("whole"));
  EXPECT_EQ(done["steps"], 200);
  EXPECT_GT(done["rewards/margins"], 0.0);
  for (const int signal : {SIGKILL, SIGINT}) {
    std::istringstream words(command("cut") + " --resume");
    const std::vector<std::string> arguments{std::istream_iterator<std::string>(words), {}};
    const std::string log = path("cut.jsonl");
    if (!std::filesystem::exists(log)) test::write_file(log, "");
    Running running(arguments, path("out"), path("err"));
    Running::wait_for_lines(log, log_lines("cut") + 5);
    running.signal(signal);
    const int code = running.wait();
    EXPECT_EQ(code, signal == SIGINT ? 130 : 128 + SIGKILL) << test::read_file(path("err"));
  }
  expect_error(command("cut") + " --resume --beta 0.2", 1, "beta: expected 0.1, as in the");
  expect_error(command("cut") + " --resume --ref krait-bytes-draft", 1, "ref: expected ");
  EXPECT_EQ(krait(command("cut") + " --resume --threads 1").code, 0);
  EXPECT_EQ(weights("whole"), weights("cut"));
  EXPECT_EQ(log_lines("cut"), 200);
}

TEST_F(CliDpo, AReplayIsPartOfTheRun) {
  std::string examples;
  for (int i = 0; i < 9; ++i) {
    examples += "{\"prompt\": \"S" + std::to_string(i) + ":\", \"response\": \"seven\"}\n";
  }
  test::write_file(path("replay.jsonl"), examples);
  test::write_file(path("other.jsonl"), examples + examples);
  const auto command = [this](const std::string& out, const std::string& replay) {
    return dpo(out) + " --replay " + path(replay.c_str()) + " --log " +
           path((out + ".jsonl").c_str()) + " --steps 300 --lr 1e-3 --batch 3 --checkpoint-every 4";
  };
  EXPECT_EQ(krait(command("whole", "replay.jsonl:.3")).code, 0);
  const std::vector<json> lines = log("whole.jsonl");
  EXPECT_NEAR(lines[0]["loss"], std::log(2.0) + 0.3 * lines[0]["loss/replay"].get<double>(), 1e-6);
  EXPECT_LT(lines.back()["loss/replay"], 0.5 * lines[0]["loss/replay"].get<double>());
  std::istringstream words(command("cut", "replay.jsonl:.3") + " --resume");
  const std::vector<std::string> arguments{std::istream_iterator<std::string>(words), {}};
  test::write_file(path("cut.jsonl"), "");
  {
    Running running(arguments, path("out"), path("err"));
    Running::wait_for_lines(path("cut.jsonl"), 9);
    running.signal(SIGKILL);
    EXPECT_EQ(running.wait(), 128 + SIGKILL) << test::read_file(path("err"));
  }
  expect_error(command("cut", "other.jsonl:.3") + " --resume", 1, "replay: expected 9 examples ");
  expect_error(command("cut", "replay.jsonl:.4") + " --resume", 1,
               "replay-weight: expected 0.3, as in the interrupted run, found 0.4");
  expect_error(dpo("cut") + " --steps 300 --lr 1e-3 --batch 3 --resume", 1,
               "replay: expected 9 examples ");
  EXPECT_EQ(krait(command("cut", "replay.jsonl:.3") + " --resume --threads 1").code, 0);
  EXPECT_EQ(weights("whole"), weights("cut"));
  EXPECT_EQ(log_lines("cut"), 300);

  test::write_file(path("bad.jsonl"), examples + "\n{\"prompt\": \"a\", \"chosen\": \"b\"}\n");
  test::write_file(path("long.jsonl"), examples + "{\"prompt\": \"a\", \"response\": \"" +
                                           std::string(20, 'b') + "\"}\n");
  test::write_file(path("empty.jsonl"), "\n");
  const std::string steps = dpo("x") + " --steps 1 --replay ";
  expect_error(steps + path("bad.jsonl"), 1, "line 11: expected the text \"response\", found ");
  expect_error(steps + path("long.jsonl") + " --length 12", 1,
               "line 10: expected a response of at most 12 tokens, found 21");
  expect_error(steps + path("empty.jsonl"), 1, "expected examples, found none");
  expect_error(steps + path("nowhere.jsonl"), 1, "nowhere.jsonl");
  expect_error(steps + path("replay.jsonl:0"), 2, "--replay: expected a weight above 0");
  expect_error(steps + path("replay.jsonl:x"), 2, "--replay: expected a number, found 'x'");
  expect_error(steps + ":1", 2, "--replay: expected FILE or FILE:WEIGHT, found ':1'");
  expect_error(steps + path("replay.jsonl") + " --log " + path("replay.jsonl"), 1,
               "--log: expected ");
  expect_error("sft -m " + path("base") + " --replay x", 2, "--replay");
  EXPECT_FALSE(std::filesystem::exists(path("x")));
  const json without = krait_json(dpo("m") + " --memory");
  const json with = krait_json(dpo("m") + " --memory --replay " + path("replay.jsonl"));
  EXPECT_GT(with["data"], without["data"]);
}

// Weights of 100,000 are none of f16.
TEST_F(CliDpo, AResultThatCannotBeWrittenIsWrittenInAnotherType) {
  const std::string command = dpo("large") + " --steps 1 --lr 1e5";
  EXPECT_EQ(krait(command + " --dtype f16").code, 1);
  EXPECT_EQ(krait_json(command + " --resume --dtype f32")["steps"], 1);
}

TEST_F(CliDpo, LogsWhatTrlLogs) {
  EXPECT_EQ(krait(dpo("a") + " --steps 2 --batch 4 --lr 0.01 --log " + path("a.jsonl")).code, 0);
  const std::vector<json> lines = log("a.jsonl");
  ASSERT_EQ(lines.size(), 2U);
  EXPECT_NEAR(lines[0]["loss"], std::log(2.0), 1e-12);
  EXPECT_EQ(lines[0]["rewards/chosen"], 0.0);
  EXPECT_EQ(lines[0]["rewards/margins"], 0.0);
  EXPECT_LT(lines[0]["logps/chosen"], 0.0);
  EXPECT_LT(lines[1]["loss"], lines[0]["loss"]);
  EXPECT_GT(lines[1]["rewards/margins"], 0.0);
  EXPECT_EQ(lines[1]["rewards/accuracies"], 1.0);
  EXPECT_GT(lines[1]["logps/chosen"], lines[0]["logps/chosen"]);
  EXPECT_LT(lines[1]["logps/rejected"], 0.0);
}

TEST_F(CliDpo, EqualAnswersMoveNothing) {
  test::write_file(path("equal.jsonl"),
                   "{\"prompt\": \"Q\", \"chosen\": \"a\", \"rejected\": \"a\"}\n");
  EXPECT_EQ(krait(dpo("e", "equal.jsonl") + " --steps 3 --lr 0.1 --log " + path("e.jsonl")).code,
            0);
  for (const json& line : log("e.jsonl")) EXPECT_EQ(line["grad_norm"], 0.0);
  EXPECT_EQ(weights("e"), weights("base"));
}

TEST_F(CliDpo, AnAdapterIsComparedWithItsBase) {
  const std::string adapter = dpo("a") + " --lora r=4,targets=in+out --steps 20 --lr 0.01";
  EXPECT_EQ(krait(adapter + " --log " + path("a.jsonl")).code, 0);
  const std::vector<json> lines = log("a.jsonl");
  EXPECT_EQ(lines[0]["rewards/chosen"], 0.0);
  EXPECT_EQ(lines[0]["rewards/rejected"], 0.0);
  EXPECT_GT(lines.back()["rewards/margins"], 0.1);
  EXPECT_TRUE(std::filesystem::exists(path("a/adapter_model.safetensors")));
}

TEST_F(CliDpo, BadInputIsRefused) {
  expect_error("dpo --data x --out y --steps 1", 2, "--model: expected a checkpoint, found none");
  expect_error("dpo -m krait-bytes-draft --out y --steps 1", 2,
               "--data: expected a file of pairs, found none");
  expect_error(dpo("x") + " --steps 1 --loss dpo", 2, "--loss: expected one of sigmoid");
  expect_error(dpo("x") + " --steps 1 --beta 0", 2, "expected a finite number above 0, found 0");
  expect_error(dpo("x") + " --steps 1 --loss hinge --label-smoothing 0.1", 2,
               "label-smoothing: expected 0 with the loss hinge");
  test::write_file(path("bad.jsonl"), "\n{\"prompt\": \"Q\", \"chosen\": \"a\"}\n");
  expect_error(dpo("x", "bad.jsonl") + " --steps 1", 1,
               "line 2: expected the text \"rejected\", found null");
  test::write_file(path("none.jsonl"), "");
  expect_error(dpo("x", "none.jsonl") + " --steps 1", 1, "data: expected pairs, found none");
  expect_error(dpo("x") + " --steps 9 --lr 1e30 --clip 0 --checkpoint-every 1", 1,
               "step 1: expected a finite loss");
  EXPECT_TRUE(std::filesystem::exists(path("x.partial/checkpoint.safetensors")));
  EXPECT_FALSE(std::filesystem::exists(path("x")));
}

}  // namespace
}  // namespace krait::train_test
