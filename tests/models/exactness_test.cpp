// The promise: the same bits for any chunking, batch, verification, number of threads and
// instruction set, in every form of the weights, after copying, saving and loading.

#include <gtest/gtest.h>

#include <algorithm>
#include <initializer_list>
#include <map>
#include <ostream>

#include "krait/core/cpu.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/decoding/state_io.hpp"
#include "krait/loading/registry.hpp"
#include "tests/support/backwards_executor.hpp"
#include "tests/support/control_word.hpp"
#include "tests/support/digest.hpp"
#include "tests/support/eager_thread_pool.hpp"
#include "tests/support/kernel_support.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::exactness_test {
namespace {

using test::all_logits;
using test::random_tokens;
using test::same_bits;

WeightStore dense_weights(const ModelSpec& spec, DType dtype) {
  return random_weights(spec, 11, "backbone", dtype).value();
}

// How the weights are stored, held and multiplied with. A new form is a new line here and in
// golden/digests.txt.
struct Form {
  const char* name;
  DType stored;
  WeightOptions options;
  WeightStore (*weights)(const ModelSpec&, DType stored) = dense_weights;

  friend void PrintTo(const Form& form, std::ostream* out) { *out << form.name; }
};

const Form forms[] = {
    {"f32", DType::f32, {}},
    {"f16", DType::f16, {}},
    {"bf16", DType::bf16, {}},
    {"f32_as_f16", DType::f32, {.form = "f16"}},
    {"f32_as_bf16", DType::f32, {.form = "bf16"}},
    {"f32_as_q8", DType::f32, {.form = "q8"}},
    {"f32_as_q4", DType::f32, {.form = "q4"}},
    {"bf16_as_f32", DType::bf16, {.form = "f32"}},
    {"bf16_in_bf16", DType::bf16, {.compute = Compute::bf16}},
};

// Matrices of low rank, as random models have them.
const Form factored_forms[] = {
    {"low_rank_f32", DType::f32, {}, test::factored_weights},
    {"low_rank_bf16", DType::bf16, {}, test::factored_weights},
    {"low_rank_f32_as_q8", DType::f32, {.form = "q8"}, test::factored_weights},
    {"low_rank_f32_as_q4", DType::f32, {.form = "q4"}, test::factored_weights},
};

// How stacks with attention keep keys and values.
const Form cache_forms[] = {
    {"kv_f16", DType::f32, {.kv_dtype = DType::f16}},
    {"kv_bf16", DType::f32, {.kv_dtype = DType::bf16}},
};

template <Index codebooks, int bits, Index in_group, Index out_group = 1>
WeightStore aqlm_weights(const ModelSpec& spec, DType /*stored*/) {
  return test::aqlm_weights(
      spec, {.codebooks = codebooks, .bits = bits, .in_group = in_group, .out_group = out_group});
}

// Sums of codewords, by tables and decoded, in every matrix; and formats of GGUF, one for rows of
// 256 numbers, one for shorter ones.
const Form coded_forms[] = {
    {"aqlm_4x4g8", DType::f32, {}, aqlm_weights<4, 4, 8>},
    {"aqlm_8x4g16", DType::f32, {}, aqlm_weights<8, 4, 16>},
    {"aqlm_1x8g8", DType::f32, {}, aqlm_weights<1, 8, 8>},
    {"aqlm_2x8g8", DType::f32, {}, aqlm_weights<2, 8, 8>},
    {"aqlm_1x12g8h2", DType::f32, {}, aqlm_weights<1, 12, 8, 2>},
    {"aqlm_4x4g8_exact", DType::f32, {.form = "aqlm-exact"}, aqlm_weights<4, 4, 8>},
    {"gguf_q4_1_q4_k",
     DType::f32,
     {},
     [](const ModelSpec& spec, DType) { return test::gguf_weights(spec, "q4_1", "q4_k"); }},
    {"gguf_q5_0_q6_k",
     DType::f32,
     {},
     [](const ModelSpec& spec, DType) { return test::gguf_weights(spec, "q5_0", "q6_k"); }},
};
constexpr test::TinyStack coded_stack = {"wide", test::tiny_wide_spec};

struct Case {
  test::TinyStack architecture;
  Form form;

