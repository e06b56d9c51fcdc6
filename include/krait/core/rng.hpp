#pragma once

/// \file
/// Random numbers as a pure function of a counter: Philox4x32-10.
///
/// Paper   Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011.
/// There is no generator state: the same (seed, sequence, position, draw) gives the same number
/// whatever was drawn before, so batching, threads, saved states and replays change no sample.

#include <array>
#include <cstdint>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// The Philox4x32 bijection with 10 rounds: 128 random bits for a 128-bit counter and 64-bit key.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) noexcept {
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t product0 = std::uint64_t{0xD2511F53U} * counter[0];
    const std::uint64_t product1 = std::uint64_t{0xCD9E8D57U} * counter[2];
    counter = {static_cast<std::uint32_t>(product1 >> 32U) ^ counter[1] ^ key[0],
               static_cast<std::uint32_t>(product1),
               static_cast<std::uint32_t>(product0 >> 32U) ^ counter[3] ^ key[1],
               static_cast<std::uint32_t>(product0)};
    key[0] += 0x9E3779B9U;
    key[1] += 0xBB67AE85U;
  }
  return counter;
}

/// Where in the space of random numbers a draw lies.
struct RandomCounter {
  std::uint64_t seed = 0;      ///< chosen by the user
  std::uint32_t sequence = 0;  ///< which of several samples
  std::uint64_t position = 0;  ///< token position within the sequence, below 2^48
  std::uint32_t draw = 0;      ///< which number at that position, below 2^16
};

/// 128 random bits for a counter.
constexpr std::array<std::uint32_t, 4> random_bits(const RandomCounter& at) noexcept {
  return philox4x32(
      {static_cast<std::uint32_t>(at.position),
       (static_cast<std::uint32_t>(at.position >> 32U) << 16U) | (at.draw & 0xFFFFU), at.sequence,
       0U},
      {static_cast<std::uint32_t>(at.seed), static_cast<std::uint32_t>(at.seed >> 32U)});
}

/// Uniform in [0, 1), 53 bits.
constexpr double random_uniform(const RandomCounter& at) noexcept {
  const auto bits = random_bits(at);
  const std::uint64_t high = (std::uint64_t{bits[0]} << 32U) | bits[1];
  return static_cast<double>(high >> 11U) * 0x1p-53;
}

}  // namespace v0_1
}  // namespace krait
