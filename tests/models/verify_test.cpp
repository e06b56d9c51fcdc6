// Verification: many tokens in one pass, of which any prefix is kept, with the bits of single
// steps.

#include <gtest/gtest.h>

#include <algorithm>
#include <ostream>

#include "krait/core/thread_pool.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::verify_test {
namespace {

using test::random_tokens;
using test::same_bits;
using test::tiny_model;

constexpr Index max_verify = 8;

// What single steps give: states[n] after n tokens, logits[n] after token n.
struct Steps {
  std::vector<State> states;
  std::vector<std::vector<float>> logits;
};

Steps step_through(Session& session, std::span<const Token> tokens, const State& before) {
  Steps steps{{before}, {}};
  for (const Token token : tokens) {
    State state = steps.states.back();
    const auto logits = session.step(token, state).value();
    steps.logits.emplace_back(logits.begin(), logits.end());
    steps.states.push_back(std::move(state));
  }
  return steps;
}

// What differs from single steps: "logits", "state", "next logits", …
struct Difference {
  std::string what;
  Index kept = 0;
  Index verified = 0;

  bool operator==(const Difference&) const = default;
  friend void PrintTo(const Difference& d, std::ostream* out) {
    *out << d.what << ", kept " << d.kept << " of " << d.verified;
  }
};

// Every width, every kept prefix, and on from there.
std::vector<Difference> differences_from_steps(const Model& model, Executor& executor) {
  std::vector<Difference> differences;
  Session session(model, executor, {.chunk = 3, .max_batch = 1, .max_verify = max_verify});
  State before = model.initial_state();
  session.prefill(random_tokens(11, 61, 1), before).value();
  const auto tokens = random_tokens(max_verify, 61, 2);
  const Steps steps = step_through(session, tokens, before);
  for (Index k = 1; k <= max_verify; ++k) {
    for (Index n = 0; n <= k; ++n) {
      const auto expect = [&](bool is_same, const char* what) {
        if (!is_same) differences.push_back({what, n, k});
      };
      State state = before;
      const auto logits =
          session.verify(std::span(tokens).first(static_cast<std::size_t>(k)), state).value();
      expect(logits.rows == k, "rows");
      for (Index t = 0; t < logits.rows; ++t) {
        expect(same_bits<float>(steps.logits[static_cast<std::size_t>(t)], logits.row(t)),
               "logits");
      }
      expect(state == before, "state before it is kept");
      session.keep(n, state).value();
      expect(state.position() == 11 + n, "position");
      expect(state == steps.states[static_cast<std::size_t>(n)], "state");
      if (n < max_verify) {
        const auto next = session.step(tokens[static_cast<std::size_t>(n)], state).value();
        expect(same_bits<float>(steps.logits[static_cast<std::size_t>(n)], next), "next logits");
      }
    }
  }
  return differences;
}

void expect_steps(const Model& model, Executor& executor) {
  EXPECT_EQ(differences_from_steps(model, executor), std::vector<Difference>{});
}

// y = y + decay · (x - y) over time: a block that knows nothing of replay.
class Ema final : public Block {
 public:
  static Result<std::unique_ptr<const Block>> bind(const WeightScope& weights, Bookings& bookings) {
    auto block = std::make_unique<Ema>();
    KRAIT_ASSIGN_OR_RETURN(block->decay_, weights.get<float>("decay", {bookings.d_model()}));
    block->h_ = bookings.state(weights.path("h"), {bookings.d_model()});
    return std::unique_ptr<const Block>(std::move(block));
  }

  void forward(BlockContext& ctx) const noexcept override {
    for (const SequenceRows& rows : ctx.sequences) {
      const std::span<float> h = rows.slot(h_);
      for (Index t = rows.first; t < rows.first + rows.count; ++t) {
        const std::span<float> x = ctx.x.row(t);
        for (std::size_t d = 0; d < h.size(); ++d) x[d] = h[d] += decay_[d] * (x[d] - h[d]);
      }
    }
  }

