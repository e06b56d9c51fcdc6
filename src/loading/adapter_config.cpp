#include "loading/adapter_config.hpp"

#include <fmt/format.h>

#include <cmath>
#include <filesystem>

#include "io/json.hpp"
#include "krait/io/mapped_file.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

namespace fs = std::filesystem;

constexpr Index most_rank = Index{1} << 20;

class ConfigFile {
 public:
  ConfigFile(const Metadata& values, const std::string& name) : values_(values), name_(name) {}

  Error fail(ErrorCode code, std::string_view key, std::string_view expected,
             const Metadata& found) const {
    return {code, fmt::format("[adapter] {}: expected {}, found {} ({})", key, expected,
                              found.is_null() ? "none" : json_text(found), name_)};
  }

  Result<Index> rank(std::string_view key, const Metadata& value) const {
    const auto number = value.integer();
    if (number && *number >= 1 && *number <= most_rank) return static_cast<Index>(*number);
    return fail(ErrorCode::bad_config, key, "a rank above 0", value);
  }

  Result<double> real(std::string_view key, const Metadata& value) const {
    const auto number = value.number();
    if (number && std::isfinite(*number) && std::abs(*number) < 1e30) return *number;
    return fail(ErrorCode::bad_config, key, "a number", value);
  }

  // Calls take(regex, key, value) for the members of an object whose keys are patterns.
  template <class Take>
  Result<void> patterns(std::string_view key, Take&& take) const {
    const Metadata& all = values_[key];
    if (all.is_null()) return {};
    if (all.object() == nullptr) {
      return fail(ErrorCode::bad_config, key, "an object", all);
    }
    for (const Metadata::Member& member : *all.object()) {
      const std::string name = fmt::format("{}.{}", key, member.key);
      const auto regex = Regex::compile(fmt::format("\\A(.*\\.)?({})\\z", member.key));
      if (!regex) return fail(ErrorCode::bad_config, name, "a pattern", Metadata(member.key));
      KRAIT_RETURN_IF_ERROR(take(*regex, name, member.value));
    }
    return {};
  }

  const Metadata& operator[](std::string_view key) const { return values_[key]; }
  const std::string& name() const { return name_; }

 private:
  const Metadata& values_;
  const std::string& name_;
};

// Whether the value asks for something: not null, false, 0 or empty.
bool is_set(const Metadata& value) {
  if (value.is_null() || value == Metadata(false)) return false;
  if (value.text() != nullptr) return !value.text()->empty();
  if (value.array() != nullptr || value.object() != nullptr) return value.size() > 0;
  return value.number() != 0.0;
}

Result<void> check_peft(const ConfigFile& file) {
  if (!file["peft_type"].is("LORA")) {
    return file.fail(ErrorCode::unsupported, "peft_type", "LORA", file["peft_type"]);
  }
  struct Refused {
    std::string_view key;
    std::string_view expected;
  };
  for (const Refused& one : {
           Refused{"use_dora", "an adapter without DoRA"},
           {"modules_to_save", "an adapter of low rank alone"},
           {"trainable_token_indices", "an adapter of low rank alone"},
           {"lora_bias", "an adapter without biases"},
           {"alora_invocation_tokens", "an adapter for all tokens"},
           {"layer_replication", "the model's own layers"},
           {"target_parameters", "an adapter of modules"},
           {"ensure_weight_tying", "an embedding that is adapted alone"},
           {"use_qalora", "an adapter without QALoRA"},
           {"use_bdlora", "an adapter without BD-LoRA"},
           {"arrow_config", "an adapter without a router"},
           {"kasa_config", "an adapter without KaSA"},
       }) {
    if (is_set(file[one.key])) {
      return file.fail(ErrorCode::unsupported, one.key, one.expected, file[one.key]);
    }
  }
  const Metadata& bias = file["bias"];
  if (!bias.is_null() && !bias.is("none")) {
    return file.fail(ErrorCode::unsupported, "bias", "none", bias);
  }
  if (const std::string* way = file["init_lora_weights"].text()) {
    for (const char* changing : {"pissa", "olora", "corda", "lora_ga", "loftq"}) {
      if (!way->starts_with(changing)) continue;
      return file.fail(ErrorCode::unsupported, "init_lora_weights",
                       "a way that leaves the model's own weights as they are",
                       file["init_lora_weights"]);
    }
  }
  return {};
}

