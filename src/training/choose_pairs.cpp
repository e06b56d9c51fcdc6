#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "training/stages.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using training::JsonLine;

struct JudgedAnswer {
  std::string text;
  double score = 0.0;
  std::optional<double> log_p;
};

struct Answers {
  std::vector<JudgedAnswer> scored;  // in order
  bool is_complete = true;           // whether all have a score
};

Result<Answers> answers_of(const JsonLine& line) {
  KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> texts, training::responses_of(line));
  const Metadata& means = line.json["mean"];
  if (means.array() == nullptr || means.size() != texts.size()) {
    return line.error(ErrorCode::bad_format, fmt::format("\"mean\", a list of {}", texts.size()),
                      training::json_of(means));
  }
  Answers answers;
  for (std::size_t k = 0; k < texts.size(); ++k) {
    if (means[k].is_null()) {
      answers.is_complete = false;
      continue;
    }
    const std::optional<double> score = means[k].number();
    if (!score || !std::isfinite(*score)) {
      return line.error(ErrorCode::bad_format, "a number or null in \"mean\"",
                        training::json_of(means[k]));
    }
    answers.scored.push_back(
        {.text = texts[k], .score = *score, .log_p = line.json["responses"][k]["logp"].number()});
  }
  return answers;
}

// Characters, whatever their bytes.
double length_of(std::string_view text) {
  return static_cast<double>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; }));
}

// Which count the pair belongs to.
Index& count_of(const JudgedAnswer& chosen, const JudgedAnswer& rejected,
                const PairOptions& options, PairCounts& counts) {
  const double gap = chosen.score - rejected.score;
  if (!(gap > 0.0)) return counts.tied;
  if (gap < options.min_gap) return counts.gap;
  if (chosen.text == rejected.text) return counts.equal_text;
  const double a = length_of(chosen.text);
  const double b = length_of(rejected.text);
  if (std::max(a, b) > options.max_len_ratio * std::min(a, b)) return counts.length;
  return counts.kept;
}

std::string pair_json(const JsonLine& line, const JudgedAnswer& chosen,
                      const JudgedAnswer& rejected, bool with_log_probs) {
  const auto text = [](const std::string& words) {
    return training::json_of(std::string_view(words));
  };
  const Metadata& id = line.json["id"];
  std::string json = fmt::format(
      "{{{}\"prompt\": {}, \"chosen\": {}, \"rejected\": {}, \"score_c\": {}, \"score_r\": {}",
      id.is_null() ? "" : fmt::format("\"id\": {}, ", training::json_of(id)),
      text(*line.json["prompt"].text()), text(chosen.text), text(rejected.text), chosen.score,
      rejected.score);
  if (with_log_probs && chosen.log_p && rejected.log_p) {
    json += fmt::format(", \"ref_logp_c\": {}, \"ref_logp_r\": {}", *chosen.log_p, *rejected.log_p);
  }
  for (const char* key : {"model", "judge"}) {
    if (!line.json[key].is_null()) {
      json += fmt::format(", \"{}\": {}", key, training::json_of(line.json[key]));
    }
  }
  return json + "}";
}

}  // namespace

Result<void> validate(const PairOptions& options) {
  if (!(options.min_gap >= 0.0) || !std::isfinite(options.min_gap)) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[pairs] min-gap: expected a finite number of at least 0, found {}",
                             options.min_gap)};
  }
  if (!(options.max_len_ratio >= 1.0)) {
    return Error{
        ErrorCode::bad_argument,
        fmt::format("[pairs] max-len-ratio: expected at least 1, found {}", options.max_len_ratio)};
  }
  return {};
}

namespace training {

Result<ChosenPairs> choose_pairs(const StageInput& scored, const StageInput* anchors,
                                 const PairOptions& options, bool with_log_probs) {
  KRAIT_RETURN_IF_ERROR(validate(options));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines,
                         training::lines_of(scored, "scored answers"));
  std::vector<JsonLine> others;
  if (anchors != nullptr) {
    KRAIT_ASSIGN_OR_RETURN(others, training::lines_of(*anchors, "scored answers"));
    if (others.size() != lines.size()) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[pairs] anchor-rejected: expected {} lines, found {} ({})",
                               lines.size(), others.size(), anchors->name)};
    }
  }
  PairCounts counts;
  std::vector<std::string> pairs;
  for (std::size_t i = 0; i < lines.size(); ++i) {
    const JsonLine& line = lines[i];
    KRAIT_ASSIGN_OR_RETURN(const Answers answers, answers_of(line));
    Answers rejected = answers;
    if (anchors != nullptr) {
      if (!others[i].json["prompt"].is(*line.json["prompt"].text())) {
        return others[i].error(ErrorCode::bad_argument, "the prompt of that line of " + scored.name,
                               "another one");
      }
      KRAIT_ASSIGN_OR_RETURN(rejected, answers_of(others[i]));
    }
    const bool is_complete = answers.is_complete && rejected.is_complete;
    const std::size_t least = anchors == nullptr ? 2 : 1;
    if (answers.scored.size() < least || rejected.scored.size() < least) {
      ++(is_complete ? counts.tied : counts.unparsable);
      continue;
    }
    const JudgedAnswer& best = *std::ranges::max_element(answers.scored, {}, &JudgedAnswer::score);
    const JudgedAnswer& worst =
        *std::ranges::min_element(rejected.scored, {}, &JudgedAnswer::score);
    Index& count = count_of(best, worst, options, counts);
    ++count;
    if (&count == &counts.kept) pairs.push_back(pair_json(line, best, worst, with_log_probs));
  }
  if (pairs.empty()) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[pairs] pairs: expected at least one, found none: {} tied, {} below "
                             "the gap, {} of equal texts, {} of lengths too different, {} "
                             "unparsable ({})",
                             counts.tied, counts.gap, counts.equal_text, counts.length,
                             counts.unparsable, scored.name)};
  }
  return ChosenPairs{std::move(pairs), counts};
}

}  // namespace training

Result<PairCounts> write_pairs(const StageInput& scored, const StageInput* anchors,
                               const PairOptions& options, const std::string& destination) {
  KRAIT_ASSIGN_OR_RETURN(const training::ChosenPairs chosen,
                         training::choose_pairs(scored, anchors, options, true));
  KRAIT_RETURN_IF_ERROR(training::write_lines(destination, chosen.lines));
  return chosen.counts;
}

}  // namespace v0_1
}  // namespace krait
