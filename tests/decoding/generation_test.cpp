// Generations as objects: in turns, several in one pass, copied in every phase, and taken up again.
#include "krait/decoding/generation.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::generation_test {
namespace {

using test::random_tokens;
using test::tiny_model;

class Generations : public testing::Test {
 protected:
  // Different texts, options and lengths of the prompt. Text 1 ends with a stop string, and of
  // text 4 the end might begin one.
  GenerationOptions options(int i) {
    GenerationOptions options{.max_tokens = 20 + 7 * i, .sampler = {.temperature = 1.5}};
    options.sampler.seed = static_cast<std::uint64_t>(i);
    if (i % 2 == 1) options.sampler.repetition_penalty = 1.3;
    if (i == 2) options.sampler.greedy = true;
    if (i == 1 || i == 4) {
      Sequence sequence = prompt(i);
      const auto plain = generate(session_, *tokenizer_, sequence, options).value().tokens;
      const std::vector<Token> found(plain.end() - 9, plain.end() - 6);
      const std::vector<Token> begun(plain.end() - 2, plain.end());
      options.stop_strings = {tokenizer_->decode(i == 1 ? found : begun) + (i == 1 ? "" : "\xff")};
    }
    return options;
  }
  Sequence prompt(int i) const {
    return {model_, random_tokens(3 + 5 * i, model_.vocab(), static_cast<std::uint64_t>(i))};
  }
  Generation begin(int i) { return begin(prompt(i), options(i)); }
  Generation begin(Sequence sequence, const GenerationOptions& options) const {
    return Generation::make(model_, *tokenizer_, std::move(sequence), options).value();
  }

  // One step: what became text.
  std::string step(Generation& generation, Index most = Generation::all) {
    const RunItem step = generation.next(most).value();
    const auto logits = session_.prefill(step.tokens, generation.state()).value();
    const auto events = generation.accept(logits).value();
    return events.empty() ? std::string() : std::string(events.front().text);
  }
  std::string run(Generation& generation, Index most = Generation::all) {
    std::string text;
    while (!generation.is_finished()) text += step(generation, most);
    return text += generation.finish();
  }
  static void expect_same(const Generation& a, const Generation& b) {
    EXPECT_EQ(a.result().tokens, b.result().tokens);
    EXPECT_EQ(a.result().text, b.result().text);
    EXPECT_EQ(a.result().reason, b.result().reason);
    EXPECT_EQ(a.sequence().tokens, b.sequence().tokens);
    EXPECT_EQ(a.sequence().pending, b.sequence().pending);
    EXPECT_EQ(a.sequence().unshown, b.sequence().unshown);
    EXPECT_TRUE(a.sequence().state == b.sequence().state);
  }

