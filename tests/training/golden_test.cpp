// Gradients and steps of training against PyTorch's; tests/golden/make_golden_gradients.py.

#include <gtest/gtest.h>

#include <cmath>

#include "io/json.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/training.hpp"
#include "tests/support/support.hpp"

namespace krait::golden_test {
namespace {

struct Golden {
  TrainTask task;
  WeightStore gradients;
  std::vector<Token> tokens;
  std::vector<double> losses, norms;

  static std::vector<double> numbers(const std::string& text) {
    const Metadata json = parse_json(text, "numbers").value();
    std::vector<double> all;
    for (const Metadata& value : *json.array()) all.push_back(value.number().value());
    return all;
  }

  explicit Golden(const std::string& name)
      : task(open_train_task((test::data_dir() / "golden" / name).string()).value()) {
    const auto file = test::data_dir() / "golden/gradients" / (name + ".safetensors");
    read_safetensors(open_file(file.string(), WeightsMode::copy).value(), gradients).value();
    losses = numbers(gradients.metadata.find("losses")->second);
    norms = numbers(gradients.metadata.find("norms")->second);
    const std::string text = test::read_file(test::data_dir() / "golden" / name / "golden.json");
    const Metadata golden = parse_json(text, name).value();
    for (const Metadata& token : *golden["tokens"].array()) {
      tokens.push_back(static_cast<Token>(token.number().value()));
    }
  }
};

void expect_training_as_in_pytorch(const std::string& name) {
  Golden golden(name);
  SerialExecutor serial;
  ModelGradient gradient =
      ModelGradient::create(golden.task.spec, golden.task.prefix, serial).value();
  AlignedBuffer<float>& values = golden.task.values;
  AlignedBuffer<float> first(values.size());
  AlignedBuffer<float> second(values.size());
  const std::span<const Token> all = golden.tokens;
  const auto targets = static_cast<float>(all.size() - 1);
  for (std::size_t step = 0; step < golden.losses.size(); ++step) {
    AlignedBuffer<float> sum(values.size());
    gradient.bind(values.data()).value();
    const double loss =
        gradient
            .backward({.inputs = all.first(all.size() - 1), .targets = all.subspan(1)}, sum.data())
            .value() /
        static_cast<double>(targets);
    for (float& g : sum.span()) g /= targets;
    const double norm = gradient_norm(sum.span());
    EXPECT_NEAR(loss, golden.losses[step], 2e-5 * golden.losses[step]) << name << step;
    EXPECT_NEAR(norm, golden.norms[step], 2e-4 * golden.norms[step]) << name << step;
    for (const Parameter& parameter : gradient.parameters().all()) {
      float* g = sum.data() + parameter.offset;
      if (step == 0) {
        const WeightStore::Entry* entry = golden.gradients.find(parameter.name);
        ASSERT_NE(entry, nullptr) << parameter.name;
        const std::span<const float> expected = entry->tensor.as<float>();
        double error = 0.0;
        double size = 0.0;
        for (std::size_t i = 0; i < expected.size(); ++i) {
          const auto wanted = static_cast<double>(expected[i]);
          error += std::pow(static_cast<double>(g[i]) - wanted, 2.0);
          size += wanted * wanted;
        }
        EXPECT_LE(std::sqrt(error), 1e-5 * std::sqrt(size)) << parameter.name;
      }
      for (Index i = 0; i < parameter.shape.size(); ++i) {
        g[i] *= static_cast<float>(std::min(1.0, 1.0 / (norm + 1e-6)));
      }
      const Index at = parameter.offset;
      adamw({.learning_rate = 0.01,
             .beta1 = 0.9,
             .beta2 = 0.95,
             .eps = 1e-8,
             .weight_decay = parameter.decays ? 0.1 : 0.0},
            static_cast<Index>(step) + 1, parameter.shape.size(), g, first.data() + at,
            second.data() + at, values.data() + at);
    }
  }
}

TEST(TrainingGolden, MambaTrainsAsInPyTorch) { expect_training_as_in_pytorch("hf_f32"); }
TEST(TrainingGolden, Mamba2TrainsAsInPyTorch) { expect_training_as_in_pytorch("hf_mamba2_f32"); }

}  // namespace
}  // namespace krait::golden_test
