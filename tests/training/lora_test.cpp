// Training factors of low rank over a model that stays as it is.

#include "krait/training/lora.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/loading/adapter.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/training.hpp"
#include "krait/weights/form.hpp"
#include "krait/weights/overlay.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"
#include "tests/training/reference.hpp"

namespace krait::lora_test {
namespace {

using test::random_tokens;
using test::Reference;

// All that a model has.
std::vector<std::string> all_targets(const ModelSpec& spec) {
  std::vector<std::string> targets;
  for (const std::string_view word : lora_targets()) {
    if (Lora::create(spec, "", {}, {.targets = {std::string(word)}})) targets.emplace_back(word);
  }
  return targets;
}

ModelSpec with_own_head(ModelSpec spec) {
  spec.tied_head = false;
  return spec;
}

// A model with random weights and random factors, neither of them 0, and a row of tokens.
struct Case {
  ModelSpec spec;
  WeightStore base;
  std::shared_ptr<const Lora> lora;
  SerialExecutor serial;
  ModelGradient gradient;
  AlignedBuffer<float> values;
  std::vector<Token> inputs;
  std::vector<Token> targets;
  std::vector<float> weights;

  Case(const ModelSpec& s, std::vector<std::string> words, Index count = 11, WeightStore store = {},
       Executor* executor = nullptr)
      : spec(s),
        base(store.size() > 0 ? store : random_weights(s, 7, "backbone").value()),
        lora(Lora::create(s, "backbone", base,
                          {.rank = 3, .alpha = 4.5, .targets = std::move(words)})
                 .value()),
        gradient(ModelGradient::create(s, "backbone", executor ? *executor : serial, lora).value()),
        values(gradient.parameters().floats()),
        inputs(random_tokens(count, s.embedding.vocab, 3)),
        targets(random_tokens(count, s.embedding.vocab, 4)),
        weights(test::random_floats(count, 5, 2.0F)) {
    std::uint64_t seed = 100;
    for (const Parameter& parameter : gradient.parameters().all()) {
      const auto noise = test::random_floats(parameter.shape.size(), seed++, 0.4F);
      std::ranges::copy(noise, values.data() + parameter.offset);
    }
    gradient.bind(values.data()).value();
  }

  Leaf leaf() const {
    return {
        .inputs = inputs, .targets = targets, .weights = weights, .balance = 0.3, .z_loss = 0.2};
  }
  std::vector<float> gradients() {
    AlignedBuffer<float> all(values.size());
    gradient.backward(leaf(), all.data()).value();
    return {all.span().begin(), all.span().end()};
  }

  // The model's own values with W + 1.5 B A in place of W, in double.
  std::vector<double> merged(const Parameters& whole, const std::vector<double>& factors) const {
    AlignedBuffer<float> floats(whole.floats());
    whole.read(base, floats.span()).value();
    std::vector<double> sum(floats.span().begin(), floats.span().end());
    const auto& all = lora->parameters().all();
    for (std::size_t i = 0; i < all.size(); i += 2) {
      const std::string path = all[i].path.substr(0, all[i].path.size() - 7);
      const Parameter& W = *whole.find(path + ".weight");
      const int last = W.shape.rank() - 1;
      const Index count = last == 2 ? W.shape[0] : 1;
      const Index out = W.shape[last - 1];
      const Index in = W.shape[last];
      for (Index row = 0; row < count * out; ++row) {
        for (Index k = 0; k < 3; ++k) {
          const double b = factors[static_cast<std::size_t>(all[i + 1].offset + row * 3 + k)];
          for (Index c = 0; c < in; ++c) {
            sum[static_cast<std::size_t>(W.offset + row * in + c)] +=
                1.5 * b *
                factors[static_cast<std::size_t>(all[i].offset + (row / out * 3 + k) * in + c)];
          }
        }
      }
    }
    return sum;
  }

