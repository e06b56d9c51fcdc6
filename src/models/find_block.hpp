#pragma once

/// \file
/// Finds blocks of a kind in a specification.

#include <variant>

#include "krait/models/spec.hpp"

namespace krait {
inline namespace v0_1 {

/// The first block of a kind; null if there is none.
template <class Spec>
const Spec* find_block(const LayerSpec& layer) {
  for (const ResidualSpec& residual : layer.residuals) {
    if (const auto* block = std::get_if<Spec>(&residual.block)) return block;
  }
  return nullptr;
}
template <class Spec>
const Spec* find_block(const ModelSpec& spec) {
  for (const LayerSpec& layer : spec.layers) {
    if (const auto* block = find_block<Spec>(layer)) return block;
  }
  return nullptr;
}

}  // namespace v0_1
}  // namespace krait
