#include "krait/training/trainer.hpp"

#include <gtest/gtest.h>

#include <cfenv>
#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "krait/training/initial_weights.hpp"
#include "krait/training/preference.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::trainer_test {
namespace {

TrainOptions small() {
  return {.steps = 6, .batch = 3, .length = 10, .accumulate = 1, .learning_rate = 0.01};
}

struct Trained {
  std::vector<float> values;
  std::vector<TrainStep> steps;
};

Trained run(const TrainOptions& options, Executor& executor, const ModelSpec& spec,
            const std::vector<Token>& data = test::random_tokens(200, 61, 9)) {
  const Parameters parameters = Parameters::of(spec).value();
  AlignedBuffer<float> values(parameters.floats());
  initial_weights(spec, parameters, 5, values.span());
  Trainer trainer = Trainer::create(spec, "", options, std::move(values), executor).value();
  TextRows rows(options, data);
  Trained result;
  while (trainer.steps() < options.steps) result.steps.push_back(trainer.step(rows).value());
  result.values.assign(trainer.arrays().values.begin(), trainer.arrays().values.end());
  return result;
}

Trained run(const TrainOptions& options, int threads = 1) {
  ThreadPool pool(threads);
  return run(options, pool, test::tiny_spec());
}

// All of the same rows at every step.
TrainOptions by_heart(Index steps, Index batch, Index length, double rate) {
  TrainOptions options = small();
  options.steps = steps;
  options.batch = batch;
  options.length = length;
  options.order = DataOrder::sequential;
  options.learning_rate = rate;
  options.weight_decay = 0.0;
  return options;
}

TEST(Trainer, LearnsARowByHeart) {
  const Trained found = run(by_heart(150, 1, 199, 0.03));
  EXPECT_NEAR(found.steps.front().loss, std::log(61.0), 0.1);
  EXPECT_LT(found.steps.back().loss, 0.3);
}

// Of texts that begin differently, all that follows.
TEST(Trainer, LearnsThirtyTwoTextsByHeart) {
  const TrainOptions options = by_heart(80, 32, 10, 0.02);
  std::vector<Token> texts = test::random_tokens(options.batch * options.length, 61, 12);
  for (Index i = 0; i < options.batch; ++i) {
    texts[static_cast<std::size_t>(i * options.length)] = static_cast<Token>(i);
  }
  ThreadPool pool(1);
  const Trained found = run(options, pool, test::tiny_spec(), texts);
  for (std::size_t i = 0; i < found.steps.size(); i += 20) EXPECT_GT(found.steps.front().loss, 4.0);
  EXPECT_LT(found.steps.back().loss, 0.05);
}

TEST(Trainer, AccumulatedBatchesGiveTheBitsOfALargeOne) {
  for (const DataOrder order : {DataOrder::sequential, DataOrder::shuffled}) {
    TrainOptions options = small();
    options.order = order;
    options.batch = 9;
    const Trained large = run(options);
    options.batch = 3;
    options.accumulate = 3;
    const Trained cut = run(options);
    EXPECT_TRUE(test::same_bits<float>(large.values, cut.values));
    for (std::size_t i = 0; i < large.steps.size(); ++i) {
      EXPECT_EQ(large.steps[i].loss, cut.steps[i].loss);
      EXPECT_EQ(large.steps[i].grad_norm, cut.steps[i].grad_norm);
    }
  }
}

TEST(Trainer, ThreadsChangeNoBit) {
  const Trained one = run(small(), 1);
  for (const int threads : {2, 5}) {
    EXPECT_TRUE(test::same_bits<float>(one.values, run(small(), threads).values));
  }
}

TEST(Trainer, ShardsAreAddedAsATree) {
  // Seven shards of one row each: ((0 + 1) + (2 + 3)) + ((4 + 5) + 6).
  TrainOptions options = small();
  options.steps = 1;
  options.batch = 7;
  options.shards = 7;
  options.order = DataOrder::sequential;
  options.clip = 0.0;
  const ModelSpec spec = test::tiny_spec();
  SerialExecutor serial;
  ModelGradient gradient = ModelGradient::create(spec, "", serial).value();
  const Index floats = gradient.parameters().floats();
  AlignedBuffer<float> values(floats);
  initial_weights(spec, gradient.parameters(), 5, values.span());
  gradient.bind(values.data()).value();
  const std::vector<Token> data = test::random_tokens(200, 61, 9);
  std::vector<AlignedBuffer<float>> rows;
  for (std::size_t r = 0; r < 7; ++r) {
    rows.emplace_back(floats);
    const std::span<const Token> tokens = std::span(data).subspan(r * 10, 11);
    gradient
        .backward({.inputs = tokens.first(10), .targets = tokens.last(10), .balance = 0.01},
                  rows.back().data())
        .value();
  }
  std::vector<float> sum(static_cast<std::size_t>(floats));
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const auto g = [&](std::size_t r) { return rows[r].data()[i]; };
    sum[i] = (((g(0) + g(1)) + (g(2) + g(3))) + ((g(4) + g(5)) + g(6))) * (1.0F / 70.0F);
  }
  EXPECT_EQ(gradient_norm(sum), run(options).steps.front().grad_norm);
}

