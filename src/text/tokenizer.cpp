#include "krait/text/tokenizer.hpp"

#include <array>
#include <cstddef>

namespace krait {
inline namespace v0_1 {
namespace {

constexpr Token byte_count = 256;

constexpr auto all_bytes = [] {
  std::array<char, byte_count> bytes{};
  for (std::size_t i = 0; i < bytes.size(); ++i) {
    bytes[i] = static_cast<char>(static_cast<unsigned char>(i));
  }
  return bytes;
}();

class ByteTokenizer final : public Tokenizer {
 public:
  Result<std::vector<Token>> encode(std::string_view text,
                                    const EncodeOptions& /*options*/) const override {
    std::vector<Token> tokens(text.size());
    for (std::size_t i = 0; i < text.size(); ++i) {
      tokens[i] = static_cast<unsigned char>(text[i]);
    }
    return tokens;
  }

  std::string_view bytes(Token token) const noexcept override {
    if (token < 0 || token >= byte_count) {
      return {};
    }
    return {&all_bytes[static_cast<std::size_t>(token)], 1};
  }

  Index vocab() const noexcept override { return byte_count; }
  bool is_special(Token /*token*/) const noexcept override { return false; }

  std::optional<Token> find(std::string_view text) const override {
    if (text.size() != 1) {
      return std::nullopt;
    }
    return static_cast<unsigned char>(text.front());
  }
};

}  // namespace

Tokenizer::~Tokenizer() = default;

std::string Tokenizer::decode(const std::vector<Token>& tokens, bool with_special) const {
  std::string text;
  for (const Token token : tokens) {
    if (with_special || !is_special(token)) {
      text += bytes(token);
    }
  }
  return text;
}

TextBefore before_of(const Tokenizer& tokenizer, std::span<const Token> tokens) {
  if (tokens.empty()) return TextBefore::nothing;
  return tokenizer.is_special(tokens.back()) ? TextBefore::token : TextBefore::text;
}

std::shared_ptr<const Tokenizer> byte_tokenizer() {
  // One for the program: it holds nothing.
  static const auto tokenizer = std::make_shared<const ByteTokenizer>();
  return tokenizer;
}

}  // namespace v0_1
}  // namespace krait
