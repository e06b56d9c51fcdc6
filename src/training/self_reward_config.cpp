#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <limits>

#include "io/json.hpp"
#include "krait/io/mapped_file.hpp"
#include "krait/training/self_reward.hpp"
#include "krait/training/trainer.hpp"
#include "training/stages.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

constexpr std::size_t most_config_bytes = std::size_t{256} << 20U;

// An object of the configuration. Values are taken out of it one by one; behind the first error
// nothing more is read.
class Section {
 public:
  Section(const Metadata& json, std::string prefix, std::string file,
          std::vector<std::pair<std::string, std::string>>& values)
      : json_(json), prefix_(std::move(prefix)), file_(std::move(file)), values_(values) {
    if (!json_.is_null() && json_.object() == nullptr) {
      fail(prefix_.empty() ? "configuration" : prefix_.substr(0, prefix_.size() - 1), "an object",
           json_text(json_));
    }
  }

  bool has(std::string_view key) const { return !json_[key].is_null(); }

  void whole(std::string_view key, Index& value, Index least) {
    const Metadata& json = take(key);
    if (!json.is_null()) {
      constexpr Index most = Index{1} << 40;
      const std::optional<std::uint64_t> number = json.whole();
      if (!number || *number > static_cast<std::uint64_t>(most) ||
          static_cast<Index>(*number) < least) {
        fail(name(key), fmt::format("a whole number of at least {}", least), json_text(json));
        return;
      }
      value = static_cast<Index>(*number);
    }
    note(key, fmt::to_string(value));
  }

  void seed(std::string_view key, std::uint64_t& value) {
    const Metadata& json = take(key);
    if (!json.is_null()) {
      if (!json.whole()) return fail(name(key), "a whole number of at least 0", json_text(json));
      value = *json.whole();
    }
    note(key, fmt::to_string(value));
  }

  void number(std::string_view key, double& value) {
    const Metadata& json = take(key);
    if (!json.is_null()) {
      const std::optional<double> found = json.number();
      if (!found || !std::isfinite(*found)) return fail(name(key), "a number", json_text(json));
      value = *found;
    }
    note(key, fmt::to_string(value));
  }

  void truth(std::string_view key, bool& value) {
    const Metadata& json = take(key);
    if (!json.is_null()) {
      if (!json.boolean()) return fail(name(key), "true or false", json_text(json));
      value = *json.boolean();
    }
    note(key, fmt::to_string(value));
  }

  // `is_needed`: without it the configuration is refused.
  void text(std::string_view key, std::string& value, bool is_needed = false) {
    const Metadata& json = take(key);
    if (json.is_null() && !is_needed) return;
    if (json.text() == nullptr || json.text()->empty()) {
      return fail(name(key), "a text", json.is_null() ? "none" : json_text(json));
    }
    value = *json.text();
  }

  template <class Value>
  void choice(std::string_view key, Value& value, std::initializer_list<Value> choices) {
    std::string found(to_string(value));
    text(key, found);
    std::vector<std::string_view> names;
    for (const Value choice : choices) {
      names.push_back(to_string(choice));
      if (names.back() == found) value = choice;
    }
    if (std::ranges::find(names, found) == names.end()) {
      fail(name(key), fmt::format("one of {}", fmt::join(names, ", ")), "'" + found + "'");
    }
    note(key, found);
  }

  void note(std::string_view key, const std::string& value) {
    values_.emplace_back(name(key), value);
  }

  const Metadata& take(std::string_view key) {
    known_.push_back(key);
    return json_[key];
  }

  // All keys have been taken.
  Result<void> finish() {
    if (error_) return *error_;
    for (std::size_t i = 0; i < json_.size(); ++i) {
      const std::string& key = (*json_.object())[i].key;
      if (std::ranges::find(known_, key) != known_.end()) continue;
      return Error{ErrorCode::bad_format,
                   fmt::format("[self-reward] {}: expected one of {}, found that key ({})",
                               name(key), fmt::join(known_, ", "), file_)};
    }
    return {};
  }

 private:
  std::string name(std::string_view key) const { return prefix_ + std::string(key); }
  void fail(const std::string& what, const std::string& expected, const std::string& found) {
    if (error_) return;
    error_ = Error{
        ErrorCode::bad_format,
        fmt::format("[self-reward] {}: expected {}, found {} ({})", what, expected, found, file_)};
  }

  const Metadata& json_;
  std::string prefix_;
  std::string file_;
  std::vector<std::pair<std::string, std::string>>& values_;
  std::vector<std::string_view> known_;
  std::optional<Error> error_;
};

struct Reader {
  const Metadata& json;
  std::string file;
  SelfRewardConfig config = {};

  std::string relative(const std::string& path) const {
    const fs::path folder = fs::path(file).parent_path();
    return fs::path(path).is_absolute() ? path : (folder / path).string();
  }

  // A file whose contents count, not its name.
  Result<std::string> read(std::string_view key, const std::string& path) {
    KRAIT_ASSIGN_OR_RETURN(std::string text, read_text_file(path, most_config_bytes));
    config.values.emplace_back(key, training::hash_of(text));
    return text;
  }

  Section section(const char* key) {
    return {json[key], std::string(key) + ".", file, config.values};
  }

