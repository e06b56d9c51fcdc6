// JSON schemas: what they allow, that everything written under them parses and validates, and their
// errors.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <random>

#include "krait/decoding/grammar.hpp"
#include "tests/decoding/schema_validator.hpp"

namespace krait::json_schema_test {
namespace {

using nlohmann::ordered_json;

Grammar schema(std::string_view text) { return Grammar::from_json_schema(text).value(); }

void expect_texts(std::string_view text, const std::vector<std::string>& texts,
                  const std::vector<std::string>& others) {
  SCOPED_TRACE(text);
  const auto grammar = Grammar::from_json_schema(text);
  ASSERT_TRUE(grammar.has_value()) << grammar.error().message;
  for (const std::string& good : texts) EXPECT_TRUE(grammar->matches(good)) << good;
  for (const std::string& bad : others) EXPECT_FALSE(grammar->matches(bad)) << bad;
}

TEST(JsonSchema, Scalars) {
  expect_texts(R"({"type": "null"})", {"null"}, {"", "true", "0", " null", "null "});
  expect_texts(R"({"type": ["boolean", "integer"]})", {"true", "false", "0", "-7", "120"},
               {"1.5", "01", "-", "+1", "\"a\"", "null"});
  expect_texts(R"({"type": "number"})", {"0", "-1.50", "3e5", "2.5E-07"},
               {"1.", ".5", "00", "1e", "1e999", "NaN"});
  expect_texts(R"({"type": "string"})",
               {"\"\"", "\"\xC3\xA9 \\\" \\\\ \\n \\u0001\"", "\"\xF0\x9F\x98\x80\""},
               {"\"", "\"a\nb\"", "\"\\q\"", "\"\xC3\"", "\"\x01\"", "a"});
  expect_texts(R"({"enum": ["a", 1, null, [1, "b"], {"c": 2.5}]})",
               {"\"a\"", "1", "null", "[1, \"b\"]", "{\"c\": 2.5}"}, {"\"b\"", "2", "[1,\"b\"]"});
  expect_texts(R"({"const": "\u00e9\"\n"})", {"\"\xC3\xA9\\\"\\n\""}, {"\"\""});
  expect_texts(R"({"enum": ["a", "bb", "ccc", 1, 2.5, 7], "minLength": 2, "minimum": 2})",
               {"\"bb\"", "\"ccc\"", "2.5", "7"}, {"\"a\"", "1"});
  expect_texts(R"({"enum": [1, 2, 3], "allOf": [{"enum": [2, 3, 4]}, {"minimum": 3}]})", {"3"},
               {"1", "2", "4"});
}

TEST(JsonSchema, NumbersWithBounds) {
  const auto expect_range = [](const std::string& bounds, double least, double most) {
    const Grammar integers = schema("{\"type\": \"integer\", " + bounds + "}");
    for (int i = -1500; i <= 1500; ++i) {
      ASSERT_EQ(integers.matches(std::to_string(i)), i >= least && i <= most) << bounds << i;
    }
    const Grammar numbers = schema("{\"type\": \"number\", " + bounds + "}");
    for (int i = -15000; i <= 15000; i += 7) {
      for (const int scale : {1, 10, 100}) {
        ordered_json value = i / static_cast<double>(scale);
        std::string text = value.dump();
        if (text.ends_with(".0")) text.resize(text.size() - 2);
        if (text == "-0") continue;
        const double exact = value.get<double>();
        ASSERT_EQ(numbers.matches(text), exact >= least && exact <= most) << bounds << " " << text;
        if (text.find('.') != std::string::npos) {
          ASSERT_EQ(numbers.matches(text + "00"), exact >= least && exact <= most) << bounds;
        }
      }
    }
  };
  const double none = std::numeric_limits<double>::infinity();
  expect_range(R"("minimum": 0)", 0, none);
  expect_range(R"("minimum": -12.5, "maximum": 107)", -12.5, 107);
  expect_range(R"("exclusiveMinimum": 99, "exclusiveMaximum": 1000)", std::nextafter(99, 100),
               std::nextafter(1000, 0));
  expect_range(R"("maximum": -3.25)", -none, -3.25);
  expect_range(R"("exclusiveMaximum": 0)", -none, -1e-300);
  expect_range(R"("exclusiveMinimum": 0, "maximum": 1.5)", 1e-300, 1.5);
  expect_range(R"("minimum": 100.05, "maximum": 101.5)", 100.05, 101.5);
  expect_range(R"("minimum": -1e3, "maximum": 1e3)", -1000, 1000);
  for (const double step : {1.0, 3.0, 7.0, 12.0, 250.0, 0.5, 0.25, 2.5}) {
    const std::string keyword = "\"multipleOf\": " + ordered_json(step).dump();
    const Grammar numbers = schema("{\"type\": \"number\", " + keyword + "}");
    const Grammar integers = schema("{\"type\": \"integer\", " + keyword + "}");
    for (int i = -3000; i <= 3000; ++i) {
      const double value = i / 4.0;
      std::string text = ordered_json(value).dump();
      if (text.ends_with(".0")) text.resize(text.size() - 2);
      if (text == "-0") continue;
      ASSERT_EQ(numbers.matches(text), std::fmod(value, step) == 0.0) << step << " " << text;
      ASSERT_EQ(integers.matches(text), std::fmod(value, step) == 0.0 && i % 4 == 0) << text;
    }
  }
}

