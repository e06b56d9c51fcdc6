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

/// Writes all tensors, those of `jobs` from the folder of finished ones; adds their bytes to the
/// report.
Result<void> write_weights(const CheckpointPlan& plan, const std::vector<Job>& jobs,
                           const AqlmScheme& scheme, const PartialWork& finished, bool is_tuned,
                           const std::string& path, AqlmReport& report);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
