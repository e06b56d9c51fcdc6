#pragma once

// matmul_grouped for processors with AVX-512 VNNI.

#include "krait/kernels/matmul_grouped.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

void matmul_grouped_vnni(const MatmulGroupedArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
