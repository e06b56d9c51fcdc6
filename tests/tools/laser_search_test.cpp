// Looking for cuts: what is planted is found, what is interrupted goes on.

#include "krait/tools/laser_search.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <set>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/text/tokenizer.hpp"
#include "krait/tools/evaluate.hpp"
#include "krait/weights/convert.hpp"
#include "tests/support/support.hpp"
#include "tools/laser/cutter.hpp"
#include "tools/laser/objective.hpp"

namespace krait::laser_search_test {
namespace {

namespace fs = std::filesystem;

struct LaserSearch : testing::Test {
  std::string in(const std::string& name) const { return (folder.path() / name).string(); }

  static CheckpointPlan plan(const std::string& name = "krait-bytes-draft") {
    return plan_checkpoint((test::bundled_models_dir() / name).string()).value();
  }

  static std::string text(std::size_t bytes) {
    return test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(0, bytes);
  }

  // krait-bytes-draft with a head of its own, which is a copy of the embedding.
  CheckpointPlan untied() const {
    const CheckpointPlan tied = plan();
    std::string config = test::read_file(fs::path(tied.checkpoint.path) / "config.json");
    const std::string yes = "\"tie_word_embeddings\": true";
    config.replace(config.find(yes), yes.size(), "\"tie_word_embeddings\": false");
    fs::create_directories(in("untied"));
    test::write_file(in("untied/config.json"), config);
    std::vector<NamedTensor> tensors;
    for (const auto& [name, entry] : tied.checkpoint.weights.entries()) {
      tensors.push_back({name, entry.tensor});
      if (name == "backbone.embeddings.weight") tensors.push_back({"lm_head.weight", entry.tensor});
    }
    EXPECT_TRUE(write_safetensors(in("untied/model.safetensors"), tensors));
    return plan_checkpoint(in("untied")).value();
  }

  Result<LaserSearchReport> run(const std::string& to, const LaserSearchOptions& options,
                                Progress progress = {}, std::size_t bytes = 8000) {
    return laser_search(plan(), in(to), text(bytes), options, pool, progress);
  }