  std::string name() const { return std::string(architecture.name) + "_" + form.name; }
  friend void PrintTo(const Case& c, std::ostream* out) { *out << c.name(); }
};

std::vector<Case> all_cases() {
  std::vector<Case> cases;
  for (const test::TinyStack& architecture : test::tiny_stacks) {
    for (const Form& form : forms) cases.push_back({architecture, form});
    for (const Form& form : factored_forms) cases.push_back({architecture, form});
    if (plan_model(architecture.spec()).value().cache_bytes_per_token == 0) continue;
    for (const Form& form : cache_forms) cases.push_back({architecture, form});
  }
  for (const Form& form : coded_forms) cases.push_back({coded_stack, form});
  return cases;
}

constexpr Index text_length = 97;

// A text, and what single steps give on one thread without vectors: the logits after every token
// and the state before each and after the last.
class Exactness : public testing::TestWithParam<Case> {
 protected:
  Exactness() {
    const test::IsaGuard guard;
    EXPECT_TRUE(force_isa(Isa::scalar));
    SerialExecutor serial;
    Session session(model_, serial);
    State state = model_.initial_state();
    states_.push_back(state);
    for (const Token token : text_) {
      const auto logits = session.step(token, state).value();
      logits_.insert(logits_.end(), logits.begin(), logits.end());
      states_.push_back(state);
    }
  }

  // Logits after the tokens [first, first + count).
  std::span<const float> logits(Index first, Index count) const {
    const Index vocab = model_.vocab_padded();
    return std::span(logits_).subspan(static_cast<std::size_t>(first * vocab),
                                      static_cast<std::size_t>(count * vocab));
  }
  const State& state(Index position) const { return states_[static_cast<std::size_t>(position)]; }
  std::span<const Token> text(Index first, Index count) const {
    return std::span(text_).subspan(static_cast<std::size_t>(first),
                                    static_cast<std::size_t>(count));
  }

  // Calls body(executor) for every instruction set of this machine, with work in 1 to 8 shares: on
  // threads, and one after another in the wrong order.
  template <class Body>
  void for_each_way_to_run(Body body) const {
    test::for_each_isa([&](Isa isa) {
      SerialExecutor one;
      test::EagerThreadPool two(2);
      test::BackwardsExecutor three(3);
      test::BackwardsExecutor four(4);
      test::BackwardsExecutor eight(8);
      for (Executor* executor :
           std::initializer_list<Executor*>{&one, &two, &three, &four, &eight}) {
        SCOPED_TRACE(testing::Message() << executor->width() << " threads");
        if (isa == Isa::scalar && executor->width() != 3) continue;  // slow, and no other path
        body(*executor);
        if (HasFatalFailure()) return;
      }
    });
  }

