#include "krait/models/model.hpp"

namespace krait {
inline namespace v0_1 {

std::string Model::describe() const { return plan().tree; }

}  // namespace v0_1
}  // namespace krait
