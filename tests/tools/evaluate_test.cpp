#include "krait/tools/evaluate.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/core/thread_pool.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::evaluate_test {
namespace {

// The definition, in long double and the plainest way.
long double plain_divergence(const float* p, const float* q, Index vocab) {
  long double p_sum = 0;
  long double q_sum = 0;
  for (Index i = 0; i < vocab; ++i) {
    p_sum += std::exp(static_cast<long double>(p[i]));
    q_sum += std::exp(static_cast<long double>(q[i]));
  }
  long double result = 0;
  for (Index i = 0; i < vocab; ++i) {
    const long double a = std::exp(static_cast<long double>(p[i])) / p_sum;
    const long double b = std::exp(static_cast<long double>(q[i])) / q_sum;
    result += a * std::log(a / b);
  }
  return result;
}

TEST(KlDivergence, IsWhatItsDefinitionSays) {
  const Model p = test::tiny_model();
  const Model q = test::tiny_model(DType::f32, "q4");
  SerialExecutor serial;
  Session p_session(p, serial);
  Session q_session(q, serial);
  const auto tokens = test::random_tokens(300, 61, 2);  // more than one chunk
  const KlDivergence found = kl_divergence(p_session, q_session, serial, tokens).value();

  State p_state = p.initial_state();
  State q_state = q.initial_state();
  const auto P = test::all_logits(p_session, tokens, p_state);
  const auto Q = test::all_logits(q_session, tokens, q_state);
  long double sum = 0;
  long double largest = 0;
  Index same = 0;
  for (std::size_t t = 0; t < tokens.size(); ++t) {
    const float* a = P.data() + t * 64;
    const float* b = Q.data() + t * 64;
    const long double one = plain_divergence(a, b, 61);
    sum += one;
    largest = std::max(largest, one);
    same += std::max_element(a, a + 61) - a == std::max_element(b, b + 61) - b ? 1 : 0;
  }
  EXPECT_EQ(found.positions, 300);
  EXPECT_NEAR(found.mean, static_cast<double>(sum / 300), 1e-12);
  EXPECT_NEAR(found.largest, static_cast<double>(largest), 1e-12);
  EXPECT_EQ(found.same_top, static_cast<double>(same) / 300.0);
  EXPECT_GT(found.mean, 0.0);

  ThreadPool threads(3);
  const KlDivergence again = kl_divergence(p_session, q_session, threads, tokens).value();
  EXPECT_EQ(again.mean, found.mean);
  EXPECT_EQ(again.largest, found.largest);
}

TEST(KlDivergence, OfAModelFromItselfIsZero) {
  const Model model = test::tiny_model();
  SerialExecutor serial;
  Session a(model, serial);
  Session b(model, serial);
  const auto found = kl_divergence(a, b, serial, test::random_tokens(20, 61, 3)).value();
  EXPECT_EQ(found.mean, 0.0);
  EXPECT_EQ(found.largest, 0.0);
  EXPECT_EQ(found.same_top, 1.0);
}

TEST(KlDivergence, RefusesWhatCannotBeCompared) {
  const Model model = test::tiny_model();
  ModelSpec spec = test::tiny_spec();
  spec.embedding.vocab = 60;
  const WeightStore weights = random_weights(spec, 1).value();
  const Model other = build_model(spec, weights).value();
  SerialExecutor serial;
  Session a(model, serial);
  Session b(other, serial);
  const std::vector<Token> tokens = {1, 2, 61};
  EXPECT_EQ(kl_divergence(a, b, serial, tokens).error().message,
            "[evaluate] vocabulary: expected the reference's 61, found 60");
  EXPECT_EQ(kl_divergence(a, a, serial, tokens).error().message,
            "[evaluate] token: expected an id below 61, found 61");
  EXPECT_EQ(kl_divergence(a, a, serial, {}).error().message,
            "[evaluate] tokens: expected at least 1, found 0");
  const auto stop = [](Index, Index) { return Flow::stop; };
  EXPECT_EQ(kl_divergence(a, a, serial, std::span(tokens).first(2), stop).error().code,
            ErrorCode::cancelled);
}

// Every token stands for as many bytes as its id's last digit says.
class CountingTokenizer final : public Tokenizer {
 public:
  Result<std::vector<Token>> encode(std::string_view, const EncodeOptions&) const override {
    return std::vector<Token>();
  }
  std::string_view bytes(Token token) const noexcept override {
    return std::string_view("0123456789").substr(0, static_cast<std::size_t>(token % 10));
  }
  Index vocab() const noexcept override { return 61; }
  bool is_special(Token) const noexcept override { return false; }
  std::optional<Token> find(std::string_view) const override { return std::nullopt; }
};

TEST(Perplexity, IsWhatItsDefinitionSays) {
  const Model model = test::tiny_model();
  SerialExecutor serial;
  Session session(model, serial, {.max_batch = 16});
  const CountingTokenizer tokenizer;
  const auto tokens = test::random_tokens(300, 61, 8);
  const Perplexity found = perplexity(session, tokenizer, tokens).value();

  State state = model.initial_state();
  const auto logits = test::all_logits(session, tokens, state);
  long double nats = 0;
  Index bytes = 0;
  for (std::size_t t = 0; t + 1 < tokens.size(); ++t) {
    long double sum = 0;
    for (std::size_t i = 0; i < 61; ++i) {
      sum += std::exp(static_cast<long double>(logits[t * 64 + i]));
    }
    const auto next = static_cast<std::size_t>(tokens[t + 1]);
    nats -= static_cast<long double>(logits[t * 64 + next]) - std::log(sum);
    bytes += tokens[t + 1] % 10;
  }
  EXPECT_EQ(found.tokens, 299);
  EXPECT_EQ(found.bytes, bytes);
  EXPECT_NEAR(found.nats, static_cast<double>(nats), 1e-3);
  EXPECT_EQ(found.nats_per_token(), found.nats / 299);
  EXPECT_EQ(found.value(), std::exp(found.nats / 299));
  EXPECT_NEAR(found.bits_per_byte(), static_cast<double>(nats / std::log(2.0L) / bytes), 1e-5);
}

// Longer than a segment: the state is carried on, whatever runs at once.
TEST(Perplexity, DependsOnTheTextAlone) {
  const Model model = test::tiny_model();
  const CountingTokenizer tokenizer;
  const auto tokens = test::random_tokens(4500, 61, 9);
  ThreadPool threads(3);
  Session one(model, threads, {.max_batch = 16});
  SerialExecutor serial;
  Session other(model, serial, {.chunk = 7, .max_batch = 1});
  Index told = 0;
  const auto progress = [&](Index done, Index total) {
    EXPECT_EQ(total, 4499);
    told = done;
    return Flow::go_on;
  };
  const Perplexity a = perplexity(one, tokenizer, tokens, progress).value();
  const Perplexity b = perplexity(other, tokenizer, tokens).value();
  EXPECT_EQ(told, 4499);
  EXPECT_EQ(a.nats, b.nats);
  EXPECT_EQ(a.bytes, b.bytes);

  State state = model.initial_state();
  std::vector<float> scores(4499);
  one.score(tokens, state, scores).value();
  double nats = 0.0;
  for (const float score : scores) nats -= double{score};
  EXPECT_EQ(a.nats, nats);
}

TEST(Perplexity, RefusesWhatCannotBeScored) {
  const Model model = test::tiny_model();
  SerialExecutor serial;
  Session session(model, serial);
  const CountingTokenizer tokenizer;
  const std::vector<Token> tokens = {1, 2, 3};
  for (const std::size_t count : {0U, 1U}) {
    const auto found = perplexity(session, tokenizer, std::span(tokens).first(count));
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().message,
              "[evaluate] tokens: expected at least 2, found " + std::to_string(count));
  }
  for (const Token bad : {-1, 64, 1 << 30}) {
    const auto found = perplexity(session, tokenizer, std::vector<Token>{1, bad, 3});
    ASSERT_FALSE(found) << bad;
    EXPECT_EQ(found.error().code, ErrorCode::bad_argument);
  }
  const auto stop = [](Index, Index) { return Flow::stop; };
  const auto stopped = perplexity(session, tokenizer, tokens, stop);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
  EXPECT_EQ(stopped.error().message, "[evaluate] stopped after 2 of 2 tokens");
}

}  // namespace
}  // namespace krait::evaluate_test