TEST(JsonSchema, Strings) {
  expect_texts(R"({"type": "string", "minLength": 2, "maxLength": 3})",
               {"\"ab\"", "\"\xC3\xA9\\n\xF0\x9F\x98\x80\""}, {"\"a\"", "\"abcd\"", "\"\\n\""});
  expect_texts(R"({"type": "string", "maxLength": 100000})",
               {"\"" + std::string(100000, 'a') + "\""}, {"\"" + std::string(100001, 'a') + "\""});
  expect_texts(R"({"type": "string", "pattern": "^[a-c]+$", "minLength": 2, "maxLength": 4})",
               {"\"ab\"", "\"cccc\""}, {"\"a\"", "\"abcab\"", "\"ad\""});
  expect_texts(R"({"type": "string", "pattern": "b"})", {"\"b\"", "\"\\nab\xC3\xA9\""}, {"\"a\""});
  expect_texts(R"({"type": "string", "pattern": "^a|b$"})", {"\"a\"", "\"axx\"", "\"xxb\""},
               {"\"xa\"", "\"bx\""});
  expect_texts(R"({"type": "string", "pattern": "^[\"\\\\\n]$"})",
               {"\"\\\"\"", "\"\\\\\"", "\"\\n\""}, {"\"a\"", "\"\\t\""});
  expect_texts(R"({"allOf": [{"pattern": "a"}, {"pattern": "b"}], "type": "string"})",
               {"\"ab\"", "\"bxa\""}, {"\"a\"", "\"b\""});
  expect_texts(R"({"type": "string", "format": "date"})", {"\"2024-02-29\"", "\"1999-12-31\""},
               {"\"2023-02-29\"", "\"1900-02-29\"", "\"2024-13-01\"", "\"2024-04-31\""});
  expect_texts(R"({"type": "string", "format": "ipv4"})", {"\"0.0.0.0\"", "\"255.249.9.10\""},
               {"\"256.0.0.1\"", "\"1.2.3\"", "\"01.2.3.4\""});
  expect_texts(R"({"type": "string", "format": "uuid"})",
               {"\"123e4567-e89b-12d3-a456-426614174000\""}, {"\"123e4567\""});
  expect_texts(R"({"type": "string", "format": "date-time"})",
               {"\"2024-02-29T23:59:59Z\"", "\"2024-01-01T00:00:00.25+01:30\""},
               {"\"2024-01-01\"", "\"2024-01-01T24:00:00Z\""});
  expect_texts(R"({"type": "string", "format": "email"})", {"\"a.b@c-d.org\""},
               {"\"a@\"", "\"a\""});
}

