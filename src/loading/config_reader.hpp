#pragma once

#include <initializer_list>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "krait/core/error.hpp"
#include "krait/core/metadata.hpp"

namespace krait {
inline namespace v0_1 {

/// Takes values from one object of a configuration. Every key that is asked for counts as known;
/// `unknown` lists the others. A value of the wrong type or range is an error that names the key.
class ConfigReader {
 public:
  /// `object` must outlive the reader; `path` is for messages, `scope` stands before each key in
  /// them.
  ConfigReader(const Metadata& object, std::string path, std::string scope = {})
      : object_(&object), path_(std::move(path)), scope_(std::move(scope)) {}

  /// Whether there is a value, other than null.
  bool has(std::string_view key) const { return !value(key).is_null(); }

  /// Whether there is a value null.
  bool is_null(std::string_view key) const;

  /// A whole number from `least` to `largest_extent`; `fallback` where there is none.
  Result<Index> number(std::string_view key, Index least, std::optional<Index> fallback) const;

  /// A finite number of at least 0.
  Result<float> positive_float(std::string_view key, float fallback) const;

  /// A finite number.
  Result<double> real(std::string_view key, double fallback) const;

  /// A list of so many finite numbers; ones where there is none.
  Result<std::vector<float>> reals(std::string_view key, std::size_t count) const;

  /// A list of whole numbers from 0 to `most`; none where the key is missing.
  Result<std::vector<Index>> numbers(std::string_view key, Index most) const;

  /// A list of two numbers, the lower one first. Either may be infinite, in any of the spellings
  /// that `json_number` knows.
  Result<std::pair<double, double>> interval(std::string_view key,
                                             std::pair<double, double> fallback) const;

  Result<bool> boolean(std::string_view key, bool fallback) const;
  Result<std::string> text(std::string_view key, std::string_view fallback) const;

  /// A list of strings, which must be there.
  Result<std::vector<std::string>> texts(std::string_view key) const;

  /// An id or a list of ids, without numbers that no token can have; none where the key is missing.
  Result<std::vector<Token>> tokens(std::string_view key) const;

  /// The object below, empty where there is none.
  Result<ConfigReader> object(std::string_view key) const;

  bool is_empty_list(std::string_view key) const;

  /// Declares keys that have no effect on inference.
  void skip(std::initializer_list<std::string_view> keys) const;

  std::vector<std::string> unknown() const;

  Error fail(std::string_view key, std::string_view expected, std::string_view found,
             ErrorCode code = ErrorCode::bad_config) const;

  /// The value on one short line, for messages; "none" where there is none.
  std::string value_text(std::string_view key) const;

 private:
  const Metadata& value(std::string_view key) const {
    known_.insert(std::string(key));
    return (*object_)[key];
  }

  const Metadata* object_;
  std::string path_;
  std::string scope_;
  mutable std::set<std::string, std::less<>> known_;
};

}  // namespace v0_1
}  // namespace krait
