#include "loading/config_reader.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "io/json.hpp"
#include "krait/io/printable.hpp"
#include "krait/modules/block_spec.hpp"

namespace krait {
inline namespace v0_1 {

bool ConfigReader::is_null(std::string_view key) const {
  if (has(key) || object_->object() == nullptr) return false;
  const auto& members = *object_->object();
  return std::ranges::find(members, key, &Metadata::Member::key) != members.end();
}

Result<Index> ConfigReader::number(std::string_view key, Index least,
                                   std::optional<Index> fallback) const {
  const Metadata& found = value(key);
  if (found.is_null()) {
    if (fallback) return *fallback;
    return fail(key, "a number", "none");
  }
  const double number = json_number(found).value_or(std::numeric_limits<double>::quiet_NaN());
  if (number != std::floor(number) || number < static_cast<double>(least) ||
      number > static_cast<double>(largest_extent)) {
    return fail(key, fmt::format("a whole number from {} to {}", least, largest_extent),
                json_text(found));
  }
  return static_cast<Index>(number);
}

namespace {

// Up to 1e30, also where it has been an f32 on its way.
bool is_real(std::optional<double> number) {
  return number && std::isfinite(*number) && std::fabs(*number) <= static_cast<double>(1e30F);
}

}  // namespace

Result<float> ConfigReader::positive_float(std::string_view key, float fallback) const {
  const Metadata& found = value(key);
  if (found.is_null()) return fallback;
  const std::optional<double> number = json_number(found);
  if (!is_real(number) || *number < 0.0) {
    const bool is_large = number && std::isfinite(*number) && *number > 0.0;
    return fail(key, is_large ? "a number of at most 1e30" : "a finite number of at least 0",
                json_text(found));
  }
  return static_cast<float>(*number);
}

Result<double> ConfigReader::real(std::string_view key, double fallback) const {
  const Metadata& found = value(key);
  if (found.is_null()) return fallback;
  const auto number = json_number(found);
  if (!is_real(number)) return fail(key, "a finite number", json_text(found));
  return *number;
}

Result<std::vector<float>> ConfigReader::reals(std::string_view key, std::size_t count) const {
  const Metadata& found = value(key);
  if (found.is_null()) return std::vector<float>(count, 1.0F);
  std::vector<float> numbers;
  if (found.array() != nullptr && found.size() == count) {
    for (const Metadata& item : *found.array()) {
      const auto number = json_number(item);
      if (is_real(number)) numbers.push_back(static_cast<float>(*number));
    }
  }
  if (numbers.size() == count) return numbers;
  return fail(key, fmt::format("{} finite numbers", count), value_text(key));
}

Result<std::vector<Index>> ConfigReader::numbers(std::string_view key, Index most) const {
  const Metadata& found = value(key);
  std::vector<Index> numbers;
  if (found.is_null()) return numbers;
  const auto fails = [&] {
    return fail(key, fmt::format("a list of numbers from 0 to {}", most), value_text(key));
  };
  if (found.array() == nullptr) return fails();
  for (const Metadata& item : *found.array()) {
    const auto number = item.integer();
    if (!number || *number < 0 || *number > most) return fails();
    numbers.push_back(static_cast<Index>(*number));
  }
  return numbers;
}

Result<std::pair<double, double>> ConfigReader::interval(std::string_view key,
                                                         std::pair<double, double> fallback) const {
  const Metadata& found = value(key);
  if (found.is_null()) return fallback;
  if (found.array() != nullptr && found.size() == 2) {
    const auto low = json_number(found[0]);
    const auto high = json_number(found[1]);
    if (low && high && *low <= *high) return std::pair{*low, *high};
  }
  return fail(key, "two numbers, the lower one first", json_text(found));
}

Result<bool> ConfigReader::boolean(std::string_view key, bool fallback) const {
  const Metadata& found = value(key);
  if (found.is_null()) return fallback;
  if (const auto truth = found.boolean()) return *truth;
  return fail(key, "true or false", json_text(found));
}

Result<std::string> ConfigReader::text(std::string_view key, std::string_view fallback) const {
  const Metadata& found = value(key);
  if (found.is_null()) return std::string(fallback);
  if (const std::string* text = found.text()) return *text;
  return fail(key, "a string", json_text(found));
}

Result<std::vector<std::string>> ConfigReader::texts(std::string_view key) const {
  const Metadata& found = value(key);
  const auto fails = [&] { return fail(key, "a list of strings", value_text(key)); };
  if (found.array() == nullptr) return fails();
  std::vector<std::string> texts;
  for (const Metadata& item : *found.array()) {
    if (item.text() == nullptr) return fails();
    texts.push_back(*item.text());
  }
  return texts;
}

Result<std::vector<Token>> ConfigReader::tokens(std::string_view key) const {
  const Metadata& found = value(key);
  std::vector<Token> ids;
  if (found.is_null()) return ids;
  // Some files write -1 for none; what is beyond every vocabulary is no token either.
  const auto add = [&](const Metadata& id) {
    const auto number = id.integer();
    if (number && *number >= 0 && *number <= std::numeric_limits<Token>::max()) {
      ids.push_back(static_cast<Token>(*number));
    }
    return number.has_value();
  };
  const bool good =
      found.array() != nullptr ? std::ranges::all_of(*found.array(), add) : add(found);
  if (!good) return fail(key, "a token id or a list of them", json_text(found));
  return ids;
}

Result<ConfigReader> ConfigReader::object(std::string_view key) const {
  static const Metadata none;
  const Metadata& found = value(key);
  if (!found.is_null() && found.object() == nullptr) {
    return fail(key, "an object", json_text(found));
  }
  return ConfigReader(found.is_null() ? none : found, path_, scope_ + std::string(key) + ".");
}

bool ConfigReader::is_empty_list(std::string_view key) const {
  const Metadata& found = value(key);
  return found.is_null() || (found.array() != nullptr && found.size() == 0);
}

void ConfigReader::skip(std::initializer_list<std::string_view> keys) const {
  for (const std::string_view key : keys) known_.insert(std::string(key));
}

std::vector<std::string> ConfigReader::unknown() const {
  std::vector<std::string> keys;
  if (object_->object() == nullptr) return keys;
  for (const Metadata::Member& member : *object_->object()) {
    if (!known_.contains(member.key)) keys.push_back(scope_ + printable(member.key));
  }
  return keys;
}

Error ConfigReader::fail(std::string_view key, std::string_view expected, std::string_view found,
                         ErrorCode code) const {
  return {code, fmt::format("[config] {}{}: expected {}, found {} ({})", scope_, printable(key),
                            expected, printable(found), path_)};
}

std::string ConfigReader::value_text(std::string_view key) const {
  return has(key) ? json_text(value(key)) : "none";
}

}  // namespace v0_1
}  // namespace krait
