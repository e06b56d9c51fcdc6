// A GGUF file from anywhere, or several of one model, one behind the other: they are refused, or
// their tensors can be read, the configuration is read or refused, and so is the vocabulary.
#include <algorithm>
#include <string_view>

#include "krait/loading/language_model.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size < 4) return 0;  // too short to be told from other files
  krait::CheckpointBytes file;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  constexpr std::string_view magic = "GGUF";
  for (std::size_t at = 0; at < size;) {
    const std::size_t end = std::min(text.find(magic, at + magic.size()), size);
    file.weights.push_back(bytes.subspan(at, end - at));
    at = end;
  }
  const auto checkpoint = krait::open_checkpoint(file);
  if (!checkpoint) {
    krait::test::check_error(checkpoint.error());
    return 0;
  }
  krait::test::check_tensors(checkpoint->weights);
  if (checkpoint->config.empty()) return 0;  // a file of another format
  const auto config = krait::read_config(*checkpoint);
  if (!config) {
    krait::test::check_error(config.error());
    return 0;
  }
  const auto tokenizer = krait::make_tokenizer(*checkpoint, *config);
  if (!tokenizer) krait::test::check_error(tokenizer.error());
  if (config->spec.layers.size() > 64) return 0;  // thousands of layers only take time
  const auto model = krait::build_model(config->spec, checkpoint->weights, config->prefix);
  if (!model) krait::test::check_error(model.error());
  return 0;
}
