#include "io/json_private.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto strict = krait::parse_json(text, "input", krait::JsonWords::none);
  const auto lax = krait::parse_json(text, "input");
  // What the standard allows means the same in both dialects.
  if (strict) krait::test::demand(lax.has_value() && **lax == **strict);
  for (const auto* result : {&strict, &lax}) {
    if (!*result) {
      krait::test::check_error(result->error());
      continue;
    }
    const nlohmann::json& value = ***result;
    krait::test::demand(krait::json_text(value).size() <= 63);
    if (value.is_structured()) {
      for (const auto& item : value) static_cast<void>(krait::json_number(item));
    }
  }
  return 0;
}
