// A SentencePiece file from anywhere: it is refused, or its tokenizer takes any text.
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "krait/text/tokenizer.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace std::string_view_literals;
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = krait::read_sentencepiece(file, {.add_eos = size % 2 == 0});
  if (!tokenizer) {
    krait::test::check_error(tokenizer.error());
    return 0;
  }
  constexpr std::string_view texts[] = {""sv, "  Hello there, <s>it's  12 \n the end</s> "sv,
                                        "e\xCC\x81\xE3\x80\x80\xEF\xAC\x81 \xE2\x96\x81x"sv,
                                        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"sv,
                                        "\0\x7F\xF0\x9F\x98\x80"sv};
  for (const std::string_view text : texts) {
    for (const bool special : {false, true}) {
      const auto tokens =
          (*tokenizer)->encode(text, {.add_special = special, .parse_special = special});
      if (!tokens) {
        krait::test::check_error(tokens.error());
        continue;
      }
      for (const krait::Token token : *tokens) {
        krait::test::demand(token >= 0 && token < (*tokenizer)->vocab());
      }
      (*tokenizer)->decode(*tokens);
    }
  }
  return 0;
}
