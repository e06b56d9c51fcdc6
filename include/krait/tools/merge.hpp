#pragma once

/// \file
/// Writes a checkpoint with an adapter of low rank added to its matrices.

#include <optional>
#include <string>

#include "krait/core/dtype.hpp"
#include "krait/core/error.hpp"
#include "krait/core/executor.hpp"
#include "krait/core/flow.hpp"

namespace krait {
inline namespace v0_1 {

/// What became of a checkpoint.
struct MergeSummary {
  Index merged = 0;   ///< matrices that the adapter changed; each of a stack counts
  Index tensors = 0;  ///< of the new checkpoint
  Index bytes = 0;    ///< of all of them
};

/// Writes the checkpoint at `source` (see open_model) to the new folder `destination`, with
/// W + s · B A in place of every matrix W that the adapter at `adapter` (see loading/adapter.hpp)
/// has factors for: computed in binary64, in ascending order of the rank, and rounded once to the
/// type that W is stored in. All other tensors are as they were. A head that shares the matrix of
/// an adapted embedding gets the old one as its own, and the configuration says so.
///
/// Matrices that are not stored as floats are refused, unless `dtype` (f32, bf16, f16) is given: it
/// is the type of all that the adapter changes. The result is the same for every executor.
///
/// `progress` counts bytes of the result. The folder appears whole or not at all. Errors: those of
/// open_model, plan_model and add_adapter; bad_argument (a matrix that is not of floats, a
/// destination that exists or lies in the source), bad_format (a sum that the type cannot hold),
/// not_found, io_failed, cancelled.
Result<MergeSummary> merge_adapter(const std::string& source, const std::string& adapter,
                                   const std::string& destination, std::optional<DType> dtype,
                                   Executor& executor, Progress progress = {});

}  // namespace v0_1
}  // namespace krait
