#pragma once

/// \file
/// The steps that SamplerOptions knows: one file each, and a row in `step_kinds`.

#include <cmath>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "krait/core/error.hpp"
#include "krait/decoding/sampler.hpp"

namespace krait {
inline namespace v0_1 {

/// One kind of step.
struct StepKind {
  std::string_view name;
  bool (*is_on)(const SamplerOptions& options);
  /// Whether its fields are in their range; the error names the first that is not.
  Result<void> (*check)(const SamplerOptions& options, Index vocab);
  /// For options that turn it on.
  std::unique_ptr<SamplerStep> (*make)(const SamplerOptions& options, Index vocab);
};

extern const StepKind penalties_step;
extern const StepKind dry_step;
extern const StepKind logit_bias_step;
extern const StepKind bad_words_step;
extern const StepKind min_length_step;
extern const StepKind top_n_sigma_step;
extern const StepKind temperature_step;
extern const StepKind top_k_step;
extern const StepKind top_p_step;
extern const StepKind min_p_step;
extern const StepKind typical_p_step;
extern const StepKind epsilon_cutoff_step;
extern const StepKind eta_cutoff_step;
extern const StepKind xtc_step;
extern const StepKind mirostat_step;

/// All of them, in the order in which Hugging Face's generate applies them; what only llama.cpp has
/// stands beside what it resembles.
std::span<const StepKind* const> step_kinds() noexcept;

/// [sampler] what: expected …, found ….
Error out_of_range(std::string_view what, std::string_view expected, double found);

/// What all steps have but `apply`.
template <class Step>
class NamedStep : public SamplerStep {
 public:
  explicit NamedStep(std::string_view name) : name_(name) {}
  std::unique_ptr<SamplerStep> clone() const override {
    return std::make_unique<Step>(static_cast<const Step&>(*this));
  }
  std::string_view name() const noexcept override { return name_; }

 private:
  std::string_view name_;
};

}  // namespace v0_1
}  // namespace krait
