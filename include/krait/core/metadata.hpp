#pragma once

/// \file
/// Metadata: what a file says about its contents, as a tree of values.

#include <concepts>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

namespace krait {
inline namespace v0_1 {

/// A value of JSON, or of another format's key-value section: null, true or false, a number, a
/// string, a list, or an object whose members keep the order of the file.
///
/// Access never fails: what is not there is null, a value of another kind is no value.
class Metadata {
 public:
  struct Member;
  using Array = std::vector<Metadata>;
  using Object = std::vector<Member>;  ///< keys are distinct

  Metadata() noexcept;  ///< null
  Metadata(bool value) noexcept;
  Metadata(double value) noexcept;
  Metadata(std::string value) noexcept;
  Metadata(Array value) noexcept;
  Metadata(Object value) noexcept;
  template <std::integral T>
  requires(!std::same_as<T, bool>) Metadata(T value)
  noexcept;

  bool is_null() const noexcept { return value_.index() == 0; }

  std::optional<bool> boolean() const noexcept {
    const bool* value = std::get_if<bool>(&value_);
    return value == nullptr ? std::nullopt : std::optional(*value);
  }
  /// A number of 0, 1, 2, … that is written as one: 2.0 is none.
  std::optional<std::uint64_t> whole() const noexcept {
    if (const auto* value = std::get_if<std::uint64_t>(&value_)) return *value;
    const auto* value = std::get_if<std::int64_t>(&value_);
    if (value == nullptr || *value < 0) return std::nullopt;
    return static_cast<std::uint64_t>(*value);
  }
  /// A number that is written without fraction or exponent and fits.
  std::optional<std::int64_t> integer() const noexcept {
    const auto* value = std::get_if<std::int64_t>(&value_);
    return value == nullptr ? std::nullopt : std::optional(*value);
  }
  /// Any number, rounded where it does not fit.
  std::optional<double> number() const noexcept {
    if (const auto* value = std::get_if<double>(&value_)) return *value;
    if (const auto* value = std::get_if<std::uint64_t>(&value_)) return static_cast<double>(*value);
    const auto* value = std::get_if<std::int64_t>(&value_);
    return value == nullptr ? std::nullopt : std::optional(static_cast<double>(*value));
  }

  /// The string, list or object; null if the value is something else.
  const std::string* text() const noexcept { return std::get_if<std::string>(&value_); }
  const Array* array() const noexcept { return std::get_if<Array>(&value_); }
  const Object* object() const noexcept { return std::get_if<Object>(&value_); }
  Array* array() noexcept { return std::get_if<Array>(&value_); }
  Object* object() noexcept { return std::get_if<Object>(&value_); }

  /// Whether it is that string.
  bool is(std::string_view text) const noexcept {
    return this->text() != nullptr && *this->text() == text;
  }

  /// Elements of a list, members of an object; 0 for anything else.
  std::size_t size() const noexcept;
  /// The element of a list; null without one.
  const Metadata& operator[](std::size_t i) const noexcept;
  /// The member of an object, by a search through all; null without one.
  const Metadata& operator[](std::string_view key) const noexcept;

  friend bool operator==(const Metadata& a, const Metadata& b);

 private:
  static const Metadata& null() noexcept;

  std::variant<std::monostate, bool, std::int64_t, std::uint64_t, double, std::string, Array,
               Object>
      value_;
};

struct Metadata::Member {
  std::string key;
  Metadata value;
  friend bool operator==(const Member&, const Member&) = default;
};

inline Metadata::Metadata() noexcept = default;
inline Metadata::Metadata(bool value) noexcept : value_(value) {}
inline Metadata::Metadata(double value) noexcept : value_(value) {}
inline Metadata::Metadata(std::string value) noexcept : value_(std::move(value)) {}
inline Metadata::Metadata(Array value) noexcept : value_(std::move(value)) {}
inline Metadata::Metadata(Object value) noexcept : value_(std::move(value)) {}

template <std::integral T>
requires(!std::same_as<T, bool>) Metadata::Metadata(T value)
noexcept {
  if (std::in_range<std::int64_t>(value)) {
    value_ = static_cast<std::int64_t>(value);
  } else {
    value_ = static_cast<std::uint64_t>(value);
  }
}

inline const Metadata& Metadata::null() noexcept {
  static const Metadata value;
  return value;
}

inline std::size_t Metadata::size() const noexcept {
  if (array() != nullptr) return array()->size();
  return object() != nullptr ? object()->size() : 0;
}

inline const Metadata& Metadata::operator[](std::size_t i) const noexcept {
  return array() != nullptr && i < array()->size() ? (*array())[i] : null();
}

inline const Metadata& Metadata::operator[](std::string_view key) const noexcept {
  if (object() == nullptr) return null();
  for (const Member& member : *object()) {
    if (member.key == key) return member.value;
  }
  return null();
}

inline bool operator==(const Metadata& a, const Metadata& b) { return a.value_ == b.value_; }

}  // namespace v0_1
}  // namespace krait
