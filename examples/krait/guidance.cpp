#include "guidance.hpp"

#include <cmath>

namespace krait::cli {

void GuidanceFlags::add(Command& command) {
  command.real("--guidance-scale", scale,
               "Above 1: away from how the negative prompt would go on; 1: off",
               [this]() -> Result<void> {
                 if (std::isfinite(scale)) return {};
                 return Error{ErrorCode::bad_argument,
                              "expected a finite number, found " + std::to_string(scale)};
               });
  command.text("--negative-prompt", negative_prompt,
               "What guidance leads away from; not given: the last token of the prompt");
}

void GuidanceFlags::check(bool has_drafter, const DrugFlags& drugs) const {
  if (has_drafter && is_on()) {
    throw WrongUsage("--draft", "no --guidance-scale beside it", "one");
  }
  if (drugs.has_doses && is_on() && drugs.plan.state == DrugState::shower) {
    throw WrongUsage("--guidance-scale", "--drugs-state clean or carry", "a shower");
  }
  if (negative_prompt && !is_on()) {
    throw WrongUsage("--negative-prompt", "a --guidance-scale other than 1 beside it", "none");
  }
}

Result<void> GuidanceFlags::set(GenerationOptions& options, const LanguageModel& model) const {
  options.guidance_scale = scale;
  if (negative_prompt) {
    KRAIT_ASSIGN_OR_RETURN(options.negative_prompt, model.encode_prompt(*negative_prompt));
  }
  return {};
}

}  // namespace krait::cli
