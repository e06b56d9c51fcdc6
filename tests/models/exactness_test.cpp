// The promise: the same bits for any chunking, batch, number of threads and instruction set, after
// copying, saving and loading.

#include <gtest/gtest.h>

#include <cfenv>
#include <map>

#include "krait/core/cpu.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/models/registry.hpp"
#include "krait/models/state_io.hpp"
#include "tests/support/digest.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/tiny_models.hpp"

#if defined(__SSE2__)
#  include <xmmintrin.h>
#endif

namespace krait {
namespace {

using test::all_logits;
using test::random_tokens;
using test::same_bits;
using test::tiny_model;

struct Outcome {
  std::vector<float> logits;
  State state;
};

Outcome run_chunked(const Model& model, Executor& executor, std::span<const Token> tokens,
                    Index chunk) {
  Session session(model, executor, {.chunk = chunk, .max_batch = 1});
  Outcome run{{}, model.initial_state()};
  run.logits = all_logits(session, tokens, run.state);
  return run;
}

TEST(Exactness, ChunksThreadsAndInstructionSetsChangeNoBit) {
  const auto tokens = random_tokens(97, 61, 5);
  for (const DType dtype : {DType::f32, DType::bf16, DType::f16}) {
    const Model model = tiny_model(dtype);
    SerialExecutor serial;
    const Outcome expected = run_chunked(model, serial, tokens, 97);
    test::for_each_isa([&](Isa isa) {
      for (const int threads : {1, 2, 3, 8}) {
        if (isa == Isa::scalar && threads == 3) continue;  // slow, and no other path
        ThreadPool pool(threads);
        for (const Index chunk : {1, 2, 3, 5, 8, 64, 97}) {
          const Outcome actual = run_chunked(model, pool, tokens, chunk);
          ASSERT_TRUE(same_bits<float>(expected.logits, actual.logits))
              << to_string(dtype) << ' ' << to_string(isa) << " threads " << threads << " chunk "
              << chunk;
          ASSERT_TRUE(expected.state == actual.state);
        }
      }
    });
  }
}

TEST(Exactness, StepsEqualThePrompt) {
  const Model model = tiny_model();
  SerialExecutor executor;
  const auto tokens = random_tokens(40, 61, 6);
  const Outcome whole = run_chunked(model, executor, tokens, 40);
  Session session(model, executor);
  State state = model.initial_state();
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const auto logits = session.step(tokens[t], state);
    const auto expected = std::span(whole.logits).subspan(t * 64, 64);
    ASSERT_TRUE(same_bits<float>(expected, logits)) << t;
  }
  EXPECT_TRUE(state == whole.state);
  EXPECT_EQ(state.position(), 40);
}

TEST(Exactness, BatchesEqualSinglesForAnyMix) {
  const Model model = tiny_model();
  ThreadPool pool(2);
  Session session(model, pool, {.max_batch = 8});
  for (const Index users : {1, 2, 3, 8}) {
    std::vector<State> together;
    std::vector<State> alone;
    for (Index i = 0; i < users; ++i) {
      State state = model.initial_state();
      session.prefill(random_tokens(3 + 2 * i, 61, static_cast<std::uint64_t>(i)), state);
      together.push_back(state);
      alone.push_back(state);
    }
    std::vector<State*> states;
    for (State& state : together) states.push_back(&state);
    for (int round = 0; round < 5; ++round) {
      const auto tokens = random_tokens(users, 61, 100 + static_cast<std::uint64_t>(round));
      const MatrixView<const float> batch = session.step_batch(tokens, states);
      std::vector<std::vector<float>> rows;
      for (Index i = 0; i < users; ++i) rows.emplace_back(batch.row(i).begin(), batch.row(i).end());
      for (Index i = 0; i < users; ++i) {
        const auto at = static_cast<std::size_t>(i);
        const auto single = session.step(tokens[at], alone[at]);
        ASSERT_TRUE(same_bits<float>(rows[at], single)) << users << ' ' << i;
        ASSERT_TRUE(together[at] == alone[at]);
      }
    }
  }
}

TEST(Exactness, CopiesForksAndFilesKeepEveryBit) {
  const Model model = tiny_model();
  SerialExecutor executor;
  Session session(model, executor);
  const auto tokens = random_tokens(30, 61, 7);
  State state = model.initial_state();
  session.prefill(tokens, state);

  State fork = state;
  State copied = model.initial_state();
  copied.copy_from(state);
  const test::TemporaryDirectory directory;
  const std::string path = (directory.path() / "state.safetensors").string();
  save_state(state, path).value();
  State loaded = load_state(model, path).value().state;
  ASSERT_TRUE(loaded == state);

  const auto more = random_tokens(10, 61, 8);
  const std::vector<float> expected = all_logits(session, more, state);
  for (State* other : {&fork, &copied, &loaded}) {
    EXPECT_FALSE(*other == state);
    EXPECT_TRUE(same_bits<float>(expected, all_logits(session, more, *other)));
    EXPECT_TRUE(*other == state);
  }
}

#if defined(__SSE2__)
TEST(Exactness, TheCallersControlWordChangesNothingAndStays) {
  const Model model = tiny_model();
  ThreadPool pool(2);
  const auto tokens = random_tokens(20, 61, 9);
  const Outcome expected = run_chunked(model, pool, tokens, 7);
  const unsigned before = _mm_getcsr();
  const unsigned odd = before | 0x8040U | 0x6000U;  // flush to zero, denormals are zero, truncate
  _mm_setcsr(odd);
  const Outcome actual = run_chunked(model, pool, tokens, 7);
  const unsigned after = _mm_getcsr();
  _mm_setcsr(before);
  EXPECT_EQ(after, odd);
  EXPECT_TRUE(same_bits<float>(expected.logits, actual.logits));
  EXPECT_TRUE(expected.state == actual.state);
}
#endif

// Two machines that disagree fail here: SHA-256 over the logits and the state.
TEST(Exactness, TheStoredDigestsHoldOnEveryInstructionSet) {
  const std::map<std::string, std::string> digests = test::read_digests();
  test::for_each_isa([&](Isa isa) {
    for (const char* name : {"hf_f32", "hf_bf16", "hf_dt_rank", "orig_layernorm"}) {
      const Model model = load_model((test::data_dir() / "golden" / name).string()).value();
      SerialExecutor executor;
      const Outcome run = run_chunked(model, executor, random_tokens(50, model.vocab(), 1), 8);
      test::Sha256 digest;
      digest.add(std::as_bytes(std::span(run.logits)));
      digest.add(std::as_bytes(run.state.block()));
      const auto stored = digests.find(name);
      EXPECT_EQ(digest.hex(), stored == digests.end() ? "" : stored->second)
          << name << ' ' << to_string(isa);
    }
  });
}

}  // namespace
}  // namespace krait
