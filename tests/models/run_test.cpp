// One run of many sequences: prompts, steps and drafts in any mixture, with the bits of each alone.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::run_test {
namespace {

using test::random_tokens;
using test::same_bits;
using test::tiny_model;
using Logits = RunItem::Logits;

// A sequence that has consumed a few tokens, and what it is to do in the run.
struct Part {
  State before;
  std::vector<Token> tokens;
  Logits logits = Logits::last;
  bool tentative = false;
};

// What the part gives alone: logits after every token, states after every number of them.
struct Alone {
  std::vector<std::vector<float>> logits;
  std::vector<State> states;
};

Alone alone(const Model& model, const Part& part) {
  SerialExecutor executor;
  Session session(model, executor);
  Alone result{{}, {part.before}};
  for (const Token token : part.tokens) {
    State state = result.states.back();
    const auto row = session.step(token, state).value();
    result.logits.emplace_back(row.begin(), row.end());
    result.states.push_back(std::move(state));
  }
  return result;
}

std::vector<Part> parts_of(const Model& model) {
  SerialExecutor executor;
  Session session(model, executor);
  std::vector<Part> parts;
  const auto add = [&](Index length, Logits logits, bool tentative) {
    const auto seed = static_cast<std::uint64_t>(parts.size());
    Part part{model.initial_state(), random_tokens(length, 61, 10 + seed), logits, tentative};
    const auto prompt = random_tokens(static_cast<Index>(seed) * 3, 61, 20 + seed);
    if (!prompt.empty()) session.prefill(prompt, part.before).value();
    parts.push_back(std::move(part));
  };
  add(19, Logits::last, false);  // a chunk of a prompt
  add(1, Logits::last, false);
  add(4, Logits::all, true);  // a draft
  add(1, Logits::last, false);
  add(7, Logits::none, false);  // a chunk that is not the last
  add(3, Logits::all, true);
  add(1, Logits::last, false);
  return parts;
}

void expect_each_alone(const Model& model, Executor& executor) {
  const std::vector<Part> parts = parts_of(model);
  std::vector<Alone> expected;
  for (const Part& part : parts) expected.push_back(alone(model, part));
  Session session(model, executor,
                  {.chunk = 64, .max_batch = 12, .max_verify = 7, .max_verify_batch = 2});
  for (Index kept = 0; kept <= 4; ++kept) {
    std::vector<State> states;
    for (const Part& part : parts) states.push_back(part.before);
    std::vector<RunItem> items;
    for (std::size_t i = 0; i < parts.size(); ++i) {
      items.push_back({.tokens = parts[i].tokens,
                       .state = &states[i],
                       .logits = parts[i].logits,
                       .tentative = parts[i].tentative});
    }
    const RunOutput output = session.run(items).value();
    for (std::size_t i = 0; i < parts.size(); ++i) {
      SCOPED_TRACE(testing::Message() << "item " << i);
      const auto logits = output.logits(static_cast<Index>(i));
      const Index count = std::ssize(parts[i].tokens);
      ASSERT_EQ(logits.rows, parts[i].logits == Logits::all    ? count
                             : parts[i].logits == Logits::last ? 1
                                                               : 0);
      for (Index row = 0; row < logits.rows; ++row) {
        const auto at = static_cast<std::size_t>(count - logits.rows + row);
        ASSERT_TRUE(same_bits<float>(expected[i].logits[at], logits.row(row)));
      }
      ASSERT_TRUE(states[i] == expected[i].states.back());
    }
    for (const std::size_t i : {5U, 2U}) {  // in any order
      SCOPED_TRACE(testing::Message() << "item " << i << " kept " << kept);
      const Index n = std::min(kept, std::ssize(parts[i].tokens));
      State copy = states[i];
      State& state = kept % 2 == 0 ? states[i] : copy;
      session.keep(n, state, static_cast<Index>(i)).value();
      ASSERT_TRUE(state == expected[i].states[static_cast<std::size_t>(n)]);
      EXPECT_FALSE(session.keep(0, states[i], static_cast<Index>(i))) << "once";
    }
  }
}

class RunMix : public testing::TestWithParam<ModelSpec (*)()> {};

TEST_P(RunMix, EqualsEachAlone) {
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const Model model =
        test::with_memory_for_every_isa([&] { return tiny_model(GetParam()(), dtype); });
    test::for_each_isa([&](Isa) {
      for (const int threads : {1, 3}) {
        test::EagerThreadPool pool(threads);
        expect_each_alone(model, pool);
      }
    });
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, RunMix,
                         testing::Values([] { return test::tiny_spec(); },
                                         [] { return test::tiny_mamba2_spec(); },
                                         [] { return test::tiny_expert_spec(); },
                                         [] { return test::tiny_hybrid_spec(); },
                                         [] { return test::tiny_hybrid_options_spec(); },
                                         [] { return test::tiny_shared_spec(); }));

TEST(Run, OfNothingIsNothing) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  EXPECT_EQ(session.run({}).value().logits().rows, 0);
}

