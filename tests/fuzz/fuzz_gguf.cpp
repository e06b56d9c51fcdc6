// A GGUF file from anywhere: it is refused, or its tensors can be read, its configuration is read
// or refused, and so is its vocabulary.
#include "krait/loading/language_model.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  if (size < 4) return 0;  // too short to be told from other files
  krait::CheckpointBytes file;
  file.weights = {bytes};
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
