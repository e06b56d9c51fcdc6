#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/training.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/tiny_models.hpp"
#include "tests/training/reference.hpp"
#include "training/capacity.hpp"

namespace krait::gradient_test {
namespace {

using test::random_tokens;
using test::Reference;
using test::Tape;
using test::Var;

// A model with random weights, none of them at a special value, and a row of tokens.
struct Case {
  ModelSpec spec;
  SerialExecutor serial;
  ModelGradient gradient;
  AlignedBuffer<float> values;
  std::vector<Token> inputs;
  std::vector<Token> targets;
  std::vector<float> weights;
  double capacity = 0.0;

  explicit Case(const ModelSpec& s, Index count = 11, Executor* executor = nullptr)
      : spec(s),
        gradient(ModelGradient::create(s, "backbone", executor ? *executor : serial).value()),
        values(gradient.parameters().floats()),
        inputs(random_tokens(count, s.embedding.vocab, 3)),
        targets(random_tokens(count, s.embedding.vocab, 4)),
        weights(test::random_floats(count, 5, 2.0F)) {
    const WeightStore store = random_weights(s, 7, "backbone").value();
    gradient.parameters().read(store, values.span()).value();
    for (const Parameter& parameter : gradient.parameters().all()) {
      const auto noise = test::random_floats(parameter.shape.size(), 17, 0.2F);
      for (std::size_t i = 0; i < noise.size(); ++i) {
        values[parameter.offset + static_cast<Index>(i)] += noise[i];
      }
    }
    gradient.bind(values.data()).value();
  }

  Leaf leaf() const {
    return {.inputs = inputs,
            .targets = targets,
            .weights = weights,
            .balance = 0.3,
            .z_loss = 0.2,
            .capacity = capacity};
  }

  std::vector<float> gradients(const Leaf& leaf) {
    AlignedBuffer<float> all(values.size());
    gradient.backward(leaf, all.data()).value();
    return {all.span().begin(), all.span().end()};
  }
  std::vector<float> gradients() { return gradients(leaf()); }

  std::vector<double> exact_values() const { return {values.span().begin(), values.span().end()}; }

  double loss(std::vector<double> at, const Reference<double>::Options& options) const {
    return Reference<double>(spec, gradient.parameters(), std::move(at))
        .loss(inputs, targets, weights, options);
  }

  // Calls body(parameter, index in the values, slope) with central differences of the loss, for
  // three elements of every tensor.
  template <class Body>
  void for_each_slope(const Reference<double>::Options& options, Body body) const {
    constexpr double step = 1e-5;
    const std::vector<double> at = exact_values();
    for (const Parameter& parameter : gradient.parameters().all()) {
      for (const Index i : {Index{0}, parameter.shape.size() / 2, parameter.shape.size() - 1}) {
        const auto k = static_cast<std::size_t>(parameter.offset + i);
        std::vector<double> up = at;
        std::vector<double> down = at;
        up[k] += step;
        down[k] -= step;
        body(parameter, k, (loss(up, options) - loss(down, options)) / (2.0 * step));
      }
    }
  }

