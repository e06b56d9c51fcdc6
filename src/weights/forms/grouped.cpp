// q8 and q4: 8 or 4 bits per weight, groups of 32 share a scale (kernels/quant.hpp), multiplied
// with activations of 8 bits.

#include <algorithm>

#include "weights/forms/forms.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using kernels::BadWeight;
using kernels::GroupedWeights;

GroupedWeights of_size(kernels::GroupedForm form, Index out, Index in) noexcept {
  return {.form = form, .codes = nullptr, .scales = nullptr, .rows = out, .cols = in};
}

class GroupedMatrix final : public WeightMatrix {
 public:
  explicit GroupedMatrix(const GroupedWeights& W) noexcept
      : WeightMatrix(W.rows, W.cols, W.bytes()), W_(W) {}

  void product(const ProductContext& ctx, const ProductArgs& args) const noexcept override {
    kernels::product(ctx, W_, args);
  }

  void row(Index r, std::span<float> out) const noexcept override {
    kernels::dequantize_row(W_, r, out);
  }

 private:
  GroupedWeights W_;
};

class GroupedWeightForm final : public RowForm {
 public:
  constexpr explicit GroupedWeightForm(kernels::GroupedForm form) noexcept : form_(form) {}

  std::string_view name() const noexcept override { return to_string(form_); }

  // Without metadata, q8 and q4 differ in the size of a block of codes.
  bool recognises(const WeightScope& weights) const override {
    const TensorView* codes = weights.stored("codes");
    if (codes == nullptr || weights.contains("codebooks")) return false;
    const std::string_view form = weights.stored_form();
    if (!form.empty()) return form == name();
    const int rank = codes->shape.rank();
    return rank >= 3 && codes->shape[rank - 1] == block_bytes(form_);
  }

  std::vector<WeightPart> parts(Index out, Index in) const override {
    const GroupedWeights W = of_size(form_, out, in);
    return {{"codes", DType::u8, {W.row_blocks(), W.groups(), block_bytes(form_)}},
            {"scales", DType::f16, {W.row_blocks(), W.groups(), kernels::row_block}}};
  }

  Index block_rows() const noexcept override { return kernels::row_block; }

  std::optional<BadWeight> encode(Executor& executor, const TensorView& rows,
                                  std::span<std::byte* const> parts) const override {
    return kernels::quantize(executor, form_, rows, reinterpret_cast<std::uint8_t*>(parts[0]),
                             reinterpret_cast<f16*>(parts[1]));
  }

  std::shared_ptr<const WeightMatrix> matrix(std::span<const TensorView> parts, Index out,
                                             Index in) const override {
    GroupedWeights W = of_size(form_, out, in);
    W.codes = static_cast<const std::uint8_t*>(parts[0].data);
    W.scales = static_cast<const f16*>(parts[1].data);
    return grouped_matrix(W);
  }

  Index workspace(Index in) const noexcept override {
    return kernels::product_grouped_workspace(in);
  }

 private:
  kernels::GroupedForm form_;
};

}  // namespace

std::shared_ptr<const WeightMatrix> grouped_matrix(const GroupedWeights& W) {
  return std::make_shared<GroupedMatrix>(W);
}

const WeightForm& q8_form() noexcept {
  static const GroupedWeightForm form(kernels::GroupedForm::q8);
  return form;
}

const WeightForm& q4_form() noexcept {
  static const GroupedWeightForm form(kernels::GroupedForm::q4);
  return form;
}

}  // namespace v0_1
}  // namespace krait
