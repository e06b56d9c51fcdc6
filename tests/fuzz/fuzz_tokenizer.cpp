// A tokenizer file from anywhere: it is refused, or its tokenizer takes any text.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "krait/text/tokenizer.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace std::string_view_literals;
  const std::string_view file(reinterpret_cast<const char*>(data), size);
  const auto tokenizer = krait::read_tokenizer_json(file);
  if (!tokenizer) {
    krait::test::check_error(tokenizer.error());
    return 0;
  }
  constexpr std::string_view texts[] = {
      ""sv,
      "Hello there, it's 12 o'clock\n\n  the end "sv,
      "\xC3\xA9"
      "e\xCC\x81\xCC\xA3 \xEA\xB0\x80\xE2\x80\x83x"sv,
      "<s>aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa  </s>"sv,
      "\0\x7F\xF0\x9F\x98\x80"sv,
      "not UTF-8: \xFF"sv};
  for (const std::string_view text : texts) {
    for (const bool special : {false, true}) {
      const auto tokens =
          (*tokenizer)->encode(text, {.add_special = special, .parse_special = !special});
      if (!tokens) continue;
      for (const krait::Token token : *tokens) {
        if (token < 0 || token >= (*tokenizer)->vocab()) std::abort();
      }
      (*tokenizer)->decode(*tokens);
    }
  }
  return 0;
}