  // The exact gradient of the reference; that of the state too, if there is one.
  std::vector<double> exact(const std::vector<double>& state, const std::vector<double>& dstate,
                            std::vector<double>* state_gradient = nullptr) const {
    Tape::instance().clear();
    std::vector<Var> at;
    for (const double value : exact_values()) at.push_back(Var::leaf(value));
    Reference<Var>::Options options{
        .balance = 0.3, .z_loss = 0.2, .capacity = capacity, .dstate = dstate};
    for (const double value : state) options.state.push_back(Var::leaf(value));
    const std::vector<Var> own_state = options.state;
    const Var loss =
        Reference<Var>(spec, gradient.parameters(), at).loss(inputs, targets, weights, options);
    const std::vector<double> all = Tape::instance().gradient(loss.node);
    std::vector<double> result;
    for (const Var& value : at) result.push_back(all[value.node]);
    if (state_gradient != nullptr) {
      for (const Var& value : own_state) state_gradient->push_back(all[value.node]);
    }
    return result;
  }
};

double norm_of(std::span<const double> x) {
  double sum = 0.0;
  for (const double value : x) sum += value * value;
  return std::sqrt(sum);
}

// Each tensor's gradient against the exact one, relative to its norm.
void expect_close(const Parameters& parameters, std::span<const float> found,
                  std::span<const double> exact, double tolerance) {
  for (const Parameter& parameter : parameters.all()) {
    std::vector<double> error;
    std::vector<double> wanted;
    for (Index i = 0; i < parameter.shape.size(); ++i) {
      const auto at = static_cast<std::size_t>(parameter.offset + i);
      wanted.push_back(exact[at]);
      error.push_back(static_cast<double>(found[at]) - exact[at]);
    }
    EXPECT_LE(norm_of(error), tolerance * (norm_of(wanted) + 0.01)) << parameter.path;
  }
}

// A layer's weights once more in the next.
ModelSpec tiny_repeated_spec() {
  ModelSpec spec = test::tiny_spec();
  spec.layers[1].residuals[0].weights_of = 0;
  return spec;
}

std::vector<ModelSpec> specs() {
  return {test::tiny_spec(),        test::tiny_expert_spec(),         test::tiny_mamba2_spec(),
          test::tiny_hybrid_spec(), test::tiny_hybrid_options_spec(), test::tiny_shared_spec(),
          tiny_repeated_spec()};
}

TEST(Gradient, OfTheReferenceAgreesWithFiniteDifferences) {
  for (const ModelSpec& spec : specs()) {
    const Case c(spec, 5);
    const std::vector<double> exact = c.exact({}, {});
    const Reference<double>::Options options{.balance = 0.3, .z_loss = 0.2};
    c.for_each_slope(options, [&](const Parameter& parameter, std::size_t k, double slope) {
      EXPECT_NEAR(slope, exact[k], 1e-6 * (1.0 + std::abs(slope))) << parameter.path;
    });
  }
}

TEST(Gradient, OfAllWeightsAgreesWithTheReference) {
  for (const ModelSpec& spec : specs()) {
    Case c(spec);
    const std::vector<float> found = c.gradients();
    expect_close(c.gradient.parameters(), found, c.exact({}, {}), 2e-4);
  }
}

// Experts with a capacity: of the first tokens alone, in the loss as in the gradient. Held-out
// losses and inference have no limit.
TEST(Gradient, OfExpertsWithACapacityAgreesWithTheReference) {
  ModelSpec top_2 = test::tiny_expert_spec();
  for (LayerSpec& layer : top_2.layers) {
    for (ResidualSpec& residual : layer.residuals) {
      if (auto* moe = std::get_if<MoeSpec>(&residual.block)) {
        moe->top_k = 2;
        moe->router.normalize = true;
      }
    }
  }
  for (const ModelSpec& spec : {test::tiny_expert_spec(), top_2}) {
    Case c(spec, 23);
    std::vector<float> log_p(c.inputs.size());
    c.gradient.log_probabilities(c.leaf(), log_p).value();
    const std::vector<float> unlimited = c.gradients();
    for (const double capacity : {0.01, 0.6, 1.0}) {
      c.capacity = capacity;
      AlignedBuffer<float> all(c.values.size());
      const double loss = c.gradient.backward(c.leaf(), all.data()).value();
      EXPECT_NEAR(loss, c.loss(c.exact_values(), {.capacity = capacity}), 1e-4) << capacity;
      const std::vector<float> found = c.gradients();
      EXPECT_NE(found, unlimited) << capacity;
      expect_close(c.gradient.parameters(), found, c.exact({}, {}), 2e-4);
      std::vector<float> same(c.inputs.size());
      c.gradient.log_probabilities(c.leaf(), same).value();
      EXPECT_EQ(same, log_p);
    }
    c.capacity = 1e6;
    EXPECT_EQ(c.gradients(), unlimited);
  }
}

// The share is of what tokens choose, though a gate may be too small for f32.
TEST(Gradient, ACapacityIsAShareOfAllChoices) {
  std::vector<float> values = {0.5F, 0.5F, 0.0F, 1.0F, 0.0F, 0.0F, 1.0F, 0.0F, 0.0F, 1.0F, 0, 0};
  const MatrixView<float> gates(values.data(), 4, 3);
  training::limit_experts(1.0, 2, gates);  // 2 of 8 choices to each
  EXPECT_EQ(values, (std::vector<float>{0.5F, 0.5F, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}));
  // 1.4 · 15 / 7 is 3, but 1.4 · (15 / 7) is below it.
  std::vector<float> one(15 * 7);
  for (std::size_t t = 0; t < 15; ++t) one[t * 7 + 2] = 1.0F;
  training::limit_experts(1.4, 1, MatrixView<float>(one.data(), 15, 7));
  EXPECT_EQ(std::ranges::count(one, 1.0F), 3);

  // One of three is always chosen, and its gate always e^-200.
  Case c(test::tiny_expert_spec(), 23);
  int found = 0;
  for (const Parameter& parameter : c.gradient.parameters().all()) {
    const bool is_key = parameter.path.ends_with("layers.1.moe.router.e_score_correction_bias");
    if (!is_key && !parameter.path.ends_with("layers.1.moe.router.bias")) continue;
    c.values[parameter.offset] = is_key ? 10.0F : -200.0F;
    ++found;
  }
  ASSERT_EQ(found, 2);
  c.gradient.bind(c.values.data()).value();
  for (const double capacity : {0.3, 0.6, 1.0}) {
    c.capacity = capacity;
    AlignedBuffer<float> all(c.values.size());
    const double loss = c.gradient.backward(c.leaf(), all.data()).value();
    EXPECT_NEAR(loss, c.loss(c.exact_values(), {.capacity = capacity}), 1e-4) << capacity;
  }
}

TEST(Gradient, LossIsThatOfTheReference) {
  for (const ModelSpec& spec : specs()) {
    Case c(spec);
    AlignedBuffer<float> all(c.values.size());
    const double loss = c.gradient.backward(c.leaf(), all.data()).value();
    EXPECT_NEAR(loss, c.loss(c.exact_values(), {}), 1e-4);
  }
}

TEST(Gradient, LogProbabilitiesAreThoseOfInference) {
  for (const ModelSpec& spec : specs()) {
    Case c(spec, 33);
    std::vector<float> found(c.inputs.size());
    c.gradient.log_probabilities(c.leaf(), found).value();
    const std::vector<float> logits = test::all_logits(c.gradient.model(), c.inputs, {.chunk = 7});
    const auto columns = static_cast<std::size_t>(spec.embedding.rows());
    std::vector<float> row(static_cast<std::size_t>(spec.embedding.vocab));
    for (std::size_t t = 0; t < found.size(); ++t) {
      kernels::log_softmax({logits.data() + t * columns, row.size()}, row);
      const float expected = row[static_cast<std::size_t>(c.targets[t])];
      EXPECT_TRUE(test::same_bits<float>({&expected, 1}, {&found[t], 1})) << t;
    }
  }
}

TEST(Gradient, IsTheSameForAnyThreadsAndInstructionSet) {
  for (const ModelSpec& spec : specs()) {
    const std::vector<float> expected = Case(spec, 45).gradients();
    for (const int threads : {2, 3}) {
      ThreadPool pool(threads);
      Case c(spec, 45, &pool);
      EXPECT_TRUE(test::same_bits<float>(expected, c.gradients())) << threads;
    }
    test::for_each_isa([&](Isa) {
      Case c(spec, 45);
      EXPECT_TRUE(test::same_bits<float>(expected, c.gradients()));
    });
  }
}

void expect_gradients_of_the_state(const ModelSpec& spec) {
  Case c(spec);
  State state = c.gradient.model().initial_state();
  const auto floats = static_cast<std::size_t>(state.block().size());
  const auto values = test::random_floats(static_cast<Index>(floats), 8, 0.5F);
  const auto after = test::random_floats(static_cast<Index>(floats), 9);
  // Padding of the state stays zero.
  std::vector<double> begin(floats);
  std::vector<double> end(floats);
  std::vector<float> dstate(floats);
  for (const StateTensor& tensor : state.layout()->tensors) {
    for (Index i = 0; i < tensor.slot.size; ++i) {
      const auto at = static_cast<std::size_t>(tensor.slot.offset + i);
      const bool is_padding = tensor.shape.rank() == 3 && tensor.shape[2] == 16 &&
                              i >= 2 * 5 * 16 && i % 16 >= 8;  // 40 channels in blocks of 16
      if (is_padding) continue;
      begin[at] = static_cast<double>(state.block()[at] = values[at]);
      end[at] = static_cast<double>(dstate[at] = after[at]);
    }
  }
  Leaf leaf = c.leaf();
  leaf.state = &state;
  leaf.dstate = dstate;
  std::vector<double> state_gradient;
  const std::vector<double> exact = c.exact(begin, end, &state_gradient);
  expect_close(c.gradient.parameters(), c.gradients(leaf), exact, 2e-4);
  EXPECT_EQ(state.position(), std::ssize(c.inputs));
  std::vector<double> error;
  for (std::size_t i = 0; i < floats; ++i) {
    error.push_back(static_cast<double>(dstate[i]) - state_gradient[i]);
  }
  EXPECT_LE(norm_of(error), 2e-4 * norm_of(state_gradient));
}

TEST(Gradient, GoesIntoAndOutOfTheState) {
  expect_gradients_of_the_state(test::tiny_spec());
  expect_gradients_of_the_state(test::tiny_mamba2_spec());
}

TEST(Gradient, OfTheStateIsNotForAttention) {
  Case c(test::tiny_hybrid_spec());
  State state = c.gradient.model().initial_state();
  Leaf leaf = c.leaf();
  leaf.state = &state;
  AlignedBuffer<float> all(c.values.size());
  EXPECT_EQ(c.gradient.backward(leaf, all.data()).error().message,
            "[training] state: expected a model without attention, found one with it");
}

TEST(Gradient, OfTwoHalvesWithTheirStatesIsThatOfTheWhole) {
  Case c(test::tiny_spec(), 40);
  const std::vector<float> whole = c.gradients();
  const auto half = [&](std::size_t first, std::size_t count, State* state,
                        std::span<float> dstate) {
    Leaf leaf = c.leaf();
    leaf.inputs = leaf.inputs.subspan(first, count);
    leaf.targets = leaf.targets.subspan(first, count);
    leaf.weights = leaf.weights.subspan(first, count);
    leaf.state = state;
    leaf.dstate = dstate;
    return leaf;
  };
  AlignedBuffer<float> sum(c.values.size());
  State begin = c.gradient.model().initial_state();
  State middle = begin;
  std::vector<float> log_p(17);
  c.gradient.log_probabilities(half(0, 17, &middle, {}), log_p).value();
  std::vector<float> dstate(begin.block().size());
  c.gradient.backward(half(17, 23, &middle, dstate), sum.data()).value();
  c.gradient.backward(half(0, 17, &begin, dstate), sum.data()).value();
  const std::vector<double> expected(whole.begin(), whole.end());
  expect_close(c.gradient.parameters(), {sum.data(), whole.size()}, expected, 1e-4);
}

TEST(Gradient, RefusesWhatItCannotRun) {
  Case c(test::tiny_spec());
  AlignedBuffer<float> all(c.values.size());
  const auto message = [&](const Leaf& leaf) {
    return c.gradient.backward(leaf, all.data()).error().message;
  };
  EXPECT_EQ(message({}), "[training] inputs: expected at least one token, found none");
  EXPECT_EQ(message({.inputs = c.inputs, .targets = {}}),
            "[training] targets: expected 11 tokens, found 0");
  std::vector<Token> bad = c.inputs;
  bad[3] = 61;
  EXPECT_EQ(message({.inputs = bad, .targets = c.targets}),
            "[training] token: expected 0 to 60, found 61");
  const std::vector<float> few(3);
  EXPECT_EQ(message({.inputs = c.inputs, .targets = c.targets, .weights = few}),
            "[training] weights: expected 11 of them, found 3");
}

// What a tool asks that tunes one block: the gradient of any scalar of its output.
TEST(BlockGradient, ServesWithoutAModel) {
  const MoeSpec spec{.n_expert = 3, .d_expert = 9};
  constexpr Index d_model = 12;
  constexpr Index rows = 7;
  const Parameters parameters = Parameters::of(BlockSpec(spec), d_model).value();
  AlignedBuffer<float> values(parameters.floats());
  for (Index i = 0; i < values.size(); ++i) {
    values[i] = 0.3F * static_cast<float>(std::sin(static_cast<double>(i * i)));
  }
  const std::vector<float> x = test::random_floats(rows * d_model, 1);
  const std::vector<float> dy = test::random_floats(rows * d_model, 2);
  const WeightStore store = parameters.store(values.data());
  SerialExecutor serial;
  // Σ dy · block(x) by the block itself.
  const auto scalar = [&] {
    WeightBinder binder(&store, {});
    Bookings bookings(d_model);
    const auto block = spec.bind(WeightScope(binder, ""), bookings).value();
    std::vector<float> y = x;
    Scratch scratch(bookings.scratch_layout(), rows);
    AlignedBuffer<float> workspace(bookings.workspace_floats() * rows);
    const SequenceRows all{.count = rows};
    BlockContext ctx{.x = {y.data(), rows, d_model},
                     .sequences = {&all, 1},
                     .executor = serial,
                     .memory = scratch,
                     .workspace = workspace.span()};
    block->forward(ctx);
    double sum = 0.0;
    for (std::size_t i = 0; i < y.size(); ++i) sum += double(y[i]) * double(dy[i]);
    return sum;
  };
  AlignedBuffer<float> gradients(parameters.floats());
  std::vector<float> dx(x.size());
  Workspace memory;
  const auto gradient = make_block_gradient(BlockSpec(spec), d_model).value();
  gradient->backward({serial, memory}, ParameterScope(parameters, values.data(), gradients.data()),
                     {.x = {x.data(), rows, d_model},
                      .dy = {dy.data(), rows, d_model},
                      .dx = {dx.data(), rows, d_model}});
  for (const Parameter& parameter : parameters.all()) {
    const Index k = parameter.offset + parameter.shape.size() / 3;
    const float before = values[k];
    constexpr float step = 1e-2F;
    values[k] = before + step;
    const double up = scalar();
    values[k] = before - step;
    const double down = scalar();
    values[k] = before;
    EXPECT_NEAR((up - down) / (2.0 * double(step)), double(gradients[k]), 5e-3) << parameter.path;
  }
}

TEST(BlockGradient, NamesABlockThatHasNone) {
  const CustomSpec spec{.kind = "own", .bind = [](const WeightScope&, Bookings&) {
                          return Result<std::unique_ptr<const Block>>(Error{});
                        }};
  EXPECT_EQ(
      make_block_gradient(BlockSpec(spec), 8).error().message,
      "[training] block: expected one that can be trained, found own (adapters of other blocks "
      "need its backward pass too)");
}

// A law that is sure of a token is that token as the target.
TEST(Gradient, OfLawsThatAreSureIsThatOfTargets) {
  Case c(test::tiny_spec());
  const Index vocab = c.spec.embedding.vocab;
  const auto tokens = std::ssize(c.inputs);
  AlignedBuffer<float> laws(tokens * vocab);
  for (Index t = 0; t < tokens; ++t) {
    laws[t * vocab + c.targets[static_cast<std::size_t>(t)]] = 1.0F;
  }
  Leaf leaf = c.leaf();
  AlignedBuffer<float> of_targets(c.values.size());
  const double wanted = c.gradient.backward(leaf, of_targets.data()).value();
  leaf.targets = {};
  leaf.laws = {laws.data(), tokens, vocab};
  AlignedBuffer<float> of_laws(c.values.size());
  const double found = c.gradient.backward(leaf, of_laws.data()).value();
  EXPECT_NEAR(found, wanted, 1e-4 * std::abs(wanted));
  for (Index i = 0; i < of_laws.size(); ++i) EXPECT_NEAR(of_laws[i], of_targets[i], 1e-5F);
}

// The divergence from a law is cross-entropy less the law's own entropy: with the gradients of
// each target times its probability.
TEST(Gradient, OfALawIsTheMeanOverItsTokens) {
  Case c(test::tiny_spec(), 1);
  const Index vocab = c.spec.embedding.vocab;
  std::vector<float> law(static_cast<std::size_t>(vocab));
  law[1] = 0.75F;
  law[4] = 0.25F;
  Leaf leaf{.inputs = c.inputs, .targets = {}, .laws = {law.data(), 1, vocab}};
  AlignedBuffer<float> found(c.values.size());
  const double divergence = c.gradient.backward(leaf, found.data()).value();
  AlignedBuffer<float> wanted(c.values.size());
  double cross_entropy = 0.0;
  for (const Token token : {Token{1}, Token{4}}) {
    const std::vector<float> weight = {law[static_cast<std::size_t>(token)]};
    const std::vector<Token> target = {token};
    cross_entropy +=
        c.gradient
            .backward({.inputs = c.inputs, .targets = target, .weights = weight}, wanted.data())
            .value();
  }
  const double entropy = -0.75 * std::log(0.75) - 0.25 * std::log(0.25);
  EXPECT_NEAR(divergence, cross_entropy - entropy, 1e-5);
  for (Index i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-5F);
  const std::vector<Token> two = {1, 2};
  leaf.targets = two;
  EXPECT_FALSE(c.gradient.backward(leaf, found.data()));
}

// (1 − α)·CE + α·T²·KL: the loss's finite differences in binary64, and the sums that are told.
TEST(Gradient, OfDistillationAgreesWithFiniteDifferences) {
  Case c(test::tiny_spec(), 7);
  const Index vocab = c.spec.embedding.vocab;
  std::vector<float> laws = test::random_floats(7 * vocab, 31, 2.0F);
  for (std::size_t t = 0; t < 7; ++t) {
    const auto row = std::span(laws).subspan(t * std::size_t(vocab), std::size_t(vocab));
    kernels::softmax(row, row);
  }
  for (const auto& [alpha, temperature] : {std::pair{0.3, 2.0}, {1.0, 1.0}, {0.7, 0.5}}) {
    Reference<double>::Options options;
    options.laws = laws;
    options.alpha = alpha;
    options.temperature = temperature;
    double divergence = 0.0;
    const Leaf leaf{.inputs = c.inputs,
                    .targets = c.targets,
                    .laws = {laws.data(), 7, vocab},
                    .weights = c.weights,
                    .distillation = {.alpha = alpha, .temperature = temperature},
                    .divergence = &divergence};
    AlignedBuffer<float> found(c.values.size());
    const double cross_entropy = c.gradient.backward(leaf, found.data()).value();
    EXPECT_NEAR(c.loss(c.exact_values(), options),
                (1.0 - alpha) * cross_entropy + alpha * temperature * temperature * divergence,
                1e-4);
    const double size = norm_of(std::vector<double>(found.span().begin(), found.span().end()));
    c.for_each_slope(options, [&](const Parameter& parameter, std::size_t k, double slope) {
      EXPECT_NEAR(double(found[static_cast<Index>(k)]), slope, 1e-4 * std::abs(slope) + 1e-6 * size)
          << parameter.path << " " << k;
    });
  }
}

// Whoever learns from itself has nothing to learn, to the bit.
TEST(Gradient, OfAModelThatTeachesItselfIsZero) {
  for (const ModelSpec& spec : specs()) {
    Case c(spec);
    TeacherLaws teacher(c.gradient.model(), c.serial);
    for (const double temperature : {1.0, 3.0}) {
      Leaf leaf = c.leaf();
      leaf.balance = leaf.z_loss = 0.0;
      leaf.laws = teacher.laws(c.inputs, temperature).value();
      leaf.distillation = {.alpha = 1.0, .temperature = temperature};
      for (const float g : c.gradients(leaf)) EXPECT_EQ(g, 0.0F);
    }
  }
}

TEST(Gradient, OfDistillationHasItsLimits) {
  const auto message = [](double alpha, double temperature) {
    return validate(Distillation{.alpha = alpha, .temperature = temperature}).error().message;
  };
  EXPECT_EQ(message(1.5, 1.0), "[training] distill: expected 0 to 1, found 1.5");
  EXPECT_EQ(message(0.5, 0.0), "[training] temperature: expected a finite number above 0, found 0");
}

}  // namespace
}  // namespace krait::gradient_test
