#pragma once

#include <optional>
#include <string>

#include "krait/tools/aqlm.hpp"
#include "tools/partial_work.hpp"

namespace krait {
inline namespace v0_1 {
namespace aqlm {

/// The finished matrix of that name, if it is there and of these sizes.
std::optional<AqlmMatrix> read_matrix(const PartialWork& finished, const std::string& name,
                                      const AqlmScheme& scheme, Index out, Index in);
Result<void> write_matrix(const PartialWork& finished, const std::string& name,
                          const AqlmMatrix& matrix);

}  // namespace aqlm
}  // namespace v0_1
}  // namespace krait
