// A config.json or params.json from anywhere: it is refused, or the model it describes can be
// planned.
#include "krait/loading/registry.hpp"
#include "tests/fuzz/fuzz_target.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  krait::Checkpoint checkpoint;
  checkpoint.path = "input";
  checkpoint.config.assign(reinterpret_cast<const char*>(data), size);
  const auto config = krait::read_config(checkpoint);
  if (!config) {
    krait::test::check_error(config.error());
    return 0;
  }
  if (config->spec.layers.size() > 64) return 0;  // thousands of layers only take time
  const auto plan = krait::plan_model(config->spec);
  if (plan) {
    krait::test::demand(plan->parameters > 0);
  } else {
    krait::test::check_error(plan.error());
  }
  return 0;
}