TEST(Trainer, GoesOnFromItsArrays) {
  const Trained whole = run(small());
  const ModelSpec spec = test::tiny_spec();
  const Parameters parameters = Parameters::of(spec).value();
  SerialExecutor serial;
  AlignedBuffer<float> values(parameters.floats());
  initial_weights(spec, parameters, 5, values.span());
  Trainer first = Trainer::create(spec, "", small(), values, serial).value();
  const std::vector<Token> data = test::random_tokens(200, 61, 9);
  TextRows rows(small(), data);
  for (int i = 0; i < 4; ++i) first.step(rows).value();
  Trainer second = Trainer::create(spec, "", small(), values, serial).value();
  std::ranges::copy(first.arrays().values, second.arrays().values.begin());
  std::ranges::copy(first.arrays().first_moments, second.arrays().first_moments.begin());
  std::ranges::copy(first.arrays().second_moments, second.arrays().second_moments.begin());
  second.set_steps(4);
  for (int i = 0; i < 2; ++i) second.step(rows).value();
  EXPECT_TRUE(test::same_bits<float>(whole.values, second.arrays().values));
}

TEST(Trainer, NamesTheStepWhoseLossIsNotFinite) {
  TrainOptions options = small();
  options.learning_rate = 1e30;
  options.clip = 0.0;
  const ModelSpec spec = test::tiny_spec();
  const Parameters parameters = Parameters::of(spec).value();
  AlignedBuffer<float> values(parameters.floats());
  initial_weights(spec, parameters, 5, values.span());
  SerialExecutor serial;
  Trainer trainer = Trainer::create(spec, "", options, std::move(values), serial).value();
  const std::vector<Token> data = test::random_tokens(200, 61, 9);
  TextRows rows(options, data);
  trainer.step(rows).value();
  const Error error = trainer.step(rows).error();
  EXPECT_EQ(error.code, ErrorCode::not_finite);
  EXPECT_TRUE(error.message.starts_with("[training] step 1: expected a finite loss and gradient"))
      << error.message;
}

class OneRow final : public RowSource {
 public:
  explicit OneRow(Row row) : row_(std::move(row)) {}
  Row row(Index) override { return row_; }

 private:
  Row row_;
};

TEST(Trainer, RefusesRowsWithoutInputsOrTargets) {
  const ModelSpec spec = test::tiny_spec();
  SerialExecutor serial;
  AlignedBuffer<float> values(Parameters::of(spec).value().floats());
  Trainer trainer = Trainer::create(spec, "", small(), std::move(values), serial).value();
  const auto message = [&](const Row& row) {
    OneRow rows(row);
    const std::string of_step = trainer.step(rows).error().message;
    EXPECT_EQ(trainer.loss(std::vector{row}).error().message, of_step);
    return of_step;
  };
  EXPECT_EQ(message({}), "[training] row: expected at least 2 tokens, found 0");
  EXPECT_EQ(message({.tokens = {1}}), "[training] row: expected at least 2 tokens, found 1");
  for (const Index given : {Index{0}, Index{-1}, Index{4}, Index{3000000}}) {
    EXPECT_EQ(message({.tokens = {1, 2, 3, 4}, .given = given}),
              "[training] given: expected 1 to 3, found " + std::to_string(given));
  }
}

