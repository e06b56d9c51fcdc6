// A state file from anywhere: it is refused, or what it holds belongs to the model and can be run.
//
// The model's fingerprint and the checksum of an input are put right before a second try: no search
// would find them.
#include <string>

#include "io/content_checksum.hpp"
#include "krait/core/executor.hpp"
#include "krait/decoding/generate.hpp"
#include "krait/decoding/state_io.hpp"
#include "krait/io/safetensors.hpp"
#include "tests/fuzz/fuzz_target.hpp"
#include "tests/support/tiny_models.hpp"

namespace {

using namespace krait;
using krait::test::demand;

std::shared_ptr<const FileBytes> file_of(const std::string& bytes) {
  return borrow_bytes(std::as_bytes(std::span(bytes)), "input");
}

// Writes the value behind `"key":"` over what stands there.
void put(std::string& bytes, std::string_view key, const std::string& value) {
  const std::string before = "\"" + std::string(key) + "\":\"";
  const std::size_t at = bytes.find(before);
  if (at == std::string::npos || bytes.size() - at - before.size() < value.size()) return;
  bytes.replace(at + before.size(), value.size(), value);
}

void run(const Model& model, Sequence sequence) {
  static SerialExecutor executor;
  static Session session(model, executor, {.chunk = 16});
  static const auto tokenizer = byte_tokenizer();
  State state = sequence.state;
  if (const auto logits = session.step(1, state); !logits) {
    test::check_error(logits.error());
  } else {
    demand(state.position() == sequence.state.position() + 1);
  }
  const auto text =
      generate(session, *tokenizer, sequence,
               {.max_tokens = 4, .sampler = {.seed = 1}, .stop_strings = {"\x01\x02"}});
  if (!text) test::check_error(text.error());
  demand(sequence.pending >= 0 && sequence.pending <= std::ssize(sequence.tokens));
  demand(sequence.state.position() >= 0);
}

void load(const Model& model, const std::string& bytes) {
  const auto sequence = load_state(model, file_of(bytes));
  if (!sequence) {
    test::check_error(sequence.error());
    return;
  }
  demand(sequence->state.position() >= 0);
  demand(sequence->pending <= static_cast<Index>(sequence->tokens.size()));
  for (const Token token : sequence->tokens) demand(token >= 0 && token < model.vocab_padded());
  run(model, *sequence);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static const Model model = krait::test::tiny_model();
  std::string bytes(reinterpret_cast<const char*>(data), size);
  load(model, bytes);

  put(bytes, "model", model.fingerprint());
  WeightStore store;
  if (!read_safetensors(file_of(bytes), store)) return 0;
  std::vector<NamedTensor> content;
  for (const auto& [name, entry] : store.entries()) content.push_back({name, entry.tensor});
  put(bytes, content_checksum_key, content_checksum(std::move(content), store.metadata));
  load(model, bytes);
  return 0;
}