  std::string description() const override { return "Ema"; }

 private:
  std::span<const float> decay_;
  StateSlot h_;
};

// Two blocks in a row as one, which knows nothing of replay either, though its parts do.
class Pair final : public Block {
 public:
  static Result<std::unique_ptr<const Block>> bind(const WeightScope& weights, Bookings& bookings) {
    auto block = std::make_unique<Pair>();
    KRAIT_ASSIGN_OR_RETURN(block->first_,
                           Mamba::bind({.d_state = 4}, weights.scope("first"), bookings));
    KRAIT_ASSIGN_OR_RETURN(block->second_,
                           Mamba::bind({.d_conv = 1}, weights.scope("second"), bookings));
    return std::unique_ptr<const Block>(std::move(block));
  }

  void forward(BlockContext& ctx) const noexcept override {
    first_->forward(ctx);
    second_->forward(ctx);
  }

  std::string description() const override { return "Pair"; }

 private:
  std::unique_ptr<const Block> first_;
  std::unique_ptr<const Block> second_;
};

// A block without state, which must not be run again.
class Scale final : public Block {
 public:
  static Result<std::unique_ptr<const Block>> bind(const WeightScope& weights, Bookings& bookings) {
    auto block = std::make_unique<Scale>();
    KRAIT_ASSIGN_OR_RETURN(block->scale_, weights.get<float>("scale", {bookings.d_model()}));
    return std::unique_ptr<const Block>(std::move(block));
  }

  void forward(BlockContext& ctx) const noexcept override {
    for (Index t = 0; t < ctx.x.rows; ++t) {
      const std::span<float> x = ctx.x.row(t);
      for (std::size_t d = 0; d < x.size(); ++d) x[d] *= scale_[d];
    }
  }
  void replay(BlockContext& /*ctx*/) const noexcept override { ADD_FAILURE() << "nothing to do"; }

  std::string description() const override { return "Scale"; }

 private:
  std::span<const float> scale_;
};

Model mixed_model(DType dtype = DType::f32) {
  const ModelBuilder builder =
      ModelBuilder{}
          .embedding("embedding", {.vocab = 61, .d_model = 20})
          .repeat(2,
                  [](LayerBuilder& layer) {
                    layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{.d_conv = 3})
                        .residual("norm2", RmsNormSpec{}, "ema", CustomSpec{"Ema", "", Ema::bind})
                        .residual("norm3", LayerNormSpec{}, "scale",
                                  CustomSpec{"Scale", "", Scale::bind})
                        .residual("norm4", RmsNormSpec{}, "pair",
                                  CustomSpec{"Pair", "", Pair::bind});
                  })
          .final_norm("norm_f", RmsNormSpec{})
          .tied_head();
  return builder.build(random_weights(builder.spec(), 3, "", dtype).value()).value();
}

TEST(Verify, EveryPrefixOfEveryWidthEqualsSteps) {
  const Model model =
      test::with_memory_for_every_isa([] { return tiny_model(DType::f32, "file", 3); });
  test::for_each_isa([&](Isa) {
    for (const int threads : {1, 2, 4}) {
      test::EagerThreadPool pool(threads);
      expect_steps(model, pool);
    }
  });
}

TEST(Verify, BlocksThatKnowNothingOfReplayRunAgain) {
  test::EagerThreadPool pool(2);
  expect_steps(mixed_model(), pool);
  expect_steps(mixed_model(DType::bf16), pool);
}

