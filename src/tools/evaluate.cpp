#include "krait/tools/evaluate.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "tools/divergence.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Result<void> check(const Model& reference, const Model& model, std::span<const Token> tokens) {
  const auto fail = [](std::string_view what, Index expected, std::string_view unit, Index found) {
    return Error{ErrorCode::bad_argument, fmt::format("[evaluate] {}: expected {}{}, found {}",
                                                      what, unit, expected, found)};
  };
  const Index vocab = reference.vocab();
  if (model.vocab() != vocab) return fail("vocabulary", vocab, "the reference's ", model.vocab());
  if (tokens.empty()) return fail("tokens", 1, "at least ", 0);
  for (const Token token : tokens) {
    if (token < 0 || token >= vocab) return fail("token", vocab, "an id below ", token);
  }
  return {};
}

}  // namespace

Result<KlDivergence> kl_divergence(Session& reference, Session& model, Executor& executor,
                                   std::span<const Token> tokens, Progress progress) {
  KRAIT_RETURN_IF_ERROR(check(reference.model(), model.model(), tokens));
  constexpr Index chunk = 256;
  const auto total = static_cast<Index>(tokens.size());
  const auto vocab = static_cast<std::size_t>(reference.model().vocab());
  const Index p_cols = reference.model().vocab_padded();
  const Index q_cols = model.model().vocab_padded();
  AlignedBuffer<float> p_buffer(std::min(chunk, total) * p_cols);
  AlignedBuffer<float> q_buffer(std::min(chunk, total) * q_cols);
  State p_state = reference.model().initial_state();
  State q_state = model.model().initial_state();
  std::vector<double> divergences(tokens.size());
  std::vector<std::uint8_t> same(tokens.size());
  for (Index first = 0; first < total; first += chunk) {
    const Index count = std::min(chunk, total - first);
    const auto part =
        tokens.subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(count));
    const MatrixView<float> P(p_buffer.data(), count, p_cols);
    const MatrixView<float> Q(q_buffer.data(), count, q_cols);
    KRAIT_RETURN_IF_ERROR(reference.prefill_all(part, p_state, P));
    KRAIT_RETURN_IF_ERROR(model.prefill_all(part, q_state, Q));
    parallel_for(executor, count, 1, [&](Range rows) {
      for (Index i = rows.begin; i < rows.end; ++i) {
        const auto at = static_cast<std::size_t>(first + i);
        divergences[at] = divergence(P.row(i).first(vocab), Q.row(i).first(vocab));
        same[at] = is_same_top(P.row(i).first(vocab), Q.row(i).first(vocab)) ? 1 : 0;
      }
    });
    if (progress && progress(first + count, total) == Flow::stop) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[evaluate] stopped after {} of {} tokens", first + count, total)};
    }
  }
  KlDivergence result{.positions = total};
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    result.mean += divergences[i];
    result.largest = std::max(result.largest, divergences[i]);
    result.same_top += same[i];
  }
  result.mean /= static_cast<double>(total);
  result.same_top /= static_cast<double>(total);
  return result;
}

double Perplexity::value() const noexcept { return std::exp(nats_per_token()); }

double Perplexity::bits_per_byte() const noexcept {
  return nats / std::log(2.0) / static_cast<double>(bytes);
}

Result<Perplexity> perplexity(Session& session, const Tokenizer& tokenizer,
                              std::span<const Token> tokens, Progress progress) {
  if (tokens.size() < 2) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[evaluate] tokens: expected at least 2, found {}", tokens.size())};
  }
  constexpr std::size_t segment = 4096;
  const std::size_t scored = tokens.size() - 1;
  std::vector<float> log_probs(std::min(segment, scored));
  State state = session.model().initial_state();
  Perplexity result{.tokens = static_cast<Index>(scored)};
  for (std::size_t first = 0; first < scored;) {
    const std::size_t count = std::min(segment, scored - first);
    const auto part = std::span(log_probs).first(count);
    KRAIT_RETURN_IF_ERROR(session.score(tokens.subspan(first, count + 1), state, part));
    for (std::size_t i = 0; i < count; ++i) {
      result.nats -= static_cast<double>(part[i]);
      result.bytes += std::ssize(tokenizer.bytes(tokens[first + i + 1]));
    }
    first += count;
    if (progress && progress(static_cast<Index>(first), result.tokens) == Flow::stop) {
      return Error{ErrorCode::cancelled,
                   fmt::format("[evaluate] stopped after {} of {} tokens", first, scored)};
    }
  }
  return result;
}

Result<ModelComparison> compare_models(const Model& reference, const Model& model,
                                       const Tokenizer& tokenizer, std::span<const Token> tokens,
                                       Executor& executor, Progress progress) {
  KRAIT_RETURN_IF_ERROR(check(reference, model, tokens));
  Session of_reference(reference, executor, {.max_batch = 16});
  Session of_model(model, executor, {.max_batch = 16});
  const auto total = static_cast<Index>(tokens.size());
  Index before = 0;  // tokens of the runs that are done
  const auto part = [&](Index done, Index) {
    return progress ? progress(before + done, 3 * total) : Flow::go_on;
  };
  ModelComparison found;
  KRAIT_ASSIGN_OR_RETURN(found.reference, perplexity(of_reference, tokenizer, tokens, part));
  before = total;
  KRAIT_ASSIGN_OR_RETURN(found.model, perplexity(of_model, tokenizer, tokens, part));
  before = 2 * total;
  KRAIT_ASSIGN_OR_RETURN(found.kl, kl_divergence(of_reference, of_model, executor, tokens, part));
  return found;
}

}  // namespace v0_1
}  // namespace krait
