// Clean items: what a hook changes reaches the logits and not the state.

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "krait/core/thread_pool.hpp"
#include "krait/models/builder.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/models/session.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::clean_test {
namespace {

using test::random_tokens;
using test::same_bits;
using test::tiny_model;

// Changes one site, by layer, position, vector and element alone; the state sites included.
class Changer final : public ActivationHook {
 public:
  explicit Changer(Site site) : site_(site) {}
  bool wants(Site site) const noexcept override { return site == site_; }
  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
    if (place.site != site_) return;
    ++calls;
    const bool has_one_token = site_ >= Site::state;
    for (Index t = 0; t < values.rows; ++t) {
      const Index position = place.position + (has_one_token ? 0 : t);
      const Index vector = place.vector + (has_one_token ? t : 0);
      for (Index i = 0; i < values.cols; ++i) {
        const auto number = static_cast<float>(position + 3 * place.layer + 5 * vector + i);
        values(t, i) *= 1.0F + 0.5F * std::sin(number);
      }
    }
  }
  int calls = 0;

 private:
  Site site_;
};

// h = h / 2 + x: a block that knows nothing of pairs, nor of replay.
class Decay final : public Block {
 public:
  static Result<std::unique_ptr<const Block>> bind(const WeightScope& weights, Bookings& bookings) {
    auto block = std::make_unique<Decay>();
    block->h_ = bookings.state(weights.path("h"), {bookings.d_model()});
    return std::unique_ptr<const Block>(std::move(block));
  }
  void forward(BlockContext& ctx) const noexcept override {
    for (const SequenceRows& rows : ctx.sequences) {
      const std::span<float> h = rows.slot(h_);
      for (Index t = rows.first; t < rows.first + rows.count; ++t) {
        for (std::size_t d = 0; d < h.size(); ++d)
          ctx.x.row(t)[d] = h[d] = h[d] / 2 + ctx.x.row(t)[d];
      }
    }
  }
  std::string description() const override { return "Decay"; }

 private:
  StateSlot h_;
};

ModelSpec custom_spec() {
  return ModelBuilder{}
      .embedding("embedding", {.vocab = 61, .d_model = 24})
      .repeat(2,
              [](LayerBuilder& layer) {
                layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{.d_state = 5})
                    .residual("norm2", RmsNormSpec{}, "decay",
                              CustomSpec{"Decay", "", Decay::bind});
              })
      .final_norm("norm_f", RmsNormSpec{})
      .tied_head()
      .spec();
}

std::vector<float> copy(std::span<const float> row) { return {row.begin(), row.end()}; }

struct Steps {
  std::vector<std::vector<float>> logits;  // with the hook, each from the state without it
  std::vector<State> states;               // without it; [tokens + 1]
};

// The oracle: each token twice, in runs of their own.
Steps step_twice(const Model& model, std::span<const Token> tokens, const State& from,
                 ActivationHook& hook) {
  SerialExecutor executor;
  Session sober(model, executor, {.chunk = 1, .max_batch = 1, .max_verify = 0});
  Session changed(model, executor, {.chunk = 1, .max_batch = 1, .max_verify = 0, .hook = &hook});
  Steps steps;
  steps.states.push_back(from);
  for (const Token token : tokens) {
    State state = steps.states.back();
    State dropped = state;
    steps.logits.push_back(copy(changed.step(token, dropped).value()));
    sober.step(token, state).value();
    steps.states.push_back(state);
  }
  return steps;
}

class Clean : public testing::TestWithParam<ModelSpec (*)()> {
 protected:
  static constexpr Index count = 7;
  test::EagerThreadPool pool{2};
  std::vector<Token> tokens = random_tokens(3 + count, 61, 5);
};

