#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <optional>

#include "krait/core/float_environment.hpp"
#include "krait/core/rng.hpp"
#include "krait/kernels/softmax.hpp"
#include "krait/models/session.hpp"
#include "training/stages.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using training::JsonLine;

constexpr std::size_t digits = 6;

// What was found of an answer.
struct Score {
  std::vector<double> scores;
  std::vector<std::string> raw;  // JSON
};

std::string replaced(std::string_view text, std::string_view what, std::string_view by) {
  std::string result;
  for (std::size_t at = text.find(what); at != text.npos; at = text.find(what)) {
    result += text.substr(0, at);
    result += by;
    text.remove_prefix(at + what.size());
  }
  return result + std::string(text);
}

// The template with a question and an answer, in which nothing is replaced again.
std::string filled(std::string_view pattern, std::string_view prompt, std::string_view response) {
  constexpr std::string_view name = "{response}";
  std::string result;
  for (std::size_t at = pattern.find(name); at != pattern.npos; at = pattern.find(name)) {
    result += replaced(pattern.substr(0, at), "{prompt}", prompt);
    result += response;
    pattern.remove_prefix(at + name.size());
  }
  return result + replaced(pattern, "{prompt}", prompt);
}

Index common(std::span<const Token> a, std::span<const Token> b) {
  return std::ranges::mismatch(a, b).in1 - a.begin();
}