  Model model_ = tiny_model();
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
  Session session_{model_, executor_, {.chunk = 8, .max_batch = 8}};
};

TEST_F(Generations, WriteWhatGenerateWrites) {
  Index unshown = 0;
  std::vector<FinishReason> reasons;
  for (int i = 0; i < 6; ++i) {
    Sequence sequence = prompt(i);
    const GenerationResult expected = generate(session_, *tokenizer_, sequence, options(i)).value();
    unshown += sequence.unshown;
    reasons.push_back(expected.reason);
    for (const Index most : {Index{1}, Index{3}, Generation::all}) {
      Generation generation = begin(i);
      EXPECT_EQ(run(generation, most), expected.text);
      EXPECT_EQ(generation.result().tokens, expected.tokens);
      EXPECT_EQ(generation.result().reason, expected.reason);
      EXPECT_EQ(generation.result().prompt_tokens, expected.prompt_tokens);
      EXPECT_EQ(generation.sequence().tokens, sequence.tokens);
      EXPECT_EQ(generation.sequence().unshown, sequence.unshown);
      EXPECT_EQ(generation.finish(), "") << "once";
      const Sequence released = generation.release();
      EXPECT_EQ(released.pending, sequence.pending);
      EXPECT_TRUE(released.state == sequence.state);
    }
  }
  EXPECT_EQ(unshown, 2);
  EXPECT_EQ(std::ranges::count(reasons, FinishReason::stop_string), 1);
}

// One pass over the weights per step: all that run one token, whatever they are in the middle of.
TEST_F(Generations, AdvanceTogether) {
  std::vector<Generation> alone;
  std::vector<Generation> together;
  for (int i = 0; i < 5; ++i) {
    alone.push_back(begin(i));
    together.push_back(begin(i));
    run(alone.back());
  }
  Index passes = 0;
  for (;; ++passes) {
    std::vector<Generation*> running;
    std::vector<Token> tokens;
    std::vector<State*> states;
    for (Generation& generation : together) {
      if (generation.is_finished()) continue;
      running.push_back(&generation);
      tokens.push_back(generation.next(1).value().tokens.front());
      states.push_back(&generation.state());
    }
    if (running.empty()) break;
    const auto logits = session_.step_batch(tokens, states).value();
    for (std::size_t i = 0; i < running.size(); ++i) {
      const auto row = static_cast<Index>(i);
      running[i]->accept(logits.row(row)).value();
    }
  }
  Index longest = 0;
  for (std::size_t i = 0; i < alone.size(); ++i) {
    together[i].finish();
    expect_same(together[i], alone[i]);
    longest = std::max(longest,
                       alone[i].result().prompt_tokens + std::ssize(alone[i].result().tokens) - 1);
  }
  EXPECT_EQ(passes, longest);
}

// Before, within and behind the prompt, within the text, finished, closed.
TEST_F(Generations, GoOnAsCopiesFromEveryPhase) {
  for (int i = 0; i < 5; ++i) {
    Generation expected = begin(i);
    const std::string text = run(expected, 4);
    Generation original = begin(i);
    std::string before;
    for (int phase = 0;; ++phase) {
      SCOPED_TRACE(testing::Message() << "text " << i << ", phase " << phase);
      const bool is_over = original.is_finished();
      Generation copy = original;
      EXPECT_EQ(before + run(copy, phase % 3 + 1), text);
      expect_same(copy, expected);
      Generation closed = copy;
      expect_same(closed, expected);
      Generation assigned = begin(0);
      assigned = original;
      EXPECT_EQ(before + run(assigned), text);
      expect_same(assigned, expected);
      if (is_over) break;
      before += step(original, 4);
    }
    original.finish();
    expect_same(original, expected);
  }
}

TEST_F(Generations, GoTheirOwnWaysFromTheMiddle) {
  Generation one = begin(1);
  for (int i = 0; i < 10; ++i) step(one);
  Generation two = one;
  Generation back = one;
  two.cancel();
  EXPECT_TRUE(two.is_finished());
  EXPECT_FALSE(one.is_finished());
  two.finish();
  EXPECT_EQ(two.result().reason, FinishReason::cancelled);
  two.resume(5, std::vector<Token>{1, 2, 3}).value();
  run(two);
  EXPECT_EQ(two.result().tokens.size(), 5U);
  run(one);
  run(back);
  expect_same(one, back);
}

// A text that is cut anywhere and resumed is the whole; its sampler has seen the same text.
TEST_F(Generations, ResumeWhereTheyWereCut) {
  for (int i = 0; i < 5; ++i) {
    Generation whole = begin(i);
    const std::string text = run(whole);
    const Index count = std::ssize(whole.result().tokens);
    for (Index first = 1; first < count; ++first) {
      GenerationOptions part = options(i);
      part.max_tokens = first;
      Generation cut = begin(prompt(i), part);
      std::string shown = run(cut);
      EXPECT_EQ(cut.result().reason, FinishReason::max_tokens);
      cut.resume(options(i).max_tokens - first).value();
      EXPECT_EQ(shown + run(cut), text);
      EXPECT_EQ(cut.sequence().tokens, whole.sequence().tokens);
      EXPECT_EQ(cut.result().reason, whole.result().reason);
    }
  }
}

TEST_F(Generations, ResumeAsGenerateGoesOn) {
  for (int i = 0; i < 5; ++i) {
    const auto more = random_tokens(6, model_.vocab(), 77);
    Sequence sequence = prompt(i);
    generate(session_, *tokenizer_, sequence, options(i)).value();
    sequence.append(more);
    const auto expected = generate(session_, *tokenizer_, sequence, options(i)).value();
    Generation generation = begin(i);
    run(generation);
    generation.resume(options(i).max_tokens, more).value();
    EXPECT_EQ(run(generation), expected.text);
    EXPECT_EQ(generation.result().tokens, expected.tokens);
    EXPECT_EQ(generation.sequence().tokens, sequence.tokens);
  }
}

TEST_F(Generations, OfNoTokensConsumeThePromptButItsLast) {
  GenerationOptions none{.max_tokens = 0};
  Generation generation = begin(prompt(2), none);
  EXPECT_EQ(run(generation, 5), "");
  EXPECT_EQ(generation.sequence().pending, 1);
  EXPECT_EQ(generation.state().position(), 12);
  generation.resume(20, {}).value();
  Generation direct = begin(prompt(2), {.max_tokens = 20});
  EXPECT_EQ(run(generation), run(direct));
  Generation single = begin(Sequence(model_, std::vector<Token>{1}), none);
  EXPECT_TRUE(single.is_finished());
  EXPECT_TRUE(single.next().value().tokens.empty());
}

TEST_F(Generations, GiveTheSequenceBackInEveryPhase) {
  Generation expected = begin(1);
  run(expected);
  for (int steps = 0; steps < 12; ++steps) {
    Generation generation = begin(1);
    for (int i = 0; i < steps; ++i) step(generation, 3);
    // What was run behind the last step is known, too.
    const RunItem ahead = generation.next(1).value();
    session_.step(ahead.tokens.front(), generation.state()).value();
    Sequence sequence = generation.release();
    ASSERT_LE(sequence.pending, std::ssize(sequence.tokens));
    State state = model_.initial_state();
    const auto consumed =
        std::span(sequence.tokens).first(sequence.tokens.size() - sequence.pending_tokens().size());
    if (!consumed.empty()) session_.prefill(consumed, state).value();
    EXPECT_TRUE(state == sequence.state);
  }
}

TEST_F(Generations, RefuseWhatMakesNoSense) {
  const auto refused = [](const auto& result, std::string_view part) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::bad_argument);
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  };
  Sequence empty(model_);
  refused(Generation::make(model_, *tokenizer_, std::move(empty)), "at least one token");
  Sequence kept = prompt(1);
  refused(Generation::make(model_, *tokenizer_, std::move(kept), {.max_tokens = -1}), "at least 0");
  refused(Generation::make(model_, *tokenizer_, std::move(kept), {.sampler = {.order = {"?"}}}),
          "'?'");
  EXPECT_EQ(kept.tokens, prompt(1).tokens) << "taken only by a generation that is made";
  EXPECT_TRUE(kept.state == prompt(1).state);

  Generation generation = begin(1);
  const std::vector<float> logits(static_cast<std::size_t>(model_.vocab()), 0.0F);
  refused(generation.accept(logits), "expected one that has consumed 1 to 8 tokens more, found 0");
  const RunItem whole = generation.next().value();
  EXPECT_TRUE(whole.logits == RunItem::Logits::last);
  EXPECT_TRUE(generation.next(7).value().logits == RunItem::Logits::none);
  refused(generation.next(0), "[generate] next: expected at least 1 token, found 0");
  session_.prefill(whole.tokens, generation.state()).value();
  refused(generation.accept(std::span<const float>()), "[generate] logits: expected at least");
  refused(generation.resume(5), "closed");
  EXPECT_TRUE(generation.accept(logits)) << "nothing was lost";
  session_.prefill(std::vector<Token>{1, 2, 3}, generation.state()).value();
  refused(generation.accept(logits), "expected one that has consumed 1 to 1 tokens more, found 3");

  generation = begin(2);
  run(generation);
  EXPECT_TRUE(generation.next().value().tokens.empty());
  refused(generation.accept(logits), "finished");
  refused(generation.resume(-1), "at least 0");
  refused(generation.resume(1, std::vector<Token>{-1}), "token ids");
  refused(generation.resume(1, std::vector<Token>{100000}), "token ids");
  EXPECT_EQ(generation.sequence().tokens.size(), 13U + 34U);
}

}  // namespace
}  // namespace krait::generation_test
