// SentencePiece files: what is parsed in texts, and files that are wrong.
#include <gtest/gtest.h>

#include <string>
#include <string_view>
#include <vector>

#include "krait/core/rng.hpp"
#include "krait/text/tokenizer.hpp"
#include "tests/support/support.hpp"

namespace krait::sentencepiece_test {
namespace {

using Tokens = std::vector<Token>;

std::string varint(std::uint64_t value) {
  std::string bytes;
  for (; value >= 128; value >>= 7U) {
    bytes += static_cast<char>(static_cast<unsigned char>(value | 128U));
  }
  return bytes += static_cast<char>(static_cast<unsigned char>(value));
}

std::string field(unsigned number, std::string_view bytes) {
  return varint(number << 3U | 2U) + varint(bytes.size()) + std::string(bytes);
}

std::string field(unsigned number, std::uint64_t value) {
  return varint(number << 3U) + varint(value);
}

std::string piece(std::string_view text, unsigned type = 1,
                  std::string_view score = {"\0\0\0\xC0", 4}) {
  return field(1, field(1, text) + varint(2U << 3U | 5U) + std::string(score) + field(3, type));
}

// <unk>, <s>, </s>, "▁", "a", "b", "ab", "▁ab".
std::string small_file(std::uint64_t model_type, std::string_view normalizer = {}) {
  std::string file = piece("<unk>", 2) + piece("<s>", 3) + piece("</s>", 3);
  for (const char* text : {"\xE2\x96\x81", "a", "b", "ab",
                           "\xE2\x96\x81"
                           "ab"})
    file += piece(text);
  return file + field(2, field(3, model_type)) + field(3, normalizer);
}

std::shared_ptr<const Tokenizer> load(const std::string& file) {
  return read_sentencepiece(file).value();
}

TEST(SentencePiece, ParsesControlTokensIfAsked) {
  for (const std::uint64_t type : {1U, 2U}) {
    const auto tokenizer = load(small_file(type));
    EXPECT_EQ(tokenizer->encode("ab</s>ab").value(), (Tokens{7, 2, 7}));
    const Tokens plain = tokenizer->encode("</s>", {.parse_special = false}).value();
    EXPECT_EQ(plain, (Tokens{3, 0}));
    EXPECT_EQ(tokenizer->encode("", {.add_special = true}).value(), (Tokens{1}));
    EXPECT_TRUE(tokenizer->is_special(2));
    EXPECT_FALSE(tokenizer->is_special(3));
    EXPECT_EQ(tokenizer->find("</s>"), 2);
    EXPECT_EQ(tokenizer->find(" ab"), 7);
    EXPECT_EQ(tokenizer->vocab(), 8);
  }
}

TEST(SentencePiece, AddsTheMarksThatItIsAskedFor) {
  const std::string file = small_file(2);
  const EncodeOptions special{.add_special = true};
  const auto both = read_sentencepiece(file, {.add_eos = true}).value();
  EXPECT_EQ(both->encode("ab", special).value(), (Tokens{1, 7, 2}));
  const auto none = read_sentencepiece(file, {.add_bos = false}).value();
  EXPECT_EQ(none->encode("ab", special).value(), (Tokens{7}));
}

TEST(SentencePiece, HasTokensThatWereAdded) {
  for (const std::uint64_t type : {1U, 2U}) {
    const std::string file = small_file(type);
    const SentencePieceOptions options{
        .added = {{0, "<unk>", true}, {9, "<end>", true}, {10, "cab", false}, {12, "ab", true}}};
    const auto tokenizer = read_sentencepiece(file, options).value();
    EXPECT_EQ(tokenizer->vocab(), 11);  // the file has "ab"
    EXPECT_EQ(tokenizer->encode("ab<end>ab").value(), (Tokens{7, 9, 7}));
    EXPECT_EQ(tokenizer->encode("abcab").value(), (Tokens{7, 10}));
    EXPECT_EQ(tokenizer->encode("c").value(), (Tokens{3, 0}));
    EXPECT_TRUE(tokenizer->is_special(9));
    EXPECT_FALSE(tokenizer->is_special(10));
    EXPECT_EQ(tokenizer->decode(Tokens{7, 10}), "abcab");
  }
  const auto refused = read_sentencepiece(small_file(1), {.added = {{1'000'000, "x", true}}});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error(),
            (Error{ErrorCode::bad_format,
                   "[tokenizer] added tokens: expected ids below 65544, found 1000000"}));
}

TEST(SentencePiece, DecodesAsAWholeAndInParts) {
  const auto tokenizer = load(small_file(2));
  EXPECT_EQ(tokenizer->decode({7, 7}), "ab ab");
  EXPECT_EQ(tokenizer->bytes(7), " ab");
  EXPECT_EQ(tokenizer->decode({1, 7, 2}, false), "ab");
  EXPECT_EQ(tokenizer->decode({1, 7, 2}), "<s> ab</s>");
  const auto bare = load(small_file(2, field(3, std::uint64_t{0})));  // no dummy prefix
  EXPECT_EQ(bare->decode({7, 7}), " ab ab");
}

TEST(SentencePiece, WrongFilesAreErrors) {
  const std::string good = small_file(2);
  const auto expect = [&](const std::string& file, const std::string& part,
                          ErrorCode code = ErrorCode::bad_format) {
    const auto result = read_sentencepiece(file);
    ASSERT_FALSE(result) << part;
    const std::string& message = result.error().message;
    EXPECT_EQ(result.error().code, code) << message;
    EXPECT_NE(message.find(part), std::string::npos) << message << "\nlacks " << part;
    EXPECT_TRUE(message.starts_with("[tokenizer] ")) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  };
  expect("", "pieces: expected some, found none");
  expect("\x0A", "expected a number, found the end of the message (offset 1)");
  expect("\x0A\x05zz", "expected 5 bytes, found 2 (offset 2)");
  expect("\x0A" + varint(~std::uint64_t{0}), "bytes, found 0");
  expect("\x0A" + std::string(12, '\xFF'), "expected a number of at most 10 bytes, found more");
  expect("\x0B", "expected wire type 0, 1, 2 or 5, found 3");
  expect(std::string("\x02\x00", 2), "expected a field's number, found 0");
  expect("\x08\x01", "field: expected another wire type");
  expect(good.substr(0, good.size() - 1), "SentencePiece file: expected");
  expect(small_file(3), "model_type: expected 1 (Unigram) or 2 (BPE), found 3",
         ErrorCode::unsupported);
  expect(good + piece("ab"), "pieces[8]: expected every text once, found \"ab\" again");
  expect(good + piece(""), "pieces[8]: expected a text in UTF-8, found none");
  expect(good + piece("\xC3("), "pieces[8]: expected a text in UTF-8, found other bytes");
  expect(good + piece("x", 7), "pieces[8].type: expected 1 to 6, found 7");
  expect(good + piece("x", 1, {"\0\0\x80\x7F", 4}),
         "pieces[8]: expected a finite score, found inf");
  expect(good + piece(std::string(2000, 'x')), "pieces[8]: expected at most 1024 bytes, found 2000",
         ErrorCode::unsupported);
  expect(piece("a") + piece("b"), "pieces: expected a token for what is unknown, found none");
  expect(small_file(2, field(2, "abc")),
         "precompiled_charsmap: expected a table of as many bytes as its head says, found 3 of ");
  expect(small_file(2, field(2, std::string_view("\x04\0\0\0\0\0\0\0\xC3(\0", 11))),
         "precompiled_charsmap: expected replacements in UTF-8 that end with a zero");
}

// Tables of random units: whatever they say, texts come out as well-formed UTF-8.
TEST(SentencePiece, RandomCharsmapsDoNoHarm) {
  for (std::uint32_t round = 0; round < 300; ++round) {
    std::string blob = std::string("\x00\x02\x00\x00", 4);
    for (std::uint64_t i = 0; i < 512; ++i) {
      const auto byte = random_bits({.seed = 17, .sequence = round, .position = i})[0] & 0xFFU;
      blob += static_cast<char>(static_cast<unsigned char>(byte));
    }
    blob += std::string("a\0b\xC3\xA9\0 \0", 8);
    const auto tokenizer = read_sentencepiece(small_file(1 + round % 2, field(2, blob)));
    ASSERT_TRUE(tokenizer) << tokenizer.error().message;
    for (const char* text : {"abc ab", "\xC3\xA9\xE4\xB8\x80 \xF0\x9F\x98\x80", "\x01\x02\x7F"}) {
      const auto tokens = (*tokenizer)->encode(text);
      ASSERT_TRUE(tokens) << tokens.error().message;
      for (const Token token : *tokens) ASSERT_LT(token, 8);
    }
  }
}

}  // namespace
}  // namespace krait::sentencepiece_test
