#include <fmt/format.h>

#include <cmath>

#include "core/bad_argument.hpp"
#include "krait/decoding/generation.hpp"

namespace krait {
inline namespace v0_1 {
std::string_view to_string(FinishReason reason) noexcept {
  switch (reason) {
    case FinishReason::max_tokens:
      return "length";
    case FinishReason::stop_token:
      return "stop_token";
    case FinishReason::stop_string:
      return "stop_string";
    case FinishReason::cancelled:
      return "cancelled";
    case FinishReason::constraint:
      return "constraint";
  }
  return "";
}

Result<void> validate(const GenerationOptions& options, const Model& model) {
  if (options.max_tokens < 0) {
    return bad_argument("generate", "tokens", "a number of at least 0",
                        fmt::to_string(options.max_tokens));
  }
  if (const Index top = options.log_probs.value_or(0); top < 0 || top > model.vocab()) {
    return bad_argument("generate", "log-probabilities",
                        fmt::format("0 to {} tokens", model.vocab()), fmt::to_string(top));
  }
  if (!std::isfinite(options.guidance_scale)) {
    return bad_argument("generate", "guidance scale", "a finite number",
                        fmt::to_string(options.guidance_scale));
  }
  if (options.guidance_scale != 1.0 && options.drugs &&
      options.drugs->plan().state == DrugState::shower) {
    return bad_argument("generate", "guidance", "noise whose state is clean or carry", "a shower");
  }
  if (options.guidance_scale != 1.0 && options.speculation) {
    return bad_argument("generate", "guidance", "no speculation beside it", "one");
  }
  for (const Token token : options.negative_prompt) {
    if (token >= 0 && token < model.vocab_padded()) continue;
    return bad_argument("generate", "negative prompt",
                        fmt::format("token ids from 0 to {}", model.vocab_padded() - 1),
                        fmt::to_string(token));
  }
  return {};
}

}  // namespace v0_1
}  // namespace krait
