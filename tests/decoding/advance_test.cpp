// Several texts, one run per step: prompts that are read beside texts that grow.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::advance_test {
namespace {

using test::random_tokens;
using test::tiny_model;

// The tokens that are even.
class Even final : public Constraint {
 public:
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Even>(*this); }
  void restrict_to(TokenMask& mask) const override {
    for (Token token = 1; token < mask.size(); token += 2) mask.forbid(token);
  }
  void accept(Token /*token*/) override {}
};

class Advance : public testing::TestWithParam<const char*> {
 protected:
  static ModelSpec spec() {
    const std::string name = GetParam();
    if (name == "mamba2") return test::tiny_mamba2_spec();
    if (name == "experts") return test::tiny_expert_spec();
    if (name == "hybrid") return test::tiny_hybrid_spec();
    return test::tiny_spec();
  }
  // 0: a mask, greedy. 1: ends with a stop string. 2: a long prompt. 3: one token of a prompt.
  static constexpr int texts = 4;
  Sequence prompt(int i) const {
    constexpr Index lengths[] = {5, 9, 50, 1};
    return {model_, random_tokens(lengths[i], 61, static_cast<std::uint64_t>(20 + i))};
  }
  GenerationOptions options(int i) {
    switch (i) {
      case 0:
        return {.max_tokens = 40,
                .sampler = {.greedy = true},
                .constraint = std::make_shared<const Even>()};
      case 1: {
        GenerationOptions options{.max_tokens = 50,
                                  .sampler = {.repetition_penalty = 1.2, .seed = 5}};
        Sequence sequence = prompt(1);
        const auto tokens = generate(session_, *tokenizer_, sequence, options).value().tokens;
        options.stop_strings = {tokenizer_->decode({tokens.begin() + 30, tokens.begin() + 33})};
        return options;
      }
      case 2:
        return {.max_tokens = 20, .sampler = {.temperature = 0.6, .top_k = 9, .seed = 6}};
      default:
        return {.max_tokens = 35, .sampler = {.min_p = 0.02, .seed = 7}};
    }
  }
  Generation begin(int i) {
    return Generation::make(model_, *tokenizer_, prompt(i), options(i)).value();
  }
  std::vector<Generation> begin_all() {
    std::vector<Generation> all;
    for (int i = 0; i < texts; ++i) all.push_back(begin(i));
    return all;
  }
  static std::vector<Generation*> pointers(std::vector<Generation>& all) {
    std::vector<Generation*> result;
    for (Generation& one : all) result.push_back(&one);
    return result;
  }
  void expect_alone(const Generation& one, int i, const std::string& shown) {
    Sequence sequence = prompt(i);
    const GenerationResult expected = generate(session_, *tokenizer_, sequence, options(i)).value();
    EXPECT_EQ(one.result().tokens, expected.tokens) << i;
    EXPECT_EQ(one.result().text, expected.text) << i;
    EXPECT_EQ(shown, expected.text) << i;
    EXPECT_EQ(one.result().reason, expected.reason) << i;
    EXPECT_EQ(one.sequence().tokens, sequence.tokens) << i;
    EXPECT_EQ(one.sequence().pending, sequence.pending) << i;
    EXPECT_TRUE(one.sequence().state == sequence.state) << i;
  }
  // To the end, and compared.
  void expect_each_alone(std::vector<Generation> all, std::vector<std::string> shown) {
    const auto every = pointers(all);
    while (!std::ranges::all_of(all, &Generation::is_finished)) {
      advance_all(session_, every).value();
      for (std::size_t i = 0; i < all.size(); ++i) {
        for (const GenerationEvent& event : all[i].events()) shown[i] += event.text;
      }
    }
    for (std::size_t i = 0; i < all.size(); ++i) {
      shown[i] += all[i].finish();
      expect_alone(all[i], static_cast<int>(i), shown[i]);
    }
  }

  Model model_ = tiny_model(spec(), DType::f32);
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
  Session session_{
      model_, executor_, {.chunk = 8, .max_batch = 4, .max_verify = 6, .max_verify_batch = 2}};
};

INSTANTIATE_TEST_SUITE_P(Models, Advance, testing::Values("mamba", "mamba2", "experts", "hybrid"),
                         [](const auto& model) { return std::string(model.param); });

TEST_P(Advance, GivesEachTheTextItHasAlone) {
  expect_each_alone(begin_all(), std::vector<std::string>(texts));
}

