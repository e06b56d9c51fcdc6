#include <fmt/format.h>

#include <limits>

#include "decoding/steps/steps.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Forbids the tokens that end a text as long as it is shorter, prompt included (transformers'
// MinLengthLogitsProcessor).
class MinLength final : public NamedStep<MinLength> {
 public:
  MinLength(Index length, const std::vector<Token>& ends)
      : NamedStep(min_length_step.name), length_(length), ends_(ends) {}

  void apply(Candidates& candidates, const SamplerContext& context) noexcept override {
    if (context.position >= length_) return;
    for (const Token token : ends_) {
      if (const auto at = candidates.find(token)) {
        candidates.change_logit(*at, -std::numeric_limits<double>::infinity());
      }
    }
  }

 private:
  Index length_;
  std::vector<Token> ends_;
};

bool min_length_is_on(const SamplerOptions& o) { return o.min_length > 0; }

Result<void> check_min_length(const SamplerOptions& o, Index vocab) {
  if (o.min_length < 0) {
    return out_of_range("min-length", "a number of at least 0", static_cast<double>(o.min_length));
  }
  for (const Token token : o.eos_tokens) {
    if (token < 0 || token >= vocab) {
      return out_of_range("end-of-text token", fmt::format("0 to {}", vocab - 1), token);
    }
  }
  if (o.min_length > 0 && o.eos_tokens.empty()) {
    return Error{ErrorCode::bad_argument,
                 "[sampler] min-length: expected tokens that end a text, found none"};
  }
  return {};
}

std::unique_ptr<SamplerStep> make_min_length(const SamplerOptions& o, Index /*vocab*/) {
  return std::make_unique<MinLength>(o.min_length, o.eos_tokens);
}

}  // namespace

const StepKind min_length_step = {"min_length", min_length_is_on, check_min_length,
                                  make_min_length};

}  // namespace v0_1
}  // namespace krait
