#include "tools/laser/samples.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <optional>

#include "io/json.hpp"
#include "tools/laser/cutter.hpp"

namespace krait {
inline namespace v0_1 {
namespace laser {
namespace {

constexpr Index fewest_samples = 20;  // four to choose by, four to confirm, twelve to test

Sequence sequence_of(std::vector<Token> tokens, Index first, const Tokenizer& tokenizer) {
  Sequence sequence{std::move(tokens), first, 0};
  for (Index i = first; i < std::ssize(sequence.tokens); ++i) {
    sequence.bytes += std::ssize(tokenizer.bytes(sequence.tokens[static_cast<std::size_t>(i)]));
  }
  return sequence;
}

Result<std::vector<Sample>> windows(std::string_view data, const Tokenizer& tokenizer) {
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens, tokenizer.encode(data));
  const Index size = std::clamp<Index>(std::ssize(tokens) / 100, 64, 512);
  if (std::ssize(tokens) < fewest_samples * size) {
    return bad("data", fmt::format("at least {} tokens", fewest_samples * 64),
               fmt::to_string(tokens.size()));
  }
  std::vector<Sample> samples;
  for (auto at = tokens.begin(); tokens.end() - at >= size; at += size) {
    samples.push_back({{sequence_of({at, at + size}, 1, tokenizer)}, 0});
  }
  return samples;
}

// A line of data.
struct Question {
  std::string context;
  std::vector<std::string> answers;
  std::size_t right = 0;
};

std::optional<std::size_t> index_of(const Metadata& value) {
  if (const auto whole = value.whole()) return static_cast<std::size_t>(*whole);
  const std::string* text = value.text();
  std::size_t index = 0;
  if (text == nullptr) return std::nullopt;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), index);
  if (error != std::errc() || end != text->data() + text->size()) return std::nullopt;
  return index;
}

bool read_choices(const Metadata& choices, const Metadata& label, Question& question) {
  const auto right = index_of(label);
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const std::string* text = choices[i].text();
    if (text == nullptr || text->empty()) return false;
    question.answers.push_back(" " + *text);
  }
  if (!right || *right >= question.answers.size()) return false;
  question.right = *right;
  return true;
}

std::optional<Question> question_of(const Metadata& line, LaserTask task) {
  Question question;
  const auto text = [&](const char* key) {
    const std::string* value = line[key].text();
    return value == nullptr ? std::string() : *value;
  };
  if (task == LaserTask::lambada) {
    const std::string whole = text("text");
    const std::size_t space = whole.rfind(' ');
    if (space == whole.npos || space == 0 || space + 1 == whole.size()) return std::nullopt;
    question.context = whole.substr(0, space);
    question.answers = {whole.substr(space)};
    return question;
  }
  if (task == LaserTask::hellaswag) {
    question.context = text("ctx");
    if (question.context.empty()) return std::nullopt;
    return read_choices(line["endings"], line["label"], question) ? std::optional(question)
                                                                  : std::nullopt;
  }
  question.context = text("prompt");
  if (question.context.empty()) return std::nullopt;
  if (!line["choices"].is_null()) {
    return read_choices(line["choices"], line["label"], question) ? std::optional(question)
                                                                  : std::nullopt;
  }
  question.answers = {text("answer")};
  return question.answers.front().empty() ? std::nullopt : std::optional(question);
}

std::string_view fields_of(LaserTask task) {
  switch (task) {
    case LaserTask::hellaswag:
      return "\"ctx\", \"endings\" and \"label\"";
    case LaserTask::lambada:
      return "\"text\" of several words";
    default:
      return "\"prompt\", and \"answer\" or \"choices\" and \"label\"";
  }
}

Result<Sample> sample_of(const Question& question, const Tokenizer& tokenizer, Index line) {
  Sample sample{{}, question.right};
  KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> context, tokenizer.encode(question.context));
  for (const std::string& answer : question.answers) {
    KRAIT_ASSIGN_OR_RETURN(std::vector<Token> tokens, tokenizer.encode(question.context + answer));
    if (tokens.size() < 2) {
      return Error{ErrorCode::bad_argument,
                   fmt::format("[laser] data: expected at least 2 tokens with an answer, found {} "
                               "(line {})",
                               tokens.size(), line)};
    }
    // Where a token spans both, the answer begins with it.
    const auto [end, ignored] =
        std::mismatch(context.begin(), context.end(), tokens.begin(), tokens.end());
    const Index first = std::clamp<Index>(end - context.begin(), 1, std::ssize(tokens) - 1);
    sample.choices.push_back(sequence_of(std::move(tokens), first, tokenizer));
  }
  return sample;
}

}  // namespace

Result<std::vector<Sample>> read_samples(std::string_view data, LaserTask task,
                                         const Tokenizer& tokenizer) {
  if (data.empty()) return bad("data", "text", "none");
  if (task == LaserTask::text) return windows(data, tokenizer);
  std::vector<Sample> samples;
  Index number = 0;
  while (!data.empty()) {
    const std::size_t end = std::min(data.find('\n'), data.size());
    const std::string_view line = data.substr(0, end);
    data.remove_prefix(std::min(end + 1, data.size()));
    ++number;
    if (line.find_first_not_of(" \t\r") == line.npos) continue;
    KRAIT_ASSIGN_OR_RETURN(const Metadata object,
                           parse_json(line, fmt::format("data, line {}", number)));
    const auto question = question_of(object, task);
    if (!question) {
      return Error{ErrorCode::bad_format,
                   fmt::format("[laser] data: expected {}, found something else (line {})",
                               fields_of(task), number)};
    }
    KRAIT_ASSIGN_OR_RETURN(Sample sample, sample_of(*question, tokenizer, number));
    samples.push_back(std::move(sample));
  }
  if (std::ssize(samples) < fewest_samples) {
    return bad("data", fmt::format("at least {} lines", fewest_samples),
               fmt::to_string(samples.size()));
  }
  return samples;
}

}  // namespace laser
}  // namespace v0_1
}  // namespace krait
