#include <string>

#include "krait/io/pytorch_bin.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/io/builders.hpp"

// An input is a whole archive, or else the pickle of one with two storages of 64 bytes.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view input(reinterpret_cast<const char*>(data), size);
  const std::string bytes =
      input.starts_with("PK")
          ? std::string(input)
          : krait::test::torch_archive(std::string(input),
                                       {std::string(64, 'a'), std::string(64, 'b')});
  krait::WeightStore store;
  const auto result =
      krait::read_pytorch_bin(krait::borrow_bytes(std::as_bytes(std::span(bytes)), "input"), store);
  if (result) {
    krait::test::check_tensors(store);
  } else {
    krait::test::check_error(result.error());
    krait::test::demand(store.size() == 0);
  }
  return 0;
}
