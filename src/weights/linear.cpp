#include "krait/weights/linear.hpp"

#include <fmt/format.h>

#include <optional>

namespace krait {
inline namespace v0_1 {
namespace {

using kernels::GroupedForm;
using kernels::GroupedWeights;

struct PackedShapes {
  Shape codes;
  Shape scales;
};

PackedShapes packed_shapes(GroupedForm form, const MatrixShape& shape) {
  const GroupedWeights W{
      .form = form, .codes = nullptr, .scales = nullptr, .rows = shape.out, .cols = shape.in};
  return {shape.tensor({W.row_blocks(), W.groups(), block_bytes(form)}),
          shape.tensor({W.row_blocks(), W.groups(), kernels::row_block})};
}

// The i-th matrix of a stack.
GroupedWeights grouped_weights(const PackedMatrix& packed, GroupedForm form,
                               const MatrixShape& shape, Index i) {
  const auto part = [&](const TensorView& tensor) {
    const Index bytes = tensor.bytes() / shape.matrices();
    return tensor.data == nullptr ? nullptr
                                  : static_cast<const std::byte*>(tensor.data) + i * bytes;
  };
  return {.form = form,
          .codes = reinterpret_cast<const std::uint8_t*>(part(packed.codes)),
          .scales = reinterpret_cast<const f16*>(part(packed.scales)),
          .rows = shape.out,
          .cols = shape.in};
}

TensorView matrix_of(const TensorView& stack, const MatrixShape& shape, Index i) {
  const auto* data = static_cast<const std::byte*>(stack.data);
  const Index bytes = shape.out * shape.in * bytes_of(stack.dtype);
  return {data == nullptr ? nullptr : data + i * bytes, stack.dtype, {shape.out, shape.in}};
}

// The form of the checkpoint's codes, by the size of a block; none if it has floats.
Result<std::optional<GroupedForm>> stored_form(const WeightScope& weights) {
  const Shape* codes = weights.stored_shape("codes");
  if (codes == nullptr) return std::optional<GroupedForm>();
  for (const GroupedForm form : {GroupedForm::q8, GroupedForm::q4}) {
    if (codes->rank() >= 3 && (*codes)[codes->rank() - 1] == block_bytes(form)) {
      return std::optional(form);
    }
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

Result<std::vector<DenseLinear>> DenseLinear::bind(const WeightScope& weights, Plan& plan,
                                                   const MatrixShape& shape) {
  const auto [out, in, count] = shape;
  plan.workspace(kernels::product_workspace(in));
  KRAIT_ASSIGN_OR_RETURN(const auto stored, stored_form(weights));
  TensorView stack;
  if (stored) {
    const auto [codes, scales] = packed_shapes(*stored, shape);
    const auto unpack = [&](const PackedMatrix& packed, Index row, std::span<float> values) {
      const GroupedWeights W = grouped_weights(packed, *stored, shape, row / shape.out);
      kernels::dequantize_row(W, row % shape.out, values);
    };
    KRAIT_ASSIGN_OR_RETURN(stack, weights.unpacked(shape.tensor({out, in}), codes, scales, unpack));
  } else {
    KRAIT_ASSIGN_OR_RETURN(stack, weights.matrix("weight", shape.tensor({out, in})));
  }
  std::vector<DenseLinear> bound;
  for (Index i = 0; i < shape.matrices(); ++i) {
    bound.push_back({{matrix_of(stack, shape, i).data, stack.dtype, out, in}, nullptr});
  }
  return bound;
}

Result<std::vector<Bf16Linear>> Bf16Linear::bind(const WeightScope& weights, Plan& plan,
                                                 const MatrixShape& shape) {
  KRAIT_ASSIGN_OR_RETURN(const auto dense, DenseLinear::bind(weights, plan, shape));
  plan.workspace(kernels::product_bf16_workspace(shape.in));
  std::vector<Bf16Linear> bound;
  for (const DenseLinear& linear : dense) {
    if (weights.is_stored() && linear.W.dtype != DType::bf16) {
      return Error{ErrorCode::dtype_mismatch,
                   fmt::format("[build] {}: expected bf16 to compute in bf16, found {}",
                               weights.name("weight"), to_string(linear.W.dtype))};
    }
    bound.push_back({linear.W, nullptr});
  }
  return bound;
}

Result<std::vector<GroupedLinear>> GroupedLinear::bind(const WeightScope& weights, Plan& plan,
                                                       GroupedForm form, const MatrixShape& shape) {
  KRAIT_ASSIGN_OR_RETURN(const auto stored, stored_form(weights));
  if (stored && *stored != form) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[build] {}: expected floats to make {} of, found {}",
                             weights.name("weight"), to_string(form), to_string(*stored))};
  }
  plan.workspace(kernels::product_grouped_workspace(shape.in));
  const auto [codes, scales] = packed_shapes(form, shape);
  const Shape matrix = shape.tensor({shape.out, shape.in});
  PackedMatrix packed;
  if (stored) {
    KRAIT_ASSIGN_OR_RETURN(packed, weights.packed(to_string(form), matrix, codes, scales));
  } else {
    const Index code_bytes = codes.size() / shape.matrices();
    const Index scale_count = scales.size() / shape.matrices();
    SerialExecutor caller;
    Executor* lent = weights.options().executor;
    Executor& executor = lent != nullptr ? *lent : caller;
    const auto pack = [&](const TensorView& stack, std::uint8_t* code, f16* scale) -> Result<void> {
      for (Index i = 0; i < shape.matrices(); ++i) {
        const auto bad = kernels::quantize(executor, form, matrix_of(stack, shape, i),
                                           code + i * code_bytes, scale + i * scale_count);
        if (!bad) continue;
        return Error{ErrorCode::bad_format,
                     fmt::format("expected weights that {} can represent, found one that is not "
                                 "finite or too large (row {}, column {})",
                                 to_string(form), i * shape.out + bad->row, bad->col)};
      }
      return {};
    };
    KRAIT_ASSIGN_OR_RETURN(packed, weights.pack(to_string(form), matrix, codes, scales, pack));
  }
  std::vector<GroupedLinear> bound;
  for (Index i = 0; i < shape.matrices(); ++i) {
    bound.push_back({grouped_weights(packed, form, shape, i), nullptr});
  }
  return bound;
}

namespace {

// The matrices in whichever form the options and the checkpoint ask for.
Result<std::vector<Linear::Form>> bind_forms(const WeightScope& weights, Plan& plan,
                                             const MatrixShape& shape) {
  const auto forms = [](auto bound) -> Result<std::vector<Linear::Form>> {
    if (!bound) return bound.error();
    return std::vector<Linear::Form>(bound->begin(), bound->end());
  };
  std::optional<GroupedForm> form = wanted_form(weights);
  if (weights.options().form == WeightForm::file) {
    KRAIT_ASSIGN_OR_RETURN(form, stored_form(weights));
  }
  const bool in_bf16 = weights.options().compute == Compute::bf16;
  if (form && in_bf16) {
    return Error{ErrorCode::unsupported,
                 fmt::format("[build] {}: expected bf16 to compute in bf16, found {}",
                             weights.name("weight"), to_string(*form))};
  }
  if (form) return forms(GroupedLinear::bind(weights, plan, *form, shape));
  if (in_bf16) return forms(Bf16Linear::bind(weights, plan, shape));
  return forms(DenseLinear::bind(weights, plan, shape));
}

}  // namespace

Result<Linear> Linear::bind(const WeightScope& weights, Plan& plan, Index out, Index in,
                            bool has_bias) {
  KRAIT_ASSIGN_OR_RETURN(auto forms, bind_forms(weights, plan, {.out = out, .in = in}));
  Linear bound(std::move(forms.front()));
  if (!has_bias) return bound;
  KRAIT_ASSIGN_OR_RETURN(const auto bias, weights.get<float>("bias", {out}));
  return bound.with_bias(bias.data());
}

Result<std::vector<Linear>> Linear::bind_stack(const WeightScope& weights, Plan& plan, Index count,
                                               Index out, Index in) {
  KRAIT_ASSIGN_OR_RETURN(auto forms,
                         bind_forms(weights, plan, {.out = out, .in = in, .count = count}));
  std::vector<Linear> bound;
  for (Form& form : forms) bound.emplace_back(std::move(form));
  return bound;
}

}  // namespace v0_1
}  // namespace krait
