#pragma once

/// \file
/// The forms of weights as messages list them.

#include <string>

#include "krait/weights/form.hpp"

namespace krait::test {

/// "f32, bf16, …".
inline std::string form_names() {
  std::string names;
  for (const WeightForm* form : weight_forms()) {
    if (!names.empty()) names += ", ";
    names += form->name();
  }
  return names;
}

}  // namespace krait::test
