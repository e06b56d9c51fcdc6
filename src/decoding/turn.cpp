// The noise of DRµGS: numeric contract, section 13.

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numbers>

#include "krait/core/rng.hpp"
#include "krait/decoding/drugs.hpp"
#include "krait/kernels/ref/rotary.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using Bits = std::array<std::uint32_t, 4>;

constexpr std::uint32_t not_the_samplers = 0x44525547U;  // their draws have the same seeds

class Noise {
 public:
  Noise(const NoiseKey& key, Index width)
      : counter_{static_cast<std::uint32_t>(key.vector * (1 + (width + 3) / 4)),
                 static_cast<std::uint32_t>(key.position),
                 (static_cast<std::uint32_t>(key.position >> 32) << 16U) |
                     static_cast<std::uint32_t>(key.layer * 32 + static_cast<Index>(key.site) + 1),
                 key.sequence},
        key_{static_cast<std::uint32_t>(key.seed),
             static_cast<std::uint32_t>(key.seed >> 32U) ^ not_the_samplers} {}

  /// The vector's block i of four words.
  Bits block(Index i) const noexcept {
    Bits counter = counter_;
    counter[0] += static_cast<std::uint32_t>(i);
    return philox4x32(counter, key_);
  }

 private:
  Bits counter_;
  std::array<std::uint32_t, 2> key_;
};

// From 0 to 1 without 1, of 24 bits.
double uniform(std::uint32_t bits) noexcept { return static_cast<double>(bits >> 8U) * 0x1p-24; }

// ln x for x in (0, 1] with an error of 1e-13.
double log_of_uniform(double x) noexcept {
  const auto bits = std::bit_cast<std::uint64_t>(x);
  // x = m · 2^e with m in [√½, √2)
  const std::uint64_t shifted = bits - 0x3FE6A09E667F3BCDU;
  const auto e = static_cast<double>(static_cast<std::int64_t>(shifted) >> 52);
  const double m = std::bit_cast<double>((shifted & 0x000FFFFFFFFFFFFFU) + 0x3FE6A09E667F3BCDU);
  const double s = (m - 1.0) / (m + 1.0);
  const double z = s * s;
  double sum = 1.0 / 15.0;
  sum = sum * z + 1.0 / 13.0;
  sum = sum * z + 1.0 / 11.0;
  sum = sum * z + 1.0 / 9.0;
  sum = sum * z + 1.0 / 7.0;
  sum = sum * z + 1.0 / 5.0;
  sum = sum * z + 1.0 / 3.0;
  sum = sum * z + 1.0;
  return e * 0.6931471805599453 + 2.0 * s * sum;
}

// Two normal numbers (Box and Muller 1958).
std::array<float, 2> normal_pair(std::uint32_t a, std::uint32_t b) noexcept {
  const double r = std::sqrt(-2.0 * log_of_uniform(static_cast<double>((a >> 8U) + 1) * 0x1p-24));
  const auto [sine, cosine] =
      ref::sin_cos_of(ref::ScalarDoubleOps(), uniform(b) * (2.0 * std::numbers::pi));
  return {static_cast<float>(r * cosine), static_cast<float>(r * sine)};
}

double draw_angle(const Noise& noise, double theta, DrugAngle law) noexcept {
  const Bits bits = noise.block(0);
  const double angle = law == DrugAngle::uniform
                           ? theta * uniform(bits[0])
                           : theta / std::numbers::sqrt3 *
                                 static_cast<double>(std::fabs(normal_pair(bits[0], bits[1])[0]));
  return std::fmod(angle, 2.0 * std::numbers::pi);
}

void draw_direction(const Noise& noise, DrugDirection law, std::span<float> u) noexcept {
  for (std::size_t k = 0; k < u.size(); k += 4) {
    const Bits bits = noise.block(1 + static_cast<Index>(k / 4));
    std::array<float, 4> drawn;
    if (law == DrugDirection::legacy) {
      for (std::size_t i = 0; i < 4; ++i) drawn[i] = static_cast<float>(uniform(bits[i]));
    } else {
      const auto first = normal_pair(bits[0], bits[1]);
      const auto second = normal_pair(bits[2], bits[3]);
      drawn = {first[0], first[1], second[0], second[1]};
    }
    std::copy_n(drawn.begin(), std::min<std::size_t>(4, u.size() - k),
                u.begin() + static_cast<std::ptrdiff_t>(k));
  }
}

// Σ f(k) over 16 lanes and the tree, in double.
template <class F>
double lane_sum(std::size_t n, F&& f) noexcept {
  std::array<double, 16> lanes{};
  std::size_t k = 0;
  for (; k + 16 <= n; k += 16) {
    for (std::size_t i = 0; i < 16; ++i) lanes[i] += f(k + i);
  }
  for (std::size_t i = 0; k + i < n; ++i) lanes[i] += f(k + i);
  for (std::size_t half = 8; half > 0; half /= 2) {
    for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  }
  return lanes[0];
}

}  // namespace

void turn(std::span<float> x, double theta, const NoiseKey& key,
          std::span<float> direction) noexcept {
  const std::size_t n = x.size();
  if (n < 2 || !(theta > 0.0)) return;
  const auto value = [&](std::size_t k) { return static_cast<double>(x[k]); };
  const double length = lane_sum(n, [&](std::size_t k) { return value(k) * value(k); });
  if (!(length > 0.0) || !std::isfinite(length)) return;

  const Noise noise(key, static_cast<Index>(n));
  const std::span<float> u = direction.first(n);
  draw_direction(noise, key.direction, u);
  const double along =
      lane_sum(n, [&](std::size_t k) { return static_cast<double>(u[k]) * value(k); }) / length;
  const auto across = [&](std::size_t k) { return static_cast<double>(u[k]) - along * value(k); };
  const double breadth = lane_sum(n, [&](std::size_t k) { return across(k) * across(k); });
  if (!(breadth > 0.0)) return;

  const double angle = draw_angle(noise, theta, key.angle);
  const auto [sine, cosine] = ref::sin_cos_of(ref::ScalarDoubleOps(), angle);
  const double scale = sine * std::sqrt(length / breadth);
  for (std::size_t k = 0; k < n; ++k) {
    x[k] = static_cast<float>(cosine * value(k) + scale * across(k));
  }
}

}  // namespace v0_1
}  // namespace krait
