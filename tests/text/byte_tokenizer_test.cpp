#include <gtest/gtest.h>

#include "krait/text/tokenizer.hpp"

namespace krait::byte_tokenizer_test {
namespace {

TEST(ByteTokenizer, HasOneIdPerByte) {
  const auto tokenizer = byte_tokenizer();
  EXPECT_EQ(tokenizer->vocab(), 256);
  std::string all;
  for (int byte = 0; byte < 256; ++byte) all += static_cast<char>(static_cast<unsigned char>(byte));
  const auto tokens = tokenizer->encode(all).value();
  ASSERT_EQ(tokens.size(), 256U);
  for (std::size_t i = 0; i < tokens.size(); ++i) {
    EXPECT_EQ(tokens[i], static_cast<Token>(i));
    EXPECT_EQ(tokenizer->bytes(tokens[i]), all.substr(i, 1));
    EXPECT_FALSE(tokenizer->is_special(tokens[i]));
    EXPECT_EQ(tokenizer->find(all.substr(i, 1)), tokens[i]);
  }
  EXPECT_EQ(tokenizer->decode(tokens), all);
}

TEST(ByteTokenizer, KnowsNothingBeyond) {
  const auto tokenizer = byte_tokenizer();
  EXPECT_EQ(tokenizer->bytes(256), "");
  EXPECT_EQ(tokenizer->bytes(-1), "");
  EXPECT_EQ(tokenizer->find(""), std::nullopt);
  EXPECT_EQ(tokenizer->find("ab"), std::nullopt);
  EXPECT_TRUE(tokenizer->encode("").value().empty());
}

}  // namespace
}  // namespace krait::byte_tokenizer_test
