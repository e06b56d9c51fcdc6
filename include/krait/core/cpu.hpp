#pragma once

/// \file
/// Instruction sets: which ones the machine has, and which one the kernels use.

#include <span>
#include <string_view>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// Instruction-set levels that kernels exist for, weakest first; those of x86 each include the ones
/// before. All give the same bits.
enum class Isa : int { scalar, neon, sse4, avx2, avx512, avx512_vnni, avx512_bf16, avx512_amx };

inline constexpr int isa_count = 8;

/// "scalar", "neon", "sse4", "avx2", "avx512", "avx512_vnni", "avx512_bf16", "avx512_amx".
KRAIT_API std::string_view to_string(Isa isa) noexcept;

/// The level with that name; the error lists the names.
KRAIT_API Result<Isa> parse_isa(std::string_view name);

/// The levels this machine can run, weakest (scalar) first. The first call asks Linux for the use
/// of AMX's tile registers where the processor has them; without that, avx512_amx is not among
/// them. From then on Linux refuses the process signal stacks (sigaltstack) of less than 11 KiB.
KRAIT_API std::span<const Isa> available_isas() noexcept;

/// The level kernels run at: the forced one, else the environment variable KRAIT_ISA (read once,
/// at first use), else the best available.
KRAIT_API Isa active_isa() noexcept;

/// Makes every kernel of the process use `isa` from now on. Fails, changing nothing, if the machine
/// lacks it. Not while a kernel runs on another thread.
KRAIT_API Result<void> force_isa(Isa isa);

/// Whether KRAIT_ISA, if set, names a level that this machine can run. If it does not, `active_isa`
/// ignores the variable; show this error to the user.
KRAIT_API Result<void> check_isa_environment();

}  // namespace v0_1
}  // namespace krait
