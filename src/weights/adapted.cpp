#include "weights/adapted.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "krait/kernels/elementwise.hpp"
#include "krait/weights/adapter.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

constexpr std::string_view A_part = "lora_A";
constexpr std::string_view B_part = "lora_B";
constexpr std::string_view scale_part = "lora_scale";

// y = W x + B (s · A x): three products, of which those with A and B are of floats.
class AdaptedMatrix final : public WeightMatrix {
 public:
  AdaptedMatrix(Linear base, const LowRankAdapter& adapter)
      : WeightMatrix(
            base.out(), base.in(),
            base.matrix().bytes() + adapter.rank * (base.out() + base.in()) * bytes_of(DType::f32)),
        base_(std::move(base)),
        adapter_(adapter) {}

  // Floats per token, beside those of the base.
  static Index workspace(Index out, Index in, Index rank) noexcept {
    return between(rank) + std::min(round_up(out, 16), out_block) +
           std::max(kernels::product_workspace(in), kernels::product_workspace(rank));
  }

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    base_.matrix().product(ctx, args);
    const Index tokens = args.x.rows;
    const Index rank = adapter_.rank;
    std::span<float> memory = ctx.workspace;
    const auto take = [&](Index cols, Index stride) {
      const MatrixView<float> matrix(memory.data(), tokens, cols, stride);
      memory = memory.subspan(static_cast<std::size_t>(tokens * stride));
      return matrix;
    };
    const MatrixView<float> t = take(rank, between(rank));
    const Index width = std::min(round_up(out(), 16), out_block);
    const MatrixView<float> u = take(width, width);
    const ProductContext rest{ctx.executor, memory};
    kernels::product(rest, {adapter_.A, DType::f32, rank, in()}, {.x = args.x, .y = t});
    for (Index i = 0; i < tokens; ++i) {
      for (float& value : t.row(i)) value *= adapter_.scale;
    }
    // Some outputs at a time, which bounds the memory beside y.
    for (Index first = 0; first < out(); first += out_block) {
      const Index count = std::min(out_block, out() - first);
      const MatrixView<float> part = u.cols_from(0, count);
      kernels::product(rest, {adapter_.B + first * rank, DType::f32, count, rank},
                       {.x = t, .y = part});
      const MatrixView<float> y = args.y.cols_from(first, count);
      parallel_for(ctx.executor, tokens, 8, ItemCost::of(12 * count, count), [&](Range rows) {
        for (Index i = rows.begin; i < rows.end; ++i) {
          kernels::add(y.row(i), part.row(i), y.row(i));
        }
      });
    }
  }

  void row(Index r, std::span<float> out) const noexcept override {
    base_.row(r, out);
    const float* B = adapter_.B + r * adapter_.rank;
    for (Index k = 0; k < adapter_.rank; ++k) {
      const float factor = adapter_.scale * B[k];
      const float* A = adapter_.A + k * in();
      for (std::size_t c = 0; c < out.size(); ++c) out[c] += factor * A[c];
    }
  }

  const Linear& base() const noexcept { return base_; }
  const LowRankAdapter& adapter() const noexcept { return adapter_; }

 private:
  static constexpr Index out_block = 1024;
  static constexpr Index between(Index rank) noexcept { return round_up(rank, 16); }

  Linear base_;
  LowRankAdapter adapter_;
};

const AdaptedMatrix* adapted(const Linear& linear) noexcept {
  return dynamic_cast<const AdaptedMatrix*>(&linear.matrix());
}