TEST(JsonSchema, ListsAndObjects) {
  expect_texts(R"({"type": "array", "items": {"type": "integer"}, "minItems": 1, "maxItems": 3})",
               {"[1]", "[1, 2]", "[1, 2, 3]"}, {"[]", "[1, 2, 3, 4]", "[1,2]", "[\"a\"]"});
  expect_texts(R"({"type": "array", "prefixItems": [{"const": 1}, {"const": 2}], "items": false})",
               {"[]", "[1]", "[1, 2]"}, {"[2]", "[1, 2, 3]"});
  expect_texts(
      R"({"type": "array", "prefixItems": [{"const": 1}], "items": {"const": 0}, "minItems": 3})",
      {"[1, 0, 0]", "[1, 0, 0, 0]"}, {"[1, 0]", "[0, 0, 0]"});
  expect_texts(R"({"type": "array", "maxItems": 0})", {"[]"}, {"[1]"});
  const char* person = R"({"type": "object", "properties": {"name": {"type": "string"},
      "age": {"type": "integer", "minimum": 0}, "tags": {"type": "array", "items": {"enum": ["x"]}}},
      "required": ["name"]})";
  expect_texts(
      person,
      {R"({"name": "a"})", R"({"name": "a", "age": 3})", R"({"name": "", "tags": ["x", "x"]})"},
      {"{}", R"({"age": 3})", R"({"name": "a", "other": 1})", R"({"age": 3, "name": "a"})"});
  expect_texts(
      R"({"type": "object", "properties": {"a": {"const": 1}}, "additionalProperties": {"const": 2}})",
      {"{}", R"({"a": 1})", R"({"b": 2})", R"({"a": 1, "b": 2, "c": 2})"},
      {R"({"a": 2})", R"({"b": 1})"});
  expect_texts(R"({"type": "object", "required": ["q"], "additionalProperties": {"const": 2}})",
               {R"({"q": 2})", R"({"q": 2, "r": 2})"}, {"{}", R"({"r": 2})"});
  expect_texts(
      R"({"type": "object", "patternProperties": {"^n_": {"type": "integer"}, "^s_": {"type": "string"}},
                   "additionalProperties": false})",
      {"{}", R"({"n_a": 1, "s_b": "x"})"}, {R"({"n_a": "x"})", R"({"x": 1})"});
  expect_texts(
      R"({"type": "object", "propertyNames": {"pattern": "^[a-z]{2}$"}, "minProperties": 1, "maxProperties": 2,
                   "additionalProperties": {"type": "null"}})",
      {R"({"ab": null})", R"({"ab": null, "cd": null})"},
      {"{}", R"({"a": null})", R"({"ab": null, "cd": null, "ef": null})"});
  expect_texts(
      R"({"type": "object", "properties": {"a": {"const": 1}, "b": {"const": 1}, "c": {"const": 1}},
                   "minProperties": 2})",
      {R"({"a": 1, "b": 1})", R"({"b": 1, "c": 1})", R"({"a": 1, "b": 1, "c": 1})"},
      {"{}", R"({"a": 1})", R"({"c": 1})"});
  expect_texts("{}", {"1", "[1, {\"a\": [null, \"x\"]}]", "{\"a\": {}, \"b\": []}"},
               {"", "[1, ]", "{a: 1}"});
  expect_texts("true", {"1", "[]"}, {""});
}

TEST(JsonSchema, Combinations) {
  expect_texts(R"({"anyOf": [{"type": "integer", "maximum": 5}, {"const": "x"}]})", {"5", "\"x\""},
               {"6", "\"y\""});
  expect_texts(R"({"allOf": [{"type": ["integer", "string"]}, {"minimum": 3}, {"maximum": 4}]})",
               {"3", "4", "\"a\""}, {"2", "5", "null"});
  expect_texts(
      R"({"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
                             {"properties": {"a": {"minimum": 5}, "b": {"const": 1}}}]})",
      {R"({"a": 5})", R"({"a": 7, "b": 1})"}, {R"({"a": 4})", R"({"b": 1})"});
  expect_texts(
      R"({"oneOf": [{"type": "object", "properties": {"kind": {"const": "a"}, "x": {"type": "integer"}},
                              "required": ["kind", "x"]},
                             {"type": "object", "properties": {"kind": {"const": "b"}}, "required": ["kind"]}]})",
      {R"({"kind": "a", "x": 1})", R"({"kind": "b"})"}, {R"({"kind": "a"})", "{}"});
  expect_texts(
      R"({"oneOf": [{"type": "integer", "maximum": 3}, {"type": "integer", "minimum": 4}]})",
      {"3", "4"}, {"\"a\""});
  expect_texts(R"({"type": "integer", "anyOf": [{"minimum": 10}, {"maximum": 0}],
                   "oneOf": [{"multipleOf": 4}, {"enum": [-3, 11]}]})",
               {"12", "-4", "-3", "11"}, {"4", "13", "-5"});
  // Alternatives that are apart where no number is written with an exponent.
  expect_texts(R"({"oneOf": [{"type": "number"}, {"type": "number", "minimum": 1e20}]})",
               {"1", "-2.5"}, {"1e25", "1E2"});
}

