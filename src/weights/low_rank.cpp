#include "weights/low_rank.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "krait/io/printable.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// W = u v, where products go through the factors one after the other.
class LowRankMatrix final : public WeightMatrix {
 public:
  LowRankMatrix(std::shared_ptr<const WeightMatrix> u, std::shared_ptr<const WeightMatrix> v)
      : WeightMatrix(u->out(), v->in(), u->bytes() + v->bytes()),
        u_(std::move(u)),
        v_(std::move(v)) {}

  // Floats per token that lie between the two products.
  static constexpr Index between(Index rank) noexcept { return round_up(rank, 16); }

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    const Index rank = v_->out();
    const MatrixView<float> t(ctx.workspace.data(), args.x.rows, rank, between(rank));
    const ProductContext rest{
        ctx.executor, ctx.workspace.subspan(static_cast<std::size_t>(args.x.rows * between(rank)))};
    v_->product(rest, {.x = args.x, .y = t});
    u_->product(rest, {.x = t, .bias = args.bias, .y = args.y});
  }

  void row(Index r, std::span<float> out) const noexcept override {
    // Looking up tokens in a factored embedding allocates nothing, unless it is huge.
    std::array<float, 8192> small;
    std::vector<float> large;
    const auto rank = static_cast<std::size_t>(v_->out());
    std::span<float> memory = small;
    if (memory.size() < rank + out.size()) {
      large.resize(rank + out.size());
      memory = large;
    }
    const std::span<float> u = memory.first(rank);
    const std::span<float> v = memory.subspan(rank, out.size());
    u_->row(r, u);
    std::ranges::fill(out, 0.0F);
    for (std::size_t k = 0; k < rank; ++k) {
      v_->row(static_cast<Index>(k), v);
      for (std::size_t c = 0; c < out.size(); ++c) out[c] += u[k] * v[c];
    }
  }

 private:
  std::shared_ptr<const WeightMatrix> u_;
  std::shared_ptr<const WeightMatrix> v_;
};

// The extent that the factors share.
Result<Index> rank_of(const WeightScope& weights, const MatrixShape& shape) {
  const int axis = shape.count ? 1 : 0;
  const TensorView* v = weights.stored("v");
  Index rank = 0;
  std::string found;
  if (v != nullptr) {
    if (v->shape.rank() == axis + 2) rank = v->shape[axis];
    found = to_string(v->shape);
  } else {
    // Codes come in blocks and groups: their shapes do not tell.
    const std::string_view text = weights.metadata(weight_rank_key);
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rank);
    if (error != std::errc() || end != text.data() + text.size()) rank = 0;
    found = text.empty() ? fmt::format("none, and no {} in the metadata", weight_rank_key)
                         : fmt::format("'{}' in the metadata", printable(text, 40));
  }
  const Index most = std::min(shape.out, shape.in);
  if (rank >= 1 && rank <= most) return rank;
  return Error{ErrorCode::shape_mismatch,
               fmt::format("[build] {}: expected {}, found {}", weights.name("v"),
                           most == 1 ? std::string("a factor of rank 1")
                                     : fmt::format("a factor of a rank from 1 to {}", most),
                           found)};
}

bool has_factor(const WeightScope& weights, std::string_view name) {
  return weights.contains(name) || weights.factor(name).has_parts();
}

}  // namespace

bool is_factored(const WeightScope& weights) {
  if (!has_factor(weights, "u") && !has_factor(weights, "v")) return false;
  // A form of other names for its parts is none of ours, nor one that nobody knows.
  const std::string_view named = weights.stored_form();
  if (!named.empty() && named != low_rank_form && find_form(named, weights.options()) == nullptr) {
    return false;
  }
  const WeightForm* stored = stored_form(weights);
  return stored == nullptr || stored->is_dense();
}

Result<WeightForm::Matrices> bind_factors(const WeightScope& weights, Bookings& bookings,
                                          const MatrixShape& shape, BindMatrices bind) {
  KRAIT_ASSIGN_OR_RETURN(const Index rank, rank_of(weights, shape));
  Bookings of_factors(bookings.d_model());
  KRAIT_ASSIGN_OR_RETURN(auto u, bind(weights.factor("u"), of_factors,
                                      {.out = shape.out, .in = rank, .count = shape.count}));
  KRAIT_ASSIGN_OR_RETURN(auto v, bind(weights.factor("v"), of_factors,
                                      {.out = rank, .in = shape.in, .count = shape.count}));
  bookings.workspace(LowRankMatrix::between(rank) + of_factors.workspace_floats());
  WeightForm::Matrices matrices;
  for (std::size_t i = 0; i < u.size(); ++i) {
    matrices.push_back(std::make_shared<LowRankMatrix>(std::move(u[i]), std::move(v[i])));
  }
  return matrices;
}

}  // namespace v0_1
}  // namespace krait
