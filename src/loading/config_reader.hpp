#pragma once

#include <nlohmann/json.hpp>

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <fmt/format.h>

#include "io/json_private.hpp"
#include "krait/io/printable.hpp"
#include "krait/loading/registry.hpp"

namespace krait {
inline namespace v0_1 {

/// Takes values from one JSON object of a configuration. Every key that is asked for counts as
/// known; `unknown` lists the others. A value of the wrong type or range is an error that names
/// the key.
class ConfigReader {
 public:
  ConfigReader(const nlohmann::json& object, std::string path, std::string scope = {})
      : object_(&object), path_(std::move(path)), scope_(std::move(scope)) {}

  bool has(std::string_view key) const {
    known_.insert(std::string(key));
    const auto it = object_->find(key);
    return it != object_->end() && !it->is_null();
  }

  /// A whole number from `least` to `largest_extent`; `fallback` where there is none.
  Result<Index> number(std::string_view key, Index least, std::optional<Index> fallback) const {
    if (!has(key)) {
      if (fallback) return *fallback;
      return fail(key, "a number", "none");
    }
    const auto& value = *object_->find(key);
    const double number = json_number(value).value_or(std::numeric_limits<double>::quiet_NaN());
    if (number != std::floor(number) || number < static_cast<double>(least) ||
        number > static_cast<double>(largest_extent)) {
      return fail(key, fmt::format("a whole number from {} to {}", least, largest_extent),
                  dump(value));
    }
    return static_cast<Index>(number);
  }

  /// A finite number of at least 0.
  Result<float> positive_float(std::string_view key, float fallback) const {
    if (!has(key)) return fallback;
    const auto& value = *object_->find(key);
    const double number = json_number(value).value_or(-1.0);
    if (!std::isfinite(number) || number < 0.0 || number > 1e30) {
      return fail(key, "a finite number of at least 0", dump(value));
    }
    return static_cast<float>(number);
  }

  /// A list of two numbers, the lower one first. Either may be infinite, in any of the spellings
  /// that `json_number` knows.
  Result<std::pair<double, double>> interval(std::string_view key,
                                             std::pair<double, double> fallback) const {
    if (!has(key)) return fallback;
    const auto& value = *object_->find(key);
    if (value.is_array() && value.size() == 2) {
      const auto low = json_number(value[0]);
      const auto high = json_number(value[1]);
      if (low && high && *low <= *high) return std::pair{*low, *high};
    }
    return fail(key, "two numbers, the lower one first", dump(value));
  }

  Result<bool> boolean(std::string_view key, bool fallback) const {
    if (!has(key)) return fallback;
    const auto& value = *object_->find(key);
    if (!value.is_boolean()) return fail(key, "true or false", dump(value));
    return value.get<bool>();
  }

  Result<std::string> text(std::string_view key, std::string_view fallback) const {
    if (!has(key)) return std::string(fallback);
    const auto& value = *object_->find(key);
    if (!value.is_string()) return fail(key, "a string", dump(value));
    return value.get<std::string>();
  }

  /// A list of strings.
  Result<std::vector<std::string>> texts(std::string_view key) const {
    const auto fails = [&] { return fail(key, "a list of strings", value_text(key)); };
    if (!has(key) || !object_->find(key)->is_array()) return fails();
    std::vector<std::string> values;
    for (const auto& value : *object_->find(key)) {
      if (!value.is_string()) return fails();
      values.push_back(value.get<std::string>());
    }
    return values;
  }

  /// An id or a list of ids.
  Result<std::vector<Token>> tokens(std::string_view key) const {
    std::vector<Token> ids;
    if (!has(key)) return ids;
    const auto& value = *object_->find(key);
    const auto add = [&](const nlohmann::json& id) {
      if (!id.is_number_integer() || id.get<double>() < 0 || id.get<double>() > 0x7FFFFFFF) {
        return false;
      }
      ids.push_back(id.get<Token>());
      return true;
    };
    bool good = true;
    if (value.is_array()) {
      for (const auto& id : value) good = good && add(id);
    } else {
      good = add(value);
    }
    if (!good) return fail(key, "a token id or a list of them", dump(value));
    return ids;
  }

  /// The object below, empty where there is none.
  Result<ConfigReader> object(std::string_view key) const {
    static const nlohmann::json empty = nlohmann::json::object();
    if (!has(key)) return ConfigReader(empty, path_, scope_ + std::string(key) + ".");
    const auto& value = *object_->find(key);
    if (!value.is_object()) return fail(key, "an object", dump(value));
    return ConfigReader(value, path_, scope_ + std::string(key) + ".");
  }

  bool is_empty_list(std::string_view key) const {
    return !has(key) || (object_->find(key)->is_array() && object_->find(key)->empty());
  }

  /// Declares keys that have no effect on inference.
  void skip(std::initializer_list<std::string_view> keys) const {
    for (const std::string_view key : keys) known_.insert(std::string(key));
  }

  std::vector<std::string> unknown() const {
    std::vector<std::string> keys;
    for (const auto& [key, value] : object_->items()) {
      if (!known_.contains(key)) keys.push_back(scope_ + printable(key));
    }
    return keys;
  }

  Error fail(std::string_view key, std::string_view expected, std::string_view found,
             ErrorCode code = ErrorCode::bad_config) const {
    return {code, fmt::format("[config] {}{}: expected {}, found {} ({})", scope_, printable(key),
                              expected, printable(found), path_)};
  }

  /// The value on one short line.
  static std::string dump(const nlohmann::json& value) { return json_text(value); }

  std::string value_text(std::string_view key) const {
    return has(key) ? dump(*object_->find(key)) : "none";
  }

 private:
  const nlohmann::json* object_;
  std::string path_;
  std::string scope_;
  mutable std::set<std::string, std::less<>> known_;
};

}  // namespace v0_1
}  // namespace krait
