#include "training/stages.hpp"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>

#include "core/text_hash.hpp"
#include "krait/core/rng.hpp"

namespace krait {
inline namespace v0_1 {

std::string_view to_string(JudgeBy by) noexcept {
  switch (by) {
    case JudgeBy::expected:
      return "expected";
    case JudgeBy::samples:
      return "samples";
    case JudgeBy::verify:
      return "verify";
    case JudgeBy::random:
      return "random";
  }
  return "?";
}

Result<Token> end_of_answer(std::span<const Token> ends, const Tokenizer& tokenizer) {
  if (!ends.empty()) return ends.front();
  if (&tokenizer == byte_tokenizer().get()) return Token{0};
  return Error{ErrorCode::bad_config,
               "[training] eos: expected an end-of-text token in the checkpoint, found none"};
}

namespace training {

std::string hash_of(std::string_view text) { return fmt::format("{:016x}", text_hash(text)); }

std::uint64_t derived_seed(std::uint64_t seed, std::uint32_t kind, std::uint64_t i) {
  const auto bits = random_bits({.seed = seed, .sequence = kind, .position = i, .draw = 0xFFFF});
  return (std::uint64_t{bits[0]} << 32U) | bits[1];
}

std::string describe(const SamplerOptions& o) {
  std::string text = fmt::format(
      "{} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {} {}",
      o.repetition_penalty, o.presence_penalty, o.frequency_penalty, o.dry_multiplier, o.dry_base,
      o.dry_allowed_length, o.dry_penalty_last_n, o.min_length, o.top_n_sigma, o.temperature,
      o.dynatemp_range, o.dynatemp_exponent, o.top_k, o.top_p, o.min_p, o.typical_p,
      o.epsilon_cutoff, o.eta_cutoff, o.xtc_probability, o.xtc_threshold, o.mirostat,
      o.mirostat_tau, o.mirostat_eta, o.greedy, o.gumbel, o.seed);
  for (const auto& tokens : o.dry_sequence_breakers) text += fmt::format(" {}", tokens);
  for (const auto& tokens : o.bad_words) text += fmt::format(" bad {}", tokens);
  for (const auto& [token, bias] : o.logit_bias) text += fmt::format(" {}:{}", token, bias);
  return text + fmt::format(" {} {}", o.eos_tokens, o.order);
}

Result<std::vector<JsonLine>> lines_of(const StageInput& input, std::string_view what) {
  std::vector<JsonLine> lines;
  const auto read = [&](const JsonLine& line) -> Result<void> {
    KRAIT_RETURN_IF_ERROR(line.string("prompt"));
    lines.push_back(line);
    return {};
  };
  KRAIT_RETURN_IF_ERROR(read_json_lines(input.text, input.name, what, read));
  return lines;
}

Result<void> check_unanswered(const JsonLine& line) {
  if (line.json["responses"].is_null()) return {};
  return line.error(ErrorCode::bad_format, "no \"responses\"", "some");
}

Result<void> check_prompts(const Tokenizer& tokenizer, std::span<const JsonLine> lines,
                           bool needs_rules) {
  for (const JsonLine& line : lines) {
    const auto prompt = read_prompt(line, tokenizer);
    if (!prompt) return prompt.error();
    KRAIT_RETURN_IF_ERROR(check_unanswered(line));
    const auto rules = needs_rules ? VerifyRules::need(line) : VerifyRules::read(line);
    if (!rules) return rules.error();
  }
  return {};
}

Result<std::vector<std::string>> responses_of(const JsonLine& line) {
  const Metadata& list = line.json["responses"];
  std::vector<std::string> texts;
  for (std::size_t k = 0; k < list.size(); ++k) {
    const std::string* text = list[k]["text"].text();
    if (text != nullptr) texts.push_back(*text);
  }
  if (list.array() != nullptr && !texts.empty() && texts.size() == list.size()) return texts;
  return line.error(ErrorCode::bad_format, "\"responses\", a list of objects with \"text\"",
                    list.is_null() ? "none" : "something else");
}

Error cancelled(std::string_view stage, Index done, Index total) {
  return {ErrorCode::cancelled,
          fmt::format("[training] {}: expected {} lines, found an end after {} (the same command "
                      "goes on)",
                      stage, total, done)};
}

Result<VerifyRules> VerifyRules::read(const JsonLine& line) {
  VerifyRules result;
  const Metadata& rules = line.json["verify"];
  if (rules.is_null()) return result;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    const Metadata& rule = rules[i];
    const std::string* pattern = rule["pattern"].text();
    const std::optional<double> points = rule["points"].number();
    const Metadata& most = rule["most"];
    if (pattern == nullptr || !points || !std::isfinite(*points) ||
        (!most.is_null() && !most.whole())) {
      return line.error(ErrorCode::bad_format,
                        "rules with a text \"pattern\", a number \"points\" and a whole number "
                        "\"most\"",
                        json_of(rule));
    }
    Result<Regex> regex = Regex::compile_for_whole_texts(*pattern);
    if (!regex) {
      return line.error(ErrorCode::bad_format, "a regular expression",
                        fmt::format("'{}': {}", *pattern, regex.error().message));
    }
    constexpr std::uint64_t all = std::uint64_t{1} << 40U;
    result.rules_.push_back(
        {.regex = *std::move(regex),
         .points = *points,
         .most = static_cast<Index>(std::min(most.whole().value_or(all), all))});
  }
  if (rules.array() == nullptr) {
    return line.error(ErrorCode::bad_format, "a list of rules as \"verify\"", json_of(rules));
  }
  return result;
}

Result<VerifyRules> VerifyRules::need(const JsonLine& line) {
  KRAIT_ASSIGN_OR_RETURN(VerifyRules rules, read(line));
  if (!rules.empty()) return rules;
  return line.error(ErrorCode::bad_argument, "rules, \"verify\"", "none");
}

Result<double> VerifyRules::score(std::string_view text) const {
  double sum = 0.0;
  for (const Rule& rule : rules_) {
    RegexSearch search(rule.regex);
    Index matches = 0;
    std::size_t from = 0;
    while (matches < rule.most && from <= text.size()) {
      KRAIT_ASSIGN_OR_RETURN(const RegexMatch match, search.find(text, from));
      if (!match.found) break;
      ++matches;
      from = match.end;
      if (match.end > match.begin) continue;
      // Behind an empty match, from the next character.
      do {
        ++from;
      } while (from < text.size() && (static_cast<unsigned char>(text[from]) & 0xC0U) == 0x80U);
    }
    sum += rule.points * static_cast<double>(matches);
  }
  return sum;
}

}  // namespace training
}  // namespace v0_1
}  // namespace krait
