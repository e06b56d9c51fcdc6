#pragma once

/// \file
/// Lora: factors of low rank over a checkpoint's matrices, as parameters in training.

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "krait/core/dtype.hpp"
#include "krait/training/parameters.hpp"

namespace krait {
inline namespace v0_1 {

/// Which matrices get factors, and of which size.
struct LoraOptions {
  Index rank = 16;
  double alpha = 32.0;   ///< the product of the factors counts alpha / rank times
  bool by_root = false;  ///< … or alpha / √rank times (rslora)
  /// Some of `lora_targets()`.
  std::vector<std::string> targets = {"in", "out"};
};

/// What factors can be for: `in`, `x`, `dt`, `out` (the mixers' in_proj, x_proj, dt_proj,
/// out_proj), `q`, `k`, `v`, `o` (attention), `mlp`, `experts`, `emb` (the embedding; a head that
/// shares its matrix stays as it is).
KRAIT_API std::vector<std::string_view> lora_targets();

/// Reads "r=16,alpha=32,targets=in+x+dt"; between targets, commas do as well. What is left out is
/// as in LoraOptions, but alpha, which is twice the rank; "rslora=true" sets by_root. Errors:
/// bad_argument.
KRAIT_API Result<LoraOptions> parse_lora(std::string_view text);
/// The same text for the same options.
KRAIT_API std::string to_string(const LoraOptions& options);

/// Factors over the matrices of a checkpoint, in whatever form that has them. Immutable: values,
/// gradients and moments of the factors are arrays in the order of `parameters`.
class KRAIT_API Lora {
 public:
  /// `weights` are the model's, which are shared. Errors: bad_argument (a target that the model
  /// does not have), bad_config.
  static Result<std::shared_ptr<const Lora>> create(const ModelSpec& spec,
                                                    const std::string& prefix, WeightStore weights,
                                                    const LoraOptions& options);

  const LoraOptions& options() const noexcept { return options_; }
  /// The factors: "layers.3.mixer.in_proj.lora_A" [rank, in] and "….lora_B" [out, rank].
  const Parameters& parameters() const noexcept { return parameters_; }
  /// The model's weights without the factors.
  const WeightStore& base() const noexcept { return base_; }
  /// The model's weights with the factors at `values` [parameters().floats()], in place, which must
  /// outlive the store. With every B zero, a model of these gives the numbers of the base.
  WeightStore store(const float* values) const;

  /// Values to begin with, as PEFT's: A uniform within ±1/√in, B zero; of the embedding A from
  /// N(0, 1). A pure function of (parameters, seed).
  void initial_values(std::uint64_t seed, std::span<float> values) const;

  /// Writes PEFT's adapter_model.safetensors and adapter_config.json to the folder, which exists:
  /// factors in `dtype` (f32, bf16, f16). `model` is the base's name there.
  Result<void> write(const std::string& folder, const std::string& model, const float* values,
                     DType dtype) const;

 private:
  struct Matrix {
    std::string name;         // in the store
    std::string module = {};  // in PEFT's files
    Index out = 0;
    Index in = 0;
    Index count = 0;  // of a stack; 0: none
    bool is_embedding = false;
    std::size_t A = 0;  // in parameters_.all(); B follows
  };

  Result<void> choose(const ModelSpec& spec, const std::string& prefix);
  std::string config_json(const std::string& model) const;

  LoraOptions options_;
  Parameters parameters_;
  WeightStore base_;
  std::vector<Matrix> matrices_;
  std::vector<std::string> words_;  // by which PEFT finds the modules
};

}  // namespace v0_1
}  // namespace krait