  double loss(const Parameters& whole, const std::vector<double>& factors) const {
    return Reference<double>(spec, whole, merged(whole, factors))
        .loss(inputs, targets, weights, {.balance = 0.3, .z_loss = 0.2});
  }
};

std::vector<ModelSpec> specs() {
  return {with_own_head(test::tiny_spec()), test::tiny_expert_spec(),
          test::tiny_mamba2_spec(),         test::tiny_hybrid_spec(),
          test::tiny_hybrid_options_spec(), test::tiny_shared_spec()};
}

// With a shared head, an adapter of the embedding is not one of the head, which the reference
// could not tell apart.
std::vector<std::string> targets_of(const ModelSpec& spec) {
  std::vector<std::string> targets = all_targets(spec);
  if (spec.tied_head) std::erase(targets, "emb");
  return targets;
}

TEST(LoraTraining, GradientAgreesWithFiniteDifferencesInDouble) {
  for (const ModelSpec& spec : specs()) {
    Case c(spec, targets_of(spec), 7);
    const Parameters whole = Parameters::of(spec, "backbone").value();
    const std::vector<float> found = c.gradients();
    const std::vector<double> at(c.values.span().begin(), c.values.span().end());
    double largest = 0.0;
    for (const float g : found) largest = std::max(largest, double(std::abs(g)));
    for (const Parameter& parameter : c.lora->parameters().all()) {
      double size = 0.0;
      for (Index i = 0; i < parameter.shape.size(); ++i) {
        size =
            std::max(size, double(std::abs(found[static_cast<std::size_t>(parameter.offset + i)])));
      }
      for (const Index i : {Index{0}, parameter.shape.size() / 2, parameter.shape.size() - 1}) {
        const auto k = static_cast<std::size_t>(parameter.offset + i);
        constexpr double step = 1e-5;
        std::vector<double> moved = at;
        moved[k] = at[k] + step;
        const double up = c.loss(whole, moved);
        moved[k] = at[k] - step;
        const double slope = (up - c.loss(whole, moved)) / (2.0 * step);
        EXPECT_NEAR(slope, double(found[k]), 5e-4 * (size + 0.01 * largest)) << parameter.path;
      }
    }
  }
}

// What the double reference cannot tell: the embedding's gradient with a shared head.
TEST(LoraTraining, GradientOfASharedEmbeddingAgreesWithDifferences) {
  Case c(test::tiny_spec(), {"emb"});
  const std::vector<float> found = c.gradients();
  const Token token = c.inputs[2];
  const auto& all = c.lora->parameters().all();
  for (const Index k : {all[0].offset + 5, all[1].offset + token * 3 + 1}) {
    std::vector<float> log_p(c.inputs.size());
    const auto loss = [&](float value) {
      c.values[k] = value;
      c.gradient.log_probabilities(c.leaf(), log_p).value();
      double sum = 0.0;
      for (std::size_t t = 0; t < log_p.size(); ++t) sum -= double(c.weights[t]) * double(log_p[t]);
      return sum;
    };
    const float before = c.values[k];
    constexpr float step = 4e-3F;
    const double slope = (loss(before + step) - loss(before - step)) / (2.0 * double(step));
    loss(before);
    EXPECT_NEAR(slope, double(found[static_cast<std::size_t>(k)]), 2e-3 * (1.0 + std::abs(slope)));
  }
}

TEST(LoraTraining, ForwardIsThatOfInference) {
  for (const ModelSpec& spec : specs()) {
    Case c(spec, all_targets(spec), 33);
    std::vector<float> found(c.inputs.size());
    c.gradient.log_probabilities(c.leaf(), found).value();
    const Model model = build_model(spec, c.lora->store(c.values.data()), "backbone").value();
    const std::vector<float> logits = test::all_logits(model, c.inputs, {.chunk = 7});
    const auto columns = static_cast<std::size_t>(spec.embedding.rows());
    std::vector<float> row(static_cast<std::size_t>(spec.embedding.vocab));
    for (std::size_t t = 0; t < found.size(); ++t) {
      kernels::log_softmax({logits.data() + t * columns, row.size()}, row);
      const float expected = row[static_cast<std::size_t>(c.targets[t])];
      EXPECT_TRUE(test::same_bits<float>({&expected, 1}, {&found[t], 1})) << t;
    }
  }
}

TEST(LoraTraining, FilesGiveItBack) {
  for (const ModelSpec& spec : specs()) {
    const Case c(spec, all_targets(spec));
    const test::TemporaryDirectory folder;
    c.lora->write(folder.path().string(), "base", c.values.data(), DType::f32).value();
    ModelConfig config;
    config.spec = spec;
    config.prefix = "backbone";
    WeightStore store = c.base;
    const auto read = add_adapter(folder.path().string(), config, store);
    ASSERT_TRUE(read.has_value()) << read.error().message;
    EXPECT_EQ(build_model(spec, store, "backbone").value().fingerprint(),
              c.gradient.model().fingerprint());
    EXPECT_NE(build_model(spec, c.base, "backbone").value().fingerprint(),
              c.gradient.model().fingerprint());
  }
}

TEST(LoraTraining, WithoutBItIsTheBase) {
  const ModelSpec spec = test::tiny_expert_spec();
  const WeightStore base = random_weights(spec, 7, "backbone").value();
  const auto lora = Lora::create(spec, "backbone", base, {.targets = all_targets(spec)}).value();
  AlignedBuffer<float> values(lora->parameters().floats());
  lora->initial_values(3, values.span());
  EXPECT_NE(values[0], 0.0F);
  const std::vector<Token> tokens = random_tokens(9, spec.embedding.vocab, 3);
  const auto logits = [&](const WeightStore& weights) {
    return test::all_logits(build_model(spec, weights, "backbone").value(), tokens);
  };
  EXPECT_EQ(logits(base), logits(lora->store(values.data())));
}

TEST(LoraTraining, ThreadsChangeNoBit) {
  const ModelSpec spec = test::tiny_expert_spec();
  const std::vector<float> one = Case(spec, all_targets(spec), 45).gradients();
  ThreadPool pool(3);
  Case three(spec, all_targets(spec), 45, {}, &pool);
  EXPECT_TRUE(test::same_bits<float>(one, three.gradients()));
}

// The same model with its matrices in another form.
WeightStore encoded(const ModelSpec& spec, const WeightStore& base, std::string_view form_name) {
  const RowForm& form = *find_form(form_name)->row_form();
  const Parameters whole = Parameters::of(spec, "backbone").value();
  WeightStore store = base;
  SerialExecutor serial;
  for (const Parameter& parameter : whole.all()) {
    if (!parameter.is_matrix || parameter.shape.rank() != 2) continue;
    std::vector<NamedTensor> parts;
    std::vector<std::byte*> memory;
    auto owner = std::make_shared<std::vector<AlignedBuffer<std::byte>>>();
    for (const WeightPart& part : form.parts(parameter.shape[0], parameter.shape[1])) {
      const TensorView empty{nullptr, part.dtype, part.shape};
      owner->emplace_back(empty.bytes());
      memory.push_back(owner->back().data());
      parts.push_back({part.name, {memory.back(), part.dtype, part.shape}});
    }
    EXPECT_FALSE(form.encode(serial, base.find(parameter.name)->tensor, memory).has_value());
    replace_matrix(store, parameter.name.substr(0, parameter.name.size() - 7), form_name, parts,
                   owner);
  }
  return store;
}

TEST(LoraTraining, GoesOverQuantisedMatrices) {
  for (const ModelSpec& spec : {test::tiny_spec(), test::tiny_hybrid_options_spec()}) {
    const WeightStore base = random_weights(spec, 7, "backbone").value();
    const std::vector<float> dense = Case(spec, all_targets(spec)).gradients();
    for (const char* form : {"bf16", "q8"}) {
      Case c(spec, all_targets(spec), 11, encoded(spec, base, form));
      const std::vector<float> found = c.gradients();
      double error = 0.0;
      double size = 0.0;
      for (std::size_t i = 0; i < found.size(); ++i) {
        error += std::pow(double(found[i]) - double(dense[i]), 2);
        size += std::pow(double(dense[i]), 2);
      }
      EXPECT_LT(error, 0.05 * 0.05 * size) << form;
      EXPECT_GT(error, 0.0) << form;
    }
  }
}

TEST(LoraTraining, OptionsAreReadAndWritten) {
  for (const auto& [text, canonical] :
       {std::pair{"r=16,alpha=32,targets=in+x+dt", "r=16,alpha=32,targets=in+x+dt"},
        {"r=2,targets=in,x,emb", "r=2,alpha=4,targets=in+x+emb"},
        {"targets=experts,r=3,rslora=true", "r=3,alpha=6,targets=experts,rslora=true"},
        {"alpha=0.5", "r=16,alpha=0.5,targets=in+out"}}) {
    EXPECT_EQ(to_string(parse_lora(text).value()), canonical);
  }
  for (const auto& [text, message] : {
           std::pair{"r=0", "[lora] r: expected 1 to 65536, found 0"},
           {"r=x", "[lora] r: expected 1 to 65536, found 'x'"},
           {"r=-1", "[lora] r: expected 1 to 65536, found -1"},
           {"alpha=nan", "[lora] alpha: expected a number above 0, found nan"},
           {"rank=3", "[lora] options: expected r, alpha, targets, rslora, found 'rank'"},
           {"", "[lora] options: expected r=16,alpha=32,targets=in+out, found ''"},
           {"r=1,r=2", "[lora] options: expected r=16,alpha=32,targets=in+out, found 'r=1,r=2'"},
           {"targets=in+conv",
            "[lora] targets: expected some of in, x, dt, out, q, k, v, o, mlp, experts, emb, found "
            "'conv'"},
           {"targets=",
            "[lora] targets: expected some of in, x, dt, out, q, k, v, o, mlp, "
            "experts, emb, found ''"},
           {"targets=in+in", "[lora] targets: expected each once, found in twice"},
       }) {
    const auto parsed = parse_lora(text);
    ASSERT_FALSE(parsed) << text;
    EXPECT_EQ(parsed.error().message, message);
  }
  EXPECT_EQ(Lora::create(test::tiny_spec(), "", {}, {.targets = {"experts"}}).error().message,
            "[lora] targets: expected some that the model has, which are dt, emb, in, out, x, "
            "found experts");
}

// A folder with a model; runs in it.
class LoraRun : public testing::Test {
 protected:
  LoraRun() {
    test::write_file(path("config.json"), R"({"model_type": "mamba", "vocab_size": 256,
      "hidden_size": 24, "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 4, "expand": 2,
      "time_step_rank": 2, "use_conv_bias": true, "use_bias": false, "tie_word_embeddings": true,
      "layer_norm_epsilon": 1e-5, "intermediate_size": 48})");
    TrainTask task = new_train_task(path("config.json"), 1).value();
    task.text = text();
    SerialExecutor serial;
    train(std::move(task), options(1), files("base"), serial, [](const TrainProgress&) {
      return Flow::go_on;
    }).value();
  }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }
  static std::vector<Token> text() {
    const std::string words = "It was the best of times, it was the worst of times, it was the age";
    return {words.begin(), words.end()};
  }
  static TrainOptions options(Index steps) {
    return {.steps = steps, .batch = 2, .length = 12, .seed = 3, .learning_rate = 0.01};
  }
  TrainFiles files(const std::string& name) const {
    return {.destination = path(name), .log = {}, .checkpoint_every = 2};
  }
  Result<TrainSummary> run(const TrainFiles& files, const LoraOptions& lora,
                           Index stop_after = -1) const {
    KRAIT_ASSIGN_OR_RETURN(TrainTask task, new_lora_task(path("base"), lora, 5));
    task.text = text();
    SerialExecutor serial;
    return train(std::move(task), options(6), files, serial, [&](const TrainProgress& progress) {
      return progress.step.step == stop_after ? Flow::stop : Flow::go_on;
    });
  }
  std::string weights(const std::string& name) const {
    return test::read_file(path(name + "/adapter_model.safetensors"));
  }

