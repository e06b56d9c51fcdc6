// The program and the examples, run as a user runs them.

#include "tests/cli/cli.hpp"

#include <cmath>
#include <cstring>
#include <sstream>

#include "krait/core/profile.hpp"

namespace krait::cli_test {
namespace {

TEST_F(Cli, TellsItsVersionAndHelp) {
  EXPECT_EQ(krait("--version").out, "krait 0.1.0\n");
  const Outcome help = krait("--help");
  EXPECT_EQ(help.code, 0);
  for (const char* command :
       {"generate", "chat", "logits", "tokenize", "perplexity", "evaluate", "inspect", "convert",
        "quantize", "aqlm", "laser", "train", "sft", "bench"}) {
    EXPECT_NE(help.out.find(command), std::string::npos);
    const Outcome one = krait(std::string(command) + " --help");
    EXPECT_EQ(one.code, 0);
    EXPECT_NE(one.out.find("Example: krait " + std::string(command)), std::string::npos);
  }
}

TEST_F(Cli, BenchMeasuresWhatItIsAskedFor) {
  const std::string arguments = "bench --no-roofline --prompt 8 --tokens 2 --repeat 1 --users 2";
  const json report = krait_json(arguments + " --verify 1,4");
  EXPECT_GT(report["decode"]["tokens_per_second"], 0.0);
  EXPECT_EQ(report["batch"].size(), 1U);
  ASSERT_EQ(report["verify"].size(), 2U);
  EXPECT_EQ(report["verify"][1]["tokens"], 4);
  EXPECT_GT(report["verify"][1]["steps"], 0.0);
  EXPECT_GT(report["verify"][1]["keep_steps"], 0.0);
  EXPECT_TRUE(krait_json(arguments + " --verify ''")["verify"].empty());
  EXPECT_NE(krait(arguments).out.find("verify 8"), std::string::npos);
  // The time of a step, in which each user gets a token.
  const auto expect_step = [](const json& speed, double users) {
    EXPECT_NEAR(speed["microseconds_per_step"].get<double>(),
                1e6 * users / speed["tokens_per_second"].get<double>(), 1e-3);
  };
  expect_step(report["decode"], 1.0);
  expect_step(report["batch"][0], 2.0);
  const std::string table = krait(arguments).out;
  EXPECT_NE(table.find(" tokens/s, "), std::string::npos) << table;
  const std::size_t first = table.find(" µs/step");
  ASSERT_NE(first, std::string::npos) << table;
  EXPECT_NE(table.find(" µs/step", first + 1), std::string::npos) << table;
}

TEST_F(Cli, GeneratesTheSameTextForTheSameSeed) {
  const std::string arguments =
      "generate 'It was a dark and stormy night' -n 80 --temperature 0.8 --seed 7";
  const Outcome one = krait(arguments);
  EXPECT_EQ(one.code, 0) << one.err;
  EXPECT_GE(one.out.size(), 70U);
  EXPECT_NE(one.err.find("tokens/s"), std::string::npos);
  EXPECT_NE(one.err.find("seed 7"), std::string::npos);
  EXPECT_EQ(krait(arguments + " --threads 3").out, one.out);
  EXPECT_EQ(shell("KRAIT_ISA=sse4 " KRAIT_PROGRAM " " + arguments).out, one.out);
  EXPECT_EQ(shell("echo -n 'It was a dark and stormy night' | " KRAIT_PROGRAM
                  " generate - -n 80 --temperature 0.8 --seed 7")
                .out,
            one.out);
  const json object = krait_json(arguments);
  EXPECT_EQ(object["text"], one.out);
  EXPECT_EQ(object["prompt_tokens"], 30);
  EXPECT_EQ(object["tokens"].size(), 80U);
  EXPECT_EQ(object["finish_reason"], "length");
  EXPECT_TRUE(object.contains("timings"));
}

TEST_F(Cli, SamplesDependOnSeedAndNumberAlone) {
  const json many = krait_json("generate 'The ' -n 20 --seed 3 --count 3");
  const json one = krait_json("generate 'The ' -n 20 --seed 3");
  ASSERT_EQ(many["samples"].size(), 3U);
  EXPECT_EQ(many["samples"][0]["text"], one["text"]);
  EXPECT_NE(many["samples"][1]["text"], one["text"]);
}

TEST_F(Cli, TakesTheStepsInTheOrderThatIsGiven) {
  const std::string base = "generate 'The ' -n 30 --seed 3 -m krait-bytes-draft ";
  const std::string plain = krait(base + "--temperature 0.8 --top-k 5").out;
  EXPECT_EQ(krait(base + "--temperature 0.8 --top-k 5 --samplers 'temperature;top_k'").out, plain);
  EXPECT_EQ(krait(base + "--top-k 5 --samplers top_k").out,
            krait(base + "--temperature 1 --top-k 5").out);
  EXPECT_NE(krait(base + "--temperature 9 --top-p 0.3 --samplers temperature,top_p").out,
            krait(base + "--temperature 9 --top-p 0.3 --samplers top_p,temperature").out);
  // Every step of its own does something.
  const std::string without = krait(base).out;
  for (const char* step :
       {"--top-n-sigma 0.5", "--epsilon-cutoff 0.2", "--eta-cutoff 0.3", "--xtc-probability 1",
        "--dynatemp-range 0.7", "--mirostat 1 --mirostat-ent 1", "--mirostat 2 --mirostat-ent 1",
        "--dry-multiplier 5 --dry-allowed-length 1 --dry-sequence-breaker none",
        "--bad-words a --bad-words e"}) {
    const Outcome outcome = krait(base + step);
    EXPECT_EQ(outcome.code, 0) << step << outcome.err;
    EXPECT_NE(outcome.out, without) << step;
    EXPECT_EQ(krait(base + step).out, outcome.out) << step;
  }
  const std::string text = krait(base + "--bad-words a --bad-words e").out;
  EXPECT_EQ(text.find_first_of("ae"), std::string::npos) << text;
}

TEST_F(Cli, ChoosesAmongTexts) {
  const std::string base = "generate 'It was ' -n 12 --seed 3 -m krait-bytes-draft ";
  const json beams = krait_json(base + "--num-beams 5");
  EXPECT_EQ(beams["tokens"].size(), 12U);
  const json greedy = krait_json(base + "--greedy --logprobs 2");
  double sum = 0.0;
  for (const json& token : greedy["logprobs"]) {
    sum += token["log_prob"].get<double>();
    EXPECT_EQ(token["top"].size(), 2U);
    EXPECT_EQ(token["top"][0]["id"], token["id"]) << "the most probable";
    EXPECT_EQ(token["top"][0]["log_prob"], token["log_prob"]);
  }
  EXPECT_EQ(greedy["logprobs"].size(), 12U);
  // Which is so behind this prompt; a beam may lose the greedy text on the way to a worse one.
  EXPECT_GE(beams["score"].get<double>(), sum / 12.0 - 1e-6);
  EXPECT_EQ(krait(base + "--num-beams 5").out, beams["text"].get<std::string>());

  // The best of the samples that --count shows.
  const json best = krait_json(base + "--best-of 4 --best-by sum");
  const json samples = krait_json(base + "--count 4 --logprobs 0")["samples"];
  double largest = -1e9;
  json text;
  for (const json& sample : samples) {
    sum = 0.0;
    for (const json& token : sample["logprobs"]) sum += token["log_prob"].get<double>();
    if (sum > largest) largest = sum, text = sample["text"];
  }
  EXPECT_EQ(best["text"], text);
  EXPECT_NEAR(best["score"].get<double>(), largest, 1e-4);
  EXPECT_FALSE(best.contains("logprobs"));

  const json guided = krait_json(base + "--greedy --guidance-scale 3 --negative-prompt 'A '");
  EXPECT_NE(guided["text"], greedy["text"]);
  EXPECT_EQ(krait_json(base + "--greedy --guidance-scale 0 --negative-prompt 'A '")["text"],
            krait_json("generate 'A ' -n 12 --greedy -m krait-bytes-draft")["text"]);
}

TEST_F(Cli, ARunCutInTwoPrintsTheTextOfOne) {
  const std::string common = " --seed 11 --repetition-penalty 1.1 --temperature 0.9";
  const Outcome whole = krait("generate 'Once ' -n 60" + common);
  const Outcome first = krait("generate 'Once ' -n 25 --state-out " + path("s") + common);
  const Outcome second = krait("generate -n 35 --state-in " + path("s") + common);
  EXPECT_EQ(first.out + second.out, whole.out);
  expect_error("generate -m krait-bytes-draft --state-in " + path("s"), 1, "fingerprint");
  expect_error("generate a -n 1 --state-out /no/such/folder/s", 1, "/no/such/folder/s");
}

TEST_F(Cli, LogitsDoNotDependOnTheChunk) {
  const std::string base = "logits -m " + golden("hf_f32") + " --tokens 1,2,3,4,5,6,7 --all";
  EXPECT_EQ(krait(base + " --out " + path("a.npy")).code, 0);
  EXPECT_EQ(krait(base + " --chunk 3 --threads 2 --out " + path("b.npy")).code, 0);
  const std::string a = test::read_file(path("a.npy"));
  EXPECT_EQ(a, test::read_file(path("b.npy")));
  EXPECT_EQ(a.size(), 128U + 7 * 64 * 4);
  EXPECT_NE(a.find("'shape': (7, 64)"), std::string::npos);
  const json object = krait_json("logits --text 'It was a dark and stormy nigh' --top 3");
  EXPECT_EQ(object["top"][0]["id"], 't');
  EXPECT_GT(object["top"][0]["log_prob"].get<double>(), -0.2);
}

TEST_F(Cli, TokenizesThereAndBack) {
  const Outcome ids = krait("tokenize 'Hi!'");
  EXPECT_EQ(ids.out, "72 105 33\n");
  EXPECT_EQ(krait_json("tokenize 'Hi!'"), json({72, 105, 33}));
  EXPECT_EQ(krait("tokenize --decode 72,105,33").out, "Hi!");
}

TEST_F(Cli, MeasuresPerplexity) {
  const std::string text = (test::data_dir() / "data" / "heldout_64k.txt").string();
  const json object = krait_json("perplexity " + text + " --limit 4000");
  EXPECT_EQ(object["scored_tokens"], 3999);
  const double bits = object["bits_per_byte"].get<double>();
  EXPECT_GT(bits, 1.0);
  EXPECT_LT(bits, 2.5);
  EXPECT_NEAR(object["perplexity"].get<double>(), std::exp2(bits), 1e-6);
}

TEST_F(Cli, MeasuresTheDistanceFromAnotherModel) {
  const std::string text = (test::data_dir() / "data" / "heldout_64k.txt").string();
  const std::string common = "evaluate --kl krait-bytes-moe --limit 600 --file " + text;
  EXPECT_EQ(krait_json(common)["kl"], 0.0);
  const json object = krait_json(common + " --dtype q4");
  EXPECT_EQ(object["positions"], 600);
  EXPECT_GT(object["kl"].get<double>(), 0.0);
  EXPECT_LT(object["kl"].get<double>(), 0.1);
  EXPECT_GT(object["kl_largest"], object["kl"]);
  EXPECT_GT(object["same_top"].get<double>(), 0.8);
  EXPECT_NE(krait(common).out.find("100.00 % of 600 positions"), std::string::npos);
  expect_error("evaluate --kl no-such-model --file " + text, 1, "no-such-model");
  expect_error("evaluate --kl krait-bytes-moe --file " + path("absent"), 1, "absent");
  expect_error("evaluate --file " + text, 2, "--kl");
}

TEST_F(Cli, InspectsWithoutLoading) {
  const json object = krait_json("inspect krait-bytes-2m");
  EXPECT_EQ(object["parameters"], 2063040);
  EXPECT_EQ(object["state_bytes"], 8 * 384 * (16 + 3) * 4);
  const Outcome text = krait("inspect krait-bytes-2m");
  EXPECT_NE(text.out.find("Mamba, d_inner 384"), std::string::npos);
}

TEST_F(Cli, KeepsKeysAndValuesInTheTypeThatIsChosen) {
  const std::string model = " -m " + golden("hf_zamba2");
  const auto bytes = [&](const std::string& type) {
    return krait_json("inspect" + model + type)["cache_bytes_per_token"].get<Index>();
  };
  EXPECT_GT(bytes(""), 0);
  EXPECT_EQ(bytes(""), bytes(" --kv-dtype f32"));
  for (const char* type : {"f16", "bf16"}) {
    const std::string chosen = std::string(" --kv-dtype ") + type;
    EXPECT_LT(bytes(chosen), bytes("")) << type;
    const std::string logits = "logits --tokens 1,2,3,4,5,6,7,8 --all --out ";
    EXPECT_EQ(krait(logits + path("wide.npy") + model).code, 0);
    EXPECT_EQ(krait(logits + path("narrow.npy") + model + chosen).code, 0);
    const std::string wide = test::read_file(path("wide.npy"));
    const std::string narrow = test::read_file(path("narrow.npy"));
    EXPECT_EQ(wide.size(), narrow.size());
    EXPECT_NE(wide, narrow) << type;
    // Nothing to choose without attention.
    const std::string plain = "generate 'Once ' -n 8 --seed 1 -m krait-bytes-draft";
    EXPECT_EQ(krait(plain).out, krait(plain + chosen).out);
  }
}

TEST_F(Cli, TellsWhatATokenUsesOfAMixtureOfExperts) {
  const json object = krait_json("inspect krait-bytes-moe");
  EXPECT_EQ(object, krait_json("inspect")) << "the default";
  EXPECT_EQ(object["parameters"], 3819680);
  EXPECT_EQ(object["active_parameters"], 1454240);
  EXPECT_EQ(object["family"], "moe_mamba");
  // What a token reads: bytes of all tensors but 7 of 8 experts (up_proj and down_proj) a layer.
  const Index expert = 2 * 160 * 176 * 2;
  EXPECT_EQ(object["bytes_per_token"],
            object["weights_bytes"].get<Index>() - Index{6} * 7 * expert);
  const Outcome text = krait("inspect krait-bytes-moe");
  EXPECT_NE(text.out.find("moe_mamba: 3819680 parameters, 1454240 active, "), std::string::npos);
  EXPECT_NE(text.out.find("read per token"), std::string::npos);
  EXPECT_NE(text.out.find("Moe, 1 of 8 experts"), std::string::npos);
}

TEST_F(Cli, ShowsWhereRoutersSendATextsTokens) {
  const std::string text = (test::data_dir() / "data" / "heldout_64k.txt").string();
  test::write_file(path("text"), test::read_file(text).substr(0, 3000));
  test::write_file(path("nothing"), "");
  const std::string base = "inspect krait-bytes-moe --router-stats ";
  const json object = krait_json(base + path("text"));
  EXPECT_EQ(object["tokens"], 3000);
  ASSERT_EQ(object["layers"].size(), 6U);
  for (const json& layer : object["layers"]) {
    EXPECT_EQ(layer["tokens"], 3000);
    EXPECT_GT(layer["balance"], 0.0);
    EXPECT_LE(layer["balance"], 1.0);
    ASSERT_EQ(layer["experts"].size(), 8U);
    double share = 0.0;
    Index chosen = 0;
    for (const json& expert : layer["experts"]) {
      share += expert["share"].get<double>();
      chosen += expert["chosen"].get<Index>();
      EXPECT_GE(expert["mean_gate"], 0.0);
      EXPECT_LE(expert["mean_gate"], 1.0);
    }
    EXPECT_NEAR(share, 1.0, 1e-12);
    EXPECT_EQ(chosen, 3000) << "one expert a token";
  }
  EXPECT_EQ(object["layers"][5]["layer"], "layers.5.moe");
  EXPECT_EQ(krait_json("inspect --router-stats " + path("text") + " --threads 1")["layers"],
            object["layers"]);

  const Outcome table = krait(base + path("text"));
  EXPECT_EQ(table.code, 0) << table.err;
  EXPECT_NE(table.out.find("layers.0.moe balance 0."), std::string::npos) << table.out;
  EXPECT_EQ(std::count(table.out.begin(), table.out.end(), '\n'), 6 * 4) << table.out;
  EXPECT_EQ(shell(KRAIT_PROGRAM " " + base + "- <" + path("text")).out, table.out);

  expect_error("inspect krait-bytes-2m --router-stats " + path("text"), 1, "model with experts");
  expect_error(base + path("nothing"), 1, "found an empty file");
  expect_error(base + path("absent"), 1, "absent");
}

TEST_F(Cli, ContinuesAsTheReferenceDoes) {
  const json golden =
      json::parse(test::read_file(test::data_dir() / "golden" / "greedy.json"))["models"];
  for (const char* model : {"krait-bytes-moe", "krait-bytes-2m"}) {
    const Outcome outcome =
        krait("generate 'It was a dark and stormy night' --greedy -n 64 -m " + std::string(model));
    EXPECT_EQ(outcome.out, golden[model]["text"].get<std::string>()) << outcome.err;
  }
  EXPECT_EQ(krait("generate 'It was a dark and stormy night' --greedy -n 64").out,
            golden["krait-bytes-moe"]["text"].get<std::string>())
      << "the default";
}

TEST_F(Cli, ReportsWhatIsWrongInOneLine) {
  test::write_file(path("bad.safetensors"), "nothing of the kind");
  std::filesystem::create_directory(path("empty"));
  expect_error("generate a -m " + path("absent/model"), 1, "absent/model");
  expect_error("generate a -m no-such-model", 1, "krait-bytes-2m");
  expect_error("generate a -m " + path("empty"), 1, "model.safetensors");
  expect_error("generate a -m " + path("bad.safetensors"), 1, "bad.safetensors");
  expect_error("inspect " + path("bad.safetensors"), 1, "bad.safetensors");
  expect_error("perplexity " + path("absent.txt"), 1, "absent.txt");
  expect_error("tokenize a -m " + golden("hf_f32"), 1, "tokenizer.json");
  expect_error("generate a -m " + golden("gguf/mamba.gguf"), 1,
               "[tokenizer] tokenizer.ggml.model: expected the tokenizer of the model, found none");
  expect_error("logits --tokens 1 --out /no/such/folder/x.npy", 1, "/no/such/folder/x.npy");
  const Outcome full = shell(KRAIT_PROGRAM " tokenize hello >/dev/full");
  EXPECT_EQ(full.code, 1);
  EXPECT_NE(full.err.find("standard output"), std::string::npos);
  EXPECT_EQ(shell("KRAIT_ISA=mmx " KRAIT_PROGRAM " generate a -n 1").code, 1);
}

TEST_F(Cli, ATokenizerThatIsNotReadLeavesTokens) {
  const std::filesystem::path folder = path("codestral");
  std::filesystem::copy(golden("codestral"), folder);
  const std::string model = " -m " + folder.string();
  expect_error("generate a" + model, 1,
               "tokenizer.json: expected the tokenizer of the model, found none");
  test::write_file(folder / "tokenizer.model.v3", "sentences");
  for (const char* command : {"generate a", "tokenize a", "logits --text a"}) {
    expect_error(command + model, 1, "[tokenizer] SentencePiece file: expected ");
  }
  const Outcome logits = krait("logits --tokens 1,2,3 --top 2" + model);
  EXPECT_EQ(logits.code, 0) << logits.err;
  EXPECT_NE(logits.out, "");
  std::filesystem::copy_file(golden("tokenizers") + "/bpe.model", folder / "tokenizer.model");
  const Outcome tokens = krait("tokenize 'The fox.' --json" + model);
  EXPECT_EQ(tokens.code, 0) << tokens.err;
  EXPECT_EQ(tokens.out.substr(0, 3), "[1,") << tokens.out;
  EXPECT_EQ(
      krait("tokenize --decode '" + tokens.out.substr(3, tokens.out.size() - 5) + "'" + model).out,
      "The fox.");
}

TEST_F(Cli, TheOnePageModelAgrees) {
  const std::string program = std::string(KRAIT_EXAMPLES) + "/one_page_mamba";
  const std::string model = (test::bundled_models_dir() / "krait-bytes-2m").string();
  const std::string tokens = "73,116,32,119,97,115,32,97,32,100,97,114,107";
  const Outcome page = shell(program + " " + model + " --logits " + tokens);
  ASSERT_EQ(page.code, 0) << page.err;
  EXPECT_EQ(krait("logits -m krait-bytes-2m --tokens " + tokens + " --out " + path("x.npy")).code,
            0);
  const std::string file = test::read_file(path("x.npy"));
  ASSERT_EQ(file.size(), 128U + 256 * 4);
  std::istringstream lines(page.out);
  double largest = 0.0;
  double difference = 0.0;
  for (std::size_t i = 0; i < 256; ++i) {
    double value = 0.0;
    ASSERT_TRUE(lines >> value);
    float other = 0.0F;
    std::memcpy(&other, file.data() + 128 + 4 * i, 4);
    largest = std::max(largest, std::fabs(value));
    difference = std::max(difference, std::fabs(value - double{other}));
  }
  EXPECT_LE(difference, 1e-5 * largest);
}

TEST_F(Cli, ProfilesOnlyWhereThatWasCompiledIn) {
  const std::string arguments =
      "bench --profile --users 1 --prompt 8 --tokens 4 --repeat 2 --no-roofline --threads 2";
  if (!profile::is_enabled) {
    expect_error(arguments, 1, "KRAIT_PROFILE=ON");
    return;
  }
  const json profiles = krait_json(arguments)["profile"];
  ASSERT_EQ(profiles.size(), 2U);
  for (const json& one : profiles) {
    double seconds = 0.0;
    bool has_head = false;
    for (const json& zone : one["zones"]) {
      seconds += zone["seconds_per_token"].get<double>();
      has_head = has_head || (zone["zone"] == "head" && zone["bytes_per_token"] > 0);
    }
    EXPECT_TRUE(has_head);
    EXPECT_GT(seconds, 0.0);
    EXPECT_LE(seconds, one["seconds_per_token"].get<double>());
  }
  EXPECT_NE(krait(arguments).out.find("out_proj"), std::string::npos);
}

}  // namespace
}  // namespace krait::cli_test