  test::TemporaryDirectory folder;
  ThreadPool pool{2};
};

double bits_per_byte(const Model& model, const std::string& text) {
  SerialExecutor serial;
  Session session(model, serial);
  const auto tokens = byte_tokenizer()->encode(text).value();
  return perplexity(session, *byte_tokenizer(), tokens).value().bits_per_byte();
}

// A matrix that is as it should be, and with noise.
struct Planted {
  std::vector<float> good;
  std::vector<float> noisy;
};

// Cuts a matrix of the checkpoint to a rank and adds noise in the directions that are free then,
// nearly as strong as the weakest of its own.
Planted plant_noise(CheckpointPlan& plan, const std::string& name, Index rank) {
  const TensorView stored = plan.checkpoint.weights.find(name)->tensor;
  const Index rows = stored.shape[0];
  const Index cols = stored.shape[1];
  std::vector<float> W(static_cast<std::size_t>(stored.size()));
  convert_floats(stored, DType::f32, W.data());
  const SingularValues values = decompose({W.data(), rows, cols}).value();
  Planted planted{multiply(cut(values, rank), rows, cols), {}};
  std::vector<float> noise = test::random_floats(rows * cols, 7);
  for (Index k = 0; k < rank; ++k) {
    const auto u = [&](Index i) {
      return values.U[static_cast<std::size_t>(i * values.count() + k)];
    };
    const auto v = [&](Index i) {
      return values.V[static_cast<std::size_t>(i * values.count() + k)];
    };
    for (Index c = 0; c < cols; ++c) {
      float sum = 0.0F;
      for (Index r = 0; r < rows; ++r) sum += u(r) * noise[static_cast<std::size_t>(r * cols + c)];
      for (Index r = 0; r < rows; ++r) noise[static_cast<std::size_t>(r * cols + c)] -= u(r) * sum;
    }
    for (Index r = 0; r < rows; ++r) {
      float sum = 0.0F;
      for (Index c = 0; c < cols; ++c) sum += v(c) * noise[static_cast<std::size_t>(r * cols + c)];
      for (Index c = 0; c < cols; ++c) noise[static_cast<std::size_t>(r * cols + c)] -= v(c) * sum;
    }
  }
  const float strength = 0.95F * values.s[static_cast<std::size_t>(rank - 1)] /
                         decompose({noise.data(), rows, cols}).value().s[0];
  planted.noisy = planted.good;
  for (std::size_t i = 0; i < noise.size(); ++i) planted.noisy[i] += strength * noise[i];
  plan.checkpoint.weights.add(name, {planted.noisy.data(), DType::f32, stored.shape}, nullptr);
  return planted;
}

// Noise in that tensor is found, the cut first of all, and at least half of its harm is undone.
void expect_undone(LaserSearch& fixture, CheckpointPlan noisy, const std::string& name,
                   const LaserCut& cut, const LaserSearchOptions& options, std::size_t bytes) {
  const Planted planted = plant_noise(noisy, name, cut.rank);
  const LaserSearchReport report =
      laser_search(noisy, fixture.in("new"), LaserSearch::text(bytes), options, fixture.pool)
          .value();
  ASSERT_FALSE(report.cuts.empty());
  EXPECT_EQ(report.cuts.front().cut, cut);
  EXPECT_LT(report.test.high, 0.0) << "significant";
  const std::string other =
      test::read_file(test::data_dir() / "data/heldout_64k.txt").substr(40000, 12000);
  WeightStore undamaged = noisy.checkpoint.weights;
  const Shape shape = undamaged.find(name)->tensor.shape;
  undamaged.add(name, {planted.good.data(), DType::f32, shape}, nullptr);
  const double clean =
      bits_per_byte(build_model(noisy.config.spec, undamaged, noisy.config.prefix).value(), other);
  const double before = bits_per_byte(
      build_model(noisy.config.spec, noisy.checkpoint.weights, noisy.config.prefix).value(), other);
  const double after = bits_per_byte(load_model(fixture.in("new")).value(), other);
  EXPECT_GT(before, clean + 0.005);
  EXPECT_LT(after, before - 0.5 * (before - clean)) << clean << ' ' << before << ' ' << after;
  const std::string svg = draw_trials(report);
  EXPECT_NE(svg.find("<title>" + to_string(cut) + ":"), std::string::npos);
  EXPECT_EQ(svg.find(">no layer<") != std::string::npos, cut.layer < 0);
}

TEST_F(LaserSearch, PlantedNoiseIsFoundAndUndone) {
  expect_undone(*this, plan(), "backbone.layers.1.mixer.out_proj.weight", {1, "out", 25},
                {.seed = 1}, 32000);
}

TEST_F(LaserSearch, PlantedNoiseIsFoundQuickly) {
  expect_undone(*this, plan(), "backbone.layers.1.mixer.out_proj.weight", {1, "out", 12},
                {.quick = true, .seed = 1}, 32000);
}

TEST_F(LaserSearch, PlantedNoiseOfAHeadIsFound) {
  expect_undone(*this, untied(), "lm_head.weight", {-1, "head", 25}, {.matrices = {"head"}}, 16000);
}

TEST_F(LaserSearch, PlantedNoiseOfATiedEmbeddingIsFoundOnRequest) {
  expect_undone(*this, plan(), "backbone.embeddings.weight", {-1, "emb", 25}, {.matrices = {"emb"}},
                16000);
}

TEST_F(LaserSearch, PlantedNoiseOfARouterIsFound) {
  expect_undone(*this, plan("krait-bytes-moe"), "backbone.layers.5.moe.router.weight",
                {5, "router", 3}, {.matrices = {"5:router"}}, 16000);
}

TEST_F(LaserSearch, TriesTheHeadAndTheEmbeddingOnRequest) {
  const CheckpointPlan own = untied();
  const auto tries = [&](const std::vector<std::string>& patterns) {
    LaserSearchOptions options{.matrices = patterns};
    const LaserSearchReport report =
        laser_search(own, in("new"), text(1300), options, pool).value();
    fs::remove_all(in("new"));
    std::set<std::string> names;
    for (const LaserTrial& trial : report.trials) {
      names.insert(trial.cut.layer < 0 ? trial.cut.matrix
                                       : fmt::format("{}:{}", trial.cut.layer, trial.cut.matrix));
    }
    return fmt::format("{}", fmt::join(names, " "));
  };
  const std::string layers =
      "0:dt 0:in 0:in_x 0:in_z 0:out 0:x_B 0:x_C 0:x_dt 0:x_proj "
      "1:dt 1:in 1:in_x 1:in_z 1:out 1:x_B 1:x_C 1:x_dt 1:x_proj";
  EXPECT_EQ(tries({}), layers + " head");
  EXPECT_EQ(tries({"*"}), layers + " emb head");
  EXPECT_EQ(tries({"emb", "1:*t", "x_B"}), "0:x_B 1:dt 1:out 1:x_B 1:x_dt emb");
}

TEST_F(LaserSearch, TheSuffixGivesTheBitsOfTheWhole) {
  const CheckpointPlan source = plan();
  const auto samples = laser::read_samples(text(4000), LaserTask::text, *byte_tokenizer()).value();
  std::vector<const laser::Sample*> all;
  for (const laser::Sample& sample : samples) all.push_back(&sample);
  const Model base = load_model(source.checkpoint.path).value();
  const Model edited = cut_model(source, {{1, "in_x", 20}}, pool).value();
  laser::Stream stream(base, all);
  ASSERT_TRUE(stream.run(base, 1, pool));
  laser::Scorer scorer(edited);
  const auto whole = laser::nats_of(edited, all, pool).value();
  for (std::size_t i = 0; i < all.size(); ++i) {
    EXPECT_EQ(scorer.nats(all[i]->answer(), 1, stream.rows(i)).value(), whole[i]);
  }
}

TEST_F(LaserSearch, IntervalsAreStudents) {
  // Four pairs of one byte: differences in bits 1, 2, 3, 4; mean 2.5, s.e. 0.6455, t 3.182.
  std::vector<laser::Sample> samples(4, {{{{0, 1}, 1, 1}}, 0});
  std::vector<const laser::Sample*> all;
  for (const laser::Sample& sample : samples) all.push_back(&sample);
  const double bit = std::log(2.0);
  const LaserScore score = laser::score_of(std::vector{bit, bit, bit, bit},
                                           std::vector{2 * bit, 3 * bit, 4 * bit, 5 * bit}, all);
  EXPECT_NEAR(score.before, 1.0, 1e-12);
  EXPECT_NEAR(score.after, 3.5, 1e-12);
  EXPECT_NEAR(score.low, 2.5 - 3.182 * 0.6455, 0.02);
  EXPECT_NEAR(score.high, 2.5 + 3.182 * 0.6455, 0.02);
}

bool same(const LaserSearchReport& a, const LaserSearchReport& b) {
  const auto equal = [](const LaserTrial& x, const LaserTrial& y) {
    return x.cut == y.cut && x.change == y.change && x.error == y.error && x.samples == y.samples;
  };
  return std::ranges::equal(a.trials, b.trials, equal) && a.test.after == b.test.after &&
         a.bytes_after == b.bytes_after;
}

TEST_F(LaserSearch, GoesOnAfterAnInterruptionAndThreadsChangeNothing) {
  const LaserSearchOptions options{.shrinks = true, .loss = 0.2};
  const LaserSearchReport expected = run("whole", options).value();
  EXPECT_TRUE(expected.is_complete);
  ASSERT_FALSE(expected.cuts.empty());
  EXPECT_FALSE(fs::exists(in("whole.partial")));
  for (const double part : {0.0, 0.3, 0.9, 0.6}) {
    const auto stop = [&](Index done, Index total) {
      return static_cast<double>(done) >= part * static_cast<double>(total) ? Flow::stop
                                                                            : Flow::go_on;
    };
    const auto stopped = run("parts", options, stop);
    ASSERT_FALSE(stopped);
    EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
    EXPECT_FALSE(fs::exists(in("parts")));
    EXPECT_TRUE(fs::exists(in("parts.partial")));
  }
  LaserSearchOptions other = options;
  other.seed = 9;
  EXPECT_EQ(run("parts", other)
                .error()
                .message.find("[laser] unfinished work: expected that of the same call"),
            0U);
  EXPECT_TRUE(same(run("parts", options).value(), expected));
  EXPECT_FALSE(fs::exists(in("parts.partial")));
  EXPECT_EQ(test::read_file(folder.path() / "parts/model.safetensors"),
            test::read_file(folder.path() / "whole/model.safetensors"));
  SerialExecutor serial;
  EXPECT_TRUE(
      same(laser_search(plan(), in("serial"), text(8000), options, serial).value(), expected));
}

// What is written never depends on the random numbers of the trials.
TEST_F(LaserSearch, QuickTrialsDependOnNoThreadAndWriteExactCuts) {
  const LaserSearchOptions options{.matrices = {"1:*"}, .quick = true};
  const CheckpointPlan source = plan("krait-bytes-draft");
  CheckpointPlan noisy = source;
  const Planted planted = plant_noise(noisy, "backbone.layers.1.mixer.out_proj.weight", 12);
  const LaserSearchReport report =
      laser_search(noisy, in("new"), text(16000), options, pool).value();
  SerialExecutor serial;
  EXPECT_TRUE(
      same(laser_search(noisy, in("serial"), text(16000), options, serial).value(), report));
  std::vector<LaserCut> cuts;
  for (const auto& found : report.cuts) cuts.push_back(found.cut);
  ASSERT_FALSE(cuts.empty());
  ASSERT_TRUE(write_laser(noisy, in("exact"), cuts, LaserForm::smaller, pool));
  EXPECT_EQ(test::read_file(folder.path() / "new/model.safetensors"),
            test::read_file(folder.path() / "exact/model.safetensors"));
  for (const LaserTrial& trial : report.trials) EXPECT_LE(trial.cut.rank, 16);
}

TEST_F(LaserSearch, WorkOfOtherOptionsIsNotGoneOnWith) {
  const auto stop = [](Index done, Index total) {
    return 3 * done >= total ? Flow::stop : Flow::go_on;
  };
  ASSERT_FALSE(run("parts", {}, stop, 2000));
  const auto refusal = [&](const LaserSearchOptions& options) {
    const auto result = run("parts", options, {}, 2000);
    return result ? std::string("none") : result.error().message;
  };
  const std::string expected = "[laser] unfinished work: expected that of the same call";
  EXPECT_EQ(refusal({.quick = true}).find(expected), 0U);
  EXPECT_EQ(refusal({.matrices = {"*"}}).find(expected), 0U);
  EXPECT_TRUE(run("parts", {}, {}, 2000));
}

TEST_F(LaserSearch, ShrinkingStaysWithinTheLossAndBeatsOneFractionForAll) {
  const LaserSearchReport report = run("new", {.shrinks = true, .loss = 0.1}, {}, 32000).value();
  ASSERT_FALSE(report.cuts.empty());
  EXPECT_LT(report.bytes_after, report.bytes_before);
  EXPECT_LT(report.test.low, 0.1);
  ASSERT_TRUE(report.uniform);
  EXPECT_GE(report.uniform_bytes, report.bytes_after - report.bytes_after / 100);
  EXPECT_LT(report.test.after, report.uniform->after);
  EXPECT_TRUE(load_model(in("new")));
  const std::string svg = draw_trials(report);
  EXPECT_EQ(svg.find("<svg xmlns"), 0U);
  EXPECT_NE(svg.find("layer 1"), std::string::npos);
  EXPECT_NE(svg.find("<title>0:in:"), std::string::npos);
}

TEST_F(LaserSearch, WhatIsNotWorthItIsNotWritten) {
  const LaserSearchReport none = run("new", {.shrinks = true, .loss = 0.0}).value();
  EXPECT_TRUE(none.cuts.empty());
  EXPECT_FALSE(fs::exists(in("new")));
  EXPECT_FALSE(fs::exists(in("new.partial")));
  EXPECT_EQ(none.bytes_after, none.bytes_before);
}

TEST_F(LaserSearch, ALittleTimeGivesLess) {
  const LaserSearchReport report = run("new", {.minutes = 1e-6}).value();
  EXPECT_FALSE(report.is_complete);
  EXPECT_TRUE(report.trials.empty());
}

std::string repeated(const std::string& line, int times) {
  std::string text;
  for (int i = 0; i < times; ++i) text += line + "\n";
  return text;
}

TEST_F(LaserSearch, TasksAreLinesOfJson) {
  const auto read = [](const std::string& data, LaserTask task) {
    return laser::read_samples(data, task, *byte_tokenizer()).value();
  };
  const auto word = read(repeated(R"({"text": "the cat sat"})", 20), LaserTask::lambada);
  ASSERT_EQ(word.size(), 20U);
  EXPECT_EQ(word[0].answer().first, 7);  // behind "the cat"
  EXPECT_EQ(word[0].answer().bytes, 4);  // " sat"
  const auto endings =
      read(repeated(R"({"ctx": "He", "endings": ["ran.", "slept.", "is"], "label": "1"})", 20),
           LaserTask::hellaswag);
  ASSERT_EQ(endings[3].choices.size(), 3U);
  EXPECT_EQ(endings[3].right, 1U);
  EXPECT_EQ(endings[3].answer().bytes, 7);
  const auto own = read(repeated(R"({"prompt": "2+2=", "answer": "4"})", 30), LaserTask::jsonl);
  EXPECT_EQ(own[0].answer().bytes, 1);

  const LaserSearchReport report =
      laser_search(plan(), in("new"),
                   repeated(R"({"prompt": "ab", "choices": ["cd", "e f"], "label": 0})", 20),
                   {.task = LaserTask::jsonl, .by_rule = true}, pool)
          .value();
  ASSERT_TRUE(report.accuracy_before);
  EXPECT_TRUE(*report.accuracy_before == 0.0 || *report.accuracy_before == 1.0);
}

// Not the data is to blame where the model gives no probabilities.
TEST_F(LaserSearch, WeightsThatAreNotFiniteAreNamed) {
  CheckpointPlan bad = plan();
  const std::string name = "backbone.layers.0.mixer.A_log";
  const TensorView stored = bad.checkpoint.weights.find(name)->tensor;
  std::vector<float> values(static_cast<std::size_t>(stored.size()));
  convert_floats(stored, DType::f32, values.data());
  values.back() = std::nanf("");
  bad.checkpoint.weights.add(name, {values.data(), DType::f32, stored.shape}, nullptr);
  const auto report = laser_search(bad, in("bad"), text(8000), {}, pool);
  ASSERT_FALSE(report);
  EXPECT_EQ(report.error().code, ErrorCode::not_finite);
  EXPECT_EQ(report.error().message.find("[laser] " + name + ": expected finite weights, found nan"),
            0U)
      << report.error().message;
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST_F(LaserSearch, DataThatWillNotDoIsNamed) {
  const auto message = [&](const std::string& data, LaserTask task) {
    const auto result = laser_search(plan(), in("bad"), data, {.task = task}, pool);
    EXPECT_TRUE(fs::is_empty(folder.path()));
    return result ? std::string("none") : result.error().message;
  };
  EXPECT_EQ(message("", LaserTask::text), "[laser] data: expected text, found none");
  EXPECT_EQ(message("short", LaserTask::text),
            "[laser] data: expected at least 1280 tokens, found 5");
  EXPECT_EQ(message("{\"text\": \"one two\"}\n", LaserTask::lambada),
            "[laser] data: expected at least 20 lines, found 1");
  EXPECT_EQ(message("{\"text\": \"one\"}\n", LaserTask::lambada),
            "[laser] data: expected \"text\" of several words, found something else (line 1)");
  EXPECT_EQ(
      message("\n{\"ctx\": \"a\", \"endings\": [\"b\"], \"label\": 1}", LaserTask::hellaswag),
      "[laser] data: expected \"ctx\", \"endings\" and \"label\", found something else (line 2)");
  EXPECT_NE(message("{\"prompt\": ", LaserTask::jsonl).find("data, line 1"), std::string::npos);
  const auto merging = read_tokenizer_json(R"({"version": "1.0", "model": {"type": "BPE",
      "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}})")
                           .value();
  const auto of_one =
      laser::read_samples(R"({"prompt": "a", "answer": "b"})", LaserTask::jsonl, *merging);
  EXPECT_EQ(of_one.error().message,
            "[laser] data: expected at least 2 tokens with an answer, found 1 (line 1)");
  const auto refuse = [&](const LaserSearchOptions& options) {
    return laser_search(plan(), in("bad"), text(8000), options, pool).error().message;
  };
  EXPECT_EQ(refuse({.loss = -1.0}), "[laser] loss: expected bits per byte, at least 0, found -1");
  EXPECT_EQ(refuse({.minutes = std::nan("")}),
            "[laser] budget: expected minutes, at least 0, found nan");
  EXPECT_EQ(refuse({.matrices = {"in", "nothing*"}}),
            "[laser] matrices: expected a pattern that fits one of emb, in, in_x, in_z, x_proj, "
            "x_dt, x_B, x_C, dt, out, found 'nothing*'");
  EXPECT_EQ(refuse({.shrinks = true, .quick = true}),
            "[laser] quick: expected a search for low ranks that make better, found one that "
            "shrinks, by higher ranks");
  EXPECT_EQ(refuse({.by_rule = true, .quick = true}).find("[laser] quick: expected a search"), 0U);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

}  // namespace
}  // namespace krait::laser_search_test