// The caller's rounding is the caller's.
TEST(Trainer, RoundsToNearestWhateverTheCallerDoes) {
  const ModelSpec spec = test::tiny_spec();
  const auto trained = [&] {
    SerialExecutor serial;
    AlignedBuffer<float> values(Parameters::of(spec).value().floats());
    initial_weights(spec, Parameters::of(spec).value(), 5, values.span());
    ModelGradient reference = ModelGradient::create(spec, "", serial).value();
    reference.bind(values.data()).value();
    const std::vector<Token> tokens = test::random_tokens(24, 61, 9);
    const auto row = [&](std::size_t first) {
      return Row{.tokens = {tokens.begin() + static_cast<std::ptrdiff_t>(first),
                            tokens.begin() + static_cast<std::ptrdiff_t>(first + 12)},
                 .given = 4};
    };
    std::vector<PreferencePair> pairs = {{.chosen = row(0), .rejected = row(12)}};
    set_reference(reference, pairs).value();
    TrainOptions options = small();
    options.steps = 3;
    Trainer trainer = Trainer::create(spec, "", options, std::move(values), serial).value();
    PairRows rows(options, pairs);
    const PreferenceOptions preference{.sft = 0.3};
    while (trainer.steps() < options.steps) trainer.step(rows, preference).value();
    const double loss = trainer.loss(pairs, preference).value();
    return std::pair(
        std::vector<float>(trainer.arrays().values.begin(), trainer.arrays().values.end()), loss);
  };
  const auto expected = trained();
  const int mode = std::fegetround();
  std::fesetround(FE_UPWARD);
  const auto found = trained();
  EXPECT_EQ(std::fegetround(), FE_UPWARD);
  std::fesetround(mode);
  EXPECT_EQ(found, expected);
}

TEST(Trainer, BalancingTrainsTheRouterOnly) {
  const ModelSpec spec = test::tiny_expert_spec();
  SerialExecutor serial;
  TrainOptions options = small();
  options.steps = 1;
  options.balance = 0.0;
  const Trained without = run(options, serial, spec);
  options.balance = 10.0;
  const Trained with = run(options, serial, spec);
  EXPECT_EQ(without.steps.front().loss, with.steps.front().loss);
  EXPECT_NE(without.steps.front().grad_norm, with.steps.front().grad_norm);
}

TEST(AdamW, IsTheAlgorithmInPlainLoops) {
  constexpr Index n = 37;
  std::vector<float> value = test::random_floats(n, 1);
  std::vector<float> m(n);
  std::vector<float> v(n);
  std::vector<double> theta(value.begin(), value.end());
  std::vector<double> first(n);
  std::vector<double> second(n);
  const AdamW options{
      .learning_rate = 0.02, .beta1 = 0.9, .beta2 = 0.95, .eps = 1e-8, .weight_decay = 0.1};
  for (int t = 1; t <= 20; ++t) {
    const std::vector<float> g = test::random_floats(n, 100 + static_cast<std::uint64_t>(t));
    adamw(options, t, n, g.data(), m.data(), v.data(), value.data());
    for (std::size_t i = 0; i < theta.size(); ++i) {
      const auto gradient = static_cast<double>(g[i]);
      theta[i] -= 0.02 * 0.1 * theta[i];
      first[i] = 0.9 * first[i] + 0.1 * gradient;
      second[i] = 0.95 * second[i] + 0.05 * gradient * gradient;
      const double m_hat = first[i] / (1.0 - std::pow(0.9, t));
      const double v_hat = second[i] / (1.0 - std::pow(0.95, t));
      theta[i] -= 0.02 * m_hat / (std::sqrt(v_hat) + 1e-8);
    }
  }
  for (std::size_t i = 0; i < theta.size(); ++i) EXPECT_NEAR(value[i], theta[i], 2e-6);
}

TEST(LearningRate, FollowsItsSchedule) {
  TrainOptions options{.steps = 110, .learning_rate = 2.0, .warmup = 10};
  EXPECT_DOUBLE_EQ(learning_rate(options, 0), 0.2);
  EXPECT_DOUBLE_EQ(learning_rate(options, 9), 2.0);
  EXPECT_DOUBLE_EQ(learning_rate(options, 109), 2.0);
  for (const Schedule schedule : {Schedule::linear, Schedule::cosine, Schedule::wsd}) {
    options.schedule = schedule;
    EXPECT_DOUBLE_EQ(learning_rate(options, 4), 1.0);
    EXPECT_NEAR(learning_rate(options, 109), 0.2, 1e-12);
    const bool stays = schedule == Schedule::wsd;
    EXPECT_NEAR(learning_rate(options, 59), stays ? 2.0 : 1.1, 1e-9);
    EXPECT_EQ(learning_rate(options, 80) == 2.0, stays);
    for (Index step = 10; step + 1 < 110; ++step) {
      EXPECT_LE(learning_rate(options, step + 1), learning_rate(options, step));
    }
  }
}

TEST(RowOrder, SequentialRowsFollowOneAnother) {
  TrainOptions options = small();
  options.order = DataOrder::sequential;
  RowOrder order(options, 10, 37);
  for (const Index row : {0, 1, 5, 36, 1000}) EXPECT_EQ(order.begin(row), row * 10 % 37);
}