Result<AdapterConfig> read_peft(const ConfigFile& file) {
  KRAIT_RETURN_IF_ERROR(check_peft(file));
  AdapterConfig config;
  KRAIT_ASSIGN_OR_RETURN(config.rank, file.rank("r", file["r"]));
  KRAIT_ASSIGN_OR_RETURN(config.alpha, file.real("lora_alpha", file["lora_alpha"]));
  config.by_root = is_set(file["use_rslora"]);
  if (const std::string* base = file["base_model_name_or_path"].text()) config.base = *base;
  KRAIT_RETURN_IF_ERROR(file.patterns(
      "rank_pattern",
      [&](const Regex& regex, const std::string& name, const Metadata& value) -> Result<void> {
        KRAIT_ASSIGN_OR_RETURN(const Index rank, file.rank(name, value));
        config.rank_patterns.emplace_back(regex, rank);
        return {};
      }));
  KRAIT_RETURN_IF_ERROR(file.patterns(
      "alpha_pattern",
      [&](const Regex& regex, const std::string& name, const Metadata& value) -> Result<void> {
        KRAIT_ASSIGN_OR_RETURN(const double alpha, file.real(name, value));
        config.alpha_patterns.emplace_back(regex, alpha);
        return {};
      }));
  const Metadata& targets = file["target_modules"];
  const Metadata& layers = file["layers_to_transform"];  // one may be layer 0
  const bool takes_some = is_set(layers) || layers.number() || is_set(file["layers_pattern"]) ||
                          is_set(file["exclude_modules"]);
  if (targets.array() == nullptr || takes_some) return config;
  for (const Metadata& target : *targets.array()) {
    if (target.text() == nullptr) {
      return file.fail(ErrorCode::bad_config, "target_modules", "names of modules", target);
    }
    config.targets.push_back(*target.text());
  }
  return config;
}

Result<AdapterConfig> read_mlx(const ConfigFile& file) {
  const Metadata& type = file["fine_tune_type"];
  if (!type.is_null() && !type.is("lora")) {
    return file.fail(ErrorCode::unsupported, "fine_tune_type", "lora", type);
  }
  if (is_set(file["use_dora"])) {
    return file.fail(ErrorCode::unsupported, "use_dora", "false", file["use_dora"]);
  }
  const Metadata& parameters = file["lora_parameters"];
  if (parameters.object() == nullptr) {
    return file.fail(ErrorCode::bad_config, "lora_parameters", "an object", parameters);
  }
  AdapterConfig config;
  config.is_mlx = true;
  if (const std::string* base = file["model"].text()) config.base = *base;
  KRAIT_ASSIGN_OR_RETURN(config.rank, file.rank("lora_parameters.rank", parameters["rank"]));
  KRAIT_ASSIGN_OR_RETURN(config.alpha, file.real("lora_parameters.scale", parameters["scale"]));
  if (!parameters["alpha"].is_null()) {  // of early versions, which divided it by the rank
    KRAIT_ASSIGN_OR_RETURN(const double alpha,
                           file.real("lora_parameters.alpha", parameters["alpha"]));
    config.alpha *= alpha / static_cast<double>(config.rank);
  }
  return config;
}

template <class Value>
Result<Value> matching(const std::vector<std::pair<Regex, Value>>& patterns,
                       std::string_view module, Value otherwise) {
  for (const auto& [regex, value] : patterns) {
    RegexSearch search(regex);
    KRAIT_ASSIGN_OR_RETURN(const RegexMatch match, search.find(module, 0));
    if (match.found) return value;
  }
  return otherwise;
}

}  // namespace

Result<AdapterConfig::Scaling> AdapterConfig::scaling(std::string_view module) const {
  if (is_mlx) return Scaling{rank, alpha};
  Scaling own;
  KRAIT_ASSIGN_OR_RETURN(own.rank, matching(rank_patterns, module, rank));
  KRAIT_ASSIGN_OR_RETURN(const double own_alpha, matching(alpha_patterns, module, alpha));
  const auto size = static_cast<double>(own.rank);
  own.scale = own_alpha / (by_root ? std::sqrt(size) : size);
  return own;
}

Result<AdapterConfig> read_adapter_config(const std::string& path) {
  std::error_code ignored;
  const fs::path folder = fs::is_directory(path, ignored)    ? fs::path(path)
                          : fs::path(path).has_parent_path() ? fs::path(path).parent_path()
                                                             : fs::path(".");
  const std::string name = (folder / "adapter_config.json").string();
  if (!fs::is_regular_file(name, ignored)) {
    return Error{ErrorCode::not_found,
                 fmt::format("[adapter] adapter_config.json: expected the adapter's "
                             "configuration, found none ({})",
                             folder.string())};
  }
  KRAIT_ASSIGN_OR_RETURN(const std::string text,
                         read_regular_text_file(name, std::size_t{16} << 20U));
  KRAIT_ASSIGN_OR_RETURN(const Metadata values, parse_json(text, name));
  if (values.object() == nullptr) {
    return Error{ErrorCode::bad_config, fmt::format("[adapter] expected an object, found {} ({})",
                                                    json_text(values), name)};
  }
  const ConfigFile file(values, name);
  const bool is_mlx = values["peft_type"].is_null() &&
                      (!values["lora_parameters"].is_null() || !values["fine_tune_type"].is_null());
  return is_mlx ? read_mlx(file) : read_peft(file);
}

}  // namespace v0_1
}  // namespace krait
