// Memory that runs out anywhere: an exception or an error, nothing lost, and what was there before
// is as it was. This program replaces operator new.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>

#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/state_io.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/loading/language_model.hpp"
#include "tests/support/replaced_new.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"
#include "tests/text/small_tokenizer.hpp"

namespace {

std::atomic<long> live{0};
std::atomic<long> left{-1};  // allocations until one fails; below 0: none does

}  // namespace

namespace krait::test {
void before_allocation(std::size_t /*size*/) {
  if (left.load() >= 0 && left.fetch_sub(1) == 0) throw std::bad_alloc();
}
void after_allocation(void* /*memory*/) noexcept { live.fetch_add(1); }
void before_release(void* /*memory*/) noexcept { live.fetch_sub(1); }
}  // namespace krait::test

namespace krait::memory_test {
namespace {

using test::random_tokens;
using test::tiny_model;

// Runs `body` with every allocation failing in turn, until it is through.
template <class Body>
void fail_everywhere(Body&& body) {
  body();  // what is made once and kept
  long failures = 0;
  for (long n = 0;; ++n) {
    const long before = live.load();
    left.store(n);
    bool is_through = false;
    try {
      body();
      is_through = left.load() >= 0;
    } catch (const std::bad_alloc&) {
      ++failures;
    }
    left.store(-1);
    ASSERT_EQ(live.load(), before) << "after allocation " << n << " failed";
    if (is_through) break;
    ASSERT_LT(n, 20000);
  }
  EXPECT_GT(failures, 0);
}

class Memory : public testing::Test {
 protected:
  Model model_ = tiny_model();
  std::shared_ptr<const Tokenizer> tokenizer_ = byte_tokenizer();
  SerialExecutor executor_;
};

TEST_F(Memory, RunsOutWhileAModelIsBuilt) {
  fail_everywhere([] { tiny_model(); });
}

TEST_F(Memory, RunsOutWhileASessionIsMade) {
  fail_everywhere([&] { const Session session(model_, executor_); });
}

TEST_F(Memory, RunsOutWhileTextIsGenerated) {
  Session session(model_, executor_);
  const Sequence prompt(model_, random_tokens(20, model_.vocab(), 1));
  const GenerationOptions options{
      .max_tokens = 100, .sampler = {.top_k = 5, .seed = 5}, .stop_strings = {"\x01\x02\x03"}};
  Sequence expected = prompt;
  generate(session, *tokenizer_, expected, options).value();
  fail_everywhere([&] {
    Sequence text = prompt;
    try {
      static_cast<void>(generate(session, *tokenizer_, text, options));
    } catch (const std::bad_alloc&) {
      // What there is goes on to the same text.
      left.store(-1);
      const Index missing = std::ssize(expected.tokens) - std::ssize(text.tokens);
      if (missing > 0 && text.pending > 0) {
        GenerationOptions rest = options;
        rest.max_tokens = missing;
        generate(session, *tokenizer_, text, rest).value();
      }
      EXPECT_EQ(text.tokens, expected.tokens);
      EXPECT_TRUE(text.state == expected.state);
      throw;
    }
  });
}

// A copy that cannot be made leaves the original as it was; a text that cannot be taken up, too.
TEST_F(Memory, RunsOutWhileAGenerationIsCopied) {
  Session session(model_, executor_);
  const GenerationOptions options{.max_tokens = 12,
                                  .sampler = {.frequency_penalty = 0.1, .seed = 5},
                                  .stop_strings = {"\x01\x02\x03"}};
  const auto run = [&](Generation& generation, int steps) {
    for (; !generation.is_finished() && steps > 0; --steps) {
      const RunItem step = generation.next(8).value();
      const auto logits = session.prefill(step.tokens, generation.state()).value();
      static_cast<void>(generation.accept(logits).value());
    }
  };
  const auto begin = [&] {
    return Generation::make(model_, *tokenizer_,
                            Sequence(model_, random_tokens(20, model_.vocab(), 1)), options)
        .value();
  };
  Generation expected = begin();
  run(expected, 100);
  for (const int steps : {0, 1, 5, 100}) {
    Generation original = begin();
    run(original, steps);
    fail_everywhere([&] {
      Generation copy = original;
      run(copy, 100);
      EXPECT_EQ(copy.result().tokens, expected.result().tokens);
    });
    run(original, 100);
    EXPECT_EQ(original.result().tokens, expected.result().tokens);
    EXPECT_TRUE(original.sequence().state == expected.sequence().state);
  }
  expected.finish();
  fail_everywhere([&] {
    Generation copy = expected;
    copy.resume(5, std::vector<Token>{1, 2}).value();
    run(copy, 100);
    EXPECT_EQ(copy.result().tokens.size(), 5U);
  });
}

// What was sampled of drafts is there, and goes on to the same text; the states are those of it.
TEST_F(Memory, RunsOutWhileDraftsAreRun) {
  Session session(model_, executor_, {.max_verify = 16, .max_verify_batch = 2});
  const Sequence prompts[] = {{model_, random_tokens(20, model_.vocab(), 1)},
                              {model_, random_tokens(3, model_.vocab(), 2)}};
  GenerationOptions options[] = {{.max_tokens = 40, .sampler = {.top_k = 9, .seed = 5}},
                                 {.max_tokens = 40, .sampler = {.seed = 6}}};
  options[1].stop_strings = {"\x01\x02\x03"};
  std::vector<Token> expected[2];
  for (std::size_t i = 0; i < 2; ++i) {
    Sequence text = prompts[i];
    generate(session, *tokenizer_, text, options[i]).value();
    expected[i] = text.tokens;
  }
  const auto run = [&](std::vector<Generation>& texts) {
    Generation* const both[] = {&texts[0], &texts[1]};
    while (!std::ranges::all_of(texts, &Generation::is_finished)) {
      for (std::size_t i = 0; i < 2; ++i) {
        const std::size_t at = texts[i].sequence().tokens.size();
        if (texts[i].is_finished() || texts[i].sequence().pending != 1) continue;
        const auto rest = std::span(expected[i]).subspan(at);
        if (rest.empty()) continue;
        // Right to begin with, wrong in the end.
        std::vector<Token> draft(8, 1);
        std::ranges::copy(rest.first(std::min<std::size_t>(rest.size(), at % 8)), draft.begin());
        draft.resize(at % 7 + 1);
        texts[i].propose(draft).value();
      }
      advance_all(session, both).value();
    }
  };
  fail_everywhere([&] {
    std::vector<Generation> texts;
    try {
      texts.reserve(2);
      for (std::size_t i = 0; i < 2; ++i) {
        texts.push_back(
            Generation::make(model_, *tokenizer_, Sequence(prompts[i]), options[i]).value());
      }
      run(texts);
    } catch (const std::bad_alloc&) {
      left.store(-1);
      for (std::size_t i = 0; i < texts.size(); ++i) {
        Sequence text = texts[i].release();
        EXPECT_TRUE(validate(text));
        const Index missing = std::ssize(expected[i]) - std::ssize(text.tokens);
        if (missing > 0 && text.pending > 0) {
          GenerationOptions rest = options[i];
          rest.max_tokens = missing;
          generate(session, *tokenizer_, text, rest).value();
        }
        EXPECT_EQ(text.tokens, expected[i]);
      }
      throw;
    }
  });
}

// The files of a checkpoint. Mapping the weights takes memory of the system, not of this program.
TEST_F(Memory, RunsOutWhileACheckpointIsLoaded) {
  for (const char* name : {"hf_f32", "hf_sharded"}) {
    const test::TemporaryDirectory folder;
    const std::string path = folder.path().string();
    std::filesystem::copy(test::data_dir() / "golden" / name, folder.path());
    test::write_file(path + "/tokenizer.json", test::small_tokenizer().dump());
    test::write_file(path + "/tokenizer_config.json",
                     R"({"added_tokens_decoder": {"1": {"content": "a", "extra": [1, [2, {}]]}}})");
    fail_everywhere([&] { static_cast<void>(load_language_model(path)); });
    EXPECT_TRUE(load_language_model(path)) << name;
  }
}

TEST_F(Memory, RunsOutWhileAFileIsRefused) {
  const test::TemporaryDirectory folder;
  const std::string path = folder.path().string() + "/bad.safetensors";
  const std::string header = R"({"a": {"b": [[1, 2], {"c": {}}, "long enough to be allocated"]}, )";
  for (const std::string& text : {header + "x}", header + R"("a": 1})"}) {
    std::string length(8, '\0');
    length[0] = static_cast<char>(text.size());
    test::write_file(path, length + text);
    fail_everywhere([&] {
      WeightStore store;
      EXPECT_FALSE(read_safetensors(open_file(path, WeightsMode::copy).value(), store));
    });
  }
}

TEST_F(Memory, RunsOutWhileAStateIsSavedAndLoaded) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "state").string();
  const Sequence sequence(model_, random_tokens(20, model_.vocab(), 1));
  save_state(sequence, path).value();
  const std::string expected = test::read_file(path);
  fail_everywhere([&] { static_cast<void>(save_state(sequence, path)); });
  // Whether the last ones failed or not: a whole file, and nothing beside it.
  EXPECT_EQ(test::read_file(path), expected);
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(folder.path()), {}), 1);
  fail_everywhere([&] { static_cast<void>(load_state(model_, path)); });
}

}  // namespace
}  // namespace krait::memory_test
