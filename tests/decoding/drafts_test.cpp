// Drafts: whatever is proposed, the text is that of the plain run, token for token.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/models/random_weights.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::drafts_test {
namespace {

using test::random_tokens;
using test::tiny_model;
using Tokens = std::vector<Token>;

constexpr Index max_verify = 8;

// Of every third token, another third at each place: what is allowed follows from the length.
class Thirds final : public Constraint {
 public:
  explicit Thirds(Index limit = 1000) : limit_(limit) {}
  std::unique_ptr<Constraint> clone() const override { return std::make_unique<Thirds>(*this); }
  void restrict_to(TokenMask& mask) const override {
    for (Token token = 0; token < mask.size(); ++token) {
      if (count_ >= limit_ || (token + sum_) % 3 != count_ % 3) mask.forbid(token);
    }
  }
  void accept(Token token) override {
    sum_ += token;
    ++count_;
  }

 private:
  Index limit_;
  Index count_ = 0;
  Index sum_ = 0;
};

// What is proposed where so many tokens of the text are there; `text` goes on behind its end.
using Drafter = std::function<Tokens(const Tokens& text, std::size_t at)>;

Tokens part(const Tokens& text, std::size_t at, std::size_t count) {
  const auto rest = std::span(text).subspan(std::min(at, text.size()));
  const auto some = rest.first(std::min(count, rest.size()));
  return {some.begin(), some.end()};
}

struct NamedDrafter {
  const char* name;
  Drafter draft;
};

const NamedDrafter drafters[] = {
    {"right", [](const Tokens& text, std::size_t at) { return part(text, at, max_verify - 1); }},
    {"of all lengths",
     [](const Tokens& text, std::size_t at) { return part(text, at, at % max_verify); }},
    {"wrong",
     [](const Tokens& text, std::size_t at) {
       Tokens draft = part(text, at, 4);
       if (!draft.empty()) draft[0] = (draft[0] + 1) % 61;
       return draft;
     }},
    {"partly right",
     [](const Tokens& text, std::size_t at) {
       Tokens draft = part(text, at, max_verify - 1);
       if (!draft.empty()) draft[at % draft.size()] ^= 1;
       return draft;
     }},
    {"random", [](const Tokens&, std::size_t at) { return random_tokens(5, 61, at); }},
};

struct Case {
  const char* name;
  GenerationOptions options;
};

class Drafts : public testing::TestWithParam<const char*> {
 protected:
  static ModelSpec spec() {
    const std::string name = GetParam();
    if (name == "mamba2") return test::tiny_mamba2_spec();
    if (name == "experts") return test::tiny_expert_spec();
    if (name == "hybrid") return test::tiny_hybrid_spec();
    return test::tiny_spec();
  }
  Sequence prompt() const { return {model_, random_tokens(11, 61, 4)}; }
  GenerationResult plain(Sequence& sequence, const GenerationOptions& options) {
    return generate(session_, *tokenizer_, sequence, options).value();
  }
  // The tokens that are sampled if nothing ends the text.
  Tokens endless(GenerationOptions options) {
    options.max_tokens = 80;
    options.stop_tokens.clear();
    options.stop_strings.clear();
    Sequence sequence = prompt();
    return plain(sequence, options).tokens;
  }
  std::vector<Case> cases() {
    std::vector<Case> cases;
    const GenerationOptions greedy{.max_tokens = 40, .sampler = {.greedy = true}};
    const GenerationOptions sampled{.max_tokens = 40, .sampler = {.temperature = 0.7, .seed = 3}};
    cases.push_back({"greedy", greedy});
    cases.push_back({"sampled", sampled});
    cases.push_back({"penalties", sampled});
    cases.back().options.sampler = {.repetition_penalty = 1.4,
                                    .presence_penalty = 0.3,
                                    .frequency_penalty = 0.2,
                                    .top_k = 20,
                                    .top_p = 0.9,
                                    .seed = 8};
    cases.push_back({"mask, greedy", greedy});
    cases.back().options.constraint = std::make_shared<const Thirds>();
    cases.push_back({"mask, sampled", sampled});
    cases.back().options.constraint = std::make_shared<const Thirds>();
    cases.push_back({"a mask of nothing", sampled});
    cases.back().options.constraint = std::make_shared<const Thirds>(17);
    cases.push_back({"one token", sampled});
    cases.back().options.max_tokens = 1;
    const Tokens text = endless(sampled);
    for (const std::size_t size : {std::size_t{1}, std::size_t{3}, std::size_t{6}}) {
      cases.push_back({"stop string", sampled});
      cases.back().options.stop_strings = {tokenizer_->decode(part(text, 21, size))};
    }
    cases.push_back({"held back", sampled});
    cases.back().options.stop_strings = {tokenizer_->decode(part(text, 38, 2)) + "\xff"};
    cases.push_back({"shown at the end", cases.back().options});
    cases.back().options.hold_back = false;
    cases.push_back({"stop token", sampled});
    cases.back().options.stop_tokens = {text[25]};
    cases.push_back({"stop token and string", cases.back().options});
    cases.back().options.stop_strings = {tokenizer_->decode(part(text, 18, 2))};
    return cases;
  }

