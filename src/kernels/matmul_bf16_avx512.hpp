#pragma once

// matmul_bf16 for processors with AVX-512 BF16.

#include "krait/kernels/matmul_bf16.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

void matmul_bf16_avx512(const MatmulBf16Args& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
