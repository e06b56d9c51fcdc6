#include "krait/modules/linear.hpp"

#include <fmt/format.h>

#include <optional>

namespace krait::inline v0_1 {
namespace {

using kernels::GroupedForm;
using kernels::GroupedWeights;

struct PackedShapes {
  Shape codes;
  Shape scales;
};

PackedShapes packed_shapes(GroupedForm form, Index out, Index in) {
  const GroupedWeights W{
      .form = form, .codes = nullptr, .scales = nullptr, .rows = out, .cols = in};
  return {{W.row_blocks(), W.groups(), block_bytes(form)},
          {W.row_blocks(), W.groups(), kernels::row_block}};
}

GroupedWeights grouped_weights(const PackedMatrix& packed, GroupedForm form, Index out, Index in) {
  return {.form = form,
          .codes = static_cast<const std::uint8_t*>(packed.codes.data),
          .scales = static_cast<const f16*>(packed.scales.data),
          .rows = out,
          .cols = in};
}

// The form of the checkpoint's codes, by the size of a block; none if it has floats.
Result<std::optional<GroupedForm>> stored_form(const WeightScope& weights) {
  const Shape* codes = weights.stored_shape("codes");
  if (codes == nullptr) return std::optional<GroupedForm>();
  for (const GroupedForm form : {GroupedForm::q8, GroupedForm::q4}) {
    if (codes->rank() == 3 && (*codes)[2] == block_bytes(form)) return std::optional(form);
  }
  return Error{ErrorCode::unsupported,
               fmt::format("[build] {}: expected codes [row blocks, groups, 512 (q8) or 256 (q4)], "
                           "found {}",
                           weights.name("codes"), to_string(*codes))};
}

std::optional<GroupedForm> wanted_form(const WeightScope& weights) {
  switch (weights.options().form) {
    case WeightForm::q8:
      return GroupedForm::q8;
    case WeightForm::q4:
      return GroupedForm::q4;
    default:
      return std::nullopt;
  }
}

}  // namespace

Result<DenseLinear> DenseLinear::bind(const WeightScope& weights, Plan& plan, Index out, Index in) {
  plan.workspace(PanelMemory::floats_per_token(kernels::LaneOrder::single, in));
  KRAIT_ASSIGN_OR_RETURN(const auto stored, stored_form(weights));
  TensorView W;
  if (stored) {
    const auto [codes, scales] = packed_shapes(*stored, out, in);
    KRAIT_ASSIGN_OR_RETURN(
        W, weights.unpacked({out, in}, codes, scales,
                            [&](const PackedMatrix& packed, Index row, std::span<float> values) {
                              kernels::dequantize_row(grouped_weights(packed, *stored, out, in),
                                                      row, values);
                            }));
  } else {
    KRAIT_ASSIGN_OR_RETURN(W, weights.matrix("weight", out, in));
  }
  return DenseLinear{{W.data, W.dtype, out, in}, nullptr};
}

Result<Bf16Linear> Bf16Linear::bind(const WeightScope& weights, Plan& plan, Index out, Index in) {
  KRAIT_ASSIGN_OR_RETURN(const DenseLinear dense, DenseLinear::bind(weights, plan, out, in));
  if (weights.is_stored() && dense.W.dtype != DType::bf16) {
    return Error{ErrorCode::dtype_mismatch,
                 fmt::format("[build] {}: expected bf16 to compute in bf16, found {}",
                             weights.name("weight"), to_string(dense.W.dtype))};
  }
  plan.workspace(PanelMemory::floats_per_token(kernels::LaneOrder::pairs, in));
  return Bf16Linear{dense.W, nullptr};
}

Result<GroupedLinear> GroupedLinear::bind(const WeightScope& weights, Plan& plan, GroupedForm form,
                                          Index out, Index in) {
  KRAIT_ASSIGN_OR_RETURN(const auto stored, stored_form(weights));
  if (stored && *stored != form) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[build] {}: expected floats to make {} of, found {}",
                             weights.name("weight"), to_string(form), to_string(*stored))};
  }
  plan.workspace(kernels::Int8Activations::floats_per_token(in));
  const PackedShapes shapes = packed_shapes(form, out, in);
  PackedMatrix packed;
  if (stored) {
    KRAIT_ASSIGN_OR_RETURN(packed,
                           weights.packed(to_string(form), {out, in}, shapes.codes, shapes.scales));
  } else {
    const auto pack = [&](const TensorView& weight, std::uint8_t* code,
                          f16* scale) -> Result<void> {
      if (const auto bad = kernels::quantize(form, weight, {0, shapes.codes[0]}, code, scale)) {
        return Error{ErrorCode::bad_format,
                     fmt::format("expected weights that {} can represent, found one that is not "
                                 "finite or too large (row {}, column {})",
                                 to_string(form), bad->row, bad->col)};
      }
      return {};
    };
    KRAIT_ASSIGN_OR_RETURN(
        packed, weights.pack(to_string(form), {out, in}, shapes.codes, shapes.scales, pack));
  }
  return GroupedLinear{grouped_weights(packed, form, out, in), nullptr};
}

Result<Linear> Linear::bind(const WeightScope& weights, Plan& plan, Index out, Index in,
                            bool has_bias) {
  std::optional<GroupedForm> form = wanted_form(weights);
  if (weights.options().form == WeightForm::file) {
    KRAIT_ASSIGN_OR_RETURN(form, stored_form(weights));
  }
  Form bound;
  if (form) {
    if (weights.options().compute == Compute::bf16) {
      return Error{ErrorCode::unsupported,
                   fmt::format("[build] {}: expected bf16 to compute in bf16, found {}",
                               weights.name("weight"), to_string(*form))};
    }
    KRAIT_ASSIGN_OR_RETURN(bound, GroupedLinear::bind(weights, plan, *form, out, in));
  } else if (weights.options().compute == Compute::bf16) {
    KRAIT_ASSIGN_OR_RETURN(bound, Bf16Linear::bind(weights, plan, out, in));
  } else {
    KRAIT_ASSIGN_OR_RETURN(bound, DenseLinear::bind(weights, plan, out, in));
  }
  if (has_bias) {
    KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {out}));
    std::visit([&](auto& linear) { linear.bias = bias.data(); }, bound);
  }
  return Linear(std::move(bound));
}

}  // namespace krait::inline v0_1
