// Adapters of low rank from the command line.

#include <cmath>
#include <filesystem>
#include <iterator>
#include <sstream>

#include "krait/io/safetensors.hpp"
#include "tests/cli/cli.hpp"
#include "tests/cli/running.hpp"

namespace krait::lora_test {
namespace {

class CliLora : public Cli {
 protected:
  CliLora() {
    std::string text;
    for (int i = 0; i < 300; ++i) text += "line " + std::to_string(i * i) + " of a text\n";
    test::write_file(path("text"), text);
    test::write_file(path("e.jsonl"),
                     "{\"prompt\": \"Q\", \"response\": \"abc\"}\n"
                     "{\"prompt\": \"Z\", \"response\": \"xyz\"}\n");
  }

  std::string train(const std::string& model, const std::string& out,
                    const char* steps = "3") const {
    return "train -m " + model + " --data " + path("text") + " --out " + path(out.c_str()) +
           " --batch 2 --length 40 --lr 0.01 --steps " + steps + " --lora ";
  }
  std::string weights(const char* out) const {
    return test::read_file(path((std::string(out) + "/adapter_model.safetensors").c_str()));
  }
  double bits(const std::string& arguments) {
    return krait_json("perplexity " + path("text") + " --limit 2000 " + arguments)["bits_per_byte"];
  }
};

TEST_F(CliLora, TrainedItIsUsedEverywhere) {
  const std::string moe = "krait-bytes-moe";
  const Outcome trained =
      krait(train(moe, "a") + "r=4,alpha=8,targets=in,x,dt,out,emb,experts --dtype bf16");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const std::string lora = " --lora " + path("a");
  EXPECT_LT(bits("-m " + moe + lora), bits("-m " + moe) - 0.01);
  const json with = krait_json("logits -m " + moe + lora + " --text abc --top 1");
  EXPECT_NE(with["top"], krait_json("logits -m " + moe + " --text abc --top 1")["top"]);
  EXPECT_GT(krait_json("evaluate --kl " + moe + " -m " + moe + lora + " --limit 500 --file " +
                       path("text"))["kl"],
            0.0);
  const std::string generate = "generate -m " + moe + " line -n 20 --greedy";
  const json plain = krait_json(generate + lora);
  EXPECT_EQ(krait_json(generate + lora + " --draft ngram")["tokens"], plain["tokens"]);
  EXPECT_EQ(krait_json(generate + lora + " --draft model:" + moe)["tokens"], plain["tokens"]);
  EXPECT_NE(krait_json(generate)["tokens"], plain["tokens"]);
  // Merged, it is nearly the same.
  EXPECT_EQ(krait_json("merge -m " + moe + lora + " --out " + path("m") + " --dtype f32")["out"],
            path("m"));
  EXPECT_NEAR(bits("-m " + path("m")), bits("-m " + moe + lora), 1e-4);
}

// Embedding and head in one matrix, with an adapter each.
TEST_F(CliLora, MergedAHeadIsItsOwn) {
  const std::string draft = "krait-bytes-draft";
  ASSERT_EQ(krait(train(draft, "a") + "r=2,alpha=12,targets=emb+in").code, 0);
  // The head's factors are the embedding's with their roles changed, and small ones of its own.
  const auto file = open_file(path("a/adapter_model.safetensors"), WeightsMode::map).value();
  WeightStore store;
  read_safetensors(file, store).value();
  std::vector<NamedTensor> tensors;
  for (const auto& [name, entry] : store.entries()) tensors.push_back({name, entry.tensor});
  std::vector<float> A(2 * 64);
  std::vector<float> B(256 * 2);
  for (std::size_t i = 0; i < A.size(); ++i) A[i] = 0.04F * static_cast<float>(i % 7);
  for (std::size_t i = 0; i < B.size(); ++i) B[i] = 0.02F * static_cast<float>(i % 5);
  tensors.push_back({"base_model.model.lm_head.lora_A.weight", {A.data(), DType::f32, {2, 64}}});
  tensors.push_back({"base_model.model.lm_head.lora_B.weight", {B.data(), DType::f32, {256, 2}}});
  std::filesystem::create_directory(path("both"));
  write_safetensors(path("both/adapter_model.safetensors"), tensors).value();
  json config = json::parse(test::read_file(path("a/adapter_config.json")));
  config["target_modules"].push_back("lm_head");
  test::write_file(path("both/adapter_config.json"), config.dump());
  ASSERT_EQ(krait("quantize krait-bytes-draft " + path("q8") + " --to q8").code, 0);
  for (const std::string& model : {draft, path("q8")}) {
    const std::string merged = path(model == draft ? "m1" : "m2");
    ASSERT_EQ(
        krait("merge -m " + model + " --lora " + path("both") + " --out " + merged + " --dtype f32")
            .code,
        0);
    const double expected = bits("-m " + model + " --lora " + path("both"));
    EXPECT_GT(std::abs(expected - bits("-m " + model + " --lora " + path("a"))), 0.015);
    EXPECT_NEAR(bits("-m " + merged), expected, 0.004) << model;
  }
}

TEST_F(CliLora, ExamplesAreLearnedOverAQuantisedModel) {
  ASSERT_EQ(krait("quantize krait-bytes-draft " + path("q8") + " --to q8").code, 0);
  const Outcome learned = krait("sft -m " + path("q8") + " --data " + path("e.jsonl") + " --out " +
                                path("s") + " --steps 60 --batch 2 --length 8 --lr 0.03" +
                                " --weight-decay 0 --lora r=4,targets=in+x+dt+out");
  ASSERT_EQ(learned.code, 0) << learned.err;
  const std::string adapted = "generate -m " + path("q8") + " --lora " + path("s");
  EXPECT_EQ(krait_json(adapted + " Q -n 3 --greedy")["text"], "abc");
  EXPECT_EQ(krait_json(adapted + " Z -n 3 --greedy")["text"], "xyz");
  expect_error("merge -m " + path("q8") + " --lora " + path("s") + " --out " + path("m"), 1,
               "expected a matrix of floats, found q8 (--dtype f32, bf16 or f16 has one made of "
               "it)");
  EXPECT_FALSE(std::filesystem::exists(path("m")));
}

TEST_F(CliLora, KilledItEndsWithTheSameBytes) {
  const std::string run = "r=2,targets=in+out --checkpoint-every 1 --log ";
  ASSERT_EQ(krait(train("krait-bytes-draft", "whole", "60") + run + path("whole.jsonl")).code, 0);
  const std::string cut =
      train("krait-bytes-draft", "cut", "60") + run + path("cut.jsonl") + " --resume";
  std::istringstream words(cut);
  const std::vector<std::string> arguments{std::istream_iterator<std::string>(words), {}};
  test::write_file(path("cut.jsonl"), "");
  Running running(arguments, path("out"), path("err"));
  Running::wait_for_lines(path("cut.jsonl"), 3);
  running.signal(SIGKILL);
  EXPECT_EQ(running.wait(), 128 + SIGKILL);
  EXPECT_EQ(krait(cut + " --threads 1").code, 0);
  EXPECT_EQ(weights("whole"), weights("cut"));
  expect_error(cut + " --lora r=2,targets=in", 2, "--lora: expected");  // twice
  expect_error(
      train("krait-bytes-draft", "cut", "60") + "r=3,targets=in+out --checkpoint-every 1 --resume",
      1, "lora: expected r=2,alpha=4,targets=in+out, as in the interrupted run, found");
}

TEST_F(CliLora, MistakesAreNamed) {
  const std::string draft = "krait-bytes-draft";
  expect_error(train(draft, "a") + "r=1,targets=in --optimizer muon", 2,
               "--optimizer: expected adamw beside --lora, found muon");
  expect_error(train(draft, "a") + "r=0,targets=in", 2, "--lora: expected 1 to 65536, found 0");
  expect_error(train(draft, "a") + "targets=in+conv", 2,
               "expected some of in, x, dt, out, q, k, v, o, mlp, experts, emb, found 'conv'");
  expect_error(train(draft, "a") + "rank=3", 2, "expected r, alpha, targets, rslora, found 'rank'");
  expect_error(train(draft, "a") + "targets=experts", 1,
               "targets: expected some that the model has, which are ");
  expect_error("train --config " + golden("hf_f32/config.json") + " --data " + path("text") +
                   " --out " + path("a") + " --steps 1 --lora r=2",
               2, "--lora: expected a checkpoint (-m) beside it, found --config");
  expect_error("logits --tokens 1 -m " + golden("hf_f32") + " --lora " + path("none"), 1,
               "[adapter] expected a folder or a file, found none");
  expect_error("logits --tokens 1 -m krait-bytes-draft --lora " + golden("lora/plain"), 1,
               "[adapter] ");
  expect_error("merge --lora x --out y", 2, "--model: expected a checkpoint, found none");
  expect_error("merge -m x --out y", 2, "--lora: expected an adapter, found none");
  expect_error(
      "merge -m " + golden("hf_f32") + " --lora " + golden("lora/plain") + " --out " + path("text"),
      1, "expected");
}

TEST_F(CliLora, MergedItKeepsTypesAndOtherFiles) {
  const std::string merge = "merge -m " + golden("hf_bf16") + " --lora " + golden("lora/plain");
  const json done = krait_json(merge + " --out " + path("m"));
  EXPECT_EQ(done["merged"], 6) << done;
  const json forms = krait_json("inspect " + path("m"));
  EXPECT_EQ(forms.dump().find("q8"), std::string::npos);
  EXPECT_EQ(test::read_file(path("m/config.json")), test::read_file(golden("hf_bf16/config.json")));
  // With an adapted embedding the head keeps the old matrix.
  ASSERT_EQ(krait("merge -m " + golden("hf_f32") + " --lora " + golden("lora/patterns") +
                  " --out " + path("tied"))
                .code,
            0);
  const json config = json::parse(test::read_file(path("tied/config.json")));
  EXPECT_EQ(config["tie_word_embeddings"], false);
  const auto top = [&](const std::string& model) {
    return krait_json("logits --tokens 3,1,4,1,5 --top 1 -m " + model)["top"][0];
  };
  const json merged = top(path("tied"));
  const json adapted = top(golden("hf_f32") + " --lora " + golden("lora/patterns"));
  EXPECT_EQ(merged["id"], adapted["id"]);
  EXPECT_NEAR(merged["log_prob"].get<double>(), adapted["log_prob"].get<double>(), 1e-3);
}

}  // namespace
}  // namespace krait::lora_test
