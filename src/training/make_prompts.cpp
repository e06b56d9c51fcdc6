#include <fmt/format.h>

#include <algorithm>
#include <set>

#include "io/json.hpp"
#include "krait/core/rng.hpp"
#include "krait/decoding/generate.hpp"
#include "training/stages.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

using training::JsonLine;

constexpr Index attempts_per_prompt = 20;

std::vector<std::string> words_of(std::string_view text) {
  std::vector<std::string> words;
  std::string word;
  for (const char c : text) {
    const bool is_letter = static_cast<unsigned char>(c) >= 0x80U || (c >= '0' && c <= '9') ||
                           (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (is_letter) {
      word += c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    } else if (!word.empty()) {
      words.push_back(std::exchange(word, {}));
    }
  }
  if (!word.empty()) words.push_back(word);
  return words;
}

// ROUGE-L (Lin 2004): F-measure of the longest common subsequence of words.
double rouge(const std::vector<std::string>& a, const std::vector<std::string>& b) {
  if (a.empty() || b.empty()) return 0.0;
  std::vector<Index> row(b.size() + 1, 0);
  for (const std::string& word : a) {
    Index diagonal = 0;
    for (std::size_t j = 0; j < b.size(); ++j) {
      const Index above = row[j + 1];
      row[j + 1] = word == b[j] ? diagonal + 1 : std::max(above, row[j]);
      diagonal = above;
    }
  }
  return 2.0 * static_cast<double>(row.back()) / static_cast<double>(a.size() + b.size());
}

std::string trimmed(std::string_view text) {
  const std::size_t first = text.find_first_not_of(" \t\r\n");
  if (first == text.npos) return "";
  return std::string(text.substr(first, text.find_last_not_of(" \t\r\n") - first + 1));
}

Index characters(std::string_view text) {
  return std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
}

// All prompts so far, the given ones in front.
class Pool {
 public:
  Pool(const PromptOptions& options, std::vector<std::string> given) : options_(options) {
    for (std::string& prompt : given) put(std::move(prompt));
    given_ = prompts_.size();
  }

  std::size_t made() const noexcept { return prompts_.size() - given_; }

  // Some of them as a list, behind which the next one is due.
  std::string list(std::uint64_t seed) const {
    std::vector<std::size_t> shown;
    const auto draw = [&](std::size_t begin, std::size_t end, Index count) {
      for (Index i = 0; i < count && begin < end; ++i) {
        const double u = random_uniform({.seed = seed, .position = shown.size()});
        shown.push_back(begin + static_cast<std::size_t>(u * static_cast<double>(end - begin)));
      }
    };
    draw(0, given_, options_.shots);
    draw(given_, prompts_.size(), options_.made_shots);
    std::string text;
    for (const std::size_t i : shown) text += fmt::format("Task: {}\n", prompts_[i]);
    return text + "Task:";
  }

  // Whether the prompt is a new one, which is then kept.
  bool offer(const std::string& prompt, PromptCounts& counts) {
    Index* const reason = why_not(prompt, counts);
    if (reason != nullptr) {
      ++*reason;
      return false;
    }
    ++counts.kept;
    put(prompt);
    return true;
  }

 private:
  void put(std::string prompt) {
    known_.insert(prompt);
    words_.push_back(words_of(prompt));
    prompts_.push_back(std::move(prompt));
  }

  Index* why_not(const std::string& prompt, PromptCounts& counts) const {
    if (characters(prompt) < options_.min_length) return &counts.length;
    if (known_.contains(prompt)) return &counts.duplicate;
    const std::vector<std::string> words = words_of(prompt);
    for (const std::string& word : options_.without) {
      const std::vector<std::string> wanted = words_of(word);
      const auto found = std::search(words.begin(), words.end(), wanted.begin(), wanted.end());
      if (!wanted.empty() && found != words.end()) return &counts.words;
    }
    const bool is_similar = std::ranges::any_of(words_, [&](const std::vector<std::string>& other) {
      return rouge(words, other) > options_.max_rouge;
    });
    return is_similar ? &counts.similar : nullptr;
  }

  PromptOptions options_;
  std::vector<std::string> prompts_;
  std::vector<std::vector<std::string>> words_;
  std::set<std::string, std::less<>> known_;
  std::size_t given_ = 0;
};

// What the model puts behind each of the lists.
Result<std::vector<std::string>> continued(Session& session, const LanguageModel& model,
                                           std::span<const std::string> lists,
                                           GenerationOptions options,
                                           std::span<const std::uint64_t> seeds) {
  std::vector<Generation> texts;
  for (std::size_t i = 0; i < lists.size(); ++i) {
    KRAIT_ASSIGN_OR_RETURN(const std::vector<Token> tokens,
                           model.tokenizer->encode(lists[i], {.add_special = false}));
    options.sampler.seed = seeds[i];
    KRAIT_ASSIGN_OR_RETURN(
        Generation text,
        Generation::make(model.model, *model.tokenizer, Sequence(model.model, tokens), options));
    texts.push_back(std::move(text));
  }
  std::vector<Generation*> running;
  for (Generation& text : texts) running.push_back(&text);
  while (!std::ranges::all_of(texts, &Generation::is_finished)) {
    KRAIT_RETURN_IF_ERROR(advance_all(session, running));
  }
  std::vector<std::string> result;
  for (Generation& text : texts) {
    text.finish();
    // One that was cut is no prompt.
    const bool is_whole = text.result().reason != FinishReason::max_tokens;
    result.push_back(is_whole ? trimmed(text.result().text) : "");
  }
  return result;
}

std::string json_list(const std::vector<std::string>& texts) {
  return training::json_of(Metadata::Array(texts.begin(), texts.end()));
}

// The texts of such a list, `count` of them.
Result<std::vector<std::string>> texts_on(const std::string& line, Index count,
                                          const std::string& place) {
  std::vector<std::string> texts;
  KRAIT_ASSIGN_OR_RETURN(const Metadata json, parse_json(line, place));
  for (std::size_t i = 0; i < json.size(); ++i) {
    if (json[i].text() != nullptr) texts.push_back(*json[i].text());
  }
  if (std::ssize(texts) == count) return texts;
  return Error{ErrorCode::bad_format,
               fmt::format("[prompts] unfinished work: expected {} texts on a line, found {} "
                           "({}.partial; remove the file to begin anew)",
                           count, texts.size(), place)};
}

}  // namespace

