#pragma once

/// \file
/// Which experts a token goes to, and with what weights.

#include "krait/core/tensor_view.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// How a router turns logits into scores and gates.
enum class RouterScore {
  softmax,            ///< over all experts; chosen experts keep their probabilities
  softmax_of_chosen,  ///< chooses by logit, then the softmax over the chosen experts
  sigmoid,            ///< of every logit on its own
};

/// Arguments of `route`.
struct RouteArgs {
  MatrixView<const float> logits;  ///< [tokens, n_expert]
  RouterScore score = RouterScore::softmax;
  Index top_k = 1;                        ///< experts per token, 1 to n_expert
  const float* selection_bias = nullptr;  ///< [n_expert] or null; added to scores for choosing only
  bool normalize = false;                 ///< divides a token's gates by their sum
  float scale = 1.0F;                     ///< multiplies all gates
  MatrixView<float> gates;                ///< [tokens, n_expert] out; may be logits
};

/// The gates of every token: those of the top_k experts of the highest score, 0 for all others. An
/// expert whose gate is 0 has no part in the result and need not be computed.
///
///   Switch, MoE-Mamba   softmax, top_k 1                        arXiv:2101.03961, eq. 1-2
///   Jamba               softmax, top_k 2, not normalised        arXiv:2403.19887
///   BlackMamba          sigmoid, top_k 1                        arXiv:2402.01771
///   Granite 4           softmax_of_chosen
///   Nemotron 3          sigmoid with selection_bias, normalize, scale (arXiv:2412.19437, eq.
///   12-16)
///
/// Bits    numeric contract, section 7. Softmax and sigmoid are those of softmax.hpp and
///         elementwise.hpp; a normalising sum is over 16 lanes, then gate / (sum + 1e-20).
/// Ties    go to the lowest index; a NaN counts as -inf.
/// Oracle  ref::route.
KRAIT_API void route(const RouteArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