TEST(JsonSchema, Constants) {
  expect_texts(R"({"const": 1, "enum": [1.0, 2]})", {"1"}, {"2"});
  expect_texts(R"({"enum": [{"a": 1, "b": [2]}], "const": {"b": [2.0], "a": 1.0}})",
               {R"({"b": [2], "a": 1})"}, {"1"});
  expect_texts(R"({"enum": [9007199254740993], "const": 9007199254740993})", {"9007199254740993"},
               {"9007199254740992"});
  expect_texts(R"({"enum": [1, 0], "minimum": 5e-324, "maximum": 1e308})", {"1"}, {"0"});
  expect_texts(R"({"anyOf": [{"const": {"a": 1}}, {"type": "null"}]})", {R"({"a": 1})", "null"},
               {"{}"});
  expect_texts(R"({"const": [1], "deprecated": true, "$comment": "x", "allOf": [{}]})", {"[1]"},
               {"1"});
  expect_texts(R"({"type": "object", "propertyNames": {"type": "number"},
                   "additionalProperties": {"type": "integer"}})",
               {"{}"}, {R"({"k": 1})"});
}

TEST(JsonSchema, References) {
  const char* tree = R"({"$ref": "#/$defs/node", "$defs": {"node": {"type": "object",
      "properties": {"value": {"type": "integer"}, "children": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
      "required": ["value", "children"]}}})";
  expect_texts(
      tree,
      {R"({"value": 1, "children": []})",
       R"({"value": 1, "children": [{"value": 2, "children": [{"value": 3, "children": []}]}]})"},
      {R"({"value": 1})", R"({"value": 1, "children": [1]})"});
  expect_texts(R"({"type": "object", "properties": {"next": {"$ref": "#"}}})",
               {"{}", R"({"next": {"next": {}}})"}, {R"({"next": 1})"});
  expect_texts(R"({"$ref": "#/$defs/a~1b%25", "$defs": {"a/b%": {"$anchor": "here", "const": 1}}})",
               {"1"}, {"2"});
  expect_texts(R"({"$ref": "#here", "$defs": {"a": {"$anchor": "here", "const": 1}}})", {"1"},
               {"2"});
  expect_texts(R"({"$ref": "#/$defs/a", "minimum": 3, "$defs": {"a": {"type": "integer"}}})", {"3"},
               {"2", "\"a\""});
  expect_texts(
      R"({"anyOf": [{"type": "null"}, {"type": "array", "items": {"$ref": "#"}}, {"$ref": "#"}]})",
      {"null", "[null, [[], null]]"}, {"1"});
}

void expect_error(std::string_view text, const std::string& rest) {
  const auto grammar = Grammar::from_json_schema(text);
  ASSERT_FALSE(grammar.has_value()) << text;
  EXPECT_EQ(grammar.error().message, rest) << text;
}

