#pragma once

// matmul_grouped for processors with AMX.

#include "krait/kernels/matmul_grouped.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

void matmul_grouped_amx(const MatmulGroupedArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
