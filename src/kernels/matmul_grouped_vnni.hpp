#pragma once

// matmul_grouped for processors with AVX-512 VNNI.

#include "krait/kernels/matmul_grouped.hpp"

namespace krait::inline v0_1::kernels {

void matmul_grouped_vnni(const MatmulGroupedArgs& args) noexcept;

}  // namespace krait::inline v0_1::kernels
