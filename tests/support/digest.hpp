#pragma once

/// \file
/// SHA-256, and the digests stored in tests/golden/digests.txt.

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>

namespace krait::test {

/// FIPS 180-4.
class Sha256 {
 public:
  void add(std::span<const std::byte> bytes);
  /// The digest in hexadecimal; nothing may be added afterwards.
  std::string hex();

 private:
  void block(const std::uint8_t* bytes);

  std::array<std::uint32_t, 8> state_ = {0x6a09e667U, 0xbb67ae85U, 0x3c6ef372U, 0xa54ff53aU,
                                         0x510e527fU, 0x9b05688cU, 0x1f83d9abU, 0x5be0cd19U};
  std::array<std::uint8_t, 64> pending_{};
  std::size_t pending_size_ = 0;
  std::uint64_t total_ = 0;
};

/// Lines "name digest".
std::map<std::string, std::string> read_digests();

}  // namespace krait::test
