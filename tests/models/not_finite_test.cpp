// Logits that are no numbers: an error that says where they come from.
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <memory>

#include "krait/core/executor.hpp"
#include "krait/models/session.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::not_finite_test {
namespace {

using test::random_tokens;

// The tiny model of that spec with the largest number in every place of one tensor.
Model poisoned(const ModelSpec& spec, const std::string& tensor) {
  WeightStore weights = random_weights(spec, 11, "backbone").value();
  const WeightStore::Entry* entry = weights.find(tensor);
  EXPECT_NE(entry, nullptr) << tensor;
  const TensorView view = entry->tensor;
  auto values = std::make_shared<std::vector<float>>(static_cast<std::size_t>(view.size()), 3e38F);
  weights.add(tensor, {values->data(), DType::f32, view.shape}, values);
  return build_model(spec, weights, "backbone").value();
}

void expect_not_finite(const Result<void>& result, const std::string& layer) {
  ASSERT_FALSE(result) << layer;
  EXPECT_EQ(result.error().code, ErrorCode::not_finite);
  const std::string end = "(first in " + layer + ")";
  EXPECT_NE(result.error().message.find(end), std::string::npos) << result.error().message;
}

template <class T>
Result<void> without_value(const Result<T>& result) {
  if (!result) return result.error();
  return {};
}

TEST(NotFinite, IsAnErrorOfEveryRunThatNamesTheLayer) {
  struct Case {
    ModelSpec spec;
    std::string tensor;
    std::string layer;
  };
  for (const Case& each : {
           Case{test::tiny_spec(), "backbone.layers.0.mixer.out_proj.weight", "layers.0.mixer"},
           Case{test::tiny_spec(), "backbone.layers.1.mixer.in_proj.weight", "layers.1.mixer"},
           Case{test::tiny_spec(), "backbone.layers.1.norm.weight", "layers.1.mixer"},
           Case{test::tiny_spec(), "backbone.norm_f.weight", "norm_f"},
           Case{test::tiny_expert_spec(), "backbone.layers.1.norm2.weight", "layers.1.moe"},
           Case{test::tiny_expert_spec(), "lm_head.weight", "lm_head"},
       }) {
    SCOPED_TRACE(each.tensor);
    const Model model = poisoned(each.spec, each.tensor);
    SerialExecutor executor;
    Session session(model, executor, {.chunk = 4, .max_verify = 4, .max_verify_batch = 2});
    const auto tokens = random_tokens(9, model.vocab(), 1);
    const auto fresh = [&] { return model.initial_state(); };
    State state = fresh();
    expect_not_finite(without_value(session.prefill(tokens, state)), each.layer);
    EXPECT_EQ(state.position(), 9);
    state = fresh();
    expect_not_finite(without_value(session.step(1, state)), each.layer);
    EXPECT_EQ(state.position(), 1);
    State a = fresh();
    State b = fresh();
    State* const both[] = {&a, &b};
    expect_not_finite(without_value(session.step_batch(std::span(tokens).first(2), both)),
                      each.layer);
    state = fresh();
    expect_not_finite(without_value(session.verify(std::span(tokens).first(3), state)), each.layer);
    EXPECT_TRUE(state == fresh()) << "a verification leaves the state alone";
    EXPECT_EQ(session.keep(1, state).error().code, ErrorCode::bad_argument);
    std::vector<float> floats(9 * static_cast<std::size_t>(model.vocab_padded()));
    state = fresh();
    expect_not_finite(session.prefill_all(tokens, state, {floats.data(), 9, model.vocab_padded()}),
                      each.layer);
    state = fresh();
    expect_not_finite(session.score(tokens, state, std::span(floats).first(8)), each.layer);
    if (each.layer == "lm_head") continue;
    state = fresh();
    expect_not_finite(session.hidden(tokens, state, {floats.data(), 9, model.d_model()}),
                      each.layer);
  }
}

// A state that was no number before: the first layer that has such a state.
TEST(NotFinite, ComesFromStates) {
  const Model model = test::tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  State state = model.initial_state();
  session.prefill(random_tokens(9, model.vocab(), 1), state).value();
  const State good = state;
  state.tensor("layers.1.mixer.ssm_state")[3] = std::numeric_limits<float>::quiet_NaN();
  expect_not_finite(without_value(session.step(1, state)), "layers.1.mixer");
  state = good;
  EXPECT_TRUE(session.step(1, state)) << "the session is as good as before";
}

// Adds something infinite to the first token of a sequence, and nothing to those after it: no run
// after the state finds it again.
class Once final : public Block {
 public:
  static Result<std::unique_ptr<const Block>> bind(const WeightScope& weights, Bookings& bookings) {
    auto block = std::make_unique<Once>();
    block->seen_ = bookings.state(weights.path("seen"), {1});
    return std::unique_ptr<const Block>(std::move(block));
  }
  void forward(BlockContext& ctx) const noexcept override {
    for (const SequenceRows& rows : ctx.sequences) {
      float& seen = rows.slot(seen_)[0];
      for (Index t = rows.first; t < rows.first + rows.count; ++t, seen = 1.0F) {
        const float value = seen == 0.0F ? std::numeric_limits<float>::infinity() : 0.0F;
        std::ranges::fill(ctx.x.row(t), value);
      }
    }
  }
  std::string description() const override { return "Once"; }

 private:
  StateSlot seen_;
};

TEST(NotFinite, NamesNoLayerWhereTheRunCannotBeRepeated) {
  const ModelBuilder builder =
      ModelBuilder{}
          .embedding("embedding", {.vocab = 32, .d_model = 8})
          .repeat(
              1,
              [](LayerBuilder& layer) {
                layer.residual("norm", RmsNormSpec{}, "once", CustomSpec{"Once", "", Once::bind});
              })
          .final_norm("norm_f", RmsNormSpec{})
          .tied_head();
  const WeightStore weights = random_weights(builder.spec(), 7).value();
  const Model model = builder.build(weights).value();
  SerialExecutor executor;
  Session session(model, executor);
  State state = model.initial_state();
  const auto logits = session.step(1, state);
  ASSERT_FALSE(logits);
  EXPECT_EQ(logits.error().code, ErrorCode::not_finite);
  EXPECT_TRUE(
      logits.error().message.starts_with("[session] logits: expected finite numbers, found"));
  EXPECT_EQ(logits.error().message.find("first in"), std::string::npos) << logits.error().message;
  EXPECT_TRUE(session.step(1, state));
}

// Padding rows of the head belong to no token.
TEST(NotFinite, InPaddingIsNoMatter) {
  ModelSpec spec = test::tiny_expert_spec();
  ASSERT_GT(spec.embedding.rows(), spec.embedding.vocab);
  WeightStore weights = random_weights(spec, 11, "backbone").value();
  const TensorView view = weights.find("lm_head.weight")->tensor;
  const auto* from = static_cast<const float*>(view.data);
  auto values = std::make_shared<std::vector<float>>(from, from + view.size());
  std::fill(values->end() - spec.d_model(), values->end(), 3e38F);
  weights.add("lm_head.weight", {values->data(), DType::f32, view.shape}, values);
  const Model model = build_model(spec, weights, "backbone").value();
  SerialExecutor executor;
  Session session(model, executor);
  State state = model.initial_state();
  EXPECT_TRUE(session.step(1, state));
}

}  // namespace
}  // namespace krait::not_finite_test
