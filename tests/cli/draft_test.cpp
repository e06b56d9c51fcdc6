// The program with --draft.
#include <gtest/gtest.h>

#include <string>
#include <utility>

#include "krait/io/safetensors.hpp"
#include "tests/cli/cli.hpp"
#include "tests/support/support.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace krait::draft_test {
namespace {

class CliDraft : public Cli {
 protected:
  static constexpr const char* drafters[] = {"ngram",
                                             "maxgram",
                                             "model:krait-bytes-draft",
                                             "model:krait-bytes-2m",
                                             "self:q4",
                                             "self:laser=0.3",
                                             "self:laser=0:in:0.5,7:out:20",
                                             "self:skip=1,3",
                                             "cascade:krait-bytes-draft,ngram",
                                             "cascade:krait-bytes-moe,krait-bytes-draft,maxgram"};

  static void expect_sums(const json& sample) {
    EXPECT_EQ(sample["accepted"].get<Index>() + sample["target_passes"].get<Index>(),
              static_cast<Index>(sample["tokens"].size()));
    for (const char* what : {"drafted", "accepted"}) {
      for (const char* list : {"levels", "positions"}) {
        Index sum = 0;
        for (const json& entry : sample[list]) sum += entry[what].get<Index>();
        EXPECT_EQ(sum, sample[what].get<Index>()) << what << " of " << list;
      }
    }
  }
  std::string path(const std::string& name) const { return (directory_.path() / name).string(); }
};

TEST_F(CliDraft, TextAndStateAreThoseOfThePlainRun) {
  for (const std::string sampling : {"--greedy", "--seed 7 --temperature 0.7 --top-k 20"}) {
    const std::string run =
        "generate 'one two three one two three one two ' -m krait-bytes-2m -n 60 --stop XYZ " +
        sampling;
    const json plain = krait_json(run + " --state-out " + path("plain"));
    EXPECT_FALSE(plain.contains("drafted"));
    for (const std::string drafter : drafters) {
      for (const char* length : {"1", "4", "auto"}) {
        SCOPED_TRACE(testing::Message() << sampling << " " << drafter << " " << length);
        const json drafted = krait_json(run + " --draft " + drafter + " --draft-length " + length +
                                        " --state-out " + path("drafted"));
        EXPECT_EQ(drafted["tokens"], plain["tokens"]);
        EXPECT_EQ(drafted["text"], plain["text"]);
        expect_sums(drafted);
        EXPECT_EQ(test::read_file(path("drafted")), test::read_file(path("plain")));
        if (length == std::string("4")) {
          EXPECT_GT(drafted["drafted"], 0);
        }
      }
    }
  }
}

TEST_F(CliDraft, EachRuleOfAcceptanceGivesOneTextPerSeed) {
  const std::string run =
      "generate 'He said that he had said that ' -m krait-bytes-2m -n 40 --count 2 "
      "--seed 5 --draft-length 3 ";
  const json plain = krait_json(
      "generate 'He said that he had said that ' -m krait-bytes-2m -n 40 --count 2 --seed 5");
  json coupled;
  for (const std::string drafter : drafters) {
    const json matched = krait_json(run + "--draft " + drafter);
    const json rejected = krait_json(run + "--accept rejection --draft " + drafter);
    const json noise = krait_json(run + "--accept coupling --draft " + drafter);
    if (coupled.is_null()) coupled = noise;
    for (std::size_t k = 0; k < 2; ++k) {
      EXPECT_EQ(matched["samples"][k]["text"], plain["samples"][k]["text"]) << drafter;
      EXPECT_EQ(noise["samples"][k]["text"], coupled["samples"][k]["text"]) << drafter;
      for (const json* one : {&matched, &rejected, &noise}) expect_sums((*one)["samples"][k]);
    }
    EXPECT_EQ(rejected["samples"][1]["text"],
              krait_json(run + "--accept rejection --draft " + drafter)["samples"][1]["text"]);
  }
  const std::string greedy = "generate 'one two one two ' -m krait-bytes-2m -n 30 --greedy ";
  const json expected = krait_json(greedy);
  for (const char* rule : {"greedy", "match", "rejection", "coupling"}) {
    EXPECT_EQ(krait_json(greedy + "--draft ngram --draft-length 4 --accept " + rule)["text"],
              expected["text"])
        << rule;
  }
}

TEST_F(CliDraft, AModelThatDraftsForItselfIsRight) {
  const json sample = krait_json(
      "generate 'It was ' -m krait-bytes-draft --draft model:krait-bytes-draft --draft-length 4 "
      "-n 50 --seed 1");
  EXPECT_EQ(sample["accepted"], sample["drafted"]);
  EXPECT_EQ(sample["target_passes"], 10);
  EXPECT_EQ(sample["levels"][0]["drafter"], "krait-bytes-draft");
}

// Both models have layers of the same names.
TEST_F(CliDraft, WhatIsNotFiniteInTheDrafterIsTheDrafters) {
  const std::filesystem::path broken = path("broken");
  std::filesystem::copy(test::bundled_models_dir() / "krait-bytes-draft", broken);
  std::string bytes = test::read_file(broken / "model.safetensors");
  bytes.replace(bytes.size() - 4, 4, "\xFF\xFF\xFF\xFF");
  test::write_file(broken / "model.safetensors", bytes);
  for (const char* draft : {"model:", "cascade:krait-bytes-draft,"}) {
    const std::string name = broken.string();
    expect_error("generate 'It was ' -n 8 -m krait-bytes-2m --draft " + (draft + name) +
                     (draft[0] == 'c' ? ",ngram" : ""),
                 1, "[draft] drafter " + name + ": ");
  }
}

// A model of subwords that knows nothing drafts for one of bytes, and the other way round.
TEST_F(CliDraft, ADrafterMayHaveAnotherVocabulary) {
  const std::string words = path("words");
  write_checkpoint(
      words,
      R"({"model_type": "mamba", "hidden_size": 16, "num_hidden_layers": 1, "vocab_size": 259})");
  test::write_file(words + "/tokenizer.json", test::small_tokenizer().dump());

  for (const auto& [target, drafter] :
       {std::pair<std::string, std::string>("krait-bytes-draft", "model:" + words),
        {"krait-bytes-draft", "cascade:" + words + ",ngram"},
        {words, "model:krait-bytes-draft"}}) {
    SCOPED_TRACE(drafter);
    const std::string run =
        "generate 'the theme of the theatre; the theme of' -n 60 --seed 3 -m " + target;
    const json plain = krait_json(run + " --state-out " + path("plain"));
    for (const char* length : {"3", "auto"}) {
      const json drafted = krait_json(run + " --draft-length " + length + " --draft " + drafter +
                                      " --state-out " + path("drafted"));
      EXPECT_EQ(drafted["tokens"], plain["tokens"]);
      expect_sums(drafted);
      EXPECT_EQ(test::read_file(path("drafted")), test::read_file(path("plain")));
      if (length == std::string("3")) {
        EXPECT_GT(drafted["drafted"], 0);
      }
    }
  }
  const std::string run = "generate a -n 4 -m krait-bytes-2m --draft ";
  expect_error(run + "cascade:krait-bytes-draft," + words + ",ngram", 1,
               "[draft] cascade: expected models of one vocabulary, found those of "
               "krait-bytes-draft and " +
                   words);
  expect_error(run + "model:" + golden("hf_f32"), 1,
               "tokenizer.json: expected the tokenizer of the model, found none");
}

TEST_F(CliDraft, RepliesOfAChatAreThoseOfThePlainRun) {
  const std::string run = "printf 'Hello there\\nHello there\\n' | " + std::string(KRAIT_PROGRAM) +
                          " chat -m krait-bytes-draft -n 30 --seed 3 --state-out ";
  const Outcome plain = shell(run + path("plain"));
  EXPECT_EQ(plain.code, 0) << plain.err;
  for (const std::string drafter : {"ngram", "cascade:krait-bytes-2m,ngram"}) {
    const Outcome drafted = shell(run + path("drafted") + " --draft-length 3 --draft " + drafter);
    EXPECT_EQ(drafted.code, 0) << drafted.err;
    EXPECT_EQ(drafted.out, plain.out);
    EXPECT_EQ(test::read_file(path("drafted")), test::read_file(path("plain")));
  }
}

TEST_F(CliDraft, BenchMeasuresBoth) {
  std::string text;
  for (int i = 0; i < 12; ++i) text += "apples, pears and plums; ";
  test::write_file(path("text"), text);
  const std::string run = "bench -m krait-bytes-2m --text " + path("text") +
                          " --repeat 1 --no-roofline --draft cascade:krait-bytes-draft,ngram";
  const json report = krait_json(run);
  EXPECT_GT(report["plain"]["tokens_per_second"], 0.0);
  EXPECT_GT(report["drafted"]["tokens_per_second"], 0.0);
  EXPECT_EQ(report["prompt_tokens"], 150);
  EXPECT_EQ(report["decode_tokens"], 150);
  EXPECT_EQ(report["accepted"].get<Index>() + report["target_passes"].get<Index>(), 150);
  EXPECT_EQ(krait_json(run + " --tokens 20 --draft-length 2")["decode_tokens"], 20);
  EXPECT_NE(krait(run).out.find("times as fast"), std::string::npos);
}

TEST_F(CliDraft, SaysWhatIsWrongInOneLine) {
  const std::string run = "generate a -n 4 -m krait-bytes-draft ";
  const std::string list =
      "--draft: expected one of ngram, maxgram, model:PATH, cascade:PATH,...,ngram, "
      "cascade:PATH,...,maxgram, self:q4, self:laser=RANK, "
      "self:laser=LAYER:MATRIX:RANK,..., self:skip=LAYER,..., found ";
  expect_error(run + "--draft foo", 2, list + "'foo'");
  expect_error(run + "--draft ''", 2, list + "''");
  expect_error(run + "--draft model:", 2, list + "'model:'");
  expect_error(run + "--draft self:laser=", 2, list + "'self:laser='");
  expect_error(run + "--draft self:laser=9:in:3", 2,
               "--draft: expected a layer from 0 to 1, found '9:in:3'");
  expect_error(run + "--draft self:laser=0:foo:3", 2, "--draft: expected");
  expect_error(run + "--draft self:skip=", 2, list + "'self:skip='");
  expect_error(run + "--draft self:skip=2", 2, "--draft: expected a whole number from 0 to 1");
  expect_error(run + "--draft self:skip=0,1", 2, "--draft: expected fewer than all 2, found all");
  expect_error(run + "--draft self:laser=none", 2, "--draft: expected a rank from 1 to");
  const std::string cascade =
      "--draft: expected cascade:PATH,...,ngram or cascade:PATH,...,maxgram with at least one "
      "model, found ";
  for (const std::string bad :
       {"cascade:ngram", "cascade:krait-bytes-2m", "cascade:krait-bytes-2m,,ngram",
        "cascade:ngram,maxgram", "cascade:cascade:krait-bytes-2m,ngram,ngram"}) {
    expect_error(run + "--draft " + bad, 2, cascade + "'" + bad + "'");
  }
  expect_error(run + "--draft cascade:krait-bytes-2m,krait-bytes-2m,ngram", 2,
               "--draft: expected a cascade that names every drafter once");
  expect_error(run + "--draft cascade:krait-bytes-draft,ngram", 1,
               "[draft] cascade: expected models that differ from each other and from the one that "
               "is drafted for, found krait-bytes-draft twice");
  expect_error(run + "--draft model:/no/such/model", 1, "/no/such/model");
  expect_error(run + "--draft-length 3", 2, "--draft-length: expected --draft beside it");
  expect_error(run + "--accept rejection", 2, "--accept: expected --draft beside it");
  expect_error(run + "--draft ngram --accept greedy", 2,
               "--accept: expected --greedy or --temperature 0 beside greedy");
  expect_error(run + "--draft ngram --accept always", 2,
               "--accept: expected one of match, greedy, rejection, coupling, found 'always'");
  for (const std::string bad : {"0", "65", "-1", "many", "2.5"}) {
    expect_error(run + "--draft ngram --draft-length " + bad, 2,
                 "--draft-length: expected a whole number from 1 to 64");
  }
  expect_error("chat --accept coupling", 2, "--accept: expected --draft beside it");
  expect_error("bench --draft ngram", 2, "--text: expected both --draft and --text");
  expect_error("bench --text x", 2, "--draft: expected both --draft and --text");
  expect_error("bench --draft ngram --text /no/such/file", 1, "/no/such/file");
  test::write_file(path("short"), "a");
  expect_error("bench --draft ngram --text " + path("short"), 1,
               "[bench] --text: expected a text of at least 2 tokens, found 1");
}

}  // namespace
}  // namespace krait::draft_test
