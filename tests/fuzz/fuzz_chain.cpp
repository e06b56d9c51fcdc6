// A whole checkpoint from anywhere, all of it tiny: configuration, tokenizer and weights, with a
// line
// "%%" between them. It is refused, or its model takes a step.
#include <string>
#include <string_view>

#include "krait/loading/registry.hpp"
#include "krait/models/session.hpp"
#include "krait/text/tokenizer.hpp"
#include "tests/fuzz/fuzz_target.hpp"

namespace {

using namespace krait;

constexpr Index most_bytes = Index{1} << 20;

std::string_view take_part(std::string_view& rest) {
  constexpr std::string_view separator = "\n%%\n";
  const std::size_t end = rest.find(separator);
  const std::string_view part = rest.substr(0, end);
  rest.remove_prefix(end == rest.npos ? rest.size() : end + separator.size());
  return part;
}

void check_model(const Checkpoint& checkpoint, const ModelConfig& config, const std::string& form) {
  const auto plan = plan_model(config.spec, &checkpoint.weights, config.prefix, {.form = form});
  if (!plan) return test::check_error(plan.error());
  if (plan->owned_bytes > most_bytes || plan->state_bytes > most_bytes ||
      plan->scratch_bytes_per_token > most_bytes) {
    return;
  }
  const auto model = build_model(config.spec, checkpoint.weights, config.prefix, {.form = form});
  if (!model) return test::check_error(model.error());
  SerialExecutor executor;
  Session session(*model, executor, {.chunk = 2, .max_batch = 1, .max_verify = 1});
  State state = model->initial_state();
  const auto logits = session.step(0, state);
  if (!logits) return test::check_error(logits.error());
  test::demand(state.position() == 1);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  std::string_view rest(reinterpret_cast<const char*>(data), size);
  CheckpointBytes bytes;
  bytes.config = take_part(rest);
  bytes.tokenizer = take_part(rest);
  const std::string weights(rest);  // at an address of its own
  bytes.weights = {std::as_bytes(std::span(weights))};
  const auto checkpoint = open_checkpoint(bytes);
  if (!checkpoint) {
    test::check_error(checkpoint.error());
    return 0;
  }
  auto config = read_config(*checkpoint);
  if (!config) {
    test::check_error(config.error());
    return 0;
  }
  if (config->spec.layers.size() > 8) return 0;
  if (!checkpoint->tokenizer.empty()) {
    const auto tokenizer = read_tokenizer_json(checkpoint->tokenizer);
    if (!tokenizer) {
      test::check_error(tokenizer.error());
      return 0;
    }
    config->limit_vocab((*tokenizer)->vocab());
  }
  for (const std::string form : {"file", "f16", "q4"}) {
    check_model(*checkpoint, *config, form);
  }
  return 0;
}
