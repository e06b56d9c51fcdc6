#include "krait/models/model.hpp"

namespace krait::inline v0_1 {

std::string Model::describe() const { return plan().tree; }

}  // namespace krait::inline v0_1
