#include "krait/io/safetensors.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  krait::WeightStore store;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto result = krait::read_safetensors(krait::borrow_bytes(bytes, "input"), store);
  if (result) {
    krait::test::check_tensors(store);
  } else {
    krait::test::check_error(result.error());
    krait::test::demand(store.size() == 0);
  }
  return 0;
}
