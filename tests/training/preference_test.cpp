// Losses of pairs, against TRL's (tests/golden/make_golden_preferences.py) and by their own laws.

#include "krait/training/preference.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "io/json.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/training.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::preference_test {
namespace {

constexpr PreferenceLoss losses[] = {PreferenceLoss::sigmoid, PreferenceLoss::ipo,
                                     PreferenceLoss::hinge, PreferenceLoss::robust,
                                     PreferenceLoss::sigmoid_norm};

std::vector<Token> tokens_of(const Metadata& list) {
  std::vector<Token> tokens;
  for (const Metadata& token : *list.array()) tokens.push_back(static_cast<Token>(*token.whole()));
  return tokens;
}

Row row_of(const std::vector<Token>& prompt, const std::vector<Token>& answer) {
  Row row{.tokens = prompt, .given = std::ssize(prompt)};
  row.tokens.insert(row.tokens.end(), answer.begin(), answer.end());
  return row;
}

PreferenceOptions options_of(const Metadata& json) {
  PreferenceOptions options;
  for (const PreferenceLoss loss : losses) {
    if (json["loss"].is(to_string(loss))) options.loss = loss;
  }
  options.beta = json["beta"].number().value_or(options.beta);
  options.label_smoothing = json["label_smoothing"].number().value_or(0.0);
  options.sft = json["sft"].number().value_or(0.0);
  options.ld_alpha = json["ld_alpha"].number().value_or(1.0);
  return options;
}

// The loss and gradient of a step over pairs, as TRL finds them for the same model.
TEST(Preference, LossesAndGradientsAreThoseOfTrl) {
  const std::string folder = (test::data_dir() / "golden").string();
  TrainTask task = open_train_task(folder + "/hf_f32").value();
  WeightStore golden;
  read_safetensors(
      open_file(folder + "/gradients/preferences.safetensors", WeightsMode::copy).value(), golden)
      .value();
  const Metadata cases = parse_json(golden.metadata.find("cases")->second, "cases").value();
  const Metadata json = parse_json(golden.metadata.find("pairs")->second, "pairs").value();
  std::vector<PreferencePair> pairs;
  for (const Metadata& pair : *json.array()) {
    const std::vector<Token> prompt = tokens_of(pair["prompt"]);
    pairs.push_back({.chosen = row_of(prompt, tokens_of(pair["chosen"])),
                     .rejected = row_of(prompt, tokens_of(pair["rejected"]))});
  }
  SerialExecutor serial;
  ModelGradient model = ModelGradient::create(task.spec, task.prefix, serial).value();
  AlignedBuffer<float> reference = task.values;
  for (const Parameter& parameter : model.parameters().all()) {
    if (!parameter.name.ends_with("in_proj.weight")) continue;
    for (Index i = 0; i < parameter.shape.size(); ++i) reference[parameter.offset + i] *= 0.75F;
  }
  model.bind(reference.data()).value();
  set_reference(model, pairs).value();
  model.bind(task.values.data()).value();
  double targets = 0.0;
  for (const PreferencePair& pair : pairs) targets += static_cast<double>(pair.chosen.targets());
  const auto count = static_cast<double>(pairs.size());
  for (const Metadata& expected : *cases.array()) {
    const PreferenceOptions options = options_of(expected);
    AlignedBuffer<float> sum(task.values.size());
    PairStatistics found;
    for (const PreferencePair& pair : pairs) {
      found.add(
          pair_backward(model, pair, options, {.sft = options.sft * count / targets}, sum.data())
              .value());
    }
    found = found.mean();
    const auto near = [&](double value, const char* key) {
      const double wanted = expected[key].number().value();
      EXPECT_NEAR(value, wanted, 1e-5 * std::abs(wanted)) << to_string(options.loss) << key;
    };
    near(found.loss, "value");
    near(found.chosen_reward, "rewards/chosen");
    near(found.rejected_reward, "rewards/rejected");
    EXPECT_NEAR(found.chosen_reward - found.rejected_reward,
                expected["rewards/margins"].number().value(), 1e-5 * found.chosen_reward);
    near(found.accuracy, "rewards/accuracies");
    near(found.chosen_log_p, "logps/chosen");
    near(found.rejected_log_p, "logps/rejected");
    double dot = 0.0;
    double norm = 0.0;
    double error = 0.0;
    for (const Parameter& parameter : model.parameters().all()) {
      const std::span<const float> first = golden.find(parameter.name)->tensor.as<float>();
      for (std::size_t i = 0; i < first.size(); ++i) {
        const double g = static_cast<double>(sum[parameter.offset + static_cast<Index>(i)]) / count;
        dot += g * static_cast<double>(first[i]);
        norm += g * g;
        error += std::pow(g - static_cast<double>(first[i]), 2.0);
      }
    }
    near(std::sqrt(norm), "norm");
    near(dot, "dot");
    if (&expected == &cases[0]) {
      EXPECT_LE(std::sqrt(error / norm), 1e-5);
    }
  }
}

TEST(Preference, SlopesAreThoseOfTheLosses) {
  for (const PreferenceLoss loss : losses) {
    PreferenceOptions options{.loss = loss, .beta = 0.7};
    if (loss == PreferenceLoss::sigmoid || loss == PreferenceLoss::robust) {
      options.label_smoothing = 0.15;
    }
    for (const double delta : {-40.0, -1.3, 0.0, 0.4, 1.2, 30.0}) {
      const double h = 1e-5;
      const double slope =
          (pair_loss(options, delta + h).loss - pair_loss(options, delta - h).loss) / (2.0 * h);
      EXPECT_NEAR(pair_loss(options, delta).slope, slope, 1e-7) << to_string(loss) << delta;
    }
  }
  EXPECT_DOUBLE_EQ(pair_loss({}, 0.0).loss, std::log(2.0));
  EXPECT_EQ(pair_loss({}, -1e6).loss, 1e5);  // no overflow
}

struct Pairs {
  ModelSpec spec;
  SerialExecutor serial;
  ModelGradient model;
  AlignedBuffer<float> values;

