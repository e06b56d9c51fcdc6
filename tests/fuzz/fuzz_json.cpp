#include "io/json.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto strict = krait::parse_json(text, "input", krait::JsonWords::none);
  const auto lax = krait::parse_json(text, "input");
  // What the standard allows means the same in both dialects.
  if (strict) krait::test::demand(lax.has_value() && *lax == *strict);
  for (const auto* result : {&strict, &lax}) {
    if (!*result) {
      krait::test::check_error(result->error());
      continue;
    }
    const krait::Metadata& value = **result;
    krait::test::demand(krait::json_text(value).size() <= 63);
    for (std::size_t i = 0; i < value.size(); ++i) {
      static_cast<void>(
          krait::json_number(value.array() != nullptr ? value[i] : (*value.object())[i].value));
    }
  }
  return 0;
}
