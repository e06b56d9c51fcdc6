#pragma once

#include <fmt/format.h>

#include <cstddef>
#include <string>
#include <vector>

#include "krait/loading/registry.hpp"
#include "krait/modules/block_spec.hpp"
#include "krait/tools/aqlm.hpp"
#include "tools/aqlm/calibration.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// A tensor of weights that is quantised: a matrix, or a stack of experts' matrices.
struct Job {
  std::string name;               ///< without ".weight"
  std::size_t layer = 0;          ///< one behind the last: the head
  std::string path;               ///< of the block; empty: it is the head
  std::vector<BlockMatrix> each;  ///< one, or one of each expert
  Index out = 0;
  Index in = 0;

  Index count() const noexcept { return std::ssize(each); }
  Index weights() const noexcept { return count() * out * in; }
  /// How the i-th matrix is called in the folder of finished ones.
  std::string name_of(Index i) const {
    return each.front().is_stacked ? fmt::format("{}.{}", name, i) : name;
  }
  /// The path of its tensor in the model, and where it begins there.
  std::string tensor(Index i) const {
    const std::string& below = each[static_cast<std::size_t>(i)].name;
    return path.empty() ? below + ".weight" : fmt::format("{}.{}.weight", path, below);
  }
  Index first_of(Index i) const { return each.front().is_stacked ? i * out * in : 0; }
  MatrixPlace place(Index i) const;
};

/// What is quantised of a checkpoint, in the order of the model. Errors: bad_argument (nothing,
/// patterns that fit no matrix, or groups that do not divide a matrix's inputs).
Result<std::vector<Job>> list_jobs(const CheckpointPlan& plan, const AqlmOptions& options);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
