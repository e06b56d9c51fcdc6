#include "tools/aqlm/own_text.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <string>

#include "krait/core/float_environment.hpp"
#include "krait/core/rng.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/models/session.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {
namespace {

// The token at which the sum of the law passes `at`, a part of the whole.
Token draw(std::span<const float> logits, std::span<float> law, double at) {
  kernels::softmax(logits, law);
  double whole = 0.0;
  for (const float p : law) whole += static_cast<double>(p);
  double sum = 0.0;
  Token last = 0;
  for (std::size_t token = 0; token < law.size(); ++token) {
    if (law[token] == 0.0F) continue;
    last = static_cast<Token>(token);
    sum += static_cast<double>(law[token]);
    if (sum > at * whole) break;
  }
  return last;
}

// The piece of unfinished work with the continuations from one on.
std::string piece_of(Index first) { return fmt::format("own_text.{}", first); }

bool read(const PartialWork& work, Index first, std::span<Token> continuations) {
  const std::optional<WeightStore> store = work.read(piece_of(first));
  return store && copy_tensor(*store, "tokens", DType::i32, std::as_writable_bytes(continuations));
}

// Writes continuations side by side.
class Writer {
 public:
  Writer(const Model& model, const OwnTextOptions& options, std::uint64_t seed, Executor& executor)
      : model_(model),
        seed_(seed),
        session_(model, executor,
                 {.max_batch = options.sequences, .max_verify = 0, .max_verify_batch = 0}),
        law_(static_cast<std::size_t>(model.vocab())) {}

  // `continuations` [prompts, tokens], the first of which is the `first` of all. `progress` counts
  // tokens of these.
  Result<void> write(std::span<const std::span<const Token>> prompts, Index first,
                     std::span<Token> continuations, Progress progress) {
    const auto count = std::ssize(prompts);
    const Index length = std::ssize(continuations) / count;
    std::vector<State> states(static_cast<std::size_t>(count), model_.initial_state());
    std::vector<State*> pointers;
    std::vector<Token> tokens;
    for (std::size_t i = 0; i < states.size(); ++i) {
      pointers.push_back(&states[i]);
      KRAIT_ASSIGN_OR_RETURN(const auto logits, session_.prefill(prompts[i], states[i]));
      tokens.push_back(draw_at(logits, first + static_cast<Index>(i), 0));
    }
    for (Index position = 0;; ++position) {
      for (Index i = 0; i < count; ++i) {
        continuations[static_cast<std::size_t>(i * length + position)] =
            tokens[static_cast<std::size_t>(i)];
      }
      if (position + 1 == length) return {};
      if (progress(count * (position + 1), count * length) == Flow::stop) {
        return Error{ErrorCode::cancelled, "[aqlm] cancelled"};
      }
      KRAIT_ASSIGN_OR_RETURN(const auto logits, session_.step_batch(tokens, pointers));
      for (Index i = 0; i < count; ++i) {
        tokens[static_cast<std::size_t>(i)] = draw_at(logits.row(i), first + i, position + 1);
      }
    }
  }

 private:
  Token draw_at(std::span<const float> logits, Index sequence, Index position) {
    const double at = random_uniform({.seed = seed_,
                                      .sequence = static_cast<std::uint32_t>(sequence),
                                      .position = static_cast<std::uint64_t>(position)});
    return draw(logits.first(law_.size()), law_, at);
  }

  const Model& model_;
  std::uint64_t seed_;
  Session session_;
  std::vector<float> law_;
};

}  // namespace

Result<std::vector<Token>> own_text(const Model& model, std::span<const Token> text,
                                    const OwnTextOptions& options, std::uint64_t seed,
                                    const PartialWork& work, Executor& executor,
                                    Progress progress) {
  const FloatEnvironment environment;
  const Index length = options.continuation_tokens;
  const Index count = (options.tokens + length - 1) / length;
  const Index prompt = std::min(options.prompt_tokens, std::ssize(text));
  std::vector<std::span<const Token>> prompts;
  for (Index i = 0; i < count; ++i) {
    const Index begin = (std::ssize(text) - prompt) * i / count;
    prompts.push_back(
        text.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(prompt)));
  }
  std::vector<Token> tokens(static_cast<std::size_t>(count * length));
  Writer writer(model, options, seed, executor);
  for (Index first = 0; first < count; first += options.sequences) {
    const Index some = std::min(options.sequences, count - first);
    const auto written = std::span(tokens).subspan(static_cast<std::size_t>(first * length),
                                                   static_cast<std::size_t>(some * length));
    if (read(work, first, written)) continue;
    const auto of_all = [&](Index done, Index) {
      return progress ? progress(first * length + done, count * length) : Flow::go_on;
    };
    KRAIT_RETURN_IF_ERROR(writer.write(
        std::span(prompts).subspan(static_cast<std::size_t>(first), static_cast<std::size_t>(some)),
        first, written, of_all));
    KRAIT_RETURN_IF_ERROR(work.write(
        piece_of(first), {{"tokens", {written.data(), DType::i32, {std::ssize(written)}}}}));
  }
  return tokens;
}

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
