#pragma once

// matmul_aqlm_tables for codes of 8 bits on processors with AVX-512 VBMI.

#include "krait/kernels/aqlm.hpp"

namespace krait {
inline namespace v0_1 {
namespace kernels {

/// Whether the processor has the instructions and the active level allows them. There is none with
/// them that lacks VNNI, whose levels they go with.
bool has_aqlm_tables_vbmi() noexcept;

void matmul_aqlm_tables_vbmi(const MatmulAqlmTablesArgs& args) noexcept;

}  // namespace kernels
}  // namespace v0_1
}  // namespace krait