  Model model_ = test::with_memory_for_every_isa([] {
    const auto& [architecture, form] = GetParam();
    const ModelSpec spec = architecture.spec();
    return build_model(spec, form.weights(spec, form.stored), "backbone", form.options).value();
  });
  std::vector<Token> text_ = random_tokens(text_length, 61, 5);
  std::vector<float> logits_;  // [text, vocab_padded]
  std::vector<State> states_;  // after 0, 1, … all tokens
};

INSTANTIATE_TEST_SUITE_P(Forms, Exactness, testing::ValuesIn(all_cases()),
                         [](const auto& test) { return test.param.name(); });

TEST_P(Exactness, ChunksChangeNoBit) {
  for_each_way_to_run([&](Executor& executor) {
    for (const Index chunk :
         {Index{1}, Index{2}, Index{3}, Index{5}, Index{8}, Index{64}, text_length}) {
      SCOPED_TRACE(testing::Message() << "chunk " << chunk);
      Session session(model_, executor, {.chunk = chunk, .max_batch = 1, .max_verify = 0});
      State own = model_.initial_state();
      ASSERT_TRUE(same_bits<float>(logits(0, text_length), all_logits(session, text_, own)));
      ASSERT_TRUE(own == states_.back());
    }
  });
}

// The same text in several states of progress, side by side.
TEST_P(Exactness, BatchesChangeNoBit) {
  for_each_way_to_run([&](Executor& executor) {
    Session session(model_, executor, {.max_batch = 8});
    for (const std::size_t users : {1U, 2U, 3U, 8U}) {
      SCOPED_TRACE(testing::Message() << users << " users");
      std::vector<State> own;
      for (std::size_t i = 0; i < users; ++i) own.push_back(state(static_cast<Index>(29 * i % 80)));
      std::vector<State*> pointers;
      for (State& s : own) pointers.push_back(&s);
      for (int round = 0; round < 4; ++round) {
        std::vector<Token> tokens;
        for (const State& s : own) tokens.push_back(text(s.position(), 1).front());
        const MatrixView<const float> rows = session.step_batch(tokens, pointers).value();
        for (std::size_t i = 0; i < users; ++i) {
          ASSERT_TRUE(
              same_bits<float>(logits(own[i].position() - 1, 1), rows.row(static_cast<Index>(i))));
          ASSERT_TRUE(own[i] == state(own[i].position()));
        }
      }
    }
  });
}

// Through the text in verifications of one width, each keeping another part of it.
TEST_P(Exactness, VerificationsChangeNoBit) {
  for_each_way_to_run([&](Executor& executor) {
    Session session(model_, executor, {.max_batch = 1});
    for (Index width = 1; width <= 8; ++width) {
      SCOPED_TRACE(testing::Message() << "width " << width);
      State own = model_.initial_state();
      for (Index round = 0; own.position() + width <= text_length; ++round) {
        const Index position = own.position();
        const MatrixView<const float> rows = session.verify(text(position, width), own).value();
        ASSERT_TRUE(
            same_bits<float>(logits(position, width),
                             {rows.data, static_cast<std::size_t>(width * model_.vocab_padded())}));
        session.keep(width - round % width, own).value();
        ASSERT_TRUE(own == state(position + width - round % width));
      }
    }
  });
}

TEST_P(Exactness, VerificationsOfSeveralSequencesChangeNoBit) {
  for_each_way_to_run([&](Executor& executor) {
    Session session(model_, executor, {.max_verify = 8, .max_verify_batch = 8});
    // Lengths of the drafts that share a run.
    const std::vector<Index> mixes[] = {{8}, {1, 7}, {4, 1, 3}, {1, 1, 1, 1, 1, 1, 1, 1}};
    for (const std::vector<Index>& lengths : mixes) {
      SCOPED_TRACE(testing::Message() << lengths.size() << " sequences");
      std::vector<State> own;
      std::vector<std::span<const Token>> drafts;
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        own.push_back(state(static_cast<Index>(7 + 31 * i % 80)));
        drafts.push_back(text(own.back().position(), lengths[i]));
      }
      std::vector<const State*> pointers;
      for (const State& s : own) pointers.push_back(&s);
      const MatrixView<const float> rows = session.verify_batch(drafts, pointers).value();
      Index row = 0;
      for (std::size_t i = 0; i < lengths.size(); ++i) {
        const Index position = own[i].position();
        for (Index t = 0; t < lengths[i]; ++t) {
          ASSERT_TRUE(same_bits<float>(logits(position + t, 1), rows.row(row++)));
        }
        session.keep(lengths[i] - 1, own[i], static_cast<Index>(i)).value();
        ASSERT_TRUE(own[i] == state(position + lengths[i] - 1));
      }
    }
  });
}

TEST_P(Exactness, CopiesForksAndFilesKeepEveryBit) {
  SerialExecutor executor;
  Session session(model_, executor);
  const State& middle = state(30);
  State fork = middle;
  State copied = model_.initial_state();
  copied.copy_from(middle);
  const test::TemporaryDirectory directory;
  const std::string path = (directory.path() / "state.safetensors").string();
  save_state(middle, path).value();
  State loaded = load_state(model_, path).value().state;
  ASSERT_TRUE(loaded == middle);
  for (State* other : {&fork, &copied, &loaded}) {
    EXPECT_TRUE(same_bits<float>(logits(30, 10), all_logits(session, text(30, 10), *other)));
    EXPECT_TRUE(*other == state(40));
  }
}

// Logits and states of a prompt, a batch and a verification, from states that begin with subnormal
// numbers, under a control word that the caller has set.
std::vector<float> run_under(std::uint64_t word, const Model& model, std::span<const Token> text) {
  test::EagerThreadPool pool(2);
  Session session(model, pool, {.chunk = 7});
  State start = model.initial_state();
  for (float& x : start.block()) x = 1e-40F;
  State prompt = start;
  State one = start;
  State other = start;
  State kept = start;
  State* const pair[] = {&one, &other};
  std::vector<float> result(text.size() * static_cast<std::size_t>(model.vocab_padded()));
  const MatrixView<float> logits(result.data(), static_cast<Index>(text.size()),
                                 model.vocab_padded());
  const auto append = [&](MatrixView<const float> rows) {
    result.insert(result.end(), rows.data, rows.data + rows.rows * rows.cols);
  };

  const std::uint64_t before = test::control_word();
  test::set_control_word(word);
  std::vector<std::uint64_t> words;
  const auto look = [&] { words.push_back(test::control_word()); };
  session.prefill_all(text, prompt, logits).value();
  look();
  append(session.step_batch(text.first(2), pair).value());
  look();
  append(session.verify(text.first(5), kept).value());
  look();
  session.keep(3, kept).value();
  look();
  session.step(text[3], kept).value();
  look();
  test::set_control_word(before);

  EXPECT_EQ(words, std::vector<std::uint64_t>(5, word));
  for (const State& state : {prompt, one, other, kept}) {
    result.insert(result.end(), state.block().begin(), state.block().end());
  }
  return result;
}

