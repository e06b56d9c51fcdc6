#pragma once

/// \file
/// Matrices in the block formats of GGUF for the tests.

#include <algorithm>
#include <vector>

#include "core/block_format.hpp"
#include "tests/support/support.hpp"

namespace krait::test {

/// `rows` rows of `cols` weights of random codes. The f16 scales, wherever they are in a block,
/// have one of the eight high bytes from `high` on: 0x28 to 0x2F are 2^-5 to just below 2^-3.
inline std::vector<std::byte> random_blocks(const BlockFormatInfo& info, Index rows, Index cols,
                                            int high = 0x28) {
  std::vector<std::byte> bytes(static_cast<std::size_t>(rows * cols / info.elements * info.bytes));
  const auto numbers = random_floats(std::ssize(bytes), 5, 128.0F);
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<std::byte>(static_cast<int>(numbers[i]) & 0xFF);
  }
  // The high byte of each f16 that a format may have.
  const auto block_bytes = static_cast<std::size_t>(info.bytes);
  for (std::size_t i = 0; i < bytes.size(); i += block_bytes) {
    if (info.format == BlockFormat::mxfp4) bytes[i] = std::byte{120};
    for (const std::size_t place : {std::size_t{1}, std::size_t{3}, std::size_t{81},
                                    std::size_t{83}, std::size_t{109}, std::size_t{209}}) {
      if (place < block_bytes && info.format != BlockFormat::mxfp4) {
        bytes[i + place] = static_cast<std::byte>(high + static_cast<int>(i / block_bytes % 8));
      }
    }
  }
  return bytes;
}

}  // namespace krait::test
