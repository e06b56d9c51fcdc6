// What a session refuses before a run, and what it finds in the numbers after one.

#include <fmt/format.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <string>

#include "krait/core/float_environment.hpp"
#include "krait/models/session.hpp"
#include "models/keep_embedding.hpp"
#include "models/session_error.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Whether all numbers are finite. NaN and infinity have an exponent of all ones: adding one to it
// carries into the sign bit. On integers, because the caller's floating-point mode is in force
// here; in sixteen lanes, so that the compiler uses vectors.
bool is_finite(std::span<const float> x) noexcept {
  constexpr std::size_t lanes = 16;
  constexpr std::uint32_t magnitude = 0x7FFFFFFFU;
  constexpr std::uint32_t one_exponent = 0x00800000U;
  const auto carry = [](float v) {
    return (std::bit_cast<std::uint32_t>(v) & magnitude) + one_exponent;
  };
  std::uint32_t found[lanes] = {};
  std::size_t i = 0;
  for (; i + lanes <= x.size(); i += lanes) {
    for (std::size_t k = 0; k < lanes; ++k) found[k] |= carry(x[i + k]);
  }
  for (; i < x.size(); ++i) found[0] |= carry(x[i]);
  std::uint32_t any = 0;
  for (const std::uint32_t bits : found) any |= bits;
  return (any & ~magnitude) == 0;
}

}  // namespace

Result<void> Session::check(std::span<const Token> tokens, const State& state) const {
  if (tokens.empty()) return bad_argument("tokens", "at least one", "none");
  KRAIT_RETURN_IF_ERROR(check_tokens(tokens));
  return check_state(std::ssize(tokens), state);
}

Result<void> Session::check_tokens(std::span<const Token> tokens) const {
  const auto limit = static_cast<Token>(model_.vocab_padded());
  for (const Token token : tokens) {
    if (token < 0 || token >= limit) [[unlikely]] {
      return bad_argument("token", fmt::format("0 to {}", limit - 1), fmt::to_string(token));
    }
  }
  return {};
}

Result<void> Session::check_state(Index tokens, const State& state) const {
  KRAIT_RETURN_IF_ERROR(check_model(state));
  const Index room = State::largest_position - tokens;
  if (state.position() < 0 || state.position() > room) [[unlikely]] {
    return bad_argument("position", fmt::format("0 to {}", room), fmt::to_string(state.position()));
  }
  if (state.cache_.floats_per_token() > 0 && state.cache_.rows() != state.position()) [[unlikely]] {
    return bad_argument("cache", fmt::format("rows of {} tokens", state.position()),
                        fmt::to_string(state.cache_.rows()));
  }
  return {};
}

Result<void> Session::check_model(const State& state) const {
  const StateLayout* own = model_.parts().state_layout.get();
  const StateLayout* given = state.layout().get();
  if (given == own) return {};
  if (given != nullptr && given->fingerprint == own->fingerprint && given->floats == own->floats) {
    return {};
  }
  if (given != nullptr && given->kv_dtype != own->kv_dtype) {
    return Error{ErrorCode::incompatible_state,
                 fmt::format("[session] state: expected keys and values in {}, found {}",
                             to_string(own->kv_dtype), to_string(given->kv_dtype))};
  }
  return Error{
      ErrorCode::incompatible_state,
      fmt::format("[session] state: expected one of the model {}, found {}", own->fingerprint,
                  given == nullptr ? "one of no model" : given->fingerprint)};
}