  struct Drafted {
    Generation generation;
    std::string shown;
    Index runs = 0;
  };
  // Runs to the end with drafts of `drafter`.
  Drafted drafted(Generation generation, const Drafter& drafter, const Tokens& text) {
    Drafted run{std::move(generation), {}, 0};
    Generation* const one = &run.generation;
    const auto sampled = [&] { return run.generation.result().tokens.size(); };
    while (!one->is_finished()) {
      if (one->sequence().pending == 1) {
        const Tokens draft = drafter(text, sampled());
        if (!draft.empty()) one->propose(draft).value();
      }
      advance_all(session_, {&one, 1}).value();
      ++run.runs;
      for (const GenerationEvent& event : one->events()) run.shown += event.text;
      EXPECT_LE(one->events().size(), static_cast<std::size_t>(max_verify));
    }
    run.shown += one->finish();
    return run;
  }
  Generation begin(const GenerationOptions& options) {
    return Generation::make(model_, *tokenizer_, prompt(), options).value();
  }
  // The state is what its consumed tokens make of it.
  void expect_true_state(const Sequence& sequence) {
    ASSERT_TRUE(validate(sequence));
    State state = model_.initial_state();
    const auto consumed =
        std::span(sequence.tokens).first(sequence.tokens.size() - sequence.pending_tokens().size());
    if (!consumed.empty()) session_.prefill(consumed, state).value();
    EXPECT_TRUE(state == sequence.state);
  }