TEST(JsonSchema, SaysWhatIsWrong) {
  const std::string none = "[constraint] texts: expected at least one that is allowed, found none";
  for (const char* unsatisfiable :
       {"false", R"({"type": "integer", "minimum": 5, "maximum": 4})",
        R"({"type": "integer", "exclusiveMinimum": 4, "exclusiveMaximum": 5})",
        R"({"type": "string", "minLength": 5, "maxLength": 4})",
        R"({"type": "string", "pattern": "^a$", "minLength": 2})",
        R"({"allOf": [{"type": "string"}, {"type": "integer"}]})", R"({"enum": []})",
        R"({"const": 1, "type": "string"})", R"({"type": "array", "minItems": 2, "maxItems": 1})",
        R"({"type": "array", "items": false, "minItems": 1})",
        R"({"type": "object", "required": ["a"], "additionalProperties": false})",
        R"({"type": "object", "properties": {"a": {"$ref": "#"}}, "required": ["a"]})",
        R"({"type": "object", "properties": {"a": {}}, "maxProperties": 0, "required": ["a"]})",
        R"({"anyOf": [{"$ref": "#"}]})"}) {
    expect_error(unsatisfiable, none);
  }
  // Where it is a part that nothing fulfils, its place.
  const std::pair<const char*, const char*> parts[] = {
      {R"({"type": "object", "required": ["a"], "properties": {
           "b": {"type": "integer", "minimum": 2, "maximum": 1},
           "a": {"type": "array", "minItems": 1, "items": {"enum": []}}}})",
       "#/properties/a/items"},
      {R"({"type": "array", "minItems": 2, "prefixItems": [{}, {"$ref": "#/$defs/none"}],
           "$defs": {"none": {"type": "string", "minLength": 2, "maxLength": 1}}})",
       "#/prefixItems/1"},
      {R"({"type": "array", "minItems": 1, "items": {"anyOf": [{"enum": []}, false]}})", "#/items"},
  };
  for (const auto& [schema, place] : parts) {
    expect_error(schema, none + " (at " + place + ")");
  }
  // A chain too long to follow on the stack.
  constexpr int links = 6000;
  std::string chain = R"({"$ref": "#/$defs/d0", "$defs": {)";
  for (int i = 0; i < links; ++i) {
    chain += fmt::format(
        R"("d{}": {{"type": "array", "prefixItems": [{{"$ref": "#/$defs/d{}"}}], "minItems": 1}}, )",
        i, i + 1);
  }
  expect_error(chain + fmt::format(R"("d{}": {{"enum": []}}}}}})", links), none);
  const std::string found = ": expected keywords that can be honoured, found this one (at ";
  for (const char* keyword :
       {"not", "if", "then", "uniqueItems", "contains", "dependentRequired",
        "unevaluatedProperties", "minLenght", "$dynamicRef", "additionalItems"}) {
    expect_error("{\"properties\": {\"a/b\": {\"" + std::string(keyword) + "\": true}}}",
                 "[json-schema] " + std::string(keyword) + found + "#/properties/a~1b)");
  }
  expect_error(R"({"type": "text"})",
               "[json-schema] type: expected null, boolean, integer, number, string, array or "
               "object, found \"text\" (at #)");
  expect_error(R"({"type": "string", "minLength": -1})",
               "[json-schema] minLength: expected a whole number, found -1 (at #)");
  expect_error(R"({"type": "string", "format": "phone"})",
               "[json-schema] format: expected one of date, date-time, duration, email, hostname, "
               "ipv4, ipv6, time, uri, uuid, found \"phone\" (at #)");
  expect_error(R"({"type": "string", "pattern": "a\\b"})",
               "[json-schema] pattern: expected what a finite automaton can decide, found a word "
               "boundary (at byte 2) (at #)");
  expect_error(R"({"type": "number", "multipleOf": 0.01})",
               "[json-schema] multipleOf: expected a number above 0, at most 10000, that is exact "
               "in binary, found 0.01");
  expect_error(R"({"enum": [[12345678901234567890123]]})",
               "[json-schema] const: expected numbers of at most 64 bits, found "
               "1.2345678901234568e+22 (at #)");
  expect_error(R"({"type": "number", "minimum": "1"})",
               "[json-schema] minimum: expected a number, found \"1\" (at #)");
  expect_error(R"({"$ref": "https://example.org/a"})",
               "[json-schema] $ref: expected a reference into the schema itself, which begins with "
               "'#', found \"https://example.org/a\" (at #)");
  expect_error(R"({"$ref": "#/$defs/a"})",
               "[json-schema] $ref: expected the place of a schema, found \"#/$defs/a\" (at #)");
  expect_error(R"({"$ref": "#"})",
               "[json-schema] $ref: expected a reference that leads to a schema, found one that "
               "leads back to itself (at #)");
  expect_error(
      R"({"oneOf": [{"type": "integer"}, {"minimum": 3}]})",
      "[json-schema] oneOf: expected alternatives that no value fulfils two of, found 0 and "
      "1 (at #)");
  expect_error(
      R"({"items": [{}]})",
      "[json-schema] items: expected one schema, found a list, which is called prefixItems "
      "(at #)");
  expect_error(
      R"({"properties": {"a": 3}})",
      "[json-schema] schema: expected an object, true or false, found 3 (at #/properties/a)");
  expect_error(R"({"type": "object", "minProperties": 3, "additionalProperties": {}})",
               "[json-schema] minProperties: expected at most 1, one more than are named, found 3 "
               "(at #)");
  EXPECT_FALSE(Grammar::from_json_schema("{\"type\": ").has_value());
  EXPECT_FALSE(Grammar::from_json_schema("").has_value());
  EXPECT_FALSE(
      Grammar::from_json_schema(R"({"minItems": 1000000, "items": {"items": {"minItems": 9}}})")
          .has_value());
}

