#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "krait/core/config.hpp"

namespace krait {
inline namespace v0_1 {

/// How GGUF files hold quantised rows: blocks of neighbouring weights with their scales.
enum class BlockFormat : std::uint8_t {
  q4_0,
  q4_1,
  q5_0,
  q5_1,
  q8_0,
  q2_k,
  q3_k,
  q4_k,
  q5_k,
  q6_k,
  iq4_nl,
  iq4_xs,
  mxfp4
};

/// One of them: a row of n weights is n / elements blocks.
struct BlockFormatInfo {
  BlockFormat format;
  std::string_view name;
  Index elements;  ///< weights of a block, a multiple of 32
  Index bytes;     ///< of a block
};

/// In the order of the enumeration.
inline constexpr std::array<BlockFormatInfo, 13> block_formats = {{
    {BlockFormat::q4_0, "q4_0", 32, 18},
    {BlockFormat::q4_1, "q4_1", 32, 20},
    {BlockFormat::q5_0, "q5_0", 32, 22},
    {BlockFormat::q5_1, "q5_1", 32, 24},
    {BlockFormat::q8_0, "q8_0", 32, 34},
    {BlockFormat::q2_k, "q2_k", 256, 84},
    {BlockFormat::q3_k, "q3_k", 256, 110},
    {BlockFormat::q4_k, "q4_k", 256, 144},
    {BlockFormat::q5_k, "q5_k", 256, 176},
    {BlockFormat::q6_k, "q6_k", 256, 210},
    {BlockFormat::iq4_nl, "iq4_nl", 32, 18},
    {BlockFormat::iq4_xs, "iq4_xs", 256, 136},
    {BlockFormat::mxfp4, "mxfp4", 32, 17},
}};

constexpr const BlockFormatInfo& info_of(BlockFormat format) noexcept {
  return block_formats[static_cast<std::size_t>(format)];
}

constexpr std::optional<BlockFormat> find_block_format(std::string_view name) noexcept {
  for (const BlockFormatInfo& info : block_formats) {
    if (info.name == name) return info.format;
  }
  return std::nullopt;
}

}  // namespace v0_1
}  // namespace krait