  explicit Pairs(const ModelSpec& s)
      : spec(s),
        model(ModelGradient::create(s, "", serial).value()),
        values(model.parameters().floats()) {
    initial_weights(s, model.parameters(), 3, values.span());
    model.bind(values.data()).value();
  }
  static PreferencePair pair(Index chosen, Index rejected) {
    const std::vector<Token> prompt = test::random_tokens(3, 61, 1);
    return {.chosen = row_of(prompt, test::random_tokens(chosen, 61, 2)),
            .rejected = row_of(prompt, test::random_tokens(rejected, 61, 3))};
  }
  std::vector<float> gradient(const PreferencePair& pair, const PreferenceOptions& options,
                              PairStatistics& found) {
    AlignedBuffer<float> sum(values.size());
    found = pair_backward(model, pair, options, {.balance = 0.1}, sum.data()).value();
    return {sum.span().begin(), sum.span().end()};
  }
};

TEST(Preference, BeforeTheFirstStepNothingIsPreferred) {
  Pairs at(test::tiny_spec());
  std::vector<PreferencePair> pairs = {Pairs::pair(4, 6)};
  set_reference(at.model, pairs).value();
  PairStatistics found;
  at.gradient(pairs[0], {}, found);
  EXPECT_EQ(found.loss, std::log(2.0));
  EXPECT_EQ(found.chosen_reward, 0.0);
  EXPECT_EQ(found.rejected_reward, 0.0);
}

TEST(Preference, EqualAnswersMoveNothing) {
  for (const ModelSpec& spec : {test::tiny_spec(), test::tiny_expert_spec()}) {
    Pairs at(spec);
    PreferencePair pair = Pairs::pair(5, 7);
    pair.rejected = pair.chosen;
    pair.chosen_reference.assign(5, -3.0F);
    pair.rejected_reference.assign(5, -4.0F);
    for (const PreferenceLoss loss : losses) {
      PairStatistics found;
      for (const float g : at.gradient(pair, {.loss = loss}, found)) ASSERT_EQ(g, 0.0F);
    }
  }
}

// A pair that has nothing to give has routers still.
TEST(Preference, RoutersAreBalancedWhereTheLossIsFlat) {
  for (const bool has_experts : {false, true}) {
    Pairs at(has_experts ? test::tiny_expert_spec() : test::tiny_spec());
    PreferencePair pair = Pairs::pair(5, 7);
    pair.chosen_reference.assign(5, -300.0F);  // a margin far behind the hinge
    pair.rejected_reference.assign(7, 0.0F);
    PairStatistics found;
    const std::vector<float> flat = at.gradient(pair, {.loss = PreferenceLoss::hinge}, found);
    EXPECT_EQ(found.loss, 0.0);
    EXPECT_EQ(std::ranges::any_of(flat, [](float g) { return g != 0.0F; }), has_experts);
    // Its pull is that of any other loss whose slope is 0 in the floats' eyes.
    const std::vector<float> steep = at.gradient(pair, {.beta = 1e-60}, found);
    EXPECT_EQ(flat, steep);
  }
}

TEST(Preference, ASwappedPairHasTheOppositeMargin) {
  Pairs at(test::tiny_spec());
  PreferencePair pair = Pairs::pair(5, 7);
  pair.chosen_reference.assign(5, -3.0F);
  pair.rejected_reference.assign(7, -4.0F);
  PreferencePair swapped{pair.rejected, pair.chosen, pair.rejected_reference,
                         pair.chosen_reference};
  PairStatistics found;
  PairStatistics other;
  at.gradient(pair, {}, found);
  at.gradient(swapped, {}, other);
  EXPECT_EQ(found.chosen_reward, other.rejected_reward);
  EXPECT_EQ(found.rejected_reward, other.chosen_reward);
  EXPECT_EQ(found.accuracy + other.accuracy, 1.0);
}

TEST(Preference, AStepHasTheSameBitsWithAnyThreads) {
  std::vector<float> expected;
  for (const int threads : {1, 3}) {
    ThreadPool pool(threads);
    Pairs at(test::tiny_spec());
    std::vector<PreferencePair> pairs = {Pairs::pair(4, 6), Pairs::pair(9, 2), Pairs::pair(1, 1)};
    set_reference(at.model, pairs).value();
    const TrainOptions options{.steps = 4, .batch = 5, .length = 16, .learning_rate = 0.01};
    const PreferenceOptions preference{.sft = 0.1};
    Trainer trainer = Trainer::create(at.spec, "", options, std::move(at.values), pool).value();
    PairRows rows(options, pairs);
    TrainStep step;
    while (trainer.steps() < options.steps) step = trainer.step(rows, preference).value();
    EXPECT_GT(step.pairs->chosen_reward, step.pairs->rejected_reward);
    EXPECT_GT(step.pairs->accuracy, 0.9);
    const std::vector<float> values(trainer.arrays().values.begin(), trainer.arrays().values.end());
    if (expected.empty()) expected = values;
    EXPECT_EQ(values, expected);
  }
}

std::vector<Row> examples() {
  std::vector<Row> rows;
  for (const Index length : {5, 8, 11, 14}) {
    const std::vector<Token> tokens = test::random_tokens(length, 61, 40);
    rows.push_back({.tokens = tokens, .given = 2 + length % 2});
  }
  return rows;
}

// What a step finds, without clipping: the first moments are (1 - beta1) times the gradient.
struct Found {
  TrainStep step;
  std::vector<double> gradient;
};

template <class Step>
Found found_by(const Pairs& at, TrainOptions options, const Step& step, Executor& executor) {
  options.clip = 0.0;
  options.beta1 = 0.5;
  AlignedBuffer<float> values = at.values;
  Trainer trainer = Trainer::create(at.spec, "", options, std::move(values), executor).value();
  Found found{.step = step(trainer), .gradient = {}};
  for (const float m : trainer.arrays().first_moments) {
    found.gradient.push_back(2.0 * static_cast<double>(m));
  }
  return found;
}

// With experts, the losses of routers count like the cross-entropy.
TEST(Preference, AReplayAddsWhatAStepOverItsRowsAloneFinds) {
  for (const ModelSpec& spec : {test::tiny_spec(), test::tiny_expert_spec()}) {
    Pairs at(spec);
    std::vector<PreferencePair> pairs = {Pairs::pair(4, 6), Pairs::pair(9, 2), Pairs::pair(1, 1)};
    set_reference(at.model, pairs).value();
    const std::vector<Row> rows = examples();
    const TrainOptions options{.steps = 1, .batch = 5, .length = 16, .seed = 4, .balance = 0.1};
    const PreferenceOptions preference{.sft = 0.2};
    constexpr double weight = 0.3;
    SerialExecutor serial;
    const auto with_rows = [&](Trainer& trainer) {
      ExampleRows source(options, rows);
      return trainer.step(source).value();
    };
    const auto with_pairs = [&](Trainer& trainer) {
      PairRows source(options, pairs);
      return trainer.step(source, preference).value();
    };
    const auto with_both = [&](Trainer& trainer) {
      PairRows source(options, pairs);
      ExampleRows replayed(options, rows);
      return trainer.step(source, preference, {.rows = &replayed, .weight = weight}).value();
    };
    const Found examples_alone = found_by(at, options, with_rows, serial);
    const Found pairs_alone = found_by(at, options, with_pairs, serial);
    const Found both = found_by(at, options, with_both, serial);
    ThreadPool pool(3);
    EXPECT_EQ(found_by(at, options, with_both, pool).gradient, both.gradient);
    double error = 0.0;
    double norm = 0.0;
    for (std::size_t i = 0; i < both.gradient.size(); ++i) {
      const double sum = pairs_alone.gradient[i] + weight * examples_alone.gradient[i];
      error += std::pow(both.gradient[i] - sum, 2.0);
      norm += sum * sum;
    }
    EXPECT_LE(std::sqrt(error / norm), 1e-6);
    EXPECT_FALSE(pairs_alone.step.replay.has_value());
    EXPECT_NEAR(both.step.replay.value(), examples_alone.step.loss, 1e-6);
    EXPECT_NEAR(both.step.loss, pairs_alone.step.loss + weight * examples_alone.step.loss, 1e-6);
    EXPECT_EQ(both.step.tokens, pairs_alone.step.tokens + examples_alone.step.tokens);
    EXPECT_EQ(both.step.pairs->loss, pairs_alone.step.pairs->loss);
  }
}

TEST(Preference, AReplayNeedsAWeight) {
  EXPECT_TRUE(validate_replay(0.3).has_value());
  for (const double weight : {0.0, -1.0, std::numeric_limits<double>::infinity(), std::nan("")}) {
    EXPECT_FALSE(validate_replay(weight).has_value()) << weight;
  }
}

TEST(Preference, LossWithoutAStepIsThatOfTheStep) {
  Pairs at(test::tiny_spec());
  std::vector<PreferencePair> pairs = {Pairs::pair(4, 6), Pairs::pair(9, 2), Pairs::pair(1, 1)};
  set_reference(at.model, pairs).value();
  const TrainOptions options{.steps = 2, .batch = 3, .length = 16};
  Trainer trainer = Trainer::create(at.spec, "", options, std::move(at.values), at.serial).value();
  PairRows rows(options, pairs);
  for (const double sft : {0.0, 0.7}) {
    const PreferenceOptions preference{.sft = sft};
    const double loss = trainer.loss(pairs, preference).value();
    EXPECT_NEAR(loss, trainer.step(rows, preference).value().loss, 1e-9) << sft;
  }
}

TEST(Preference, OptionsAreChecked) {
  const auto message = [](const PreferenceOptions& options) {
    const Result<void> valid = validate(options);
    return valid ? "" : valid.error().message;
  };
  EXPECT_EQ(message({}), "");
  EXPECT_EQ(message({.beta = 0.0}), "[training] beta: expected a finite number above 0, found 0");
  EXPECT_EQ(message({.label_smoothing = 0.5}),
            "[training] label-smoothing: expected at least 0 and below 0.5, found 0.5");
  EXPECT_EQ(message({.loss = PreferenceLoss::ipo, .label_smoothing = 0.1}),
            "[training] label-smoothing: expected 0 with the loss ipo (it is for sigmoid and "
            "robust), found 0.1");
  EXPECT_EQ(message({.sft = -1.0}),
            "[training] sft: expected a finite number of at least 0, found -1");
  EXPECT_EQ(message({.ld_alpha = 2.0}), "[training] ld-alpha: expected 0 to 1, found 2");
}

}  // namespace
}  // namespace krait::preference_test