TEST(Run, RefusesWhatItHasNoRoomForAndChangesNothing) {
  const Model model = tiny_model();
  const Model other = tiny_model(DType::f32, "bf16");
  SerialExecutor executor;
  Session session(model, executor,
                  {.chunk = 6, .max_batch = 3, .max_verify = 3, .max_verify_batch = 1});
  State a = model.initial_state();
  session.prefill(random_tokens(5, 61, 1), a).value();
  State b = a;
  State c = a;
  State d = a;
  State foreign = other.initial_state();
  State none;
  const State before = a;
  const auto tokens = random_tokens(7, 61, 2);
  const auto first = [&](std::size_t n) { return std::span(tokens).first(n); };
  const Token wrong[] = {3, 64};
  const auto refusal = [&](std::vector<RunItem> items) {
    const auto result = session.run(items);
    EXPECT_TRUE(a == before && b == before);
    return result ? std::string() : result.error().message;
  };
  EXPECT_EQ(refusal({{first(2), &a}, {{}, &b}}),
            "[session] tokens: expected at least one, found none");
  EXPECT_EQ(refusal({{first(2), &a}, {wrong, &b}}), "[session] token: expected 0 to 63, found 64");
  EXPECT_EQ(refusal({{first(2), &a}, {first(1), nullptr}}),
            "[session] state: expected states, found a null pointer");
  EXPECT_EQ(refusal({{first(2), &a}, {first(1), &a}}),
            "[session] run: expected distinct states, found one of them twice");
  EXPECT_EQ(refusal({{first(4), &a}, {first(3), &b}}),
            "[session] run: expected at most 6 tokens in all, found 7");
  EXPECT_EQ(refusal({{first(1), &a}, {first(1), &b}, {first(1), &c}, {first(1), &d}}),
            "[session] run: expected at most 3 items, found 4");
  EXPECT_EQ(refusal({{first(4), &a, Logits::all}}),
            "[session] run: expected at most 3 rows of logits, found 4");
  EXPECT_EQ(refusal({{first(4), &a, Logits::last, true}}),
            "[session] run: expected at most 3 tentative tokens in all, found 4");
  EXPECT_EQ(refusal({{first(1), &a, Logits::last, true}, {first(1), &b, Logits::last, true}}),
            "[session] run: expected at most 1 tentative items, found 2");
  EXPECT_NE(refusal({{first(1), &a}, {first(1), &foreign}}).find("expected one of the model"),
            std::string::npos);
  EXPECT_NE(refusal({{first(1), &a}, {first(1), &none}}).find("one of no model"),
            std::string::npos);
}

TEST(Run, KeepsOfTentativeItemsWhatIsAskedFor) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  const Part part{model.initial_state(), random_tokens(4, 61, 3)};
  const Alone expected = alone(model, part);
  State state = part.before;
  const RunItem item{.tokens = part.tokens, .state = &state, .tentative = true};
  session.run({&item, 1}).value();
  EXPECT_EQ(session.keep(5, state).error().message,
            "[session] keep: expected 0 to 4 tokens, as many as were verified, found 5");
  EXPECT_FALSE(session.keep(-1, state));
  EXPECT_FALSE(session.keep(1, state, 1)) << "no such item";
  State moved = state;
  session.step(1, moved).value();
  EXPECT_FALSE(session.keep(1, moved)) << "changed since";
  State fresh = part.before;  // what the run began with
  session.keep(2, fresh).value();
  EXPECT_TRUE(fresh == expected.states[2]);
  EXPECT_TRUE(state == expected.states[4]);
}

// Remembers rows by layer, site and position.
class Recorder final : public ActivationHook {
 public:
  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
    if (place.again) return;
    for (Index t = 0; t < values.rows; ++t) {
      const auto row = values.row(t);
      seen[{place.layer, std::string(place.path), place.site, place.expert, place.position + t}] =
          std::vector<float>(row.begin(), row.end());
    }
  }
  using Key = std::tuple<Index, std::string, Site, Index, Index>;
  std::map<Key, std::vector<float>> seen;
};

// Changes one site, by position and layer alone.
class Turner final : public ActivationHook {
 public:
  explicit Turner(Site site) : site_(site) {}
  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
    if (place.site != site_) return;
    ++calls;
    for (Index t = 0; t < values.rows; ++t) {
      for (float& x : values.row(t)) {
        x += 0.25F * std::sin(static_cast<float>(place.position + t + 3 * place.layer));
      }
    }
  }
  int calls = 0;

 private:
  Site site_;
};

