#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>

#include "core/bad_argument.hpp"
#include "krait/core/float_environment.hpp"
#include "krait/tools/aqlm.hpp"
#include "tools/aqlm/fit.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Takes a number from the front of the text, with nothing but digits.
bool take_number(std::string_view& text, Index& number) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data() || text.front() == '-') return false;
  text.remove_prefix(static_cast<std::size_t>(end - text.data()));
  return true;
}

bool take_letter(std::string_view& text, char letter) {
  if (text.empty() || text.front() != letter) return false;
  text.remove_prefix(1);
  return true;
}

bool is_possible(const AqlmScheme& scheme) {
  return scheme.codebooks >= 1 && scheme.codebooks <= 16 && scheme.bits >= 1 && scheme.bits <= 16 &&
         scheme.in_group >= 1 && scheme.in_group <= 64 && scheme.out_group == 1;
}

constexpr std::string_view possible_schemes =
    "MxBgG, with M codebooks (1 to 16) of B bits (1 to 16) for groups of G weights (1 to 64)";

Result<void> check_range(std::string_view what, Index value, Index least, Index most) {
  if (value >= least && value <= most) return {};
  return bad_argument("aqlm", what, fmt::format("{} to {}", least, most), fmt::to_string(value));
}

Result<void> check(MatrixView<const float> W, const SecondMoments& H, const AqlmScheme& scheme,
                   const AqlmEffort& effort) {
  if (!is_possible(scheme))
    return bad_argument("aqlm", "scheme", possible_schemes, to_string(scheme));
  KRAIT_RETURN_IF_ERROR(check_range("beam", effort.beam, 1, 64));
  KRAIT_RETURN_IF_ERROR(check_range("rounds", effort.rounds, 0, 1000));
  KRAIT_RETURN_IF_ERROR(check_range("solver steps", effort.solver_steps, 0, 1000));
  KRAIT_RETURN_IF_ERROR(check_range("k-means rounds", effort.kmeans_rounds, 1, 1000));
  if (W.rows < 1 || W.cols < 1 || W.cols % scheme.in_group != 0) {
    return bad_argument("aqlm", "matrix", fmt::format("inputs in groups of {}", scheme.in_group),
                        fmt::format("[{},{}]", W.rows, W.cols));
  }
  for (Index i = 0; i < W.rows; ++i) {
    for (const float w : W.row(i)) {
      if (std::isfinite(w)) continue;
      return Error{ErrorCode::not_finite,
                   fmt::format("[aqlm] matrix: expected finite weights, found {} (row {})", w, i)};
    }
  }
  const Index size = std::ssize(H.values);
  if (size != 0 && size != W.cols && size != W.cols * W.cols) {
    return bad_argument("aqlm", "second moments", fmt::format("[{0}] or [{0},{0}] values", W.cols),
                        fmt::to_string(size));
  }
  for (const float value : H.values) {
    if (std::isfinite(value)) continue;
    return Error{ErrorCode::not_finite,
                 fmt::format("[aqlm] second moments: expected finite values, found {}", value)};
  }
  double sum = 0.0;
  for (Index i = 0; i < W.cols && size > 0; ++i) {
    const Index at = size == W.cols ? i : i * W.cols + i;
    const float value = H.values[static_cast<std::size_t>(at)];
    if (value < 0.0F)
      return bad_argument("aqlm", "second moments", "a diagonal of at least 0",
                          fmt::to_string(value));
    sum += static_cast<double>(value);
  }
  if (size > 0 && !(sum > 0.0))
    return bad_argument("aqlm", "second moments", "one above 0", "zeros");
  return {};
}

bool are_finite(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float value) { return std::isfinite(value); });
}

// The codebooks and scales as they are stored; the codes are then looked for once more.
Result<void> round_to_f16(aqlm::Fit& fit, Index beam, std::uint64_t seed, std::uint64_t sweep) {
  const auto rounded = [](float value) { return to_float(to_f16(value)); };
  for (float& value : fit.codebooks) value = rounded(value);
  if (are_finite(fit.codebooks)) aqlm::improve_scales(fit);
  for (float& value : fit.scales) value = rounded(value);
  if (!are_finite(fit.codebooks) || !are_finite(fit.scales)) {
    return bad_argument("aqlm", "matrix", "weights that codebooks and scales in f16 can stand for",
                        "larger ones");
  }
  aqlm::update_error(fit);
  aqlm::improve_codes(fit, beam, seed, sweep);
  aqlm::update_error(fit);
  return {};
}

}  // namespace

