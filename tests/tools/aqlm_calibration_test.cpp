#include "tools/aqlm/calibration.hpp"

#include <gtest/gtest.h>

#include <cmath>

#include "krait/core/rng.hpp"
#include "krait/core/thread_pool.hpp"
#include "krait/loading/registry.hpp"
#include "krait/text/tokenizer.hpp"
#include "krait/weights/convert.hpp"
#include "tests/support/support.hpp"

namespace krait::aqlm_calibration_test {
namespace {

// Normal random numbers, fixed.
std::vector<float> random_numbers(std::size_t count, std::uint64_t seed) {
  std::vector<float> values(count);
  for (std::size_t i = 0; i < count; ++i) {
    double sum = -6.0;
    for (std::uint32_t k = 0; k < 12; ++k) {
      sum += random_uniform({.seed = seed, .position = i, .draw = k});
    }
    values[i] = static_cast<float>(sum);
  }
  return values;
}

struct Inputs {
  static constexpr Index n = 400;
  static constexpr Index in = 6;
  static constexpr Index out = 4;
  std::vector<float> x = random_numbers(n * in, 1);
  std::vector<float> seen = random_numbers(n * in, 2);  // x̃
  std::vector<float> W = random_numbers(out * in, 3);

  double at(const std::vector<float>& values, Index t, Index i) const {
    return static_cast<double>(values[static_cast<std::size_t>(t * in + i)]);
  }
  aqlm::MatrixStatistics statistics() const {
    aqlm::MatrixStatistics result;
    result.inputs.in = in;
    result.rows = n;
    result.difference_rows = in;
    for (Index i = 0; i < in; ++i) {
      for (Index k = 0; k < in; ++k) {
        double H = 0.0;
        double D = 0.0;
        for (Index t = 0; t < n; ++t) {
          H += at(seen, t, i) * at(seen, t, k);
          D += (at(x, t, i) - at(seen, t, i)) * at(seen, t, k);
        }
        result.inputs.values.push_back(static_cast<float>(H / n));
        result.difference.push_back(D / n);
      }
    }
    return result;
  }
};

// The mean of ‖V x̃ − W x‖² + λ ‖V − W‖², with the λ that `correct` documents: a tenth of the mean
// of the diagonal.
double objective(const Inputs& inputs, const std::vector<float>& V, double ridge) {
  double sum = 0.0;
  for (Index r = 0; r < Inputs::out; ++r) {
    for (Index t = 0; t < Inputs::n; ++t) {
      double error = 0.0;
      for (Index i = 0; i < Inputs::in; ++i) {
        error += inputs.at(V, r, i) * inputs.at(inputs.seen, t, i) -
                 inputs.at(inputs.W, r, i) * inputs.at(inputs.x, t, i);
      }
      sum += error * error / Inputs::n;
    }
    for (Index i = 0; i < Inputs::in; ++i) {
      const double change = inputs.at(V, r, i) - inputs.at(inputs.W, r, i);
      sum += ridge * change * change;
    }
  }
  return sum;
}

TEST(AqlmCalibration, CorrectionHasTheLeastError) {
  Inputs inputs;
  // The quantised model's inputs are near the original's, and turned a little.
  for (std::size_t i = 0; i < inputs.x.size(); ++i) {
    inputs.seen[i] =
        inputs.x[i] + 0.3F * inputs.x[(i / 6) * 6 + (i + 1) % 6] + 0.1F * inputs.seen[i];
  }
  const aqlm::MatrixStatistics statistics = inputs.statistics();
  double ridge = 0.0;
  for (Index i = 0; i < Inputs::in; ++i) {
    ridge += static_cast<double>(statistics.inputs.values[static_cast<std::size_t>(i * 7)]);
  }
  ridge *= 0.1 / Inputs::in;
  std::vector<float> V = inputs.W;
  ThreadPool pool(2);
  statistics.correct(pool, {V.data(), Inputs::out, Inputs::in});
  const double least = objective(inputs, V, ridge);
  EXPECT_LT(least, 0.5 * objective(inputs, inputs.W, ridge));
  for (std::size_t i = 0; i < V.size(); ++i) {
    for (const float step : {-0.01F, 0.01F}) {
      std::vector<float> other = V;
      other[i] += step;
      EXPECT_GT(objective(inputs, other, ridge), least);
    }
  }
}

TEST(AqlmCalibration, NothingIsCorrectedWhereNothingDiffers) {
  Inputs inputs;
  inputs.seen = inputs.x;
  std::vector<float> V = inputs.W;
  SerialExecutor serial;
  inputs.statistics().correct(serial, {V.data(), Inputs::out, Inputs::in});
  EXPECT_EQ(V, inputs.W);
}

// Behind an input projection of zeros the output projection sees zeros where the original sees
// numbers; behind the original everything is as it was.
TEST(AqlmCalibration, SeesWhatTheQuantisedModelLost) {
  const std::string path = (test::bundled_models_dir() / "krait-bytes-draft").string();
  const CheckpointPlan plan = plan_checkpoint(path).value();
  const Model model =
      build_model(plan.config.spec, plan.checkpoint.weights, plan.config.prefix).value();
  ThreadPool pool(2);
  aqlm::Calibration calibration(plan, model, pool);
  const auto text = byte_tokenizer()->encode(std::string(1500, 'x') + " and more").value();
  ASSERT_TRUE(calibration.begin(text));
  const aqlm::MatrixPlace place{
      .path = "layers.0.mixer", .input = Site::mixed, .in = 128, .makes_output = true};
  const auto largest = [](const std::vector<double>& values) {
    double result = 0.0;
    for (const double value : values) result = std::max(result, std::abs(value));
    return result;
  };
  const auto same = calibration.see(0, {place}, false).value();
  EXPECT_EQ(same[0].rows, 1509);
  EXPECT_EQ(same[0].difference_rows, model.d_model());
  EXPECT_EQ(largest(same[0].difference), 0.0);
  EXPECT_GT(same[0].inputs.values[0], 0.0F);

  const std::string name = "backbone.layers.0.mixer.in_proj";
  const Shape shape = plan.checkpoint.weights.find(name + ".weight")->tensor.shape;
  auto halved = std::make_shared<AlignedBuffer<float>>(shape.size());
  const TensorView& weight = plan.checkpoint.weights.find(name + ".weight")->tensor;
  convert_floats(weight, DType::f32, halved->data());
  for (Index i = 0; i < halved->size(); ++i) (*halved)[i] *= 0.5F;
  calibration.replace(name, shape, halved);
  const auto other = calibration.see(0, {place}, false).value();
  EXPECT_GT(largest(other[0].difference), 0.0);
  EXPECT_LT(other[0].inputs.values[0], same[0].inputs.values[0]);
  ASSERT_TRUE(calibration.advance(0));
  // The streams have parted: the next layer's inputs differ.
  const auto next =
      calibration
          .see(1, {{.path = "layers.1.mixer", .input = Site::input, .in = model.d_model()}}, false)
          .value();
  EXPECT_GT(largest(next[0].difference), 0.0);
}

}  // namespace
}  // namespace krait::aqlm_calibration_test
