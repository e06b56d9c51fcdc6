#pragma once

// What the self-rewarding loop writes of its iterations.

#include <string>

#include "krait/training/self_reward.hpp"

namespace krait {
inline namespace v0_1 {
namespace training {

std::string to_json(const ModelReport& report);
// `iteration` from 1.
std::string to_json(const IterationReport& report, Index iteration);
std::string to_json(const SelfRewardReport& report);
// What `to_json` wrote. Errors: bad_format.
Result<ModelReport> read_model_report(std::string_view json, const std::string& name);
Result<IterationReport> read_iteration_report(std::string_view json, const std::string& name);

// The course of what is measured, as SVG.
std::string picture(const SelfRewardReport& report);

}  // namespace training
}  // namespace v0_1
}  // namespace krait
