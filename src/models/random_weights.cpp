#include "krait/models/random_weights.hpp"

#include <cmath>

#include "krait/core/rng.hpp"
#include "krait/core/tensor.hpp"
#include "krait/models/model_plan.hpp"
#include "krait/weights/convert.hpp"

namespace krait {
inline namespace v0_1 {
namespace {

// Values of one tensor, as the Mamba authors initialise a model before training.
void fill(const TensorUse& use, RandomCounter at, float* values) {
  const Index size = use.shape.size();
  const Index in = use.shape.rank() > 0 ? use.shape[use.shape.rank() - 1] : 1;
  for (Index i = 0; i < size; ++i) {
    at.position = static_cast<std::uint64_t>(i);
    const double u = random_uniform(at);
    double value = 0.0;
    if (use.name.ends_with("A_log")) {
      value = std::log(static_cast<double>(i % in + 1));
    } else if (use.name.ends_with(".D") ||
               (use.shape.rank() == 1 && use.name.ends_with("weight"))) {
      value = 1.0;
    } else if (use.name.ends_with("dt_proj.bias") || use.name.ends_with("dt_bias")) {
      // dt log-uniform in [0.001, 0.1]; the bias is its inverse softplus.
      const double dt = std::exp(u * (std::log(0.1) - std::log(0.001)) + std::log(0.001));
      value = dt + std::log(-std::expm1(-dt));
    } else if (use.shape.rank() == 1) {
      value = 0.02 * (2.0 * u - 1.0);
    } else {
      value = std::sqrt(3.0 / static_cast<double>(in)) * (2.0 * u - 1.0);
    }
    values[i] = static_cast<float>(value);
  }
}

}  // namespace

Result<WeightStore> random_weights(const ModelSpec& spec, std::uint64_t seed,
                                   const std::string& prefix, DType dtype) {
  if (!is_float(dtype)) {
    return Error{ErrorCode::bad_argument,
                 "[random_weights] dtype: expected f32, f16 or bf16, found " +
                     std::string(to_string(dtype))};
  }
  // Without a store the plan lists every tensor under its full name.
  KRAIT_ASSIGN_OR_RETURN(const ModelPlan plan, plan_model(spec, nullptr, prefix));
  WeightStore store;
  std::uint32_t sequence = 0;
  for (const TensorUse& use : plan.tensors) {
    Tensor values(DType::f32, use.shape);
    fill(use, {.seed = seed, .sequence = sequence++}, values.as<float>().data());
    const bool is_matrix = use.role == TensorRole::matrix;
    auto stored = std::make_shared<Tensor>(is_matrix ? dtype : DType::f32, use.shape);
    convert_floats(values.view(), stored->dtype(), stored->data());
    const TensorView view = stored->view();
    store.add(use.name, view, std::move(stored));
  }
  return store;
}

}  // namespace v0_1
}  // namespace krait