Result<AqlmScheme> parse_aqlm_scheme(std::string_view text) {
  AqlmScheme scheme;
  std::string_view rest = text;
  Index bits = 0;
  bool good = take_number(rest, scheme.codebooks) && take_letter(rest, 'x') &&
              take_number(rest, bits) && bits <= 16;
  scheme.bits = static_cast<int>(bits);
  if (good && !rest.empty()) good = take_letter(rest, 'g') && take_number(rest, scheme.in_group);
  if (good && rest.empty() && is_possible(scheme)) return scheme;
  return bad_argument("aqlm", "scheme", possible_schemes, fmt::format("'{}'", text));
}

std::string to_string(const AqlmScheme& scheme) {
  return fmt::format("{}x{}g{}", scheme.codebooks, scheme.bits, scheme.in_group);
}

double bits_per_weight(const AqlmScheme& scheme, Index out, Index in) {
  const auto M = static_cast<double>(scheme.codebooks);
  const auto g = static_cast<double>(scheme.in_group);
  const double weights = static_cast<double>(out) * static_cast<double>(in);
  return M * static_cast<double>(scheme.bits) / g +
         M * static_cast<double>(scheme.codewords()) * g * 16.0 / weights +
         16.0 / static_cast<double>(in);
}

void AqlmMatrix::row(Index i, std::span<float> values) const {
  const Index g = scheme.in_group;
  const float scale = to_float(scales[static_cast<std::size_t>(i)]);
  const std::uint16_t* group_codes = codes.data() + i * (in / g) * scheme.codebooks;
  for (Index j = 0; j < in / g; ++j, group_codes += scheme.codebooks) {
    for (Index d = 0; d < g; ++d) {
      float sum = 0.0F;
      for (Index m = 0; m < scheme.codebooks; ++m) {
        const Index at = (m * scheme.codewords() + group_codes[m]) * g + d;
        sum += to_float(codebooks[static_cast<std::size_t>(at)]);
      }
      values[static_cast<std::size_t>(j * g + d)] = sum * scale;
    }
  }
}

Result<AqlmMatrix> encode_aqlm(MatrixView<const float> W, const SecondMoments& H,
                               const AqlmScheme& scheme, const AqlmEffort& effort,
                               std::uint64_t seed, Executor& executor, Progress progress) {
  const FloatEnvironment environment;
  KRAIT_RETURN_IF_ERROR(check(W, H, scheme, effort));
  const aqlm::Metric metric(H, W.cols);
  aqlm::Fit fit;
  fit.scheme = scheme;
  fit.W = W;
  fit.H = &metric;
  fit.executor = &executor;
  const double of_weights = aqlm::squared_error(fit, W);
  const auto report = [&](Index done) -> Result<void> {
    if (!progress || progress(done, effort.rounds + 2) != Flow::stop) return {};
    return Error{ErrorCode::cancelled, "[aqlm] cancelled"};
  };
  aqlm::start(fit, effort.kmeans_rounds, seed);
  KRAIT_RETURN_IF_ERROR(report(1));
  double error = aqlm::squared_error(fit, fit.E());
  for (Index round = 0; round < effort.rounds; ++round) {
    aqlm::improve_codebooks(fit, effort.solver_steps);
    aqlm::improve_scales(fit);
    aqlm::improve_codes(fit, effort.beam, seed, static_cast<std::uint64_t>(round));
    const double now = aqlm::squared_error(fit, fit.E());
    KRAIT_RETURN_IF_ERROR(report(round + 2));
    const bool is_enough = now > error * (1.0 - effort.least_gain);
    error = now;
    if (is_enough) break;
  }
  aqlm::improve_codebooks(fit, effort.solver_steps);
  KRAIT_RETURN_IF_ERROR(
      round_to_f16(fit, effort.beam, seed, static_cast<std::uint64_t>(effort.rounds)));
  KRAIT_RETURN_IF_ERROR(report(effort.rounds + 2));

  AqlmMatrix result;
  result.scheme = scheme;
  result.out = W.rows;
  result.in = W.cols;
  result.codes = std::move(fit.codes);
  for (const float value : fit.codebooks) result.codebooks.push_back(to_f16(value));
  for (const float value : fit.scales) result.scales.push_back(to_f16(value));
  error = aqlm::squared_error(fit, fit.E());
  result.error = of_weights > 0.0 ? error / of_weights : 0.0;
  return result;
}

}  // namespace v0_1
}  // namespace krait
