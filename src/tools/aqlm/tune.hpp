#pragma once

#include <set>
#include <span>
#include <string>

#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"
#include "krait/loading/registry.hpp"
#include "krait/models/model.hpp"
#include "krait/tools/aqlm.hpp"
#include "tools/aqlm/tuned_matrix.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// A quantised matrix of a model that is to be tuned.
struct TuneTarget {
  std::string name;  ///< of the finished matrix
  std::string path;  ///< of its tensor in the model: "layers.3.mixer.in_proj.weight"
  Index first = 0;   ///< of its weights in that tensor: those of an expert come after others'
  AqlmMatrix matrix;
};

struct TuneOptions {
  Index tokens = 0;                   ///< of all steps together; a text is gone through again
  Index steps_per_round = 128;        ///< between two looks elsewhere, unless an epoch ends before
  Index tokens_elsewhere = 64 << 10;  ///< at most
  Index row_tokens = 256;  ///< gradients reach back so far; states go on, but for attention
  Index rows_per_step = 4;
  TuneRates rates = {};  ///< of the first step; falls to 0 in equal steps
  /// From a shorter text than this, weights and dense tensors move slower in proportion: there are
  /// many of them, and what it says of each is little.
  Index tokens_for_weights = 32 << 10;
  Index steps_per_code = 8;  ///< between two searches for codes
  Index beam = 8;            ///< of these

  Index tokens_per_step() const noexcept { return rows_per_step * row_tokens; }
};

/// Mean divergence per token, in nats, at the end of the text, which is not learned from: before,
/// and after the round that is kept.
struct Tuning {
  double first = 0.0;
  double last = 0.0;
};

/// Moves all matrices, and the tensors named `dense` of the checkpoint, together to where the
/// quantised model's next-token distributions are those of the original one on the text: Adam on
/// the Kullback-Leibler divergence, see TunedMatrix. Kept is the round after which the divergence
/// is least on the last quarter of the text, which is not learned from, with everything rounded as
/// it is stored. The result does not depend on the executor.
///
/// It is in `work`: the matrices under `tuned_name`, tensors that moved in the piece `tuned_dense`
/// under their names in the checkpoint. Every round is kept there, too, where an interrupted call
/// goes on.
///
/// `progress` counts steps. Errors: unsupported (a block without a backward pass, or less than four
/// rows of text), cancelled, not_finite, io_failed.
Result<Tuning> tune(const CheckpointPlan& plan, const Model& original,
                    std::span<const Token> tokens, std::span<const TuneTarget> targets,
                    const std::set<std::string>& dense, const TuneOptions& options,
                    const PartialWork& work, Executor& executor, Progress progress);

/// What a tuned matrix is called.
std::string tuned_name(const std::string& name);
inline constexpr const char* tuned_dense = "dense.tuned";

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
