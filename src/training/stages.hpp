#pragma once

// What the stages of a self-rewarding iteration share.

#include <string>
#include <string_view>
#include <vector>

#include "krait/training/reward_stages.hpp"
#include "text/pattern/regex.hpp"
#include "training/json_lines.hpp"
#include "training/line_file.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

// Texts that are run together, and tokens of a pass.
inline constexpr Index most_texts = 64;
inline constexpr Index most_tokens = 512;

std::string hash_of(std::string_view text);

// 64 random bits for the i-th of several things.
std::uint64_t derived_seed(std::uint64_t seed, std::uint32_t kind, std::uint64_t i);
// The seed of a line's samples.
inline std::uint64_t line_seed(std::uint64_t seed, Index line) {
  return derived_seed(seed, ~0U, static_cast<std::uint64_t>(line));
}

// Everything that decides what is drawn.
std::string describe(const SamplerOptions& options);

// All lines of an input. What they point to must outlive them.
Result<std::vector<JsonLine>> lines_of(const StageInput& input, std::string_view what);

// That a prompt has no answers yet. Errors: bad_format.
Result<void> check_unanswered(const JsonLine& line);

// That all are prompts which can be answered, with rules where those are needed.
Result<void> check_prompts(const Tokenizer& tokenizer, std::span<const JsonLine> lines,
                           bool needs_rules);

// The answers on a line of candidates.
Result<std::vector<std::string>> responses_of(const JsonLine& line);

Error cancelled(std::string_view stage, Index done, Index total);

// The rules by which an answer's score can be counted.
class VerifyRules {
 public:
  // Those of a line's `verify`; none if it has none. Errors: bad_format.
  static Result<VerifyRules> read(const JsonLine& line);
  // The same of a line that must have some. Errors: bad_argument.
  static Result<VerifyRules> need(const JsonLine& line);
  bool empty() const noexcept { return rules_.empty(); }
  // Σ points·min(matches, most)
  Result<double> score(std::string_view text) const;

 private:
  struct Rule {
    Regex regex;
    double points = 0.0;
    Index most = 0;
  };
  std::vector<Rule> rules_;
};

// What `write_candidates` and `write_scores` write; without a destination nothing is written.
Result<std::vector<std::string>> candidates(const LanguageModel& model, Executor& executor,
                                            const StageInput& prompts,
                                            const CandidateOptions& options,
                                            const std::string& destination, Progress progress);
Result<std::vector<std::string>> scores(const LanguageModel* model, Executor& executor,
                                        const StageInput& candidates, const JudgeOptions& options,
                                        const std::string& destination, Progress progress);

// What `write_pairs` writes.
struct ChosenPairs {
  std::vector<std::string> lines;
  PairCounts counts;
};
// `with_log_probs`: those of the candidates.
Result<ChosenPairs> choose_pairs(const StageInput& scored, const StageInput* anchors,
                                 const PairOptions& options, bool with_log_probs);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