Result<void> Session::check_run(std::span<const RunItem> items) {
  if (items.size() > ends_.size()) {
    return bad_argument("run", fmt::format("at most {} items", ends_.size()),
                        fmt::to_string(items.size()));
  }
  Index tokens = 0;
  Index drafts = 0;
  Index tentative = 0;
  Index rows = 0;
  for (std::size_t i = 0; i < items.size(); ++i) {
    const RunItem& item = items[i];
    if (item.state == nullptr) return bad_argument("state", "states", "a null pointer");
    KRAIT_RETURN_IF_ERROR(check(item.tokens, *item.state));
    const auto count = static_cast<Index>(item.tokens.size());
    tokens += is_pair(item) ? 2 * count : count;
    drafts += item.tentative ? 1 : 0;
    tentative += item.tentative ? count : 0;
    rows += item.logits == RunItem::Logits::all ? count : item.logits == RunItem::Logits::last;
    distinct_[i] = item.state;
  }
  struct Limit {
    std::string_view what;
    Index found;
    Index most;
  };
  for (const Limit& limit :
       {Limit{"tokens in all", tokens, options_.chunk},
        Limit{"tentative items", drafts, options_.max_verify_batch},
        Limit{"tentative tokens in all", tentative, options_.max_verify},
        Limit{"rows of logits", rows, std::max(options_.max_batch, options_.max_verify)}}) {
    if (limit.found <= limit.most) continue;
    return bad_argument("run", fmt::format("at most {} {}", limit.most, limit.what),
                        fmt::to_string(limit.found));
  }
  const std::span<const State*> states = std::span(distinct_).first(items.size());
  std::ranges::sort(states, std::less<const State*>());
  if (std::ranges::adjacent_find(states) != states.end()) {
    return bad_argument("run", "distinct states", "one of them twice");
  }
  return {};
}

Result<void> Session::check_finite(std::string_view what, std::span<const float> row, Index at,
                                   Token token, const State& state) {
  if (is_finite(row)) [[likely]] {
    return {};
  }
  const float value = *std::ranges::find_if(row, [](float x) { return !std::isfinite(x); });
  const ModelSpec& spec = model_.spec();
  const Index d_model = model_.d_model();
  const auto normed =
      x_.span().subspan(static_cast<std::size_t>(at * d_model), static_cast<std::size_t>(d_model));
  const bool is_of_head = what == "logits" && is_finite(normed);
  const std::optional<std::string> layer =
      is_of_head ? (spec.tied_head ? spec.embedding_name : spec.head_name)
                 : first_bad_layer(token, state);
  return Error{ErrorCode::not_finite,
               fmt::format("[session] {}: expected finite numbers, found {}{}", what, value,
                           layer ? fmt::format(" (first in {})", *layer) : "")};
}

// Runs the token once more and checks the output of every layer. The state may have consumed the
// token already; numbers that are not finite stay in it. A value at the very edge of the range may
// be finite this time: then there is no layer to name.
std::optional<std::string> Session::first_bad_layer(Token token, const State& state) {
  const ModelSpec& spec = model_.spec();
  State copy = state;
  if (!make_room({&token, 1}, copy)) return std::nullopt;
  const SequenceRows rows{.first = 0,
                          .count = 1,
                          .position = state.position(),
                          .state = copy.block_.data(),
                          .pages = copy.cache_.pages().data()};
  const MatrixView<float> x(x_.data(), 1, model_.d_model());
  BlockContext ctx = context(x, {&rows, 1});
  const FloatEnvironment environment;
  model_.parts().embedding.lookup({&token, 1}, x);
  if (!is_finite(x.row(0))) return spec.embedding_name;
  keep_embedding(model_.parts(), ctx);
  auto residual = model_.parts().residuals.begin();
  for (std::size_t i = 0; i < spec.layers.size(); ++i) {
    for (const ResidualSpec& part : spec.layers[i].residuals) {
      (residual++)->forward(ctx);
      if (!is_finite(x.row(0))) {
        return fmt::format("{}.{}.{}", spec.layers_name, i, part.block_name);
      }
    }
  }
  model_.parts().final_norm.apply(x, x);
  if (!is_finite(x.row(0))) return spec.final_norm_name;
  return std::nullopt;
}

}  // namespace v0_1
}  // namespace krait
