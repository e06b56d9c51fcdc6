#include "krait/training/block_gradient.hpp"

#include <fmt/format.h>

#include "training/blocks.hpp"

namespace krait {
inline namespace v0_1 {

namespace {

// What the backward pass of a block cannot do, in words; empty where it can do all of it.
std::string_view untrained(const AttentionSpec& spec) {
  if (spec.window > 0) return "no sliding window";
  if (spec.d_conv > 0) return "no convolution";
  if (spec.adapter_rank > 0) return "no adapters of its own";
  if (!(spec.names == AttentionNames{})) return "q_proj, k_proj, v_proj and o_proj";
  return {};
}

std::string_view untrained(Activation activation) {
  const bool is_known = activation == Activation::relu || activation == Activation::silu;
  return is_known ? std::string_view() : "relu or silu";
}

std::string_view untrained(const MlpSpec& spec) {
  if (!spec.gate.empty() || spec.gate_last) return "the gate in the first rows of the first matrix";
  if (spec.gate_scale != 1.0F) return "no factor of the gate";
  if (spec.adapter_rank > 0) return "no adapter of its own";
  return untrained(spec.activation);
}

std::string_view untrained(const MoeSpec& spec) {
  if (!spec.names.gate.empty()) return "the gate in the first rows of the first matrix";
  return untrained(spec.activation);
}

std::string_view untrained(const MambaSpec& spec) {
  return spec.inner_norm_weights ? "inner norms without weights" : "";
}

std::string_view untrained(const Mamba2Spec& spec) {
  return spec.scales != Mamba2Scales{} ? "no factors behind in_proj" : "";
}

std::string_view untrained(const SharedTransformerSpec& /*spec*/) { return {}; }

std::string_view untrained(const CustomSpec& /*spec*/) { return {}; }

}  // namespace

BlockGradient::~BlockGradient() = default;

Result<std::unique_ptr<const BlockGradient>> make_block_gradient(const BlockSpec& block,
                                                                 Index d_model) {
  return std::visit(
      [&](const auto& spec) -> Result<std::unique_ptr<const BlockGradient>> {
        KRAIT_RETURN_IF_ERROR(spec.validate(d_model));
        if (const std::string_view what = untrained(spec); !what.empty()) {
          return Error{ErrorCode::unsupported,
                       fmt::format("[training] block: expected {}, which can be trained, found {}",
                                   what, spec.to_string(d_model))};
        }
        if constexpr (requires { training::gradient_of(spec, d_model); }) {
          return training::gradient_of(spec, d_model);
        } else {
          return Error{ErrorCode::unsupported,
                       fmt::format("[training] block: expected one that can be trained, found {}",
                                   spec.to_string(d_model))};
        }
      },
      block);
}

}  // namespace v0_1
}  // namespace krait
