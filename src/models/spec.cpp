#include "krait/models/spec.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <span>
#include <variant>

#include "core/bad_argument.hpp"

namespace krait {
inline namespace v0_1 {

Result<void> CustomSpec::validate(Index /*d_model*/) const {
  const auto refuse = [&](std::string_view expected, std::string_view found) {
    return bad_spec(fmt::format("CustomSpec '{}'", kind), expected, found);
  };
  if (!bind) return refuse("a bind function", "none");
  if (n_expert < 0) return refuse("n_expert of at least 0", fmt::to_string(n_expert));
  return {};
}

std::string CustomSpec::to_string(Index /*d_model*/) const {
  return parameters.empty() ? kind : kind + " " + parameters;
}

namespace {

Result<void> check_scale(std::string_view what, float scale) {
  if (std::isfinite(scale)) return {};
  return bad_spec(what, "a finite number", spec_number(scale));
}

// A block that is aside needs one that takes its output, and what it adds to is the stream.
Result<void> check_aside(const LayerSpec& layer, const ResidualSpec& residual) {
  if (!residual.aside) return {};
  if (residual.beside) return bad_spec("aside", "a block that is not beside another", "one");
  if (&residual == &layer.residuals.back()) {
    return bad_spec("aside", "a block after it in the layer", "none");
  }
  const ResidualSpec& next = *(&residual + 1);
  if (next.beside || next.aside) {
    return bad_spec("aside", "a block after it that is neither beside it nor aside", "one that is");
  }
  return {};
}

// Whether every block reads the layer's input.
bool is_parallel(const LayerSpec& layer) {
  return layer.residuals.size() > 1 &&
         std::all_of(layer.residuals.begin() + 1, layer.residuals.end(),
                     [](const ResidualSpec& residual) { return residual.beside; });
}

}  // namespace

Result<void> validate(const ModelSpec& spec) {
  KRAIT_RETURN_IF_ERROR(check_extent("vocab", spec.embedding.vocab));
  KRAIT_RETURN_IF_ERROR(check_extent("d_model", spec.embedding.d_model));
  if (spec.embedding.rows() < spec.embedding.vocab || spec.embedding.rows() > largest_extent) {
    return bad_spec("vocab_padded", fmt::format("at least vocab ({})", spec.embedding.vocab),
                    fmt::to_string(spec.embedding.rows()));
  }
  KRAIT_RETURN_IF_ERROR(check_scale("embedding scale", spec.embedding.scale));
  KRAIT_RETURN_IF_ERROR(check_scale("logit_scale", spec.logit_scale));
  if (spec.layers.empty()) return bad_spec("layers", "at least one", "none");
  constexpr Index most_experts_in_all = Index{1} << 16;
  Index n_expert = 0;
  for (const LayerSpec& layer : spec.layers) {
    for (const ResidualSpec& residual : layer.residuals) {
      if (residual.beside && &residual == &layer.residuals.front()) {
        return bad_spec("beside", "a block before it in the layer", "none");
      }
      KRAIT_RETURN_IF_ERROR(check_aside(layer, residual));
      // It may be a layer that the model itself leaves out.
      if (residual.weights_of < -1) {
        return bad_spec("weights_of", "-1 or a layer", fmt::to_string(residual.weights_of));
      }
      KRAIT_RETURN_IF_ERROR(check_scale("residual scale", residual.scale));
      KRAIT_RETURN_IF_ERROR(validate(residual.norm_name, residual.norm));
      KRAIT_RETURN_IF_ERROR(std::visit(
          [&](const auto& block) { return block.validate(spec.d_model()); }, residual.block));
      n_expert += std::visit([](const auto& block) { return expert_count(block); }, residual.block);
      if (n_expert > most_experts_in_all) {
        return bad_spec("n_expert", fmt::format("at most {} in all layers", most_experts_in_all),
                        "more");
      }
    }
  }
  return validate(spec.final_norm_name, spec.final_norm);
}

Result<ModelSpec> without_layers(const ModelSpec& spec, std::span<const Index> layers) {
  const Index count = std::ssize(spec.layers);
  ModelSpec shorter = spec;
  shorter.layers.clear();
  for (const Index layer : layers) {
    if (layer < 0 || layer >= count) {
      return bad_argument("model", "layer to skip", fmt::format("0 to {}", count - 1),
                          fmt::to_string(layer));
    }
  }
  const auto is_shared = [](const ResidualSpec& residual) {
    return std::holds_alternative<SharedTransformerSpec>(residual.block);
  };
  for (Index l = 0; l < count; ++l) {
    if (std::ranges::any_of(spec.layers[static_cast<std::size_t>(l)].residuals, is_shared)) {
      // Of such a block some tensors are the layer's own, whichever has the others.
      return Error{ErrorCode::unsupported,
                   fmt::format("[model] layers to skip: expected a model whose layers share no "
                               "blocks, found one shared in layer {}",
                               l)};
    }
    if (std::ranges::find(layers, l) != layers.end()) continue;
    LayerSpec layer = spec.layers[static_cast<std::size_t>(l)];
    for (ResidualSpec& residual : layer.residuals) {
      if (residual.weights_of < 0) residual.weights_of = l;
    }
    shorter.layers.push_back(std::move(layer));
  }
  if (shorter.layers.empty()) {
    return bad_argument("model", "layers to skip", fmt::format("fewer than all {}", count), "all");
  }
  return shorter;
}

std::vector<BlockMatrix> matrices(const ResidualSpec& residual, Index d_model) {
  return std::visit([&](const auto& block) { return block.matrices(d_model); }, residual.block);
}

std::string to_string(const ModelSpec& spec) {
  const auto scaled = [](float scale) {
    return scale == 1.0F ? std::string() : " scale " + spec_number(scale);
  };
  std::string text = fmt::format("family {}\n{} vocab {} rows {} d_model {}{}\n", spec.family,
                                 spec.embedding_name, spec.embedding.vocab, spec.embedding.rows(),
                                 spec.d_model(), scaled(spec.embedding.scale));
  for (std::size_t first = 0; first < spec.layers.size();) {
    std::size_t last = first;
    while (last + 1 < spec.layers.size() && spec.layers[last + 1] == spec.layers[first]) ++last;
    text += last == first
                ? fmt::format("{}.{}", spec.layers_name, first)
                : fmt::format("{}.{} to {}.{}", spec.layers_name, first, spec.layers_name, last);
    const bool all_beside = is_parallel(spec.layers[first]);
    text += all_beside ? " parallel\n" : "\n";
    for (const ResidualSpec& residual : spec.layers[first].residuals) {
      const std::string block = std::visit(
          [&](const auto& kind) { return kind.to_string(spec.d_model()); }, residual.block);
      const std::string owner =
          residual.weights_of < 0
              ? std::string()
              : fmt::format(" weights of {}.{}", spec.layers_name, residual.weights_of);
      text += fmt::format("  {} {}\n  {} {}{}{}{}{}\n", residual.norm_name,
                          to_string(residual.norm), residual.block_name, block,
                          scaled(residual.scale), residual.beside && !all_beside ? " beside" : "",
                          residual.aside ? " aside" : "", owner);
    }
    first = last + 1;
  }
  text += fmt::format("{} {}\n{}", spec.final_norm_name, to_string(spec.final_norm),
                      spec.tied_head ? "tied head" : spec.head_name + " untied");
  if (spec.head_bias) text += " with bias";
  return text + scaled(spec.logit_scale);
}

}  // namespace v0_1
}  // namespace krait