// Reads texts up to where a digit is due, and says what the model expects there.
class Judge {
 public:
  static Result<Judge> make(const LanguageModel& model, Executor& executor,
                            const JudgeOptions& options) {
    Judge judge(model, executor, options);
    for (std::size_t k = 0; k < digits; ++k) {
      KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                             model.tokenizer->encode(fmt::to_string(k), {.add_special = false}));
      if (tokens.size() != 1) {
        return Error{ErrorCode::unsupported,
                     fmt::format("[judge] digits: expected '{}' to be one token, found {}", k,
                                 tokens.size())};
      }
      judge.digit_tokens_[k] = tokens.front();
    }
    // What stands in front of every question.
    const std::string_view all = options.prompt;
    KRAIT_ASSIGN_OR_RETURN(
        judge.prefix_, model.tokenizer->encode(
                           all.substr(0, std::min(all.find("{prompt}"), all.find("{response}"))),
                           {.add_special = false}));
    if (!judge.prefix_.empty()) {
      KRAIT_RETURN_IF_ERROR(judge.session_.prefill(judge.prefix_, judge.prefix_state_));
    }
    return judge;
  }

  Result<std::vector<Score>> score(const JsonLine& line, std::span<const std::string> responses,
                                   std::uint64_t seed) {
    const std::string& prompt = *line.json["prompt"].text();
    std::vector<std::vector<Token>> texts;
    for (const std::string& response : responses) {
      KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens,
                             model_->tokenizer->encode(filled(options_.prompt, prompt, response),
                                                       {.add_special = false}));
      if (tokens.empty()) {
        return line.error(ErrorCode::bad_argument, "something to read by the template",
                          "an empty text");
      }
      texts.push_back(std::move(tokens));
    }
    // A token may reach over the end of what two texts have in common: then there is less of it.
    Index shared = std::ssize(texts.front()) - 1;
    for (const std::vector<Token>& text : texts) {
      shared = std::min({shared, common(text, texts.front()), std::ssize(text) - 1});
    }
    const bool has_prefix =
        std::ssize(prefix_) <= shared && common(prefix_, texts.front()) == std::ssize(prefix_);
    State state = has_prefix ? prefix_state_ : model_->model.initial_state();
    const Index begin = has_prefix ? std::ssize(prefix_) : 0;
    if (shared > begin) {
      KRAIT_RETURN_IF_ERROR(session_.prefill(part(texts.front(), begin, shared), state));
    }
    std::vector<Score> result;
    for (std::size_t first = 0; first < texts.size();) {
      KRAIT_ASSIGN_OR_RETURN(first, run(texts, first, shared, state, seed, result));
    }
    return result;
  }

 private:
  Judge(const LanguageModel& model, Executor& executor, const JudgeOptions& options)
      : model_(&model),
        options_(options),
        session_(model.model, executor,
                 {.chunk = training::most_tokens, .max_batch = training::most_texts}),
        prefix_state_(model.model.initial_state()) {}

  static std::span<const Token> part(std::span<const Token> tokens, Index begin, Index end) {
    return tokens.subspan(static_cast<std::size_t>(begin), static_cast<std::size_t>(end - begin));
  }

  // Runs as many of the texts behind their common tokens as a pass has room for; which is next.
  Result<std::size_t> run(std::span<const std::vector<Token>> texts, std::size_t first,
                          Index shared, const State& state, std::uint64_t seed,
                          std::vector<Score>& result) {
    std::vector<State> states;
    states.reserve(texts.size());
    std::vector<RunItem> items;
    Index left = session_.options().chunk;
    std::size_t next = first;
    for (; next < texts.size() && std::ssize(items) < training::most_texts; ++next) {
      std::span<const Token> rest = part(texts[next], shared, std::ssize(texts[next]));
      if (std::ssize(rest) > left && next > first) break;
      states.push_back(state);
      if (std::ssize(rest) > left) {  // a long one is run alone
        const auto most = static_cast<std::size_t>(std::ssize(rest) - left);
        KRAIT_RETURN_IF_ERROR(session_.prefill(rest.first(most), states.back()));
        rest = rest.subspan(most);
      }
      left -= std::ssize(rest);
      items.push_back({.tokens = rest});
    }
    for (std::size_t i = 0; i < items.size(); ++i) items[i].state = &states[i];
    KRAIT_ASSIGN_OR_RETURN(const RunOutput output, session_.run(items));
    for (std::size_t i = 0; i < items.size(); ++i) {
      const auto logits = output.logits(static_cast<Index>(i)).row(0);
      result.push_back(read(logits, seed, static_cast<std::uint32_t>(first + i)));
    }
    return next;
  }

  Score read(std::span<const float> logits, std::uint64_t seed, std::uint32_t response) {
    const FloatEnvironment environment;
    p_.resize(static_cast<std::size_t>(model_->model.vocab()));
    kernels::softmax(logits.first(p_.size()), p_);
    Score score;
    if (options_.by == JudgeBy::expected) {
      double sum = 0.0;
      double mean = 0.0;
      for (std::size_t k = 0; k < digits; ++k) {
        const auto p = static_cast<double>(p_[static_cast<std::size_t>(digit_tokens_[k])]);
        sum += p;
        mean += static_cast<double>(k) * p;
        score.raw.push_back(fmt::to_string(p));
      }
      if (sum > 0.0) score.scores.push_back(mean / sum);
      return score;
    }
    for (Index i = 0; i < options_.samples; ++i) {
      const std::string text(model_->tokenizer->bytes(draw(random_uniform(
          {.seed = seed, .sequence = response, .position = static_cast<std::uint64_t>(i)}))));
      score.raw.push_back(training::json_of(std::string_view(text)));
      if (const std::optional<int> digit = digit_of(text)) score.scores.push_back(*digit);
    }
    return score;
  }

  // A digit from 0 to 5 with nothing but white space around it.
  static std::optional<int> digit_of(std::string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\n')) text.remove_prefix(1);
    if (text.size() != 1 || text.front() < '0' || text.front() > '5') return std::nullopt;
    return text.front() - '0';
  }

  Token draw(double u) const {
    double sum = 0.0;
    Token last = 0;  // of those that can be drawn
    for (std::size_t token = 0; token < p_.size(); ++token) {
      if (p_[token] == 0.0F) continue;
      sum += static_cast<double>(p_[token]);
      last = static_cast<Token>(token);
      if (u < sum) break;
    }
    return last;
  }

  const LanguageModel* model_;
  JudgeOptions options_;
  Session session_;
  std::vector<Token> prefix_;
  State prefix_state_;
  std::array<Token, digits> digit_tokens_{};
  std::vector<float> p_;
};

std::vector<training::JsonMember> members_of(std::span<const Score> scores) {
  std::string all;
  std::string means;
  std::string raw;
  std::string counts;
  for (const Score& score : scores) {
    const std::string_view comma = all.empty() ? "" : ", ";
    double sum = 0.0;
    for (const double value : score.scores) sum += value;
    const auto count = static_cast<double>(score.scores.size());
    all += fmt::format("{}[{}]", comma, fmt::join(score.scores, ", "));
    means += score.scores.empty() ? fmt::format("{}null", comma)
                                  : fmt::format("{}{}", comma, sum / count);
    raw += fmt::format("{}[{}]", comma, fmt::join(score.raw, ", "));
    counts += fmt::format("{}{}", comma, score.scores.size());
  }
  const auto list = [](const std::string& values) { return "[" + values + "]"; };
  return {
      {"scores", list(all)}, {"mean", list(means)}, {"raw", list(raw)}, {"n_parsed", list(counts)}};
}

