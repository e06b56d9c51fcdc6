// Checkpoints of every family that has attention: the losses of training are those of inference,
// and change as their gradients say.

#include <gtest/gtest.h>

#include <cmath>

#include "krait/kernels/softmax.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/tools/quantize.hpp"
#include "krait/training.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::families_test {
namespace {

std::string golden(const std::string& name) {
  return (test::data_dir() / "golden" / name).string();
}

// Σ −ln p of the row's targets.
double loss_of(ModelGradient& gradient, const Leaf& leaf) {
  std::vector<float> log_p(leaf.inputs.size());
  gradient.log_probabilities(leaf, log_p).value();
  double sum = 0.0;
  for (const float p : log_p) sum -= double(p);
  return sum;
}

// To both sides along its gradient the loss changes by |g| for a step of 1, but for `tolerance` of
// that; it is measured over `change` of the loss.
struct Slope {
  double change = 0.02;
  double tolerance = 0.02;
};
void expect_slope(ModelGradient& gradient, AlignedBuffer<float>& values, const Leaf& leaf,
                  const std::string& name, const Slope& of) {
  gradient.bind(values.data()).value();
  AlignedBuffer<float> g(values.size());
  const double loss = gradient.backward(leaf, g.data()).value();
  EXPECT_NEAR(loss, loss_of(gradient, leaf), 1e-6 * loss) << name;
  const double norm = gradient_norm(g.span());
  ASSERT_TRUE(std::isfinite(norm) && norm > 0.0) << name;
  const double step = of.change / norm;
  const AlignedBuffer<float> at = [&] {
    AlignedBuffer<float> copy(values.size());
    std::ranges::copy(values.span(), copy.data());
    return copy;
  }();
  const auto moved = [&](double by) {
    for (Index i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(double(at[i]) + by * double(g[i]) / norm);
    }
    gradient.bind(values.data()).value();
    return loss_of(gradient, leaf);
  };
  const double slope = (moved(step) - moved(-step)) / (2.0 * step);
  EXPECT_NEAR(slope, norm, of.tolerance * norm) << name;
}

void expect_inference(const Model& model, ModelGradient& gradient, const Leaf& leaf,
                      const std::string& name) {
  std::vector<float> found(leaf.inputs.size());
  gradient.log_probabilities(leaf, found).value();
  const std::vector<float> logits = test::all_logits(model, leaf.inputs, {.chunk = 7});
  const auto columns = static_cast<std::size_t>(model.vocab_padded());
  std::vector<float> row(static_cast<std::size_t>(model.vocab()));
  for (std::size_t t = 0; t < found.size(); ++t) {
    kernels::log_softmax({logits.data() + t * columns, row.size()}, row);
    const float expected = row[static_cast<std::size_t>(leaf.targets[t])];
    EXPECT_TRUE(test::same_bits<float>({&expected, 1}, {&found[t], 1})) << name << " " << t;
  }
}

constexpr Index row_tokens = 29;

class Family : public testing::TestWithParam<const char*> {};

TEST_P(Family, TrainsAsAWhole) {
  TrainTask task = open_train_task(golden(GetParam())).value();
  SerialExecutor serial;
  ModelGradient gradient = ModelGradient::create(task.spec, task.prefix, serial).value();
  const auto inputs = test::random_tokens(row_tokens, task.spec.embedding.vocab, 1);
  const auto targets = test::random_tokens(row_tokens, task.spec.embedding.vocab, 2);
  const Leaf leaf{.inputs = inputs, .targets = targets};
  gradient.bind(task.values.data()).value();
  expect_inference(load_model(golden(GetParam()), {.form = "f32"}).value(), gradient, leaf,
                   GetParam());
  expect_slope(gradient, task.values, leaf, GetParam(), {});
}

// New weights have the names that transformers gives those of a checkpoint.
TEST_P(Family, HasTheNamesOfItsCheckpoint) {
  const std::string path = golden(GetParam());
  const TrainTask stored = open_train_task(path, TaskValues::left_out).value();
  const TrainTask made = new_train_task(path, 1, TaskValues::left_out).value();
  EXPECT_EQ(made.prefix, stored.prefix);
  EXPECT_EQ(made.spec.final_norm_name, stored.spec.final_norm_name);
  EXPECT_EQ(made.spec.embedding_name, stored.spec.embedding_name);
}

void expect_adapter(const std::string& path, const std::vector<std::string>& targets,
                    const Slope& slope = {}) {
  const TrainTask task =
      new_lora_task(path, {.rank = 3, .alpha = 6, .targets = targets}, 5).value();
  SerialExecutor serial;
  ModelGradient gradient = ModelGradient::create(task.spec, task.prefix, serial, task.lora).value();
  AlignedBuffer<float> values(task.values.size());
  std::ranges::copy(test::random_floats(values.size(), 3, 0.2F), values.data());
  const auto inputs = test::random_tokens(row_tokens, task.spec.embedding.vocab, 1);
  const auto next = test::random_tokens(row_tokens, task.spec.embedding.vocab, 2);
  const Leaf leaf{.inputs = inputs, .targets = next};
  gradient.bind(values.data()).value();
  const test::TemporaryDirectory folder;
  task.lora->write(folder.path().string(), path, values.data(), DType::f32).value();
  expect_inference(load_model(path, {.adapter = folder.path().string()}).value(), gradient, leaf,
                   path);
  expect_slope(gradient, values, leaf, path, slope);
}

TEST_P(Family, TrainsAnAdapter) {
  const bool is_shared = std::string_view(GetParam()).starts_with("hf_zamba2");
  const bool is_fused = std::string_view(GetParam()) == "orig_mamba2attn";
  std::vector<std::string> targets = {"q", "v"};
  if (is_shared || is_fused) targets = {"in", "out"};  // what several layers share has no adapter
  expect_adapter(golden(GetParam()), targets);
}

INSTANTIATE_TEST_SUITE_P(Training, Family,
                         testing::Values("hf_llama", "hf_llama3_scaled", "hf_mistral", "hf_yarn",
                                         "hf_granite_dense", "hf_granite_experts", "hf_bamba",
                                         "hf_falcon_h1", "hf_falcon_h1_no_norm", "hf_jamba",
                                         "hf_jamba_dense", "hf_nemotron_h", "hf_nemotron_experts",
                                         "hf_zamba2", "hf_zamba2_plain", "orig_mamba2attn"));

// Over weights that stay as a file has them.
TEST(Adapter, TrainsOverGguf) {
  for (const char* name : {"granite", "granite_moe", "falcon_h1", "jamba", "nemotron_h"}) {
    expect_adapter(golden(std::string("gguf/") + name + ".gguf"), {"q", "k", "v", "o"});
  }
}

TEST(Adapter, TrainsOverQuantisedWeights) {
  for (const char* name : {"hf_llama", "hf_granite_experts"}) {
    for (const char* form : {"q8", "q4"}) {
      const test::TemporaryDirectory folder;
      const std::string path = (folder.path() / form).string();
      SerialExecutor serial;
      quantize_checkpoint(golden(name), path, form, serial).value();
      // What is multiplied with codes is rounded to them: the loss is a staircase.
      expect_adapter(path, {"q", "v"}, {.change = 4.0, .tolerance = 0.3});
      const auto whole = open_train_task(path);
      ASSERT_FALSE(whole) << form;
      EXPECT_EQ(whole.error().code, ErrorCode::dtype_mismatch);
      EXPECT_NE(whole.error().message.find(std::string("expected a matrix of floats, found ") +
                                           form + ", which --lora leaves as it is"),
                std::string::npos)
          << whole.error().message;
    }
  }
}

}  // namespace
}  // namespace krait::families_test
