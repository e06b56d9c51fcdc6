#pragma once

/// \file
/// The small models that come with krait, found by name.

#include <string>
#include <string_view>
#include <vector>

#include "krait/core/error.hpp"

namespace krait {
inline namespace v0_1 {

/// The folders bundled models are looked for in, in this order: ../share/krait/models beside the
/// running program's folder, the installation this library was built for, the source tree.
KRAIT_API std::vector<std::string> bundled_model_places();

/// The folder of the bundled model of that name. The error lists the names there are.
KRAIT_API Result<std::string> bundled_model_path(std::string_view name);

}  // namespace v0_1
}  // namespace krait
