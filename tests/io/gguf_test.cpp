#include "io/gguf.hpp"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "tests/io/builders.hpp"
#include "tests/support/support.hpp"

namespace krait::gguf_test {
namespace {

using test::file_of;
using test::gguf;
using test::gguf_number;
using test::gguf_pair;
using test::gguf_string;
using test::gguf_tensor;
using test::gguf_text;
using test::little;
using namespace std::string_literals;

std::string error_of(const std::string& bytes) {
  const auto result = read_gguf(file_of(bytes, "f.gguf"));
  return result ? "none" : result.error().message;
}

TEST(Gguf, ReadsValuesAndTensors) {
  const std::string data = std::string(96, '\0') + "abcd" + std::string(28, '\0');
  const GgufFile file =
      read_gguf(
          file_of(gguf(
              {gguf_text("general.architecture", "mamba"), gguf_number("n", 7),
               gguf_pair("b", 7, "\1"s), gguf_pair("f", 6, little(0x3F800000, 4)),
               gguf_pair("i", 5, little(0xFFFFFFFE, 4)),
               gguf_pair("l", 9, little(8, 4) + little(2, 8) + gguf_string("x") + gguf_string(""))},
              {gguf_tensor("w", {3, 2}, 0, 0), gguf_tensor("q", {32, 2}, 2, 32),
               gguf_tensor("v", {4}, 24, 96)},
              data)))
          .value();
  EXPECT_TRUE(file.metadata["general.architecture"].is("mamba"));
  EXPECT_EQ(file.metadata["n"].integer(), 7);
  EXPECT_EQ(file.metadata["b"].boolean(), true);
  EXPECT_EQ(file.metadata["f"].number(), 1.0);
  EXPECT_EQ(file.metadata["i"].integer(), -2);
  ASSERT_EQ(file.metadata["l"].size(), 2U);
  EXPECT_TRUE(file.metadata["l"][0].is("x"));
  ASSERT_EQ(file.tensors.size(), 3U);
  EXPECT_EQ(file.tensors[0].extents, (std::vector<Index>{2, 3}));
  EXPECT_EQ(file.tensors[0].type.dtype, DType::f32);
  EXPECT_EQ(file.tensors[1].type.blocks, BlockFormat::q4_0);
  EXPECT_EQ(file.tensors[1].bytes, 36);
  EXPECT_EQ(file.tensors[2].data[0], std::byte{'a'});
}

TEST(Gguf, RefusesWhatIsBroken) {
  const std::string one = gguf_number("n", 1);
  const std::string tensor = gguf_tensor("t", {32}, 0, 0);
  const std::string data(128, '\0');
  const auto array = [](unsigned type, std::uint64_t count, const std::string& rest) {
    return gguf_pair("a", 9, little(type, 4) + little(count, 8) + rest);
  };
  const std::pair<std::string, std::string> cases[] = {
      {"", "file: expected the letters GGUF at its beginning, found something else"},
      {"GGML" + std::string(40, '\0'), "file: expected the letters GGUF"},
      {"GGUF", "version: expected 4 more bytes at byte 4, found 0"},
      {"GGUF" + little(1, 4), "version: expected 2 or 3, found 1"},
      {"GGUF" + little(4, 4), "version: expected 2 or 3, found 4"},
      {"GGUF"s + "\0\0\0\3"s, "version: expected 2 or 3, found a big-endian file"},
      {"GGUF" + little(3, 4) + little(1, 8), "number of keys: expected 8 more bytes"},
      {"GGUF" + little(3, 4) + little(~0ULL, 8) + little(0, 8),
       "number of tensors: expected at most 1048576, found 18446744073709551615"},
      {"GGUF" + little(3, 4) + little(0, 8) + little(1ULL << 40, 8),
       "number of keys: expected at most 65536, found 1099511627776"},
      {gguf({one, one}), "n: expected every key once, found it twice"},
      {gguf({gguf_string("") + little(4, 4) + little(0, 4)}), "key 0: expected a name, found none"},
      {gguf({little(~0ULL, 8) + "x"}), "key: expected at most 65535 bytes of text"},
      {gguf({little(60000, 8) + "x"}), "key: expected 60000 more bytes"},
      {gguf({gguf_pair("s", 8, little(1ULL << 63, 8))}), "s: expected at most 268435456 bytes"},
      {gguf({gguf_pair("s", 8, little(1 << 20, 8))}), "s: expected 1048576 more bytes"},
      {gguf({gguf_pair("t", 13, "")}), "t: expected a type of value below 13, found 13"},
      {gguf({gguf_pair("b", 7, "\2")}), "b: expected 0 or 1 for false or true, found 2"},
      {gguf({array(9, 1, little(4, 4) + little(0, 8))}),
       "a: expected an array of single values, found one of arrays"},
      {gguf({array(4, ~0ULL, "")}), "a: expected at most 4194304 values in all arrays"},
      {gguf({array(0, 1 << 22, "")}), "a: expected 4194304 more bytes"},
      {gguf({array(77, 1, "....")}), "a: expected a type of value below 13, found 77"},
      {gguf({gguf_number("general.alignment", 0)}),
       "general.alignment: expected a power of two from 8 to 1048576, found 0"},
      {gguf({gguf_number("general.alignment", 48)}), "general.alignment: expected a power of two"},
      {gguf({gguf_text("general.alignment", "x")}), "found something else"},
      {gguf({}, {tensor, tensor}, data), "t: expected every tensor once, found it twice"},
      {gguf({}, {gguf_tensor("", {1}, 0, 0)}, data), "tensor 0: expected a name, found none"},
      {gguf({}, {gguf_tensor(std::string(2000, 'x'), {1}, 0, 0)}, data),
       "name of a tensor: expected at most 1024 bytes of text, found 2000"},
      {gguf({}, {gguf_tensor("t", {1, 1, 1, 1, 1}, 0, 0)}, data),
       "t: expected at most 4 axes, found 5"},
      {gguf({}, {gguf_tensor("t", {0}, 0, 0)}, data),
       "t: expected extents from 1 to 1099511627776, found 0"},
      {gguf({}, {gguf_tensor("t", {1ULL << 63}, 0, 0)}, data), "t: expected extents from 1"},
      {gguf({}, {gguf_tensor("t", {1ULL << 40, 1ULL << 40}, 0, 0)}, data),
       "t: expected rows of whole blocks that fit in memory, found f32 [1099511627776,"},
      {gguf({}, {gguf_tensor("t", {33}, 2, 0)}, data),
       "t: expected rows of whole blocks that fit in memory, found q4_0 [33]"},
      {gguf({}, {gguf_tensor("t", {1}, 0, 4)}, data),
       "t: expected an offset that is a multiple of 32, found 4"},
      {gguf({}, {gguf_tensor("t", {1}, 0, 1ULL << 63)}, data),
       "t: expected 4 bytes within 128 of data, found an offset of 9223372036854775808"},
      {gguf({}, {gguf_tensor("t", {32}, 0, ~31ULL)}, data), "t: expected 128 bytes within 128"},
      {gguf({}, {gguf_tensor("t", {33}, 0, 0)}, data), "t: expected 132 bytes within 128 of data"},
      {gguf({}, {tensor, gguf_tensor("u", {8}, 0, 96)}, data),
       "u: expected bytes of its own, found those of t too"},
      {gguf({}, {gguf_tensor("t", {1}, 0, 0)}), "t: expected 4 bytes within 0 of data"},
      {gguf({gguf_pair("\x1b[2J", 77, "")}), "?[2J: expected a type of value"},
  };
  for (const auto& [bytes, message] : cases) {
    const std::string found = error_of(bytes);
    EXPECT_NE(found.find(message), std::string::npos) << found << "\ninstead of " << message;
    EXPECT_TRUE(found.starts_with("[gguf] ")) << found;
  }
  // Every cut of a good file is refused or, behind its data, whole.
  const std::string good = gguf({one, array(8, 1, gguf_string("x"))}, {tensor}, data);
  for (std::size_t size = 0; size < good.size(); ++size) {
    EXPECT_NE(error_of(good.substr(0, size)), "none") << size;
  }
  EXPECT_EQ(error_of(good), "none");
}

TEST(Gguf, NotesTypesThatItDoesNotKnow) {
  const GgufFile file =
      read_gguf(file_of(gguf({}, {gguf_tensor("t", {256}, 16, 0)}, std::string(66, '\0')))).value();
  EXPECT_EQ(file.tensors[0].describe(), "type 16 [256]");
  EXPECT_FALSE(file.tensors[0].type.dtype || file.tensors[0].type.blocks);
}

// A file of 10 GB, all of it a hole, is opened at once and in little memory.
TEST(Gguf, OpensALargeSparseFileAtOnce) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "large.gguf").string();
  const std::uint64_t size = 10ULL << 30;
  test::write_file(path, gguf({gguf_text("general.architecture", "mamba")},
                              {gguf_tensor("w", {1 << 20, size >> 22}, 0, 0)}, ""));
  std::error_code failed;
  std::filesystem::resize_file(path, size + 4096, failed);
  if (failed) GTEST_SKIP() << "no room for a sparse file";
  const auto begin = std::chrono::steady_clock::now();
  const GgufFile file = read_gguf(open_file(path).value()).value();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(1));
  EXPECT_EQ(file.tensors[0].bytes, static_cast<Index>(size));
}

