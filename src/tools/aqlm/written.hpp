#pragma once

#include <string>
#include <vector>

#include "krait/loading/registry.hpp"
#include "krait/tools/aqlm.hpp"
#include "tools/aqlm/jobs.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// The configuration with what transformers wants to know in front of everything else, which stays
/// as it is written.
std::string with_quantization(const Checkpoint& checkpoint, const std::vector<Job>& jobs,
                              const AqlmScheme& scheme);

/// The i-th matrix of a job, as it is in `finished`, before tuning or after it. Errors: io_failed
/// (none).
Result<AqlmMatrix> finished_matrix(const PartialWork& finished, const Job& job, Index i,
                                   const AqlmScheme& scheme, bool is_tuned);

/// The checkpoint's weights with the finished matrices of `jobs` in place of its own; all others
/// are shared. Adds the bytes of all tensors to the report.
Result<WeightStore> overlay_weights(const CheckpointPlan& plan, const std::vector<Job>& jobs,
                                    const AqlmScheme& scheme, const PartialWork& finished,
                                    bool is_tuned, AqlmReport& report);

/// Writes all of these tensors, one matrix after the other. Adds their bytes to the report.
Result<void> write_weights(const CheckpointPlan& plan, const std::vector<Job>& jobs,
                           const AqlmScheme& scheme, const PartialWork& finished, bool is_tuned,
                           const std::string& path, AqlmReport& report);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
