#include "krait/models/spec.hpp"

#include <fmt/format.h>

#include <cmath>

namespace krait::inline v0_1 {
namespace {

// Beyond this an extent is a mistake, and products of two extents and an element size could
// overflow.
constexpr Index largest_extent = Index{1} << 28;

Error bad(std::string_view what, std::string_view expected, std::string_view found) {
  return {ErrorCode::bad_config,
          fmt::format("[spec] {}: expected {}, found {}", what, expected, found)};
}

Result<void> check_extent(std::string_view what, Index value) {
  if (value < 1 || value > largest_extent) {
    return bad(what, fmt::format("1 to {}", largest_extent), fmt::to_string(value));
  }
  return {};
}

Result<void> check_norm(std::string_view what, const NormSpec& norm) {
  const float eps = std::visit([](const auto& spec) { return spec.eps; }, norm);
  if (!std::isfinite(eps) || eps < 0.0F) {
    return bad(fmt::format("{} eps", what), "a finite number of at least 0", fmt::to_string(eps));
  }
  return {};
}

Result<void> check_block(const BlockSpec& block, Index d_model) {
  const auto* mamba = std::get_if<MambaSpec>(&block);
  if (mamba == nullptr) return {};
  KRAIT_RETURN_IF_ERROR(check_extent("expand", mamba->expand));
  const MambaSpec spec = mamba->resolved(d_model);
  KRAIT_RETURN_IF_ERROR(check_extent("d_state", spec.d_state));
  KRAIT_RETURN_IF_ERROR(check_extent("d_conv", spec.d_conv));
  KRAIT_RETURN_IF_ERROR(check_extent("d_inner", spec.d_inner));
  KRAIT_RETURN_IF_ERROR(check_extent("dt_rank", spec.dt_rank));
  return {};
}

std::string norm_text(const NormSpec& norm) {
  const bool is_rms = std::holds_alternative<RmsNormSpec>(norm);
  const float eps = std::visit([](const auto& spec) { return spec.eps; }, norm);
  return fmt::format("{} eps {}", is_rms ? "RmsNorm" : "LayerNorm", eps);
}

std::string block_text(const BlockSpec& block, Index d_model) {
  if (const auto* mamba = std::get_if<MambaSpec>(&block)) {
    const MambaSpec spec = mamba->resolved(d_model);
    return fmt::format("Mamba d_inner {} d_state {} d_conv {} dt_rank {}{}{}", spec.d_inner,
                       spec.d_state, spec.d_conv, spec.dt_rank,
                       spec.conv_bias ? "" : " no-conv-bias", spec.bias ? " bias" : "");
  }
  const auto& custom = std::get<CustomSpec>(block);
  return custom.parameters.empty() ? custom.kind : custom.kind + " " + custom.parameters;
}

}  // namespace

Result<void> validate(const ModelSpec& spec) {
  KRAIT_RETURN_IF_ERROR(check_extent("vocab", spec.embedding.vocab));
  KRAIT_RETURN_IF_ERROR(check_extent("d_model", spec.embedding.d_model));
  if (spec.embedding.rows() < spec.embedding.vocab || spec.embedding.rows() > largest_extent) {
    return bad("vocab_padded", fmt::format("at least vocab ({})", spec.embedding.vocab),
               fmt::to_string(spec.embedding.rows()));
  }
  if (spec.layers.empty()) return bad("layers", "at least one", "none");
  for (const LayerSpec& layer : spec.layers) {
    for (const ResidualSpec& residual : layer.residuals) {
      KRAIT_RETURN_IF_ERROR(check_norm(residual.norm_name, residual.norm));
      KRAIT_RETURN_IF_ERROR(check_block(residual.block, spec.d_model()));
    }
  }
  return check_norm(spec.final_norm_name, spec.final_norm);
}

std::string to_string(const ModelSpec& spec) {
  std::string text =
      fmt::format("family {}\n{} vocab {} rows {} d_model {}\n", spec.family, spec.embedding_name,
                  spec.embedding.vocab, spec.embedding.rows(), spec.d_model());
  for (std::size_t first = 0; first < spec.layers.size();) {
    std::size_t last = first;
    while (last + 1 < spec.layers.size() && spec.layers[last + 1] == spec.layers[first]) ++last;
    text += last == first
                ? fmt::format("{}.{}\n", spec.layers_name, first)
                : fmt::format("{}.{} to {}.{}\n", spec.layers_name, first, spec.layers_name, last);
    for (const ResidualSpec& residual : spec.layers[first].residuals) {
      text += fmt::format("  {} {}\n  {} {}\n", residual.norm_name, norm_text(residual.norm),
                          residual.block_name, block_text(residual.block, spec.d_model()));
    }
    first = last + 1;
  }
  text += fmt::format("{} {}\n{}", spec.final_norm_name, norm_text(spec.final_norm),
                      spec.tied_head ? "tied head" : spec.head_name + " untied");
  return text;
}

}  // namespace krait::inline v0_1