// A block of which one recorded number is changed before it is replayed: the first of the first
// token, `offset` floats behind where the block's recordings begin.
class Forgetful final : public Block {
 public:
  template <class Inner, class Spec>
  static CustomSpec around(const Spec& spec, ScratchSlot changed) {
    const auto bind = [=](const WeightScope& weights,
                          Bookings& bookings) -> Result<std::unique_ptr<const Block>> {
      auto block = std::make_unique<Forgetful>();
      block->changed_ = changed;
      block->changed_.offset += bookings.trail_layout().mark();
      KRAIT_ASSIGN_OR_RETURN(block->inner_, Inner::bind(spec, weights, bookings));
      return std::unique_ptr<const Block>(std::move(block));
    };
    return {"Forgetful", "", bind};
  }

  void forward(BlockContext& ctx) const noexcept override { inner_->forward(ctx); }
  void replay(BlockContext& ctx) const noexcept override {
    const Index first = ctx.sequences.front().trail * changed_.floats_per_token;
    if (changed_.floats_per_token > 0) {
      ctx.trail->grant(changed_)[static_cast<std::size_t>(first)] += 0.25F;
    }
    inner_->replay(ctx);
  }

  std::string description() const override { return "Forgetful"; }

 private:
  std::unique_ptr<const Block> inner_;
  ScratchSlot changed_;
};

// The comparison has teeth: it sees one wrong number among those that replay goes by.
TEST(Verify, AWrongNumberInTheRecordingsIsSeen) {
  const MambaSpec mamba{.d_state = 5, .d_inner = 40, .dt_rank = 3};
  const Mamba2Spec mamba2{.d_state = 7, .head_dim = 5, .d_inner = 40};  // 54 channels, 8 heads
  const AttentionSpec attention{.n_head = 2, .d_head = 10};
  const auto differences = [](const CustomSpec& block) {
    const ModelBuilder builder =
        ModelBuilder{}
            .embedding("embedding", {.vocab = 61, .d_model = 20})
            .repeat(2,
                    [&](LayerBuilder& layer) { layer.residual("norm", RmsNormSpec{}, "x", block); })
            .final_norm("norm_f", RmsNormSpec{})
            .tied_head();
    const Model model = builder.build(random_weights(builder.spec(), 3, "").value()).value();
    SerialExecutor serial;
    return differences_from_steps(model, serial);
  };
  struct Recording {
    const char* name;
    CustomSpec block;
  };
  for (const auto& [name, block] : {
           Recording{"u", Forgetful::around<Mamba>(mamba, {0, 48})},
           Recording{"dt", Forgetful::around<Mamba>(mamba, {48, 48})},
           Recording{"B", Forgetful::around<Mamba>(mamba, {96, 16})},
           Recording{"xBC", Forgetful::around<Mamba2>(mamba2, {0, 64})},
           Recording{"dt of a head", Forgetful::around<Mamba2>(mamba2, {64, 16})},
           Recording{"keys and values", Forgetful::around<Attention>(attention, {0, 48})},
       }) {
    SCOPED_TRACE(name);
    const std::vector<Difference> found = differences(block);
    // Wherever replay runs: not where nothing or everything is kept, whose states are at hand.
    for (Index k = 2; k <= max_verify; ++k) {
      for (Index n = 1; n < k; ++n) {
        EXPECT_EQ(std::ranges::count(found, Difference{"state", n, k}), 1) << n << ' ' << k;
        EXPECT_EQ(std::ranges::count(found, Difference{"next logits", n, k}), 1) << n << ' ' << k;
      }
    }
    EXPECT_EQ(std::ranges::count(found, "logits", &Difference::what), 0);
  }
  EXPECT_TRUE(differences(Forgetful::around<Mamba>(mamba, {})).empty());
  EXPECT_TRUE(differences(Forgetful::around<Mamba2>(mamba2, {})).empty());
  EXPECT_TRUE(differences(Forgetful::around<Attention>(attention, {})).empty());
}

