#pragma once

#include <limits>
#include <span>

#include "krait/core/aligned_buffer.hpp"
#include "krait/kernels/codeword_search.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// Codewords as `search_codewords` reads them: component after component, with their norms, and
/// filled up to a multiple of 16 with codes that are never chosen.
class TransposedCodebook {
 public:
  TransposedCodebook() = default;

  /// Of `codewords` [count, group].
  TransposedCodebook(std::span<const float> codewords, Index count, Index group) {
    resize(count, group);
    for (Index k = 0; k < count; ++k) {
      set(k, codewords.data() + k * group);
    }
  }

  void resize(Index count, Index group) {
    group_ = group;
    padded_ = round_up(count, 16);
    if (values_.size() != padded_ * group) values_ = AlignedBuffer<float>(padded_ * group);
    if (norms_.size() != padded_) norms_ = AlignedBuffer<float>(padded_);
    for (Index k = count; k < padded_; ++k) norms_[k] = std::numeric_limits<float>::infinity();
  }

  void set(Index k, const float* codeword) {
    float norm = 0.0F;
    for (Index d = 0; d < group_; ++d) {
      values_[d * padded_ + k] = codeword[d];
      norm += codeword[d] * codeword[d];
    }
    norms_[k] = norm;
  }

  float at(Index k, Index d) const noexcept { return values_[d * padded_ + k]; }
  MatrixView<const float> view() const noexcept { return {values_.data(), group_, padded_}; }
  const float* norms() const noexcept { return norms_.data(); }

 private:
  Index group_ = 0;
  Index padded_ = 0;
  AlignedBuffer<float> values_;  // [group, padded]
  AlignedBuffer<float> norms_;   // [padded]
};

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