// Scores that no model gives.
Result<std::vector<Score>> rule_scores(const JsonLine& line, JudgeBy by, std::uint64_t seed,
                                       std::span<const std::string> responses) {
  using training::VerifyRules;
  KRAIT_ASSIGN_OR_RETURN(const VerifyRules rules,
                         by == JudgeBy::verify ? VerifyRules::need(line) : VerifyRules::read(line));
  std::vector<Score> scores;
  for (std::size_t k = 0; k < responses.size(); ++k) {
    double score = 5.0 * random_uniform({.seed = seed, .sequence = static_cast<std::uint32_t>(k)});
    if (by == JudgeBy::verify) {
      KRAIT_ASSIGN_OR_RETURN(score, rules.score(responses[k]));
    }
    scores.push_back({.scores = {score}, .raw = {}});
  }
  return scores;
}

bool needs_model(JudgeBy by) { return by == JudgeBy::expected || by == JudgeBy::samples; }

}  // namespace

Result<void> validate(const JudgeOptions& options) {
  if (needs_model(options.by) && options.prompt.find("{response}") == std::string::npos) {
    return Error{ErrorCode::bad_argument,
                 "[judge] template: expected {response} in it, found none"};
  }
  if (options.by == JudgeBy::samples && options.samples < 1) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[judge] samples: expected at least 1, found {}", options.samples)};
  }
  return {};
}

std::string_view judge_template() noexcept {
  return "Below are a request and an answer to it. Rate the answer from 0 to 5 points. Begin with "
         "0 and go through the list from above; add a point for each statement that holds, and "
         "stop at the first that does not.\n"
         "1. The answer is about what was asked and says something of use.\n"
         "2. It deals with a good part of the request, even if much is left open.\n"
         "3. It does the essentials of what was asked, whatever its style.\n"
         "4. It is complete, clear and well ordered, speaks to whoever asked, and helps.\n"
         "5. It is expert work made for this request: nothing is missing, nothing superfluous.\n"
         "\nRequest:\n{prompt}\n\nAnswer:\n{response}\n\nPoints: ";
}

Result<std::vector<std::string>> training::scores(const LanguageModel* model, Executor& executor,
                                                  const StageInput& candidates,
                                                  const JudgeOptions& options,
                                                  const std::string& destination,
                                                  Progress progress) {
  const bool by_model = needs_model(options.by);
  check_contract(!by_model || model != nullptr, "[judge] model: expected one, found none");
  KRAIT_RETURN_IF_ERROR(validate(options));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> lines,
                         training::lines_of(candidates, "candidates"));
  for (const JsonLine& line : lines) {
    KRAIT_RETURN_IF_ERROR(training::responses_of(line));
    if (line.json["scores"].is_null()) continue;
    return line.error(ErrorCode::bad_format, "no \"scores\"", "some");
  }
  std::string by = fmt::format("\"by\": \"{}\", \"seed\": {}", to_string(options.by), options.seed);
  std::optional<Judge> judge;
  if (by_model) {
    KRAIT_ASSIGN_OR_RETURN(judge, Judge::make(*model, executor, options));
    by += fmt::format(", \"model\": \"{}\", \"template\": \"{}\"", model->model.fingerprint(),
                      training::hash_of(options.prompt));
  }
  if (options.by == JudgeBy::samples) by += fmt::format(", \"samples\": {}", options.samples);
  KRAIT_ASSIGN_OR_RETURN(
      training::LineFile file,
      training::LineFile::open(
          destination, fmt::format("scores {} {}", training::hash_of(candidates.text), by)));
  while (file.size() < std::ssize(lines)) {
    const JsonLine& line = lines[static_cast<std::size_t>(file.size())];
    KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> responses, training::responses_of(line));
    const std::uint64_t seed = training::line_seed(options.seed, file.size());
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Score> scores,
                           judge ? judge->score(line, responses, seed)
                                 : rule_scores(line, options.by, seed, responses));
    std::vector<training::JsonMember> more = members_of(scores);
    more.emplace_back("judge", "{" + by + "}");
    KRAIT_RETURN_IF_ERROR(file.write(training::with_members(line, more)));
    if (progress && progress(file.size(), std::ssize(lines)) == Flow::stop &&
        file.size() < std::ssize(lines)) {
      return training::cancelled("judge", file.size(), std::ssize(lines));
    }
  }
  return file.commit();
}

Result<void> write_scores(const LanguageModel* model, Executor& executor,
                          const StageInput& candidates, const JudgeOptions& options,
                          const std::string& destination, Progress progress) {
  const auto lines = training::scores(model, executor, candidates, options, destination, progress);
  return lines ? Result<void>() : Result<void>(lines.error());
}

}  // namespace v0_1
}  // namespace krait
