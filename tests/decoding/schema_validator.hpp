#pragma once

/// \file
/// A JSON schema's meaning, keyword by keyword: slow, and independent of the library.

#include <cmath>
#include <nlohmann/json.hpp>
#include <regex>
#include <string>

namespace krait::test {

class SchemaValidator {
 public:
  using Json = nlohmann::ordered_json;
  explicit SchemaValidator(Json root) : root_(std::move(root)) {}

  bool is_valid(const Json& value) const { return holds(root_, value); }

 private:
  static std::size_t characters(const std::string& text) {
    std::size_t count = 0;
    for (const char c : text) count += (static_cast<unsigned char>(c) & 0xC0U) != 0x80U ? 1U : 0U;
    return count;
  }

  static bool is_type(const std::string& name, const Json& value) {
    if (name == "null") return value.is_null();
    if (name == "boolean") return value.is_boolean();
    if (name == "string") return value.is_string();
    if (name == "array") return value.is_array();
    if (name == "object") return value.is_object();
    if (name == "number") return value.is_number();
    if (name != "integer" || !value.is_number()) return false;
    return std::floor(value.get<double>()) == value.get<double>();
  }

  static bool is_format(const std::string& name, const std::string& text) {
    const auto matches = [&](const char* pattern) {
      return std::regex_match(text, std::regex(pattern));
    };
    const auto is_date = [](const std::string& date) {
      if (!std::regex_match(date, std::regex("\\d{4}-\\d\\d-\\d\\d"))) return false;
      const int year = std::stoi(date.substr(0, 4));
      const int month = std::stoi(date.substr(5, 2));
      const int day = std::stoi(date.substr(8, 2));
      const bool is_leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
      const int days[] = {31, is_leap ? 29 : 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
      return month >= 1 && month <= 12 && day >= 1 && day <= days[month - 1];
    };
    const auto is_time = [](const std::string& time) {
      return std::regex_match(
          time, std::regex("([01]\\d|2[0-3]):[0-5]\\d:[0-5]\\d(\\.\\d+)?(Z|[+-]([01]\\d|2[0-3]):"
                           "[0-5]\\d)"));
    };
    if (name == "date") return is_date(text);
    if (name == "time") return is_time(text);
    if (name == "date-time") {
      return text.size() > 11 && text[10] == 'T' && is_date(text.substr(0, 10)) &&
             is_time(text.substr(11));
    }
    if (name == "uuid") {
      return matches("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}");
    }
    if (name == "ipv4") {
      return matches(
          "((25[0-5]|2[0-4]\\d|1\\d\\d|\\d\\d?)\\.){3}(25[0-5]|2[0-4]\\d|1\\d\\d|\\d\\d?)");
    }
    if (name == "email") return matches("[^@ ]+@[^@ ]+\\.[^@ ]+");
    if (name == "hostname") return matches("[A-Za-z0-9.-]{1,253}") && text.back() != '-';
    if (name == "uri") return matches("[a-z][a-z0-9+.-]*:[^ \"<>\\\\^`{|}]*");
    if (name == "duration")
      return matches("P(?!$)(\\d+W|(\\d+Y)?(\\d+M)?(\\d+D)?(T(?!$)(\\d+H)?(\\d+M)?(\\d+S)?)?)");
    if (name == "ipv6")
      return matches("[0-9a-fA-F:]{2,39}") && text.find(":::") == std::string::npos;
    return false;
  }

  bool holds(const Json& schema, const Json& value) const {
    if (schema.is_boolean()) return schema.get<bool>();
    for (const auto& [key, argument] : schema.items()) {
      if (!keyword(schema, key, argument, value)) return false;
    }
    return true;
  }

  std::size_t count_valid(const Json& schemas, const Json& value) const {
    std::size_t count = 0;
    for (const Json& schema : schemas) count += holds(schema, value) ? 1U : 0U;
    return count;
  }

  bool keyword(const Json& schema, const std::string& key, const Json& argument,
               const Json& value) const {
    if (key == "$ref") {
      const std::string pointer = argument.get<std::string>().substr(1);
      return holds(root_.at(Json::json_pointer(pointer)), value);
    }
    if (key == "allOf") return count_valid(argument, value) == argument.size();
    if (key == "anyOf") return count_valid(argument, value) > 0;
    if (key == "oneOf") return count_valid(argument, value) == 1;
    if (key == "const") return value == argument;
    if (key == "enum") {
      for (const Json& choice : argument) {
        if (choice == value) return true;
      }
      return false;
    }
    if (key == "type") {
      if (argument.is_string()) return is_type(argument, value);
      for (const Json& name : argument) {
        if (is_type(name, value)) return true;
      }
      return false;
    }
    if (value.is_number()) return number(key, argument, value.get<double>());
    if (value.is_string()) return string(key, argument, value.get<std::string>());
    if (value.is_array()) return array(schema, key, argument, value);
    if (value.is_object()) return object(schema, key, argument, value);
    return true;
  }

  static bool number(const std::string& key, const Json& argument, double value) {
    if (key == "minimum") return value >= argument.get<double>();
    if (key == "maximum") return value <= argument.get<double>();
    if (key == "exclusiveMinimum") return value > argument.get<double>();
    if (key == "exclusiveMaximum") return value < argument.get<double>();
    if (key == "multipleOf") return std::fmod(value, argument.get<double>()) == 0.0;
    return true;
  }

  static bool string(const std::string& key, const Json& argument, const std::string& value) {
    if (key == "minLength") return characters(value) >= argument.get<std::size_t>();
    if (key == "maxLength") return characters(value) <= argument.get<std::size_t>();
    if (key == "pattern") return std::regex_search(value, std::regex(argument.get<std::string>()));
    if (key == "format") return is_format(argument, value);
    return true;
  }

  bool array(const Json& schema, const std::string& key, const Json& argument,
             const Json& value) const {
    if (key == "minItems") return value.size() >= argument.get<std::size_t>();
    if (key == "maxItems") return value.size() <= argument.get<std::size_t>();
    const std::size_t prefix = schema.contains("prefixItems") ? schema["prefixItems"].size() : 0;
    for (std::size_t i = 0; i < value.size(); ++i) {
      if (key == "prefixItems" && i < prefix && !holds(argument[i], value[i])) return false;
      if (key == "items" && i >= prefix && !holds(argument, value[i])) return false;
    }
    return true;
  }

  bool object(const Json& schema, const std::string& key, const Json& argument,
              const Json& value) const {
    if (key == "minProperties") return value.size() >= argument.get<std::size_t>();
    if (key == "maxProperties") return value.size() <= argument.get<std::size_t>();
    if (key == "required") {
      for (const Json& name : argument) {
        if (!value.contains(name.get<std::string>())) return false;
      }
      return true;
    }
    for (const auto& [name, member] : value.items()) {
      bool is_known = schema.contains("properties") && schema["properties"].contains(name);
      if (key == "properties" && argument.contains(name) && !holds(argument[name], member)) {
        return false;
      }
      if (key == "propertyNames" && !holds(argument, name)) return false;
      if (schema.contains("patternProperties")) {
        for (const auto& [pattern, inner] : schema["patternProperties"].items()) {
          if (!std::regex_search(name, std::regex(pattern))) continue;
          is_known = true;
          if (key == "patternProperties" && !holds(inner, member)) return false;
        }
      }
      if (key == "additionalProperties" && !is_known && !holds(argument, member)) return false;
    }
    return true;
  }

  Json root_;
};

}  // namespace krait::test
