#include "weights/forms/forms.hpp"

namespace krait {
inline namespace v0_1 {

std::span<const WeightForm* const> weight_forms() noexcept {
  static const WeightForm* const forms[] = {
      &f32_form(), &bf16_form(), &f16_form(),        &q8_form(),
      &q4_form(),  &aqlm_form(), &aqlm_exact_form(), &gguf_form(),
  };
  return forms;
}

}  // namespace v0_1
}  // namespace krait