class Hooks : public testing::TestWithParam<ModelSpec (*)()> {};

TEST_P(Hooks, SeeTheSameInEveryCut) {
  const Model model = tiny_model(GetParam()(), DType::f32);
  test::EagerThreadPool pool(2);
  const auto tokens = random_tokens(9, 61, 1);
  std::map<Recorder::Key, std::vector<float>> whole;
  State plain = model.initial_state();
  Session without(model, pool);
  const auto logits = without.prefill(tokens, plain).value();
  for (const Index chunk : {Index{9}, Index{4}, Index{1}}) {
    Recorder recorder;
    Session session(model, pool,
                    {.chunk = chunk, .max_batch = 1, .max_verify = 0, .hook = &recorder});
    State state = model.initial_state();
    const auto hooked = session.prefill(tokens, state).value();
    EXPECT_TRUE(same_bits<float>(logits, hooked)) << "looking changes nothing";
    EXPECT_TRUE(state == plain);
    if (whole.empty()) whole = recorder.seen;
    EXPECT_TRUE(recorder.seen == whole) << chunk;
  }
  // Every block of every layer is seen, at both ends.
  for (std::size_t i = 0; i < model.spec().layers.size(); ++i) {
    for (const ResidualSpec& residual : model.spec().layers[i].residuals) {
      const auto layer = static_cast<Index>(i);
      const std::string path =
          model.spec().layers_name + "." + std::to_string(i) + "." + residual.block_name;
      for (const Site site : {Site::input, Site::output}) {
        EXPECT_TRUE(whole.contains({layer, path, site, -1, 8})) << path << to_string(site);
      }
    }
  }
}

TEST_P(Hooks, MayChangeWhatTheyAreShown) {
  const Model model = tiny_model(GetParam()(), DType::f32);
  SerialExecutor executor;
  const auto tokens = random_tokens(9, 61, 2);
  Session without(model, executor);
  State plain = model.initial_state();
  const auto row = without.prefill(tokens, plain).value();
  const std::vector<float> sober(row.begin(), row.end());
  int changed = 0;
  for (int s = 0; s <= static_cast<int>(Site::output); ++s) {
    SCOPED_TRACE(to_string(static_cast<Site>(s)));
    Turner turner(static_cast<Site>(s));
    State whole = model.initial_state();
    Session session(model, executor, {.chunk = 9, .hook = &turner});
    const auto hooked = session.prefill(tokens, whole).value();
    const std::vector<float> expected(hooked.begin(), hooked.end());
    EXPECT_EQ(same_bits<float>(expected, sober), turner.calls == 0);
    changed += turner.calls > 0;
    // In steps, and in a draft of which a part is kept: the same bits.
    State stepped = model.initial_state();
    std::vector<State> states{stepped};
    for (const Token token : tokens) {
      const auto last = session.step(token, stepped).value();
      states.push_back(stepped);
      EXPECT_TRUE(states.size() < 10 || same_bits<float>(expected, last));
    }
    EXPECT_TRUE(stepped == whole);
    for (const Index n : {0, 3, 5}) {
      State state = model.initial_state();
      session.prefill(std::span(tokens).first(3), state).value();
      const RunItem draft{
          .tokens = std::span(tokens).subspan(3, 5), .state = &state, .tentative = true};
      session.run({&draft, 1}).value();
      session.keep(n, state).value();
      EXPECT_TRUE(state == states[static_cast<std::size_t>(3 + n)]) << n;
    }
  }
  EXPECT_GE(changed, 6);
}

INSTANTIATE_TEST_SUITE_P(Kinds, Hooks,
                         testing::Values([] { return test::tiny_spec(); },
                                         [] { return test::tiny_mamba2_spec(); },
                                         [] { return test::tiny_expert_spec(); },
                                         [] { return test::tiny_hybrid_spec(); },
                                         [] { return test::tiny_hybrid_options_spec(); },
                                         [] { return test::tiny_shared_spec(); }));

TEST(Hooks, BelongToTheirItem) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  const auto tokens = random_tokens(3, 61, 4);
  State a = model.initial_state();
  State b = a;
  State c = a;
  Recorder recorder;
  const RunItem items[] = {
      {tokens, &a}, {.tokens = tokens, .state = &b, .hook = &recorder}, {tokens, &c}};
  session.run(items).value();
  EXPECT_TRUE(a == b);
  ASSERT_FALSE(recorder.seen.empty());
  for (const auto& [key, values] : recorder.seen) EXPECT_LT(std::get<4>(key), 3);
}

}  // namespace
}  // namespace krait::run_test