TEST(Verify, RoundAfterRoundEqualsOnePrompt) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  const auto tokens = random_tokens(200, 61, 5);
  State whole = model.initial_state();
  const auto expected = test::all_logits(session, tokens, whole);

  // Each round's draft is right for a while, then wrong; the wrong part must leave no trace.
  State state = model.initial_state();
  std::vector<float> logits;
  for (std::uint64_t round = 0; std::ssize(tokens) > state.position(); ++round) {
    const auto random = random_tokens(2, 8, 100 + round);
    const auto left = static_cast<Index>(tokens.size()) - state.position();
    const Index width = std::min<Index>(1 + random[0], left);
    const Index right = std::min<Index>(random[1] + 1, width);
    std::vector<Token> draft(tokens.begin() + state.position(),
                             tokens.begin() + state.position() + width);
    for (Index i = right; i < width; ++i) {
      auto& token = draft[static_cast<std::size_t>(i)];
      token = (token + 7) % 61;
    }
    const auto rows = session.verify(draft, state).value();
    for (Index i = 0; i < right; ++i) {
      logits.insert(logits.end(), rows.row(i).begin(), rows.row(i).end());
    }
    session.keep(right, state).value();
  }
  EXPECT_TRUE(state == whole);
  EXPECT_TRUE(same_bits<float>(expected, logits));
}

TEST(Verify, SeveralSequencesInOnePassEqualEachAlone) {
  for (const Model& model : {tiny_model(), mixed_model()}) {
    test::EagerThreadPool pool(2);
    Session session(model, pool, {.max_verify = 9, .max_verify_batch = 3});
    const Index lengths[] = {4, 1, 3};
    std::vector<State> before;
    std::vector<std::vector<Token>> tokens;
    std::vector<Steps> steps;
    for (std::uint64_t i = 0; i < 3; ++i) {
      before.push_back(model.initial_state());
      session.prefill(random_tokens(5 + static_cast<Index>(i), 61, i), before.back()).value();
      tokens.push_back(random_tokens(lengths[i], 61, 10 + i));
      steps.push_back(step_through(session, tokens.back(), before.back()));
    }
    const std::span<const Token> drafts[] = {tokens[0], tokens[1], tokens[2]};
    for (Index kept = 0; kept <= 4; ++kept) {
      std::vector<State> states = before;
      const State* const pointers[] = {&states[0], &states[1], &states[2]};
      const auto logits = session.verify_batch(drafts, pointers).value();
      ASSERT_EQ(logits.rows, 8);
      Index row = 0;
      for (std::size_t i = 0; i < 3; ++i) {
        for (const auto& expected : steps[i].logits) {
          ASSERT_TRUE(same_bits<float>(expected, logits.row(row++)));
        }
      }
      for (const std::size_t i : {2U, 0U, 1U}) {  // in any order
        const Index n = std::min(kept, lengths[i]);
        session.keep(n, states[i], static_cast<Index>(i)).value();
        ASSERT_TRUE(states[i] == steps[i].states[static_cast<std::size_t>(n)]) << i << ' ' << n;
      }
    }
  }
}

TEST(Verify, DraftsOfOneStateAreAlternatives) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor, {.max_verify_batch = 2});
  State state = model.initial_state();
  session.prefill(random_tokens(6, 61, 1), state).value();
  const auto left = random_tokens(3, 61, 2);
  const auto right = random_tokens(4, 61, 3);
  const Steps steps = step_through(session, right, state);
  const std::span<const Token> drafts[] = {left, right};
  const State* const states[] = {&state, &state};
  session.verify_batch(drafts, states).value();
  session.keep(2, state, 1).value();
  EXPECT_TRUE(state == steps.states[2]);
  EXPECT_THROW(session.keep(1, state, 0).value(), Exception) << "the state has moved on";
}

TEST(Verify, OtherCallsMayLieBetweenAndACopyOfTheStateWillDo) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  State state = model.initial_state();
  session.prefill(random_tokens(6, 61, 1), state).value();
  const auto tokens = random_tokens(5, 61, 2);
  const Steps steps = step_through(session, tokens, state);
  State fork = state;
  State other = model.initial_state();
  session.verify(tokens, state).value();
  session.prefill(random_tokens(300, 61, 3), other).value();
  session.keep(3, fork).value();
  EXPECT_TRUE(fork == steps.states[3]);
}

