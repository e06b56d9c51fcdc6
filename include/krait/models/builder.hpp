#pragma once

/// \file
/// ModelBuilder: a model as a stack of named specs.

#include <concepts>
#include <string>
#include <string_view>
#include <utility>

#include "krait/core/flow.hpp"
#include "krait/models/model.hpp"
#include "krait/models/spec.hpp"

namespace krait {
inline namespace v0_1 {

/// Records the residual blocks of one layer.
class LayerBuilder {
 public:
  /// h = h + block(norm(h)). The names are those of the checkpoint below "layers.<i>".
  LayerBuilder& residual(std::string norm_name, NormSpec norm, std::string block_name,
                         BlockSpec block) {
    layer_.residuals.push_back(
        {std::move(norm_name), std::move(norm), std::move(block_name), std::move(block)});
    return *this;
  }

  LayerSpec take() { return std::move(layer_); }

 private:
  LayerSpec layer_;
};

/// Binds a spec to weights: finds every tensor, checks every shape, books state and scratch.
/// Running the model afterwards looks up no name. Names in the store begin with `prefix`
/// ("backbone"), except the head's.
///
/// Errors: missing_tensor (lists the first ten), shape_mismatch, dtype_mismatch, bad_config.
KRAIT_API Result<Model> build_model(const ModelSpec& spec, const WeightStore& weights,
                                    const std::string& prefix = "",
                                    const WeightOptions& options = {});

/// Records a ModelSpec and builds it.
///
///   auto model = ModelBuilder{}
///       .embedding("embedding", {.vocab = 256, .d_model = 512})
///       .repeat(12, [](LayerBuilder& layer) {
///         layer.residual("norm", RmsNormSpec{}, "mixer", MambaSpec{.d_state = 16});
///       })
///       .final_norm("norm_f", RmsNormSpec{})
///       .tied_head()
///       .build(weights, "backbone");
class ModelBuilder {
 public:
  ModelBuilder& embedding(std::string name, EmbeddingSpec spec) {
    spec_.embedding_name = std::move(name);
    spec_.embedding = spec;
    return *this;
  }

  /// Appends `count` layers, each recorded by `body(LayerBuilder&)` or `body(LayerBuilder&, i)`.
  template <class Body>
  ModelBuilder& repeat(Index count, Body&& body) {
    for (Index i = 0; i < count; ++i) {
      LayerBuilder layer;
      if constexpr (std::invocable<Body&, LayerBuilder&, Index>) {
        body(layer, i);
      } else {
        body(layer);
      }
      spec_.layers.push_back(layer.take());
    }
    return *this;
  }

  ModelBuilder& final_norm(std::string name, NormSpec norm) {
    spec_.final_norm_name = std::move(name);
    spec_.final_norm = std::move(norm);
    return *this;
  }

  /// The head is the embedding's matrix.
  ModelBuilder& tied_head() {
    spec_.tied_head = true;
    return *this;
  }

  /// The head has a matrix of its own.
  ModelBuilder& head(std::string name) {
    spec_.tied_head = false;
    spec_.head_name = std::move(name);
    return *this;
  }

  const ModelSpec& spec() const noexcept { return spec_; }

  /// What the model would need. Allocates no weight.
  Result<ModelPlan> plan() const { return plan_model(spec_); }

  Result<Model> build(const WeightStore& weights, const std::string& prefix = "",
                      const WeightOptions& options = {}) const {
    return build_model(spec_, weights, prefix, options);
  }

 private:
  ModelSpec spec_;
};

}  // namespace v0_1
}  // namespace krait