Result<void> validate(const PromptOptions& options) {
  const auto bad = [](std::string_view what, std::string_view expected, auto found) {
    return Error{ErrorCode::bad_argument,
                 fmt::format("[prompts] {}: expected {}, found {}", what, expected, found)};
  };
  if (options.count < 1) return bad("count", "at least 1", options.count);
  if (options.shots < 1) return bad("shots", "at least 1", options.shots);
  if (options.made_shots < 0) return bad("made-shots", "at least 0", options.made_shots);
  if (options.max_tokens < 1) return bad("tokens", "at least 1", options.max_tokens);
  if (options.min_length < 1) return bad("min-characters", "at least 1", options.min_length);
  if (!(options.max_rouge >= 0.0 && options.max_rouge <= 1.0)) {
    return bad("max-rouge", "0 to 1", options.max_rouge);
  }
  return {};
}

Result<PromptCounts> write_prompts(const LanguageModel& model, Executor& executor,
                                   const StageInput& seeds, const PromptOptions& options,
                                   const std::string& destination, Progress progress) {
  KRAIT_RETURN_IF_ERROR(validate(options));
  KRAIT_ASSIGN_OR_RETURN(const std::vector<JsonLine> given, training::lines_of(seeds, "prompts"));
  std::vector<std::string> prompts;
  for (const JsonLine& line : given) prompts.push_back(*line.json["prompt"].text());
  Pool pool(options, std::move(prompts));
  KRAIT_ASSIGN_OR_RETURN(const Token end, end_of_answer(model.stop_tokens, *model.tokenizer));
  GenerationOptions generation{.max_tokens = options.max_tokens,
                               .sampler = options.sampler,
                               .stop_tokens = {end},
                               .stop_strings = {"\n"}};
  constexpr Index batch = 16;
  Session session(model.model, executor, {.chunk = training::most_tokens, .max_batch = batch});
  // The texts of a batch are a line of the unfinished work, and offered to the pool as they stand
  // there, whether they are of this call or of one that was interrupted.
  KRAIT_ASSIGN_OR_RETURN(
      training::LineFile file,
      training::LineFile::open(
          destination,
          fmt::format("prompts {} {} {} {} {} {} {} {} {} {} {}", model.model.fingerprint(),
                      training::hash_of(seeds.text), end, options.count, options.shots,
                      options.made_shots, options.max_tokens, options.min_length, options.max_rouge,
                      training::hash_of(json_list(options.without)),
                      training::describe(options.sampler))));
  PromptCounts counts;
  std::vector<std::string> lines;
  for (Index attempt = 0; counts.kept < options.count; attempt += batch) {
    if (attempt >= attempts_per_prompt * options.count) {
      file.discard();
      return Error{ErrorCode::bad_argument,
                   fmt::format("[prompts] prompts: expected {}, found {} in {} attempts: {} known, "
                               "{} too short or cut, {} too similar, {} with excluded words",
                               options.count, counts.kept, attempt, counts.duplicate, counts.length,
                               counts.similar, counts.words)};
    }
    std::vector<std::uint64_t> own_seeds;
    for (Index i = 0; i < batch; ++i) {
      own_seeds.push_back(training::line_seed(options.sampler.seed, attempt + i));
    }
    if (attempt / batch == file.size()) {
      std::vector<std::string> lists;
      for (const std::uint64_t seed : own_seeds) lists.push_back(pool.list(seed));
      KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> texts,
                             continued(session, model, lists, generation, own_seeds));
      KRAIT_RETURN_IF_ERROR(file.write(json_list(texts)));
    }
    KRAIT_ASSIGN_OR_RETURN(const std::vector<std::string> found,
                           texts_on(file[attempt / batch], batch, destination));
    for (std::size_t i = 0; i < found.size() && counts.kept < options.count; ++i) {
      if (!pool.offer(found[i], counts)) continue;
      lines.push_back(fmt::format("{{\"id\": {}, \"prompt\": {}, \"seed\": {}, \"model\": \"{}\"}}",
                                  lines.size(), training::json_of(std::string_view(found[i])),
                                  own_seeds[i], model.model.fingerprint()));
    }
    if (progress && progress(counts.kept, options.count) == Flow::stop &&
        counts.kept < options.count) {
      return training::cancelled("prompts", counts.kept, options.count);
    }
  }
  KRAIT_RETURN_IF_ERROR(file.commit(lines));
  return counts;
}

}  // namespace v0_1
}  // namespace krait
