#pragma once

#include <string>
#include <vector>

#include "krait/core/executor.hpp"
#include "krait/tools/aqlm.hpp"
#include "tools/aqlm/adam.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// How large the first steps are, relative to the root mean square of what they move: of a
/// codebook, a scale, a row of weights.
struct TuneRates {
  double codebooks = 0.01;  ///< and scales
  double weights = 0.01;    ///< that codes follow
  double dense = 0.003;     ///< of tensors that are not quantised
};

/// A quantised matrix in tuning. It has weights of its own, which move with what it stands for and
/// beyond it, as if they were stored; now and then its codes become those of the nearest matrix
/// that codebooks and scales can make (straight-through estimation, Bengio et al. 2013,
/// arXiv:1308.3432; of codes Malinovskii et al. 2024, arXiv:2405.14852).
class TunedMatrix {
 public:
  explicit TunedMatrix(const AqlmMatrix& matrix);

  /// The weights [out, in] that it stands for.
  void decode(float* weights) const;
  /// One step down the gradient [out, in] of these. With u the sum of the codewords and s the
  /// scale, w = s u has dC = Σ s dw over the places where the codeword stands, ds = Σ u dw.
  void move(const float* gradient, const TuneRates& rates, AdamStep step);
  /// Codes for its own weights, with `beam` hypotheses; none that is farther from them.
  void encode(Index beam, Executor& executor);
  /// As it is stored, without an error.
  AqlmMatrix stored() const;

  void append_to(std::vector<NamedTensor>& tensors, const std::string& name) const;
  bool restore(const WeightStore& store, const std::string& name);

 private:
  // Row `row` without its scale.
  void unscaled(Index row, std::vector<float>& sums) const;

  AqlmScheme scheme_;
  Index out_;
  Index in_;
  std::vector<std::uint16_t> codes_;
  Adam codebooks_;
  Adam scales_;
  Adam beyond_;  // its own weights, less those that it stands for
};

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
