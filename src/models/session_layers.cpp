// Parts of a run: what tools need that look at one layer, or change it, and keep what is before it.

#include <fmt/format.h>

#include <algorithm>

#include "krait/core/float_environment.hpp"
#include "krait/models/session.hpp"
#include "models/session_error.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

Result<void> check_shape(std::string_view what, Index rows, Index cols, Index found_rows,
                         Index found_cols) {
  if (rows == found_rows && cols == found_cols) return {};
  return bad_argument(what, fmt::format("rows [{}, {}]", rows, cols),
                      fmt::format("[{}, {}]", found_rows, found_cols));
}

}  // namespace

Result<void> Session::embed(std::span<const Token> tokens, MatrixView<float> x) {
  KRAIT_RETURN_IF_ERROR(check_tokens(tokens));
  KRAIT_RETURN_IF_ERROR(check_shape("embed", std::ssize(tokens), model_.d_model(), x.rows, x.cols));
  model_.parts().embedding.lookup(tokens, x);
  return {};
}

Result<void> Session::run_layers(Range layers, MatrixView<float> x, State& state,
                                 std::span<const Token> tokens) {
  const std::vector<LayerSpec>& all = model_.spec().layers;
  if (layers.begin < 0 || layers.end < layers.begin || layers.end > std::ssize(all)) {
    return bad_argument("layers", fmt::format("a range within 0 to {}", all.size()),
                        fmt::format("{} to {}", layers.begin, layers.end));
  }
  KRAIT_RETURN_IF_ERROR(check_shape("layers", x.rows, model_.d_model(), x.rows, x.cols));
  KRAIT_RETURN_IF_ERROR(check_state(x.rows, state));
  KRAIT_RETURN_IF_ERROR(make_room(x.rows, state));
  std::size_t first = 0;
  std::size_t count = 0;
  for (Index i = 0; i < layers.end; ++i) {
    (i < layers.begin ? first : count) += all[static_cast<std::size_t>(i)].residuals.size();
  }
  const auto residuals = std::span(model_.parts().residuals).subspan(first, count);
  const bool reads_embedding = std::ranges::any_of(residuals, &Residual::reads_embedding);
  if (reads_embedding && std::ssize(tokens) != x.rows) {
    return bad_argument("layers",
                        fmt::format("the {} tokens of the rows, whose embedding they read", x.rows),
                        fmt::format("{} tokens", tokens.size()));
  }
  KRAIT_RETURN_IF_ERROR(check_tokens(tokens));
  const FloatEnvironment environment;
  for (Index row = 0; row < x.rows; row += options_.chunk) {
    const SequenceRows rows{.first = 0,
                            .count = std::min(options_.chunk, x.rows - row),
                            .position = state.position(),
                            .state = state.block_.data(),
                            .pages = state.cache_.pages().data(),
                            .hook = options_.hook};
    BlockContext ctx = context(x.rows_from(row, rows.count), {&rows, 1});
    ctx.has_hooks = rows.hook != nullptr;
    if (reads_embedding) {
      const Model::Parts& parts = model_.parts();
      parts.embedding.lookup(
          tokens.subspan(static_cast<std::size_t>(row), static_cast<std::size_t>(rows.count)),
          ctx.scratch(parts.embedding_rows, x.cols));
    }
    for (const Residual& residual : residuals) residual.forward(ctx);
    state.set_position(rows.position + rows.count);
    state.cache_.set_rows(state.position());
  }
  return {};
}

Result<void> Session::unembed(MatrixView<const float> x, MatrixView<float> logits) {
  KRAIT_RETURN_IF_ERROR(check_shape("unembed", x.rows, model_.d_model(), x.rows, x.cols));
  KRAIT_RETURN_IF_ERROR(
      check_shape("unembed", x.rows, model_.vocab_padded(), logits.rows, logits.cols));
  const FloatEnvironment environment;
  for (Index first = 0; first < x.rows; first += options_.chunk) {
    const Index count = std::min(options_.chunk, x.rows - first);
    for (Index t = 0; t < count; ++t) {
      std::ranges::copy(x.row(first + t), x_.data() + t * model_.d_model());
    }
    head(0, logits.rows_from(first, count));
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