TEST(Gguf, WritesWhatItReads) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "w.gguf").string();
  const Metadata metadata(
      Metadata::Object{{"general.architecture", std::string("mamba")},
                       {"n", 7},
                       {"x", 0.5},
                       {"yes", true},
                       {"names", Metadata::Array{std::string("a"), std::string("b")}},
                       {"types", Metadata::Array{1, 3}}});
  auto writer = GgufWriter::create(path, metadata,
                                   {{"t", *GgufType::of(DType::f32), {1, 3}},
                                    {"u", *GgufType::of(DType::f16), {2}}})
                    .value();
  const std::string bytes = "123456789abcABCD";
  const auto raw = std::as_bytes(std::span(bytes));
  ASSERT_TRUE(writer.write(raw.first(5)));
  ASSERT_TRUE(writer.write(raw.subspan(5, 7)));
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer.write(raw.subspan(12)));
  ASSERT_TRUE(writer.commit());
  const GgufFile file = read_gguf(open_file(path).value()).value();
  EXPECT_EQ(file.metadata, metadata);
  ASSERT_EQ(file.tensors.size(), 2U);
  EXPECT_EQ(file.tensors[0].extents, (std::vector<Index>{1, 3}));
  EXPECT_EQ(std::memcmp(file.tensors[0].data, bytes.data(), 12), 0);
  EXPECT_EQ(std::memcmp(file.tensors[1].data, bytes.data() + 12, 4), 0);
  const auto refused = GgufWriter::create(path, Metadata(Metadata::Object{{"n", -1}}), {});
  EXPECT_FALSE(refused);
}

}  // namespace
}  // namespace krait::gguf_test