  Model model_ = tiny_model(spec(), DType::f32);
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
  Session session_{model_, executor_, {.chunk = 16, .max_verify = max_verify}};
};

INSTANTIATE_TEST_SUITE_P(Models, Drafts, testing::Values("mamba", "mamba2", "experts", "hybrid"),
                         [](const auto& model) { return std::string(model.param); });

TEST_P(Drafts, GiveTheTextOfThePlainRun) {
  for (const Case& c : cases()) {
    const Tokens text = endless(c.options);
    Sequence sequence = prompt();
    const GenerationResult expected = plain(sequence, c.options);
    for (const NamedDrafter& drafter : drafters) {
      SCOPED_TRACE(testing::Message() << c.name << ", " << drafter.name);
      Drafted run = drafted(begin(c.options), drafter.draft, text);
      const auto& result = std::as_const(run.generation).result();
      EXPECT_EQ(result.tokens, expected.tokens);
      EXPECT_EQ(result.text, expected.text);
      EXPECT_EQ(run.shown, expected.text);
      EXPECT_EQ(result.reason, expected.reason);
      EXPECT_EQ(run.generation.sequence().tokens, sequence.tokens);
      EXPECT_EQ(run.generation.sequence().unshown, sequence.unshown);
      expect_true_state(run.generation.sequence());
      if (c.options.stop_strings.empty()) {
        EXPECT_EQ(run.generation.sequence().pending, sequence.pending);
        EXPECT_TRUE(run.generation.sequence().state == sequence.state);
      }
      const Index count = std::ssize(expected.tokens);
      if (std::string_view(drafter.name) == "right") {
        EXPECT_LE(run.runs, 1 + (count + max_verify) / max_verify);
      } else if (std::string_view(drafter.name) == "wrong") {
        EXPECT_GE(run.runs, count);
      }
      // It goes on as the plain text does.
      Sequence more = sequence;
      more.append(Tokens{7, 8});
      const GenerationResult behind = plain(more, c.options);
      run.generation.resume(c.options.max_tokens, Tokens{7, 8}).value();
      Drafted rest = drafted(std::move(run.generation), drafter.draft, behind.tokens);
      EXPECT_EQ(std::as_const(rest.generation).result().tokens, behind.tokens);
      EXPECT_EQ(std::as_const(rest.generation).result().text, behind.text);
    }
  }
}

TEST_P(Drafts, TellWhatBecameText) {
  const GenerationOptions options{.max_tokens = 40, .sampler = {.seed = 9}};
  const Tokens text = endless(options);
  Generation one = begin(options);
  Generation* const pointer = &one;
  advance_all(session_, {&pointer, 1}).value();
  ASSERT_EQ(one.events().size(), 1U);
  Tokens draft = part(text, 1, 5);
  draft[3] ^= 1;
  one.propose(draft).value();
  EXPECT_TRUE(one.next().value().tentative);
  EXPECT_TRUE(one.next().value().logits == RunItem::Logits::all);
  EXPECT_EQ(one.next().value().tokens.size(), 6U);
  EXPECT_EQ(one.next(3).value().tokens.size(), 3U);
  EXPECT_FALSE(one.next(1).value().tentative);
  advance_all(session_, {&pointer, 1}).value();
  const auto events = one.events();
  ASSERT_EQ(events.size(), 4U) << "three that were right, and what stands where the fourth was not";
  EXPECT_EQ(one.kept(), 4);
  for (std::size_t i = 0; i < events.size(); ++i) {
    EXPECT_EQ(events[i].token, text[1 + i]);
    EXPECT_EQ(events[i].count, static_cast<Index>(2 + i));
  }
  const Generation copy = one;
  ASSERT_EQ(copy.events().size(), 4U);
  EXPECT_NE(copy.events()[1].text.data(), events[1].text.data()) << "of its own text";
  EXPECT_EQ(copy.events()[1].text, events[1].text);
  // What is not wanted any more is not run.
  one.propose(draft).value();
  one.withdraw();
  EXPECT_EQ(one.next().value().tokens.size(), 1U);
  EXPECT_TRUE(one.events().empty());
}

// A part of a draft, since no more fits into the run; and none of it.
TEST_P(Drafts, MayBeRunInPart) {
  const GenerationOptions options{.max_tokens = 40, .sampler = {.seed = 9}};
  const Tokens text = endless(options);
  for (const Index most : {1, 2, 5}) {
    Generation one = begin(options);
    while (!one.is_finished()) {
      const std::size_t at = one.result().tokens.size();
      if (one.sequence().pending == 1) one.propose(part(text, at, 20)).value();
      const RunItem item = one.next(at == 0 ? 16 : most).value();
      const RunOutput output = session_.run({&item, 1}).value();
      const auto events = one.accept(output.logits(0)).value();
      EXPECT_EQ(std::ssize(events),
                std::min<Index>(at == 0 ? 1 : most, 40 - static_cast<Index>(at)));
      if (item.tentative) session_.keep(one.kept(), one.state()).value();
    }
    one.finish();
    EXPECT_EQ(one.result().tokens, part(text, 0, 40));
    expect_true_state(one.sequence());
  }
}

// Copies before, with and behind a draft; in the prompt, finished, closed.
TEST_P(Drafts, AreCopied) {
  for (const Case& c : cases()) {
    const Tokens text = endless(c.options);
    Sequence sequence = prompt();
    const GenerationResult expected = plain(sequence, c.options);
    Generation original = begin(c.options);
    const auto expect_same = [&](Generation copy, int phase) {
      const Drafter& draft = drafters[static_cast<std::size_t>(phase) % 5].draft;
      const Drafted run = drafted(std::move(copy), draft, text);
      EXPECT_EQ(run.generation.result().tokens, expected.tokens);
      EXPECT_EQ(run.generation.result().text, expected.text);
      EXPECT_EQ(run.generation.result().reason, expected.reason);
      EXPECT_EQ(run.generation.sequence().tokens, sequence.tokens);
      expect_true_state(run.generation.sequence());
    };
    for (int phase = 0;; ++phase) {
      SCOPED_TRACE(testing::Message() << c.name << ", phase " << phase);
      expect_same(original, phase);
      if (original.is_finished()) break;
      if (original.sequence().pending == 1) {
        const std::size_t at = original.result().tokens.size();
        original.propose(drafters[phase % 2 == 0 ? 3 : 4].draft(text, at)).value();
        expect_same(original, phase + 1);
      }
      const RunItem item = original.next(phase < 2 ? 4 : max_verify).value();
      const RunOutput output = session_.run({&item, 1}).value();
      original.accept(output.logits(0)).value();
      if (item.tentative) session_.keep(original.kept(), original.state()).value();
    }
    original.finish();
    expect_same(original, 0);
  }
}

class DraftErrors : public Drafts {
 protected:
  template <class R>
  static void expect_refused(const R& result, std::string_view part) {
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::bad_argument);
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
  }
};

