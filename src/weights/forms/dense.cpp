// f32, bf16 and f16: a matrix of floats, usually in place in the checkpoint's file.

#include "core/parallel_first.hpp"
#include "krait/weights/convert.hpp"
#include "krait/weights/linear.hpp"
#include "weights/forms/forms.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using kernels::BadWeight;
using kernels::DenseWeights;

class DenseMatrix : public WeightMatrix {
 public:
  explicit DenseMatrix(const DenseWeights& W) noexcept
      : WeightMatrix(W.rows, W.cols, W.rows * W.cols * bytes_of(W.dtype)), W_(W) {}

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    kernels::product(ctx, W_, args);
  }

  void row(Index r, std::span<float> out) const noexcept final {
    const auto* data = static_cast<const std::byte*>(W_.data) + r * W_.cols * bytes_of(W_.dtype);
    convert_floats({data, W_.dtype, {W_.cols}}, DType::f32, out.data());
  }

 protected:
  DenseWeights W_;
};

// A bf16 matrix whose products round the activations to bf16.
class Bf16Matrix final : public DenseMatrix {
 public:
  using DenseMatrix::DenseMatrix;

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    kernels::product_bf16(ctx, W_, args);
  }
};

class DenseForm final : public RowForm {
 public:
  constexpr explicit DenseForm(DType dtype) noexcept : dtype_(dtype) {}

  std::string_view name() const noexcept override { return to_string(dtype_); }

  bool recognises(const WeightScope& weights) const override {
    const TensorView* stored = weights.stored("weight");
    if (stored == nullptr) return false;
    return stored->dtype == dtype_ || (dtype_ == DType::f32 && stored->dtype == DType::f64);
  }

  bool is_dense() const noexcept override { return true; }

  bool computes_in(Compute compute) const noexcept override {
    return compute == Compute::f32 || dtype_ == DType::bf16;
  }

  // Not for f32: quantising does not make checkpoints larger.
  const RowForm* row_form() const noexcept override {
    return dtype_ == DType::f32 ? nullptr : this;
  }

  Result<Matrices> bind(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override {
    KRAIT_ASSIGN_OR_RETURN(const TensorView stack,
                           weights.matrix("weight", shape.tensor({shape.out, shape.in}), dtype_));
    return matrices_over(stack, weights.options().compute, bookings, shape);
  }

  Result<Matrices> make(const WeightScope& weights, Bookings& bookings,
                        const MatrixShape& shape) const override {
    const WeightForm* stored = stored_form(weights);
    // Floats of another type are converted by `bind`, which also reports a missing tensor.
    if (stored == nullptr || stored->is_dense()) return bind(weights, bookings, shape);
    Matrices coded;
    const auto bind_coded = [&]() -> Result<void> {
      Bookings ignored(bookings.d_model());
      KRAIT_ASSIGN_OR_RETURN(coded, stored->bind(weights, ignored, shape));
      return {};
    };
    const auto decode = [&](Index row, std::span<float> values) {
      coded[static_cast<std::size_t>(row / shape.out)]->row(row % shape.out, values);
    };
    KRAIT_ASSIGN_OR_RETURN(
        const TensorView stack,
        weights.decoded(shape.tensor({shape.out, shape.in}), dtype_, bind_coded, decode));
    return matrices_over(stack, weights.options().compute, bookings, shape);
  }

  std::vector<WeightPart> parts(Index out, Index in) const override {
    return {{"weight", dtype_, {out, in}}};
  }

  std::optional<BadWeight> encode(Executor& executor, const TensorView& rows,
                                  std::span<std::byte* const> parts) const override {
    const Index cols = rows.shape[1];
    const auto row_at = [&](const void* data, DType dtype, Range range) {
      return TensorView{static_cast<const std::byte*>(data) + range.begin * cols * bytes_of(dtype),
                        dtype,
                        {range.size(), cols}};
    };
    const auto convert = [&](Range range) -> std::optional<Index> {
      const TensorView made = row_at(parts[0], dtype_, range);
      convert_floats(row_at(rows.data, rows.dtype, range), dtype_, const_cast<void*>(made.data));
      const auto bad = find_not_finite(made);
      return bad ? std::optional(range.begin * cols + *bad) : std::nullopt;
    };
    const auto bad = parallel_first(executor, rows.shape[0], 1, convert);
    return bad ? std::optional(BadWeight{*bad / cols, *bad % cols}) : std::nullopt;
  }

  std::string refusal(const TensorView& rows, const BadWeight& bad,
                      Index first_row) const override {
    return not_representable(rows, bad.row * rows.shape[1] + bad.col, name(), first_row);
  }

  std::shared_ptr<const WeightMatrix> matrix(std::span<const TensorView> parts, Index out,
                                             Index in) const override {
    return std::make_shared<DenseMatrix>(DenseWeights{parts[0].data, parts[0].dtype, out, in});
  }

  Index workspace(Index in) const noexcept override { return kernels::product_workspace(in); }

 private:
  static Matrices matrices_over(const TensorView& stack, Compute compute, Bookings& bookings,
                                const MatrixShape& shape) {
    const bool in_bf16 = compute == Compute::bf16;
    bookings.workspace(in_bf16 ? kernels::product_bf16_workspace(shape.in)
                               : kernels::product_workspace(shape.in));
    Matrices matrices;
    for (Index i = 0; i < shape.matrices(); ++i) {
      const TensorView one = shape.matrix(stack, {shape.out, shape.in}, i);
      const DenseWeights W{one.data, one.dtype, shape.out, shape.in};
      if (in_bf16) {
        matrices.push_back(std::make_shared<Bf16Matrix>(W));
      } else {
        matrices.push_back(std::make_shared<DenseMatrix>(W));
      }
    }
    return matrices;
  }

  DType dtype_;
};

}  // namespace

const WeightForm& f32_form() noexcept {
  static const DenseForm form(DType::f32);
  return form;
}

const WeightForm& bf16_form() noexcept {
  static const DenseForm form(DType::bf16);
  return form;
}

const WeightForm& f16_form() noexcept {
  static const DenseForm form(DType::f16);
  return form;
}

Linear::Linear(const DenseWeights& W, const float* bias, Bookings& bookings)
    : matrix_(std::make_shared<DenseMatrix>(W)), bias_(bias) {
  bookings.workspace(kernels::product_workspace(W.cols));
}

}  // namespace v0_1
}  // namespace krait
