#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "io/json.hpp"

namespace krait::json_test {
namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

std::string error_of(std::string_view text, JsonWords words = JsonWords::python) {
  const auto result = parse_json(text, "config.json", words);
  if (result) return "no error";
  EXPECT_EQ(result.error().code, ErrorCode::bad_format);
  return result.error().message;
}

TEST(Json, ReadsWhatTheStandardAllows) {
  const Metadata value =
      parse_json(" {\"a\": [1, -2, 3.5, true, null, \"x\\\"\\\\y\"], \"b\": {}}\n", "x").value();
  const Metadata::Array expected = {1, -2, 3.5, true, {}, std::string("x\"\\y")};
  EXPECT_EQ(value["a"], Metadata(expected));
  EXPECT_NE(value["b"].object(), nullptr);
  EXPECT_EQ(parse_json("7", "x", JsonWords::none).value().whole(), 7U);
  EXPECT_EQ(parse_json("18446744073709551615", "x").value().whole(), 18446744073709551615U);
  EXPECT_FALSE(parse_json("18446744073709551616", "x").value().whole());
}

TEST(Json, ObjectsKeepTheirOrder) {
  const Metadata value = parse_json(R"({"b": 1, "a": {"d": 2, "c": 3}})", "x").value();
  ASSERT_EQ(value.size(), 2U);
  EXPECT_EQ((*value.object())[0].key, "b");
  EXPECT_EQ(json_text(value), R"({"b":1,"a":{"d":2,"c":3}})");
}

TEST(Json, ReadsTheWordsOfPythonOutsideStrings) {
  const Metadata value =
      parse_json(R"({"a": [0, Infinity, -Infinity, NaN], "Infinity": "NaN \" -Infinity"})", "x")
          .value();
  EXPECT_EQ(json_number(value["a"][1]), infinity);
  EXPECT_EQ(json_number(value["a"][2]), -infinity);
  EXPECT_TRUE(std::isnan(json_number(value["a"][3]).value()));
  EXPECT_TRUE(value["Infinity"].is("NaN \" -Infinity"));
  EXPECT_NE(error_of("[Infinity]", JsonWords::none), "no error");
}

TEST(Json, NumbersHaveThreeSpellings) {
  EXPECT_EQ(json_number(parse_json(R"({"__float__": "Infinity"})", "x").value()), infinity);
  EXPECT_EQ(json_number(parse_json(R"("-Infinity")", "x").value()), -infinity);
  EXPECT_EQ(json_number(parse_json("1e30", "x").value()), 1e30);
  for (const char* text : {R"("inf")", R"({"__float__": 1})", R"({"a": "NaN"})", "null", "true",
                           "[]", R"({"__float__": "NaN", "b": 1})"}) {
    EXPECT_FALSE(json_number(parse_json(text, "x").value())) << text;
  }
}

TEST(Json, ErrorsSayWhere) {
  EXPECT_EQ(error_of("{\n  \"a\": Infinity, NaN: 1,\n  \"b\": x}"),
            "[json] expected JSON, found something else at line 3, column 8 (config.json)");
  EXPECT_EQ(error_of("{\"a\": 1"), "[json] expected JSON, found the end of the text (config.json)");
  EXPECT_EQ(error_of("[Infinity, Infinity"),
            "[json] expected JSON, found the end of the text (config.json)");
  EXPECT_EQ(error_of(""), "[json] expected JSON, found the end of the text (config.json)");
  EXPECT_EQ(error_of(R"({"a\nb": 1, "a\nb": 2})"),
            "[json] expected every key once, found \"a?b\" twice (config.json)");
}

TEST(Json, DepthIsLimited) {
  const auto nested = [](int depth) {
    const auto count = static_cast<std::size_t>(depth);
    return std::string(count, '[') + std::string(count, ']');
  };
  EXPECT_TRUE(parse_json(nested(max_json_depth), "x"));
  EXPECT_NE(error_of(nested(max_json_depth + 1)).find("levels"), std::string::npos);
  EXPECT_NE(error_of(std::string(10'000'000, '[')).find("levels"), std::string::npos);
}

TEST(Json, TextForMessagesIsShortAndPrintable) {
  EXPECT_EQ(json_text(parse_json("[1, \"\\u00e9\\n\"]", "x").value()), R"([1,"\u00e9\n"])");
  EXPECT_LE(json_text(std::string(1000, 'x')).size(), 63U);
  EXPECT_EQ(json_text(std::string("\xff\xfe")), R"("\ufffd\ufffd")");
  EXPECT_EQ(json_text(std::string("\xF0\x9F\x98\x80\x7F")), R"("\ud83d\ude00\u007f")");
  EXPECT_EQ(json_text(Metadata::Array{0.5, 2.0, 1e30, -3, true, {}}),
            "[0.5,2.0,1e+30,-3,true,null]");
  // What is beyond the cut is not looked at.
  EXPECT_LE(json_text(Metadata::Array(1'000'000)).size(), 63U);
}

}  // namespace
}  // namespace krait::json_test