TEST_P(Exactness, TheCallersControlWordChangesNothingAndStays) {
  const std::vector<float> expected = run_under(test::control_word(), model_, text(0, 20));
  for (const std::uint64_t word : test::odd_control_words()) {
    SCOPED_TRACE(testing::Message() << "control word " << std::hex << word);
    EXPECT_TRUE(same_bits<float>(expected, run_under(word, model_, text(0, 20))));
  }
}

// SHA-256 over the logits after every token and the last state.
std::string digest_of(const Model& model) {
  SerialExecutor executor;
  Session session(model, executor, {.chunk = 8, .max_batch = 1});
  State state = model.initial_state();
  const std::vector<float> logits = all_logits(session, random_tokens(50, model.vocab(), 1), state);
  test::Sha256 digest;
  digest.add(std::as_bytes(std::span(logits)));
  digest.add(std::as_bytes(std::as_const(state).block()));
  return digest.hex();
}

void expect_stored_digest(const std::string& name, const std::string& checkpoint,
                          const LoadOptions& options) {
  const std::map<std::string, std::string> digests = test::read_digests();
  const auto stored = digests.find(name);
  const Model model = test::with_memory_for_every_isa([&] {
    return load_model((test::data_dir() / "golden" / checkpoint).string(), options).value();
  });
  test::for_each_isa([&](Isa) {
    EXPECT_EQ(digest_of(model), stored == digests.end() ? "" : stored->second) << name;
  });
}

// Two machines that disagree fail in these.
TEST_P(Exactness, TheStoredDigestHoldsOnEveryInstructionSet) {
  const std::map<std::string, std::string> digests = test::read_digests();
  const std::string name = "random_" + GetParam().name();
  const auto stored = digests.find(name);
  test::for_each_isa([&](Isa) {
    EXPECT_EQ(digest_of(model_), stored == digests.end() ? "" : stored->second) << name;
  });
}

class StoredDigests : public testing::TestWithParam<Form> {};

INSTANTIATE_TEST_SUITE_P(Forms, StoredDigests, testing::ValuesIn(forms),
                         [](const auto& test) { return std::string(test.param.name); });

TEST_P(StoredDigests, HoldOnEveryInstructionSet) {
  const auto& [form, stored, options, weights] = GetParam();
  expect_stored_digest("hf_" + std::string(form), "hf_" + std::string(to_string(stored)),
                       {.form = options.form, .compute = options.compute});
}

TEST(StoredDigestsOfFamilies, HoldToo) {
  for (const char* name : {"hf_dt_rank",
                           "orig_layernorm",
                           "hf_falcon_f32",
                           "hf_mamba2_f32",
                           "hf_mamba2_limits",
                           "orig_mamba2_norm_before_gate",
                           "orig_mamba2_mlp",
                           "orig_mamba2_no_norm",
                           "codestral",
                           "moe_mamba",
                           "moe_mamba_layernorm",
                           "blackmamba",
                           "blackmamba_bias",
                           "hf_llama",
                           "hf_llama3_scaled",
                           "hf_yarn",
                           "hf_yarn_mscale",
                           "hf_mistral",
                           "hf_bamba",
                           "hf_granite_dense",
                           "hf_granite_experts",
                           "hf_jamba",
                           "hf_jamba_dense",
                           "hf_nemotron_h",
                           "hf_nemotron_experts",
                           "hf_falcon_h1",
                           "hf_falcon_h1_no_norm",
                           "orig_mamba2attn",
                           "hf_zamba2",
                           "hf_zamba2_plain"}) {
    expect_stored_digest(name, name, {});
  }
}

}  // namespace
}  // namespace krait::exactness_test
