// Muon against singular value decompositions, tests/golden/make_golden_muon.py.

#include <gtest/gtest.h>

#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/training/initial_weights.hpp"
#include "krait/training/trainer.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::muon_test {
namespace {

TEST(Muon, StepsAreThoseOfSingularValues) {
  WeightStore golden;
  const auto file = test::data_dir() / "golden/muon.safetensors";
  read_safetensors(open_file(file.string(), WeightsMode::copy).value(), golden).value();
  SerialExecutor serial;
  Workspace memory;
  for (const std::string name : {"5x9", "12x7", "8x8", "1x6", "33x20"}) {
    const auto tensor = [&](const char* part) { return golden.find(name + part)->tensor; };
    const Shape shape = tensor(".value").shape;
    const auto size = static_cast<std::size_t>(shape.size());
    const auto begin = tensor(".value").as<float>();
    std::vector<float> value(begin.begin(), begin.end());
    std::vector<float> momentum(size);
    const std::span<const float> gradients = tensor(".gradients").as<float>();
    for (std::size_t step = 0; step < 3; ++step) {
      muon({serial, memory}, {.learning_rate = 0.02, .momentum = 0.95, .weight_decay = 0.1},
           shape[0], shape[1], gradients.data() + step * size, momentum.data(), value.data());
    }
    const std::span<const float> expected = tensor(".result").as<float>();
    const std::span<const float> expected_momentum = tensor(".momentum").as<float>();
    for (std::size_t i = 0; i < size; ++i) {
      EXPECT_NEAR(value[i], expected[i], 1e-5) << name << " " << i;
      EXPECT_NEAR(momentum[i], expected_momentum[i], 1e-6) << name << " " << i;
    }
  }
}

TEST(Muon, IsForMatricesAlone) {
  const ModelSpec mamba = test::tiny_spec();
  std::string paths;
  const Parameters of_mamba = Parameters::of(mamba).value();
  for (const Parameter& parameter : of_mamba.all()) {
    if (parameter.path.starts_with("layers.1")) continue;
    if (muon_matrices(mamba, parameter) > 0) paths += parameter.path + " ";
  }
  EXPECT_EQ(paths,
            "layers.0.mixer.in_proj.weight layers.0.mixer.x_proj.weight "
            "layers.0.mixer.dt_proj.weight layers.0.mixer.out_proj.weight ");
  ModelSpec untied = mamba;
  untied.tied_head = false;
  const Parameters of_untied = Parameters::of(untied).value();
  for (const Parameter& parameter : of_untied.all()) {
    if (parameter.path.starts_with("lm_head")) {
      EXPECT_EQ(muon_matrices(untied, parameter), 0);
    }
  }
}

struct Course {
  ModelSpec spec = test::tiny_spec();
  TrainOptions options{
      .steps = 5, .batch = 3, .length = 10, .learning_rate = 0.01, .optimizer = Optimizer::muon};

  Trainer trainer(Executor& executor) const {
    const Parameters parameters = Parameters::of(spec).value();
    AlignedBuffer<float> values(parameters.floats());
    initial_weights(spec, parameters, 5, values.span());
    return Trainer::create(spec, "", options, std::move(values), executor).value();
  }
  std::vector<float> values(int threads) const {
    ThreadPool pool(threads);
    Trainer made = trainer(pool);
    const std::vector<Token> data = test::random_tokens(200, 61, 9);
    TextRows rows(options, data);
    while (made.steps() < options.steps) made.step(rows).value();
    return {made.arrays().values.begin(), made.arrays().values.end()};
  }
};

TEST(Muon, ThreadsChangeNoBit) {
  for (const ModelSpec& spec : {test::tiny_spec(), test::tiny_expert_spec()}) {
    const Course run{.spec = spec};
    const std::vector<float> one = run.values(1);
    for (const int threads : {2, 5}) {
      EXPECT_TRUE(test::same_bits<float>(one, run.values(threads)));
    }
  }
}

TEST(Muon, OtherTensorsTakeStepsOfAdamW) {
  Course run;
  run.options.steps = 1;
  const std::vector<float> muon = run.values(1);
  run.options.optimizer = Optimizer::adamw;
  const std::vector<float> adamw = run.values(1);
  const Parameters parameters = Parameters::of(run.spec).value();
  for (const Parameter& parameter : parameters.all()) {
    const auto part = [&](const std::vector<float>& all) {
      return std::span(all).subspan(static_cast<std::size_t>(parameter.offset),
                                    static_cast<std::size_t>(parameter.shape.size()));
    };
    EXPECT_EQ(test::same_bits<float>(part(muon), part(adamw)),
              muon_matrices(run.spec, parameter) == 0)
        << parameter.path;
  }
}

// Every matrix of a stack of experts is orthogonalised by itself: the step has the elements' root
// mean square that AdamW's steps have.
TEST(Muon, StepsAreAsLargeAsAdamW) {
  Course run{.spec = test::tiny_expert_spec()};
  run.options.steps = 1;
  run.options.weight_decay = 0.0;
  const std::vector<float> after = run.values(1);
  SerialExecutor serial;
  Trainer trainer = run.trainer(serial);
  const std::span<const float> before = trainer.arrays().values;
  for (const Parameter& parameter : trainer.parameters().all()) {
    const Index count = muon_matrices(run.spec, parameter);
    const Shape& shape = parameter.shape;
    const Index size = count == 0 ? 0 : shape.size() / count;
    for (Index i = 0; i < count; ++i) {
      double sum = 0.0;
      for (Index k = 0; k < size; ++k) {
        const auto at = static_cast<std::size_t>(parameter.offset + i * size + k);
        sum += std::pow(double(after[at]) - double(before[at]), 2.0);
      }
      if (sum == 0.0) continue;  // an expert without tokens
      const double rows = double(shape[shape.rank() - 2]);
      const double cols = double(shape[shape.rank() - 1]);
      // √(Σ s²), singular values between 0.3 and 1.2, of which there are min(rows, cols); fewer
      // where the gradient has a lower rank.
      const double most =
          0.01 * 0.2 * std::sqrt(std::max(rows, cols) * std::min(rows, cols)) * 1.25;
      EXPECT_LE(std::sqrt(sum), most) << parameter.path;
      EXPECT_GE(std::sqrt(sum), most * 0.15) << parameter.path;
    }
  }
}

TEST(Muon, MomentumIsChecked) {
  EXPECT_EQ(validate(TrainOptions{.steps = 1, .optimizer = Optimizer::muon, .momentum = 1.0})
                .error()
                .message,
            "[training] momentum: expected at least 0 and below 1, found 1");
}

}  // namespace
}  // namespace krait::muon_test