TEST_P(Clean, GivesTheBitsOfTwoRunsOfEachToken) {
  const Model model = tiny_model(GetParam()(), DType::f32);
  State begin = model.initial_state();
  Session session(model, pool, {.chunk = 2 * count, .max_batch = count, .max_verify = count});
  session.prefill(std::span(tokens).first(3), begin).value();
  const auto text = std::span<const Token>(tokens).subspan(3);
  int changed = 0;
  for (int s = 0; s <= static_cast<int>(Site::cached_value); ++s) {
    SCOPED_TRACE(to_string(static_cast<Site>(s)));
    Changer changer(static_cast<Site>(s));
    const Steps expected = step_twice(model, text, begin, changer);
    changed += changer.calls > 0;
    for (const Index cut : {Index{1}, Index{3}, count}) {
      State state = begin;
      for (Index first = 0; first < count; first += cut) {
        const Index part = std::min(cut, count - first);
        const RunItem item{
            .tokens = text.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(part)),
            .state = &state,
            .logits = RunItem::Logits::all,
            .hook = &changer,
            .clean = true};
        const auto output = session.run({&item, 1}).value();
        for (Index t = 0; t < part; ++t) {
          EXPECT_TRUE(same_bits<float>(output.logits(0).row(t),
                                       expected.logits[static_cast<std::size_t>(first + t)]))
              << cut << ' ' << first + t;
        }
        EXPECT_TRUE(state == expected.states[static_cast<std::size_t>(first + part)]) << cut;
      }
    }
    // Kept in part, it stands where the tokens without the hook lead.
    for (const Index n : {0, 2, 7}) {
      State state = begin;
      const RunItem item{.tokens = text,
                         .state = &state,
                         .logits = RunItem::Logits::all,
                         .tentative = true,
                         .hook = &changer,
                         .clean = true};
      session.run({&item, 1}).value();
      session.keep(n, state).value();
      EXPECT_TRUE(state == expected.states[static_cast<std::size_t>(n)]) << n;
    }
  }
  EXPECT_GE(changed, 2);
}

TEST_P(Clean, StandsBesideOtherItems) {
  const Model model = tiny_model(GetParam()(), DType::f32);
  Session session(model, pool, {.chunk = 64, .max_batch = 16});
  Changer changer(Site::input);
  State states[3] = {model.initial_state(), model.initial_state(), model.initial_state()};
  State alone = states[0];
  const Steps expected = step_twice(model, tokens, states[0], changer);
  const auto plain = copy(session.prefill(tokens, alone).value());
  const RunItem items[] = {
      {.tokens = tokens, .state = &states[0]},
      {.tokens = tokens, .state = &states[1], .hook = &changer, .clean = true},
      {.tokens = tokens, .state = &states[2], .logits = RunItem::Logits::last}};
  const auto output = session.run(items).value();
  EXPECT_TRUE(same_bits<float>(output.logits(0).row(0), plain));
  EXPECT_TRUE(same_bits<float>(output.logits(1).row(0), expected.logits.back()));
  EXPECT_TRUE(same_bits<float>(output.logits(2).row(0), plain));
  for (const State& state : states) EXPECT_TRUE(state == alone);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Clean,
                         testing::Values([] { return test::tiny_spec(); },
                                         [] { return test::tiny_mamba2_spec(); },
                                         [] { return test::tiny_expert_spec(); },
                                         [] { return test::tiny_hybrid_spec(); }, custom_spec));

TEST(StateHooks, ThatWantTheStateAndLeaveItChangeNothing) {
  class Idle final : public ActivationHook {
   public:
    bool wants(Site /*site*/) const noexcept override { return true; }
    void at(const ActivationPlace& place, MatrixView<float> /*values*/) noexcept override {
      seen += place.site >= Site::state;
    }
    int seen = 0;
  };
  for (const auto& spec : {test::tiny_spec(), test::tiny_mamba2_spec(), test::tiny_hybrid_spec()}) {
    const Model model = tiny_model(spec, DType::f32);
    SerialExecutor executor;
    const auto tokens = random_tokens(9, 61, 2);
    Session session(model, executor);
    State plain = model.initial_state();
    const auto expected = copy(session.prefill(tokens, plain).value());
    Idle idle;
    Session hooked(model, executor, {.hook = &idle});
    State state = model.initial_state();
    EXPECT_TRUE(same_bits<float>(hooked.prefill(tokens, state).value(), expected));
    EXPECT_TRUE(state == plain);
    EXPECT_GT(idle.seen, 0);
  }
}

TEST(CleanItem, NeedsRoomForTwoRowsOfEachToken) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor, {.chunk = 3, .max_batch = 1, .max_verify = 0});
  Changer changer(Site::input);
  const auto tokens = random_tokens(2, 61, 1);
  State state = model.initial_state();
  const RunItem item{.tokens = tokens, .state = &state, .hook = &changer, .clean = true};
  const auto output = session.run({&item, 1});
  ASSERT_FALSE(output);
  EXPECT_EQ(output.error().message, "[session] run: expected at most 3 tokens in all, found 4");
  EXPECT_EQ(state.position(), 0);
}

}  // namespace
}  // namespace krait::clean_test