// A and B of all matrices, and their scale.
Result<LowRankAdapter> read_adapter(const WeightScope& weights, const MatrixShape& shape) {
  const TensorView* A = weights.stored(A_part);
  const int axis = shape.count ? 1 : 0;
  if (A == nullptr || A->shape.rank() != axis + 2 || A->shape[axis] < 1) {
    return Error{A == nullptr ? ErrorCode::missing_tensor : ErrorCode::shape_mismatch,
                 fmt::format("[build] {}: expected a factor of a rank above 0, found {}",
                             weights.name(A_part), A == nullptr ? "none" : to_string(A->shape))};
  }
  LowRankAdapter adapter{.rank = A->shape[axis]};
  KRAIT_ASSIGN_OR_RETURN(const auto factor_A,
                         weights.get<float>(A_part, shape.tensor({adapter.rank, shape.in})));
  KRAIT_ASSIGN_OR_RETURN(const auto factor_B,
                         weights.get<float>(B_part, shape.tensor({shape.out, adapter.rank})));
  KRAIT_ASSIGN_OR_RETURN(const auto scale, weights.get<float>(scale_part, {1}));
  adapter.A = factor_A.data();
  adapter.B = factor_B.data();
  if (!scale.empty()) adapter.scale = scale.front();
  if (!std::isfinite(adapter.scale)) {
    return Error{ErrorCode::bad_format,
                 fmt::format("[build] {}: expected a finite number, found {}",
                             weights.name(scale_part), adapter.scale)};
  }
  return adapter;
}

}  // namespace

bool is_part_of_adapter(std::string_view part) noexcept {
  return part == A_part || part == B_part || part == scale_part;
}

Result<WeightForm::Matrices> bind_adapters(const WeightScope& weights, Bookings& bookings,
                                           const MatrixShape& shape,
                                           WeightForm::Matrices matrices) {
  if (!weights.contains(scale_part)) return matrices;
  KRAIT_ASSIGN_OR_RETURN(LowRankAdapter adapter, read_adapter(weights, shape));
  bookings.workspace(AdaptedMatrix::workspace(shape.out, shape.in, adapter.rank));
  for (auto& matrix : matrices) {
    matrix = std::make_shared<AdaptedMatrix>(Linear(std::move(matrix)), adapter);
    if (adapter.A == nullptr) continue;  // in a plan
    adapter.A += adapter.rank * shape.in;
    adapter.B += shape.out * adapter.rank;
  }
  return matrices;
}

Result<Linear> bind_adapter(const WeightScope& weights, Bookings& bookings, const Linear& linear) {
  if (!weights.contains(scale_part)) return linear;
  KRAIT_ASSIGN_OR_RETURN(const LowRankAdapter adapter,
                         read_adapter(weights, {.out = linear.out(), .in = linear.in()}));
  bookings.workspace(AdaptedMatrix::workspace(linear.out(), linear.in(), adapter.rank));
  return Linear(std::make_shared<AdaptedMatrix>(linear, adapter));
}

Result<Linear> bind_own_adapter(const WeightScope& weights, Bookings& bookings,
                                const Linear& linear, Index rank) {
  KRAIT_ASSIGN_OR_RETURN(const auto A, weights.get<float>("0.weight", {rank, linear.in()}));
  KRAIT_ASSIGN_OR_RETURN(const auto B, weights.get<float>("1.weight", {linear.out(), rank}));
  bookings.workspace(AdaptedMatrix::workspace(linear.out(), linear.in(), rank));
  const LowRankAdapter adapter{.rank = rank, .A = A.data(), .B = B.data(), .scale = 1.0F};
  return Linear(std::make_shared<AdaptedMatrix>(linear, adapter), linear.bias());
}

std::optional<LowRankAdapter> adapter_of(const Linear& linear) noexcept {
  const AdaptedMatrix* matrix = adapted(linear);
  return matrix == nullptr ? std::nullopt : std::optional(matrix->adapter());
}

Linear without_adapter(const Linear& linear) {
  const AdaptedMatrix* matrix = adapted(linear);
  return matrix == nullptr ? linear : matrix->base();
}

void attach_adapter(WeightStore& store, std::string_view name, const TensorView& A,
                    const TensorView& B, float scale, std::shared_ptr<const void> owner) {
  const auto held = std::make_shared<const float>(scale);
  store.add(fmt::format("{}.{}", name, A_part), A, owner);
  store.add(fmt::format("{}.{}", name, B_part), B, std::move(owner));
  store.add(fmt::format("{}.{}", name, scale_part), {held.get(), DType::f32, {1}}, held);
}

}  // namespace v0_1
}  // namespace krait