INSTANTIATE_TEST_SUITE_P(Models, DraftErrors, testing::Values("mamba", "hybrid"),
                         [](const auto& model) { return std::string(model.param); });

TEST_P(DraftErrors, ChangeNothing) {
  const GenerationOptions options{.max_tokens = 30, .sampler = {.seed = 2}};
  const Tokens text = endless(options);
  const Token rows = static_cast<Token>(model_.vocab_padded());
  Generation one = begin(options);
  Generation* const pointer = &one;
  expect_refused(one.propose(Tokens{1}), "one token is to be run next, found one of which 11 are");
  expect_refused(one.next(0), "[generate] next: expected at least 1 token, found 0");
  expect_refused(one.next(-5), "found -5");
  const RunItem half = one.next(4).value();
  session_.run({&half, 1}).value();
  expect_refused(one.propose(Tokens{1}), "found one of which 7 are");
  one.accept(MatrixView<const float>()).value();
  expect_refused(one.propose(Tokens{1}), "found one of which 7 are");
  advance_all(session_, {&pointer, 1}).value();

  expect_refused(one.propose({}), "[generate] draft: expected at least one token, found none");
  expect_refused(one.propose(Tokens{1, -1}), "[generate] draft: expected token ids from 0 to");
  expect_refused(one.propose(Tokens{rows}), std::to_string(rows));
  EXPECT_FALSE(one.next().value().tentative);
  one.propose(part(text, 1, 3)).value();
  expect_refused(one.propose(Tokens{-1}), "token ids");
  EXPECT_EQ(one.next().value().tokens.size(), 4U) << "the draft before is still there";

  // More than the session has room for: the run says so, and a shorter draft takes its place.
  one.propose(part(text, 1, max_verify)).value();
  expect_refused(advance_all(session_, {&pointer, 1}),
                 "at most 8 tentative tokens in all, found 9");
  one.propose(part(text, 1, 3)).value();

  const std::vector<float> logits(static_cast<std::size_t>(4 * model_.vocab_padded()), 0.0F);
  const auto of = [&](Index count, Index cols) {
    return MatrixView<const float>(logits.data(), count, cols);
  };
  expect_refused(one.accept(of(4, rows)), "consumed 1 to 4 tokens more, found 0");
  const RunItem item = one.next().value();
  const RunOutput output = session_.run({&item, 1}).value();
  expect_refused(one.next(), "by accept and keep");
  expect_refused(one.propose(Tokens{1}), "waits for accept and keep");
  expect_refused(one.accept(of(3, rows)), "[generate] logits: expected at least 4 rows, found 3");
  expect_refused(one.accept(of(4, 5)), "[generate] logits: expected at least 61, found 5");
  EXPECT_EQ(one.kept(), 0);
  EXPECT_EQ(one.accept(output.logits(0)).value().size(), 4U);
  session_.keep(one.kept(), one.state()).value();

  // Not kept: the generation waits for it.
  one.propose(Tokens{text[5], (text[6] + 1) % 61, 3}).value();
  const RunItem wrong = one.next().value();
  const RunOutput rest = session_.run({&wrong, 1}).value();
  one.accept(rest.logits(0)).value();
  EXPECT_EQ(one.kept(), 2);
  expect_refused(one.next(), "expected one that has consumed 17 tokens, by accept and keep");
  expect_refused(one.propose(Tokens{1}), "waits for accept and keep");
  expect_refused(one.accept(rest.logits(0)), "state");
  session_.keep(one.kept(), one.state()).value();
  expect_refused(one.accept(rest.logits(0)), "found 0");

  while (!one.is_finished()) advance_all(session_, {&pointer, 1}).value();
  EXPECT_EQ(one.result().tokens, part(text, 0, 30));
  expect_refused(one.propose(Tokens{1}), "expected one that goes on, found one that is finished");
  expect_refused(one.accept(of(1, rows)), "finished");
}