TEST(Verify, RefusesWhatItDidNotVerify) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor, {.max_verify = 4});
  Session another(model, executor);
  State state = model.initial_state();
  session.prefill(random_tokens(6, 61, 1), state).value();
  const auto tokens = random_tokens(5, 61, 2);
  const auto four = std::span(tokens).first(4);
  const State before = state;

  EXPECT_THROW(session.keep(0, state).value(), Exception) << "nothing was verified";
  EXPECT_THROW(session.verify(tokens, state).value(), Exception) << "too many";
  EXPECT_THROW(session.verify({}, state).value(), Exception);
  EXPECT_THROW(session.verify(std::vector<Token>{64}, state).value(), Exception);
  EXPECT_THROW(session.verify(four, State()).value(), Exception);
  EXPECT_EQ(session.verify_batch({}, {}).value().rows, 0) << "nothing to do is no mistake";
  const std::span<const Token> two[] = {four.first(2), four.first(2)};
  const State* const states[] = {&state, &state};
  EXPECT_THROW(session.verify_batch(two, states).value(), Exception) << "one sequence was booked";

  session.verify(four, state).value();
  EXPECT_THROW(session.keep(5, state).value(), Exception);
  EXPECT_THROW(session.keep(-1, state).value(), Exception);
  EXPECT_THROW(session.keep(1, state, 1).value(), Exception);
  EXPECT_THROW(session.keep(1, state, -1).value(), Exception);
  EXPECT_THROW(another.keep(1, state).value(), Exception) << "another session";

  State moved = state;
  session.step(1, moved).value();
  EXPECT_THROW(session.keep(1, moved).value(), Exception) << "another position";
  State changed = state;
  const std::span<float> h = changed.tensor("layers.1.mixer.ssm_state");
  std::swap(h[3], h[4]);
  EXPECT_THROW(session.keep(1, changed).value(), Exception) << "other bits";
  State foreign = tiny_model(DType::f32, "bf16").initial_state();
  EXPECT_THROW(session.keep(1, foreign).value(), Exception);
  EXPECT_TRUE(state == before);

  session.keep(2, state).value();  // what was refused changed nothing
  EXPECT_TRUE(state == step_through(session, four, before).states[2]);
  EXPECT_THROW(session.keep(0, state).value(), Exception) << "kept already";
  session.verify(four, state).value();
  session.keep(0, state).value();
  EXPECT_EQ(state.position(), 8);
  EXPECT_THROW(session.keep(0, state).value(), Exception) << "none is a choice, too";

  Session none(model, executor, {.max_verify = 0});
  EXPECT_THROW(none.verify(std::vector<Token>{1}, state).value(), Exception);
  EXPECT_THROW(none.keep(0, state).value(), Exception);
}

TEST(Verify, MemoryIsBookedAndCounted) {
  const Model model = tiny_model();
  SerialExecutor executor;
  const auto bytes = [&](Index tokens, Index sequences) {
    return static_cast<Index>(
        Session(model, executor,
                {.chunk = 16, .max_batch = 16, .max_verify = tokens, .max_verify_batch = sequences})
            .bytes());
  };
  const ModelPlan& plan = model.plan();
  // Of each layer: the block's input 20, the raw input of the convolution 40, dt_raw 40, B 5, each
  // rounded up to cache lines.
  EXPECT_EQ(plan.trail_bytes_per_token, 2 * (32 + 48 + 48 + 16) * 4);
  EXPECT_EQ(bytes(8, 1) - bytes(0, 1), 8 * plan.trail_bytes_per_token + plan.state_bytes);
  EXPECT_EQ(bytes(8, 3) - bytes(8, 1), 2 * plan.state_bytes);
}

}  // namespace
}  // namespace krait::verify_test
