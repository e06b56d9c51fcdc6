#pragma once

#include <span>
#include <string>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/model.hpp"
#include "krait/tools/aqlm.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// A quantised matrix of a model in tuning.
struct TunedMatrix {
  std::string path;  ///< of its tensor in the model: "layers.3.mixer.in_proj.weight"
  Index first = 0;   ///< of its weights in that tensor: those of an expert come after others'
  AqlmMatrix* matrix = nullptr;
};

struct TuneOptions {
  Index epochs = 12;                  ///< over a short text
  Index tokens = Index{2} << 20;      ///< of all steps together, at most
  Index steps_per_round = 128;        ///< between two looks elsewhere, unless an epoch ends before
  Index tokens_elsewhere = 64 << 10;  ///< at most
  Index row_tokens = 256;  ///< gradients reach back so far; states go on, but for attention
  Index rows_per_step = 4;
  /// Of the first step, relative to the root mean square of a codebook's numbers, or to a scale;
  /// falls to 0 in equal steps.
  double rate = 0.01;
};

/// Mean divergence per token, in nats, at the end of the text, which is not learned from: before,
/// and after the round that is kept.
struct Tuning {
  double first = 0.0;
  double last = 0.0;
};

/// Moves codebooks and scales of all matrices together to where the quantised model's next-token
/// distributions are those of the original one on the text: Adam (Kingma and Ba 2014,
/// arXiv:1412.6980) on the Kullback-Leibler divergence. Codes stay. Kept is the round after which
/// the divergence is least on the last quarter of the text, which is not learned from. In the end
/// both are rounded to f16. Every round is kept in `work`, where an interrupted call goes on. The
/// result does not depend on the executor.
///
/// `progress` counts steps. Errors: unsupported (a block without a backward pass, or less than four
/// rows of text), cancelled, not_finite, io_failed.
Result<Tuning> tune(const CheckpointPlan& plan, const Model& original,
                    std::span<const Token> tokens, std::span<const TunedMatrix> matrices,
                    const TuneOptions& options, const PartialWork& work, Executor& executor,
                    Progress progress);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
