// Texts under noise: which passes are noised, whatever runs them, and in states that were saved.
#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/state_io.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::drugs_generation_test {
namespace {

using test::random_tokens;
using test::tiny_model;
using Tokens = std::vector<Token>;

class DrugTexts : public testing::TestWithParam<std::tuple<ModelSpec (*)(), const char*>> {
 protected:
  DrugTexts() : model(tiny_model(std::get<0>(GetParam())(), DType::f32)) {
    plan.doses = parse_doses("A:theta=1.2;H:theta=0.8;O:theta=0.9").value();
    plan.seed = 99;
    parse_drug_state(std::get<1>(GetParam()), plan).value();
    options.drugs = std::make_shared<Drugs>(Drugs::make(plan, model).value());
    options.max_tokens = 24;
    options.sampler = {.temperature = 1.0, .seed = 4};
  }

  // The definition: passes of the prompt without noise, those of what was sampled with it.
  Tokens slow_text(Index count, std::uint32_t sequence = 0) const {
    SamplerOptions sampling = options.sampler;
    sampling.sequence = sequence;
    Sampler sampler = Sampler::make(sampling, model.vocab()).value();
    DrugHook hook(options.drugs, sequence);
    SerialExecutor serial;
    Session sober(model, serial);
    Session noised(model, serial, {.hook = &hook});
    State clean = model.initial_state();
    sampler.observe(prompt);
    auto logits = sober.prefill(prompt, clean).value();
    State state = clean;
    Tokens text;
    Index passes = 0;
    for (Index i = 0; i < count; ++i) {
      const Token token = sampler.sample(logits, std::ssize(prompt) + i);
      text.push_back(token);
      sampler.observe({&token, 1});
      if (plan.state == DrugState::clean ||
          (plan.state == DrugState::shower && passes == plan.shower)) {
        state = clean;
        passes = 0;
      }
      sober.step(token, clean).value();
      logits = noised.step(token, state).value();
      ++passes;
    }
    return text;
  }

  Tokens fast_text(Sequence& sequence, Index count) {
    options.max_tokens = count;
    return generate(session, *tokenizer, sequence, options).value().tokens;
  }

  std::shared_ptr<const Tokenizer> tokenizer = byte_tokenizer();
  Model model;
  SerialExecutor executor;
  Session session{model, executor, {.max_verify = 8, .max_verify_batch = 4}};
  DrugPlan plan;
  GenerationOptions options;
  Tokens prompt = random_tokens(5, 61, 8);
};

TEST_P(DrugTexts, AreThoseOfTheDefinition) {
  const Tokens expected = slow_text(24);
  Sequence sequence(model, prompt);
  EXPECT_EQ(fast_text(sequence, 24), expected);
  options.drugs = nullptr;
  Sequence plain(model, prompt);
  const Tokens sober = fast_text(plain, 24);
  EXPECT_NE(sober, expected);
  EXPECT_EQ(sober.front(), expected.front()) << "the first token is sober";
}

TEST_P(DrugTexts, GoOnFromFiles) {
  const Tokens expected = slow_text(24);
  std::string name = testing::UnitTest::GetInstance()->current_test_info()->name();
  std::ranges::replace(name, '/', '-');
  const auto path = std::filesystem::temp_directory_path() /
                    ("krait-drugs-" + std::to_string(::getpid()) + '-' + name);
  for (const Index cut : {1, 2, 3, 4, 5, 9, 13}) {
    Sequence sequence(model, prompt);
    Tokens text = fast_text(sequence, cut);
    save_state(sequence, path.string()).value();
    Sequence again = load_state(model, path.string()).value();
    EXPECT_TRUE(again.is_sampled(std::ssize(again.tokens) - 1));
    EXPECT_EQ(again.noised, sequence.noised);
    const Tokens rest = fast_text(again, 24 - cut);
    text.insert(text.end(), rest.begin(), rest.end());
    EXPECT_EQ(text, expected) << cut;
  }
  std::filesystem::remove(path);
}

TEST_P(DrugTexts, AreTheSameWithDrafts) {
  const Tokens expected = slow_text(24);
  // Right and wrong guesses of several lengths.
  for (const std::size_t length : {1U, 3U, 7U}) {
    for (const std::size_t wrong : {0U, 2U, 5U}) {
      options.max_tokens = 24;
      auto text = Generation::make(model, *tokenizer, Sequence(model, prompt), options).value();
      Generation* const pointer = &text;
      while (!text.is_finished()) {
        const std::size_t known = text.result().tokens.size();
        if (known > 0 && known < expected.size()) {
          Tokens draft(expected.begin() + static_cast<std::ptrdiff_t>(known),
                       expected.begin() +
                           static_cast<std::ptrdiff_t>(std::min(known + length, expected.size())));
          if (wrong > 0 && draft.size() >= wrong) draft[wrong - 1] = (draft[wrong - 1] + 1) % 61;
          static_cast<void>(text.propose(draft));
        }
        advance_all(session, {&pointer, 1}).value();
      }
      EXPECT_EQ(text.result().tokens, expected) << length << ' ' << wrong;
    }
  }
}

TEST_P(DrugTexts, AreTheSameInCompany) {
  std::vector<Generation> texts;
  options.max_tokens = 16;
  for (std::uint32_t k = 0; k < 3; ++k) {
    options.sampler.sequence = k;
    texts.push_back(Generation::make(model, *tokenizer, Sequence(model, prompt), options).value());
  }
  std::vector<Generation*> pointers;
  for (Generation& text : texts) pointers.push_back(&text);
  while (!std::ranges::all_of(texts, &Generation::is_finished)) {
    advance_all(session, pointers).value();
  }
  for (std::uint32_t k = 0; k < 3; ++k) {
    EXPECT_EQ(texts[k].result().tokens, slow_text(16, k)) << k;
  }
}

// What a stop string may take back runs again, as it ran before.
TEST_P(DrugTexts, WaitForStopStringsAndGoOn) {
  const Tokens expected = slow_text(24);
  std::string stop;  // never completed, but begun by every token
  for (const Token token : expected) stop += std::string(tokenizer->bytes(token));
  stop += "\x7F!";
  options.stop_strings = {stop};
  for (const Index cut : {1, 4, 7, 12}) {
    Sequence sequence(model, prompt);
    Tokens text = fast_text(sequence, cut);
    EXPECT_GT(sequence.pending, cut) << "all of it waits, and a token in front";
    const Tokens rest = fast_text(sequence, 24 - cut);
    text.insert(text.end(), rest.begin(), rest.end());
    EXPECT_EQ(text, expected) << cut;
  }
}

INSTANTIATE_TEST_SUITE_P(Policies, DrugTexts,
                         testing::Combine(testing::Values([] { return test::tiny_spec(); },
                                                          [] { return test::tiny_mamba2_spec(); },
                                                          [] { return test::tiny_hybrid_spec(); }),
                                          testing::Values("clean", "carry", "shower(1)",
                                                          "shower(4)")));

}  // namespace
}  // namespace krait::drugs_generation_test
