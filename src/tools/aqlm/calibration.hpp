#pragma once

#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/executor.hpp"
#include "krait/io/weight_store.hpp"
#include "krait/loading/language_model.hpp"
#include "krait/models/session.hpp"
#include "krait/modules/hook.hpp"
#include "krait/tools/aqlm.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// Where a matrix stands and what it makes.
struct MatrixPlace {
  std::string path;          ///< of its block; empty: it is the head
  Site input = Site::input;  ///< where its inputs pass by
  Index expert = -1;
  Index in = 0;
  bool makes_output = false;  ///< whether its product is the block's output, but for a bias
};

/// What the calibration text says of a matrix.
struct MatrixStatistics {
  SecondMoments inputs;  ///< of x̃, the inputs behind everything that is quantised so far
  Index rows = 0;        ///< how many inputs there were
  /// D in [m, in]: see `correct`. Empty: no correction.
  std::vector<double> difference;
  Index difference_rows = 0;
  bool is_of_outputs = false;

  /// Moves W [out, in] to where it does the original's work on the quantised model's inputs.
  ///
  /// With x the original model's input for a token and x̃ the quantised one's, W + ΔW has the least
  /// mean of ‖(W + ΔW) x̃ − W x‖², plus a ridge on ΔW: ΔW = W D (H + λI)⁻¹, with D the mean of
  /// (x − x̃) x̃ᵀ and H that of x̃ x̃ᵀ. A matrix that makes its block's output also makes up for what
  /// the residual stream has lost before it: with e the difference of the two streams behind the
  /// block, ΔW = E (H + λI)⁻¹, with E the mean of e x̃ᵀ.
  void correct(Executor& executor, MatrixView<float> W) const;
};

/// The calibration text between two layers of the original model and of the quantised one.
class Calibration {
 public:
  Calibration(const CheckpointPlan& plan, const Model& original, Executor& executor)
      : plan_(plan), original_(original), executor_(executor) {}

  /// Runs the text, which must outlive its use, up to the first layer. Errors: bad_argument (no
  /// text).
  Result<void> begin(std::span<const Token> text);
  bool has_text() const noexcept { return reference_.size() != 0; }
  /// So much of the text as is looked at.
  std::span<const Token> text() const noexcept { return text_; }

  /// What the matrices at these places see, in a layer of which `replace` has replaced some; the
  /// head alone behind the last one. With `diagonal`, only the second moments' diagonals and no
  /// corrections.
  Result<std::vector<MatrixStatistics>> see(Index layer, const std::vector<MatrixPlace>& places,
                                            bool diagonal);

  /// Gives a tensor of the layer at hand its quantised values, which are decoded.
  void replace(const std::string& name, const Shape& shape,
               std::shared_ptr<AlignedBuffer<float>> values);

  /// Runs both models through the layer; what was replaced is forgotten.
  Result<void> advance(Index layer);

 private:
  Result<Model> quantised() const;
  std::vector<MatrixStatistics> see_head(const MatrixPlace& place, bool diagonal);

  const CheckpointPlan& plan_;
  const Model& original_;
  Executor& executor_;
  std::span<const Token> text_;
  // The residual streams in front of the layer, [tokens, d_model].
  AlignedBuffer<float> reference_;
  AlignedBuffer<float> stream_;
  std::optional<WeightStore> replaced_;
};

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
