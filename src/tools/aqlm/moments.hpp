#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "krait/core/aligned_buffer.hpp"
#include "krait/core/executor.hpp"
#include "krait/modules/hook.hpp"
#include "krait/tools/aqlm.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// Adds up the second moments of the inputs of some matrices, in a session that it is the hook of.
/// The sums do not depend on how the text is cut into runs, nor on the executor.
class InputMoments final : public ActivationHook {
 public:
  explicit InputMoments(Executor& executor) : executor_(executor) {}

  /// Watches the rows, of that width, at a site of the block at `path`; of one expert if `expert`
  /// is not negative. Returns a number for `moments`. Allocates all that `at` needs.
  std::size_t watch(std::string_view path, Site site, Index expert, Index width, bool diagonal);

  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override;

  /// The mean over the rows seen so far, and their number.
  SecondMoments moments(std::size_t i);
  Index rows(std::size_t i) const noexcept { return watched_[i].rows; }

 private:
  // Rows are summed in f32 so many at a time, and these sums in double.
  static constexpr Index batch = 128;

  struct Watched {
    std::string path;
    Site site = Site::input;
    Index expert = -1;
    Index width = 0;
    bool diagonal = false;
    Index rows = 0;
    Index waiting = 0;             // rows in `columns`
    AlignedBuffer<float> columns;  // [width, batch]: a row of input is a column
    AlignedBuffer<double> sums;    // [width, width] or [width]
  };

  void flush(Watched& watched) noexcept;

  Executor& executor_;
  std::vector<Watched> watched_;
  AlignedBuffer<float> product_;    // [width, width] of the widest
  AlignedBuffer<float> workspace_;  // of its product
};

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
