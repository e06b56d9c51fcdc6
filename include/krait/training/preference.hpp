#pragma once

/// \file
/// Direct preference optimisation: the losses of pairs of answers (Rafailov et al. 2023,
/// arXiv:2305.18290).

#include <span>
#include <string_view>

#include "krait/core/flow.hpp"
#include "krait/training/model_gradient.hpp"
#include "krait/training/rows.hpp"

namespace krait {
inline namespace v0_1 {

/// Losses of a pair, named as in TRL. Δ is by how much more than the reference the model prefers
/// the chosen answer: Δ = Σ ln(p/p_ref) over the chosen answer's tokens, minus that of the rejected
/// one's; in `ipo` and `sigmoid_norm` each sum is divided by its number of tokens.
enum class PreferenceLoss {
  sigmoid,  ///< −(1−ε)·ln σ(βΔ) − ε·ln σ(−βΔ)
  ipo,      ///< (Δ − 1/(2β))² (Azar et al. 2023, arXiv:2310.12036, eq. 17)
  hinge,    ///< max(0, 1 − βΔ)
  robust,  ///< [−(1−ε)·ln σ(βΔ) + ε·ln σ(−βΔ)]/(1−2ε) (Chowdhury et al. 2024, 2403.00409)
  sigmoid_norm,  ///< −ln σ(βΔ)
};

KRAIT_API std::string_view to_string(PreferenceLoss loss) noexcept;

/// What decides the loss of pairs.
struct PreferenceOptions {
  PreferenceLoss loss = PreferenceLoss::sigmoid;
  double beta = 0.1;
  double label_smoothing = 0.0;  ///< ε, of sigmoid and robust, below 1/2
  /// Coefficient of the mean cross-entropy of the chosen answers' tokens, which is added.
  double sft = 0.0;
  /// What a token counts in sums of log-probabilities that stands behind the length of the shorter
  /// answer (LD-DPO, Liu et al. 2024, arXiv:2409.06411), 0 to 1.
  double ld_alpha = 1.0;
};

/// Errors: bad_argument, naming the first bad value.
KRAIT_API Result<void> validate(const PreferenceOptions& options);

struct PairLoss {
  double loss = 0.0;
  double slope = 0.0;  ///< its derivative with respect to Δ
};
KRAIT_API PairLoss pair_loss(const PreferenceOptions& options, double delta);

/// What was found for a pair; sums over several, or their means.
struct PairStatistics {
  Index count = 0;  ///< pairs
  double loss = 0.0;
  double chosen_reward = 0.0;  ///< β·Σ ln(p/p_ref)
  double rejected_reward = 0.0;
  double accuracy = 0.0;      ///< 1 where the chosen answer has the larger reward
  double chosen_log_p = 0.0;  ///< Σ ln p
  double rejected_log_p = 0.0;

  void add(const PairStatistics& other);
  /// Of sums.
  PairStatistics mean() const;
};

/// What a pair's gradient is made with, beside the options of the loss.
struct PairWeights {
  double sft = 0.0;      ///< of the cross-entropy of each of the chosen answer's tokens
  double balance = 0.0;  ///< of the experts' balancing loss, the mean of both answers'
  double z_loss = 0.0;
  double capacity = 0.0;  ///< of experts, see Leaf
};

/// Adds the gradient of a pair's loss, one leaf, to `gradients` [parameters]. A pair of equal
/// answers adds exactly nothing, but for the cross-entropy. Errors: those of
/// `ModelGradient::backward`; bad_argument for a pair without its reference.
KRAIT_API Result<PairStatistics> pair_backward(ModelGradient& model, const PreferencePair& pair,
                                               const PreferenceOptions& options,
                                               const PairWeights& weights, float* gradients);

/// The same without a gradient; `sft` is that of PairWeights.
KRAIT_API Result<PairStatistics> pair_statistics(ModelGradient& model, const PreferencePair& pair,
                                                 const PreferenceOptions& options,
                                                 double sft = 0.0);

/// The log-probability of each target of a row, without a gradient.
KRAIT_API Result<std::vector<float>> target_log_probabilities(ModelGradient& model, const Row& row);

/// Gives every pair its reference, by the model's bound values. `progress` counts pairs. Errors:
/// those of the model, cancelled.
KRAIT_API Result<void> set_reference(ModelGradient& model, std::span<PreferencePair> pairs,
                                     Progress progress = {});

}  // namespace v0_1
}  // namespace krait