// A state that no one keeps is lost, and nothing takes it for another.
TEST_P(DraftErrors, AStateThatWasNotKeptIsLost) {
  GenerationOptions options{.max_tokens = 30, .sampler = {.seed = 2}};
  const Tokens text = endless(options);
  Tokens draft = part(text, 1, 4);
  draft[2] ^= 1;
  for (const bool has_stops : {false, true}) {
    if (has_stops) options.stop_strings = {"\xff\xff"};
    for (const bool is_accepted : {false, true}) {
      SCOPED_TRACE(testing::Message() << has_stops << is_accepted);
      const auto run = [&](Generation& one) {
        Generation* const pointer = &one;
        advance_all(session_, {&pointer, 1}).value();
        one.propose(draft).value();
        const RunItem item = one.next().value();
        const RunOutput output = session_.run({&item, 1}).value();
        if (is_accepted) one.accept(output.logits(0)).value();
      };
      Generation one = begin(options);
      run(one);
      Sequence lost = one.release();
      EXPECT_EQ(lost.tokens.size(), is_accepted ? 15U : 12U);
      if (has_stops) {
        expect_true_state(lost);
      } else {
        EXPECT_FALSE(validate(lost));
      }
      one = begin(options);
      run(one);
      one.finish();
      if (has_stops) {
        expect_true_state(one.sequence());
        one.resume(5).value();
      } else {
        expect_refused(one.resume(5), "tokens pending");
        // Better late than never.
        session_.keep(one.kept(), one.state()).value();
        one.resume(5).value();
        expect_true_state(one.sequence());
      }
      const Tokens before = part(text, 0, is_accepted ? 4 : 1);
      const Drafted rest = drafted(std::move(one), drafters[2].draft, text);
      EXPECT_EQ(rest.generation.result().tokens, part(text, before.size(), 5));
    }
  }
}

#if KRAIT_HAS_EXCEPTIONS
// A constraint that throws in the middle of a draft: what was sampled is there, and goes on.
TEST_P(DraftErrors, AConstraintMayThrow) {
  class Throws final : public Constraint {
   public:
    std::unique_ptr<Constraint> clone() const override { return std::make_unique<Throws>(*this); }
    void restrict_to(TokenMask& /*mask*/) const override {
      if (count_ == 4) throw std::runtime_error("mask");
    }
    void accept(Token /*token*/) override { ++count_; }

   private:
    int count_ = 0;
  };
  GenerationOptions options{.max_tokens = 30, .sampler = {.seed = 2}};
  const Tokens text = endless(options);
  Session session(model_, executor_, {.max_verify = 16, .max_verify_batch = 3});
  Generation others[] = {begin(options), begin(options)};
  options.constraint = std::make_shared<const Throws>();
  Generation one = begin(options);
  Generation* const all[] = {&others[0], &one, &others[1]};
  advance_all(session, all).value();
  for (Generation* const each : all) each->propose(part(text, 1, 4)).value();
  EXPECT_THROW(static_cast<void>(advance_all(session, all)), std::runtime_error);
  std::size_t i = 0;
  for (const std::size_t count : {6U, 4U, 6U}) {
    Sequence sequence = all[i++]->release();
    EXPECT_EQ(sequence.pending, 1);
    expect_true_state(sequence);
    ASSERT_EQ(sequence.tokens.size(), 11 + count);
    const GenerationResult rest =
        plain(sequence, {.max_tokens = static_cast<Index>(30 - count), .sampler = {.seed = 2}});
    EXPECT_EQ(rest.tokens, part(text, count, 30 - count));
  }
}
#endif

}  // namespace
}  // namespace krait::drafts_test