// By hand, as a driver of its own would.
TEST_P(Advance, IsAFewLines) {
  std::vector<Generation> all = begin_all();
  std::vector<std::string> shown(texts);
  while (!std::ranges::all_of(all, &Generation::is_finished)) {
    std::vector<RunItem> items;
    std::vector<std::size_t> running;
    for (std::size_t i = 0; i < all.size(); ++i) {
      if (all[i].is_finished()) continue;
      items.push_back(all[i].next(2).value());
      running.push_back(i);
    }
    const RunOutput output = session_.run(items).value();
    for (std::size_t k = 0; k < items.size(); ++k) {
      const auto events = all[running[k]].accept(output.logits(static_cast<Index>(k))).value();
      for (const GenerationEvent& event : events) shown[running[k]] += event.text;
    }
  }
  for (int i = 0; i < texts; ++i) {
    const auto at = static_cast<std::size_t>(i);
    shown[at] += all[at].finish();
    expect_alone(all[at], i, shown[at]);
  }
}

// The session's chunk is 8: a token of each that grows, and the rest for prompts.
TEST_P(Advance, ReadsPromptsBesideTextsThatGrow) {
  std::vector<Generation> all = begin_all();
  const auto every = pointers(all);
  const auto positions = [&] {
    std::vector<Index> result;
    for (Generation& one : all) result.push_back(one.state().position());
    return result;
  };
  advance_all(session_, every).value();
  EXPECT_EQ(positions(), (std::vector<Index>{5, 1, 1, 1}));
  advance_all(session_, every).value();
  EXPECT_EQ(positions(), (std::vector<Index>{6, 6, 2, 2}));
  advance_all(session_, every).value();
  EXPECT_EQ(positions(), (std::vector<Index>{7, 9, 5, 3}));
  advance_all(session_, every).value();
  EXPECT_EQ(positions(), (std::vector<Index>{8, 10, 10, 4}));
  EXPECT_EQ(all[0].result().tokens.size(), 4U);
  EXPECT_TRUE(all[2].result().tokens.empty());
  // A draft comes before prompts.
  all[0].propose(random_tokens(3, 61, 1)).value();
  advance_all(session_, every).value();
  EXPECT_EQ(all[2].state().position(), 10 + 2);
}

// One of them is copied in every phase: in its prompt, in its text, with a draft, finished, closed.
TEST_P(Advance, GoesOnWithCopies) {
  std::vector<Generation> all = begin_all();
  const auto every = pointers(all);
  std::vector<std::string> shown(texts);
  for (int phase = 0; !std::ranges::all_of(all, &Generation::is_finished); ++phase) {
    SCOPED_TRACE(phase);
    if (phase % 4 == 3 || phase < 12) expect_each_alone(all, shown);
    const bool has_draft = all[0].sequence().pending == 1 && !all[0].is_finished();
    if (phase % 3 == 0 && has_draft) {
      all[0].propose(random_tokens(2, 61, static_cast<std::uint64_t>(phase))).value();
      expect_each_alone(all, shown);
    }
    advance_all(session_, every).value();
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (const GenerationEvent& event : all[i].events()) shown[i] += event.text;
    }
  }
  expect_each_alone(all, shown);
  for (std::size_t i = 0; i < all.size(); ++i) shown[i] += all[i].finish();
  expect_each_alone(all, shown);
}

TEST_P(Advance, ChangesNothingOnErrors) {
  const auto refused = [](const Result<void>& result, ErrorCode code, std::string_view part) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, code);
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  };
  advance_all(session_, {}).value();
  std::vector<Generation> all = begin_all();
  auto every = pointers(all);
  std::vector<std::string> shown(texts);
  for (int step = 0; step < 3; ++step) {
    advance_all(session_, every).value();
    for (std::size_t i = 0; i < all.size(); ++i) {
      for (const GenerationEvent& event : all[i].events()) shown[i] += event.text;
    }
  }
  Generation fifth = begin(3);
  every.push_back(&fifth);
  refused(advance_all(session_, every), ErrorCode::bad_argument, "at most 4 items, found 5");
  every.back() = nullptr;
  refused(advance_all(session_, every), ErrorCode::bad_argument,
          "[generate] advance_all: expected generations, found a null pointer");
  every.pop_back();
  every.back() = every.front();
  refused(advance_all(session_, every), ErrorCode::bad_argument, "distinct states");
  every.back() = &all.back();
  all[0].propose(random_tokens(3, 61, 1)).value();
  all[3].propose(random_tokens(3, 61, 2)).value();
  refused(advance_all(session_, every), ErrorCode::bad_argument,
          "at most 8 tokens in all, found 10");
  all[0].propose(random_tokens(1, 61, 1)).value();
  all[1].propose(random_tokens(1, 61, 1)).value();
  all[3].propose(random_tokens(1, 61, 2)).value();
  refused(advance_all(session_, every), ErrorCode::bad_argument,
          "at most 2 tentative items, found 3");
  all[0].withdraw();
  const Model other = tiny_model(DType::f32, WeightOptions{}, 3);
  Session stranger(other, executor_, {.max_batch = 4});
  refused(advance_all(stranger, every), ErrorCode::incompatible_state, "state");
  expect_each_alone(all, shown);
}

}  // namespace
}  // namespace krait::advance_test