// Everything that the constraint lets through is a value of the schema.
TEST(JsonSchema, WhatIsWrittenValidates) {
  const char* schemas[] = {
      R"({"type": "object", "properties": {"id": {"type": "integer", "minimum": 1, "maximum": 99999},
          "name": {"type": "string", "minLength": 1, "maxLength": 12}, "score": {"type": "number",
          "minimum": -1.5, "exclusiveMaximum": 2.25}, "tags": {"type": "array", "items": {"type": "string",
          "pattern": "^[a-z]{2,4}(-[0-9]+)?$"}, "minItems": 1, "maxItems": 3}, "when": {"format": "date-time",
          "type": "string"}, "ok": {"type": ["boolean", "null"]}}, "required": ["id", "tags", "ok"]})",
      R"({"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer", "multipleOf": 3},
          "l": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]}, "r": {"$ref": "#/$defs/node"}},
          "required": ["v"], "additionalProperties": false}}, "$ref": "#/$defs/node"})",
      R"({"type": "array", "prefixItems": [{"enum": ["a", "b"]}, {"type": "number", "multipleOf": 0.25,
          "minimum": 0}], "items": {"oneOf": [{"type": "object", "properties": {"k": {"const": 1}, "x":
          {"format": "uuid", "type": "string"}}, "required": ["k"], "additionalProperties": false}, {"type": "object", "properties":
          {"k": {"const": 2}, "y": {"format": "ipv6", "type": "string"}}, "required": ["k", "y"]}]}, "minItems": 3, "maxItems": 5})",
      R"({"type": "object", "patternProperties": {"^i": {"type": "integer", "maximum": -3}},
          "additionalProperties": {"type": "string", "format": "email"}, "propertyNames": {"maxLength": 3},
          "minProperties": 1, "maxProperties": 4})",
      R"({"type": ["array", "object", "string", "number"], "items": {"type": "string", "format": "duration"},
          "additionalProperties": {"type": "string", "format": "uri"}, "maxItems": 3, "maxProperties": 2})",
      "{}"};
  std::mt19937 random(7);
  const auto tokenizer = byte_tokenizer();
  for (const char* text : schemas) {
    SCOPED_TRACE(text);
    const test::SchemaValidator validator(ordered_json::parse(text));
    const Vocabulary vocabulary(tokenizer);
    const auto grammar = Grammar::from_json_schema(text);
    ASSERT_TRUE(grammar.has_value()) << grammar.error().message;
    const auto fresh = grammar->constrain(vocabulary).value();
    int finished = 0;
    for (int round = 0; round < 60; ++round) {
      const auto constraint = fresh->clone();
      std::string written;
      while (written.size() < 3000) {
        TokenMask mask(256);
        constraint->restrict_to(mask);
        std::vector<Token> allowed;
        std::vector<Token> closing;
        for (Token token = 0; token < 256; ++token) {
          if (!mask.allows(token)) continue;
          allowed.push_back(token);
          if (std::string_view("\"}]").find(static_cast<char>(token)) != std::string_view::npos) {
            closing.push_back(token);
          }
        }
        if (allowed.empty()) break;
        const auto& choices = !closing.empty() && random() % 4 == 0 ? closing : allowed;
        const Token next = choices[random() % choices.size()];
        constraint->accept(next);
        written.push_back(static_cast<char>(next));
      }
      if (written.size() == 3000) continue;
      ++finished;
      const ordered_json value = ordered_json::parse(written, nullptr, false);
      ASSERT_FALSE(value.is_discarded()) << written;
      ASSERT_TRUE(validator.is_valid(value)) << written;
      ASSERT_TRUE(grammar->matches(written)) << written;
    }
    EXPECT_GT(finished, 20);
  }
}

}  // namespace
}  // namespace krait::json_schema_test