  const LoraOptions lora_{.rank = 2, .alpha = 3.0, .targets = {"in", "x", "dt", "out", "emb"}};
  test::TemporaryDirectory folder_;
};

TEST_F(LoraRun, InterruptedAnywhereItGivesTheSameBytes) {
  run(files("whole"), lora_).value();
  for (const Index stop : {0, 2, 4}) {
    TrainFiles files = this->files("cut" + std::to_string(stop));
    EXPECT_EQ(run(files, lora_, stop).error().code, ErrorCode::cancelled);
    files.resume = true;
    LoraOptions other = lora_;
    other.alpha = 4.0;
    EXPECT_NE(
        run(files, other)
            .error()
            .message.find(
                "lora: expected r=2,alpha=3,targets=in+x+dt+out+emb, as in the interrupted run"),
        std::string::npos);
    EXPECT_TRUE(run(files, lora_).has_value());
    EXPECT_EQ(weights("whole"), weights("cut" + std::to_string(stop)));
    EXPECT_TRUE(run(files, lora_).value().was_finished);
  }
}

TEST_F(LoraRun, TheAdapterItWritesIsTheOneItTrained) {
  run(files("a"), lora_).value();
  // The same steps by hand.
  TrainTask task = new_lora_task(path("base"), lora_, 5).value();
  SerialExecutor serial;
  Trainer trainer =
      Trainer::create(task.spec, task.prefix, options(6), std::move(task.values), serial, task.lora)
          .value();
  const std::vector<Token> data = text();
  TextRows rows(options(6), data);
  for (int i = 0; i < 6; ++i) trainer.step(rows).value();
  const Model model =
      build_model(task.spec, task.lora->store(trainer.arrays().values.data()), task.prefix).value();
  const Model loaded = load_model(path("base"), {.adapter = path("a")}).value();
  EXPECT_EQ(model.fingerprint(), loaded.fingerprint());
  EXPECT_NE(model.fingerprint(), load_model(path("base")).value().fingerprint());
  EXPECT_TRUE(
      test::same_bits<float>(test::all_logits(model, data), test::all_logits(loaded, data)));
  EXPECT_NE(test::read_file(path("a/adapter_config.json")).find("\"embeddings\",\n    \"in_proj\""),
            std::string::npos);
}

TEST_F(LoraRun, GoesOverAdditivelyQuantisedMatrices) {
  const std::string base = (test::data_dir() / "golden/hf_aqlm_4x4g8").string();
  TrainTask task = new_lora_task(base, {.rank = 2, .targets = {"in", "out"}}, 5).value();
  task.text = random_tokens(60, task.spec.embedding.vocab, 3);
  SerialExecutor serial;
  const TrainSummary done =
      train(std::move(task), options(4), files("q"), serial, [](const TrainProgress&) {
        return Flow::go_on;
      }).value();
  EXPECT_GT(done.loss, 0.0);
  EXPECT_TRUE(load_model(base, {.adapter = path("q")}).has_value());
}

}  // namespace
}  // namespace krait::lora_test
