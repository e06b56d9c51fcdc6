// A grammar from anywhere: it is refused in one line, or its texts can be written token by token.
#include "tests/fuzz/fuzz_grammar.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  krait::test::follow(krait::Grammar::from_gbnf({reinterpret_cast<const char*>(data), size}), data,
                      size);
  return 0;
}
