// A state file from anywhere: it is refused, or what it holds belongs to the model.
#include "krait/models/state_io.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/support/tiny_models.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const krait::Model model = krait::test::tiny_model();
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto sequence = krait::load_state(model, krait::borrow_bytes(bytes, "input"));
  if (!sequence) {
    krait::test::check_error(sequence.error());
    return 0;
  }
  krait::test::demand(sequence->state.position() >= 0);
  krait::test::demand(sequence->pending <= static_cast<krait::Index>(sequence->tokens.size()));
  for (const krait::Token token : sequence->tokens) {
    krait::test::demand(token >= 0 && token < model.vocab_padded());
  }
  return 0;
}
