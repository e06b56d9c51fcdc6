#pragma once

/// \file
/// SamplerStep: one step from logits to a token.

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>

#include "krait/core/rng.hpp"
#include "krait/decoding/candidates.hpp"

namespace krait {
inline namespace v0_1 {

/// Where in which text a token is drawn.
struct SamplerContext {
  Index position = 0;  ///< that the token will have in the text
  std::uint64_t seed = 0;
  std::uint32_t sequence = 0;

  /// A step's own random numbers, uniform in [0, 1), for `number` from 0 to 32767: as the draw
  /// itself, a pure function of seed, sequence and position, and independent of it.
  double uniform(std::uint32_t number) const noexcept {
    return random_uniform({.seed = seed,
                           .sequence = sequence,
                           .position = static_cast<std::uint64_t>(position),
                           .draw = 0x8000U + number});
  }
};

/// Takes candidates out, or changes their logits. An application's own step:
///
///     // No token of less than one in a thousand.
///     class Rare final : public SamplerStep {
///      public:
///       std::unique_ptr<SamplerStep> clone() const override {
///         return std::make_unique<Rare>(*this);
///       }
///       std::string_view name() const noexcept override { return "rare"; }
///       void apply(Candidates& candidates, const SamplerContext&) noexcept override {
///         const double least = 1e-3 * candidates.total();
///         candidates.keep_if([&](const Candidate& c) { return c.weight >= least; });
///       }
///     };
///
///     generate(session, tokenizer, text, {.sampler = {.steps = {std::make_shared<Rare>()}}});
///
/// What a step remembers must follow from the tokens that it observed: to roll it back, a fresh
/// clone is shown the text that is left. Steps run while a token is drawn, so they do not throw;
/// memory that they need they allocate when they are made.
class KRAIT_API SamplerStep {
 public:
  virtual ~SamplerStep();

  virtual std::unique_ptr<SamplerStep> clone() const = 0;

  /// By which `SamplerOptions::order` calls it.
  virtual std::string_view name() const noexcept = 0;

  /// Tokens were added to the text (prompt and output).
  virtual void observe(std::span<const Token> tokens) noexcept;

  virtual void apply(Candidates& candidates, const SamplerContext& context) noexcept = 0;
};

}  // namespace v0_1
}  // namespace krait