  Result<void> top() {
    Section top(json, "", file, config.values);
    top.text("model", config.model, true);
    top.whole("iterations", config.iterations, 1);
    top.seed("seed", config.seed);
    top.text("prompts", config.prompts, true);
    top.whole("prompts_per_iteration", config.prompts_per_iteration, 0);
    for (const char* key : {"candidates", "judge", "pairs", "dpo", "evaluate"}) top.take(key);
    KRAIT_RETURN_IF_ERROR(top.finish());
    std::error_code ignored;
    // Else it may be the name of a bundled model.
    if (fs::exists(relative(config.model), ignored)) config.model = relative(config.model);
    config.prompts = relative(config.prompts);
    KRAIT_RETURN_IF_ERROR(read("prompts", config.prompts));
    return {};
  }

  Result<void> candidates() {
    Section candidates = section("candidates");
    candidates.whole("count", config.candidates.count, 2);
    candidates.whole("n", config.candidates.max_tokens, 1);
    candidates.number("temperature", config.candidates.sampler.temperature);
    candidates.number("top_p", config.candidates.sampler.top_p);
    return candidates.finish();
  }

  Result<void> judge() {
    Section judge = section("judge");
    judge.choice("by", config.judge,
                 {JudgeBy::expected, JudgeBy::samples, JudgeBy::verify, JudgeBy::random});
    judge.whole("samples", config.judge_samples, 1);
    std::string path;
    judge.text("template", path);
    KRAIT_RETURN_IF_ERROR(judge.finish());
    config.judge_prompt = judge_template();
    if (path.empty()) return {};
    KRAIT_ASSIGN_OR_RETURN(config.judge_prompt, read("judge.template", relative(path)));
    return {};
  }

  Result<void> pairs() {
    Section pairs = section("pairs");
    pairs.number("min_gap", config.pairs.min_gap);
    pairs.number("max_len_ratio", config.pairs.max_len_ratio);
    pairs.truth("anchor_rejected", config.anchor_rejected);
    KRAIT_RETURN_IF_ERROR(pairs.finish());
    return validate(config.pairs);
  }

  Result<void> replay() {
    const Metadata& found = json["dpo"]["replay"];
    if (found.is_null()) return {};
    SelfRewardConfig::ReplayFile replay;
    Section section(found, "dpo.replay.", file, config.values);
    section.text("file", replay.file, true);
    section.number("weight", replay.weight);
    KRAIT_RETURN_IF_ERROR(section.finish());
    KRAIT_RETURN_IF_ERROR(validate_replay(replay.weight));
    replay.file = relative(replay.file);
    KRAIT_RETURN_IF_ERROR(read("dpo.replay.file", replay.file));
    config.replay = std::move(replay);
    return {};
  }

  Result<void> dpo() {
    TrainOptions& train = config.train;
    train.learning_rate = 1e-6;
    train.weight_decay = 0.0;
    train.balance = 0.001;
    Section dpo = section("dpo");
    dpo.whole("epochs", config.epochs, 1);
    dpo.whole("batch", train.batch, 1);
    dpo.number("lr", train.learning_rate);
    dpo.number("beta", config.preference.beta);
    dpo.choice("loss", config.preference.loss,
               {PreferenceLoss::sigmoid, PreferenceLoss::ipo, PreferenceLoss::hinge,
                PreferenceLoss::robust, PreferenceLoss::sigmoid_norm});
    dpo.number("weight_decay", train.weight_decay);
    dpo.number("clip", train.clip);
    dpo.whole("warmup", train.warmup, 0);
    dpo.take("replay");
    KRAIT_RETURN_IF_ERROR(dpo.finish());
    KRAIT_RETURN_IF_ERROR(replay());
    TrainOptions probe = train;  // steps come with the pairs
    probe.steps = std::max<Index>(1, train.warmup);
    KRAIT_RETURN_IF_ERROR(validate(probe));
    return validate(config.preference);
  }

  Result<void> evaluate() {
    if (json["evaluate"].is_null()) return {};
    SelfRewardConfig::Evaluation evaluate;
    evaluate.candidates.count = 1;
    Section section_ = section("evaluate");
    section_.text("prompts", evaluate.prompts, true);
    section_.whole("count", evaluate.candidates.count, 1);
    section_.whole("n", evaluate.candidates.max_tokens, 1);
    section_.number("temperature", evaluate.candidates.sampler.temperature);
    section_.text("text", evaluate.text);
    KRAIT_RETURN_IF_ERROR(section_.finish());
    evaluate.prompts = relative(evaluate.prompts);
    KRAIT_RETURN_IF_ERROR(read("evaluate.prompts", evaluate.prompts));
    if (!evaluate.text.empty()) {
      evaluate.text = relative(evaluate.text);
      KRAIT_RETURN_IF_ERROR(read("evaluate.text", evaluate.text));
    }
    config.evaluate = std::move(evaluate);
    return {};
  }
};

}  // namespace

Result<SelfRewardConfig> read_self_reward_config(const std::string& path) {
  KRAIT_ASSIGN_OR_RETURN(const std::string text, read_text_file(path, most_config_bytes));
  KRAIT_ASSIGN_OR_RETURN(const Metadata json, parse_json(text, path));
  Reader reader{.json = json, .file = path};
  KRAIT_RETURN_IF_ERROR(reader.top());
  KRAIT_RETURN_IF_ERROR(reader.candidates());
  KRAIT_RETURN_IF_ERROR(reader.judge());
  KRAIT_RETURN_IF_ERROR(reader.pairs());
  KRAIT_RETURN_IF_ERROR(reader.dpo());
  KRAIT_RETURN_IF_ERROR(reader.evaluate());
  return std::move(reader.config);
}

}  // namespace v0_1
}  // namespace krait
