#include "judge_flags.hpp"

#include <utility>

namespace krait::cli {

void JudgeFlags::add(Command& command) {
  command.file("--template", template_file,
               "Text with {prompt} and {response} that ends where a digit from 0 to 5 is due; if "
               "not given, one for models that follow instructions");
  command.flag("--expected", expected,
               "The score is the mean of the digits, weighed with their probabilities");
  command.number("--samples", samples, 1, 1 << 20,
                 "The score is the mean of so many digits that are drawn");
}

void JudgeFlags::check() const {
  if (expected && samples) throw WrongUsage("--expected", "either it or --samples", "both");
}

Result<JudgeOptions> JudgeFlags::resolve(JudgeBy otherwise, std::uint64_t seed) const {
  JudgeOptions judge{.by = expected  ? JudgeBy::expected
                           : samples ? JudgeBy::samples
                                     : otherwise,
                     .prompt = std::string(judge_template()),
                     .samples = samples.value_or(1),
                     .seed = seed};
  if (!template_file.empty()) {
    KRAIT_ASSIGN_OR_RETURN(judge.prompt,
                           read_text({.argument = {}, .file = template_file}, "--template"));
  }
  return judge;
}

Result<StageInput> read_lines(const std::string& path, std::string_view option) {
  if (path.empty()) throw WrongUsage(option, "a file", "none");
  KRAIT_ASSIGN_OR_RETURN(std::string text, read_text({.argument = {}, .file = path}, option));
  return StageInput{.text = std::move(text), .name = path};
}

}  // namespace krait::cli