TEST(RowOrder, ShuffledRowsTakeEveryPieceOnce) {
  RowOrder order(small(), 10, 205);
  for (Index epoch = 0; epoch < 3; ++epoch) {
    std::vector<bool> seen(205);
    for (Index row = 20 * epoch; row < 20 * (epoch + 1); ++row) {
      for (Index i = 0; i < 10; ++i) {
        const auto at = static_cast<std::size_t>((order.begin(row) + i) % 205);
        EXPECT_FALSE(seen[at]);
        seen[at] = true;
      }
    }
  }
}

TEST(InitialWeights, HaveTheScalesOfTheAuthorsCode) {
  const ModelSpec spec = ModelBuilder{}
                             .embedding("embedding", {.vocab = 256, .d_model = 64})
                             .repeat(4,
                                     [](LayerBuilder& layer) {
                                       layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{});
                                     })
                             .final_norm("norm_f", RmsNormSpec{})
                             .tied_head()
                             .spec();
  const Parameters parameters = Parameters::of(spec).value();
  AlignedBuffer<float> values(parameters.floats());
  initial_weights(spec, parameters, 1, values.span());
  const auto moments = [&](const std::string& path) {
    const Parameter& p = *parameters.find(path);
    double mean = 0.0;
    double square = 0.0;
    double largest = 0.0;
    for (Index i = 0; i < p.shape.size(); ++i) {
      const auto x = static_cast<double>(values[p.offset + i]);
      mean += x;
      square += x * x;
      largest = std::max(largest, std::abs(x));
    }
    const auto n = static_cast<double>(p.shape.size());
    return std::array{mean / n, std::sqrt(square / n), largest};
  };
  EXPECT_NEAR(moments("embedding.weight")[1], 0.02, 0.0005);
  EXPECT_GT(moments("embedding.weight")[2], 0.06);  // a normal distribution has tails
  EXPECT_NEAR(moments("layers.0.mixer.in_proj.weight")[2], 1.0 / 8.0, 1e-3);
  EXPECT_NEAR(moments("layers.0.mixer.in_proj.weight")[1], 1.0 / 8.0 / std::sqrt(3.0), 2e-3);
  EXPECT_NEAR(moments("layers.0.mixer.out_proj.weight")[2], 0.5 / std::sqrt(128.0), 1e-3);
  EXPECT_NEAR(moments("layers.0.mixer.dt_proj.weight")[2], 0.5, 0.01);
  EXPECT_NEAR(moments("layers.0.mixer.conv1d.bias")[2], 0.5, 0.02);
  const Parameter& bias = *parameters.find("layers.0.mixer.dt_proj.bias");
  for (Index i = 0; i < bias.shape.size(); ++i) {
    const double dt = std::log1p(std::exp(static_cast<double>(values[bias.offset + i])));
    EXPECT_GE(dt, 0.00099);
    EXPECT_LE(dt, 0.101);
  }
  const Parameter& A_log = *parameters.find("layers.3.mixer.A_log");
  EXPECT_NEAR(values[A_log.offset + 16 + 4], std::log(5.0), 1e-6);
}

TEST(TrainOptions, AreChecked) {
  const auto message = [](auto change) {
    TrainOptions options = small();
    change(options);
    return validate(options).error().message;
  };
  EXPECT_EQ(message([](TrainOptions& o) { o.steps = 0; }),
            "[training] steps: expected 1 to 1099511627776, found 0");
  EXPECT_EQ(message([](TrainOptions& o) { o.shards = 4; }),
            "[training] shards: expected 0 to 3, found 4");
  EXPECT_EQ(message([](TrainOptions& o) { o.warmup = 7; }),
            "[training] warmup: expected 0 to 6, found 7");
  EXPECT_EQ(message([](TrainOptions& o) {
              o.warmup = 6;
              o.schedule = Schedule::cosine;
            }),
            "[training] warmup: expected 0 to 5, found 6");
  EXPECT_EQ(message([](TrainOptions& o) { o.learning_rate = -1.0; }),
            "[training] lr: expected at least 0, found -1");
  EXPECT_EQ(message([](TrainOptions& o) { o.beta2 = 1.0; }),
            "[training] beta2: expected at least 0 and below 1, found 1");
  EXPECT_EQ(message([](TrainOptions& o) { o.eps = 0.0; }),
            "[training] eps: expected at least 1.1754943508222875e-38, found 0");
}

}  // namespace
}  // namespace krait::trainer_test
