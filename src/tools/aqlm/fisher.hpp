#pragma once

#include <span>
#include <string>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/loading/registry.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// A matrix of a model, or an expert's part of a stack.
struct FisherPlace {
  std::string path;  ///< of its tensor in the model: "layers.3.mixer.in_proj.weight"
  Index first = 0;   ///< of its weights in that tensor
  Index out = 0;
  Index in = 0;
};

/// How much each output of these matrices moves the text's cross-entropy: the diagonal of the
/// empirical Fisher information, F[i,k] = E[(∂L/∂W[i,k])²] over pieces of the text of
/// `piece_tokens` tokens, summed over k; the output side of YAQA's factored Hessian (Tseng et al.
/// 2025, arXiv:2505.22988), reduced to its diagonal. One vector [out] per place, with a mean of 1;
/// every output is moved a tenth of the way to 1, and where no piece reaches a matrix all are 1.
/// Does not depend on the executor. `progress` counts tokens. Errors: unsupported (a block without
/// a backward pass), not_finite, cancelled.
Result<std::vector<std::vector<float>>> output_fisher(const CheckpointPlan& plan,
                                                      std::span<const Token> tokens,
                                                      std::span<const FisherPlace> places,
                                                      Executor& executor, Progress progress = {});

/// The same, from the unfinished work where they are, else into it.
Result<std::vector<std::vector<float>>> finished_output_fisher(
    const PartialWork& finished, const CheckpointPlan& plan, std::span<const Token> tokens,
    std::span<const FisherPlace> places, Executor& executor, Progress progress);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
