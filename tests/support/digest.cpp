#include "tests/support/digest.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <sstream>

#include "tests/support/support.hpp"

namespace krait::test {
namespace {

__extension__ using Wide = unsigned __int128;

// The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
std::array<std::uint32_t, 64> round_constants() {
  std::array<std::uint32_t, 64> constants{};
  std::size_t count = 0;
  for (std::uint64_t n = 2; count < constants.size(); ++n) {
    bool is_prime = true;
    for (std::uint64_t d = 2; d * d <= n; ++d) is_prime = is_prime && n % d != 0;
    if (!is_prime) continue;
    // floor(cbrt(n) · 2^32) by bisection in integers.
    Wide low = 0;
    Wide high = static_cast<Wide>(8) << 32U;
    const Wide target = static_cast<Wide>(n) << 96U;
    while (high - low > 1) {
      const Wide middle = (low + high) / 2;
      (middle * middle * middle <= target ? low : high) = middle;
    }
    constants[count++] = static_cast<std::uint32_t>(low);
  }
  return constants;
}

}  // namespace

void Sha256::block(const std::uint8_t* bytes) {
  static const std::array<std::uint32_t, 64> k = round_constants();
  std::array<std::uint32_t, 64> w{};
  for (std::size_t i = 0; i < 16; ++i) {
    for (std::size_t b = 0; b < 4; ++b) w[i] = (w[i] << 8U) | bytes[4 * i + b];
  }
  for (std::size_t i = 16; i < 64; ++i) {
    const std::uint32_t s0 = std::rotr(w[i - 15], 7) ^ std::rotr(w[i - 15], 18) ^ (w[i - 15] >> 3U);
    const std::uint32_t s1 = std::rotr(w[i - 2], 17) ^ std::rotr(w[i - 2], 19) ^ (w[i - 2] >> 10U);
    w[i] = w[i - 16] + s0 + w[i - 7] + s1;
  }
  auto [a, b, c, d, e, f, g, h] = state_;
  for (std::size_t i = 0; i < 64; ++i) {
    const std::uint32_t s1 = std::rotr(e, 6) ^ std::rotr(e, 11) ^ std::rotr(e, 25);
    const std::uint32_t t1 = h + s1 + ((e & f) ^ (~e & g)) + k[i] + w[i];
    const std::uint32_t s0 = std::rotr(a, 2) ^ std::rotr(a, 13) ^ std::rotr(a, 22);
    const std::uint32_t t2 = s0 + ((a & b) ^ (a & c) ^ (b & c));
    h = g;
    g = f;
    f = e;
    e = d + t1;
    d = c;
    c = b;
    b = a;
    a = t1 + t2;
  }
  const std::array<std::uint32_t, 8> next = {a, b, c, d, e, f, g, h};
  for (std::size_t i = 0; i < 8; ++i) state_[i] += next[i];
}

void Sha256::add(std::span<const std::byte> bytes) {
  total_ += bytes.size();
  for (const std::byte value : bytes) {
    pending_[pending_size_++] = static_cast<std::uint8_t>(value);
    if (pending_size_ == pending_.size()) {
      block(pending_.data());
      pending_size_ = 0;
    }
  }
}

std::string Sha256::hex() {
  const std::uint64_t bits = total_ * 8;
  add({{std::byte{0x80}}});
  while (pending_size_ != 56) add({{std::byte{0}}});
  for (int shift = 56; shift >= 0; shift -= 8) {
    add({{static_cast<std::byte>(bits >> static_cast<unsigned>(shift))}});
  }
  std::string text;
  for (const std::uint32_t word : state_) {
    for (int shift = 28; shift >= 0; shift -= 4) {
      text += "0123456789abcdef"[(word >> static_cast<unsigned>(shift)) & 0xFU];
    }
  }
  return text;
}

std::map<std::string, std::string> read_digests() {
  std::map<std::string, std::string> digests;
  std::istringstream lines(read_file(data_dir() / "golden" / "digests.txt"));
  for (std::string name, digest; lines >> name >> digest;) digests[name] = digest;
  return digests;
}

}  // namespace krait::test
