#include "krait/models/builder.hpp"

#include <gtest/gtest.h>

#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait {
namespace {

using test::tiny_spec;

WeightStore without(const WeightStore& weights, std::string_view part) {
  WeightStore result;
  for (const auto& owner : weights.owners()) result.keep(owner);
  for (const auto& [name, entry] : weights.entries()) {
    if (name.find(part) == std::string::npos) result.add(name, entry.tensor, nullptr, entry.file);
  }
  return result;
}

TEST(ModelBuilder, RecordsWhatAConfigurationWouldGive) {
  const ModelSpec a = tiny_spec();
  const ModelSpec b = tiny_spec();
  EXPECT_EQ(a, b);
  EXPECT_EQ(a.layers.size(), 2U);
  EXPECT_NE(a, tiny_spec(3));
}

TEST(ModelBuilder, PlansWithoutAllocating) {
  const ModelSpec spec = tiny_spec();
  const ModelPlan plan = plan_model(spec).value();
  // embedding 64x20; per layer in_proj 80x20, conv 40x4 + 40, x_proj 13x40, dt_proj 40x3 + 40,
  // A 40x5, D 40, out_proj 20x40, norm 20; final norm 20.
  const Index layer = 80 * 20 + 40 * 4 + 40 + 13 * 40 + 40 * 3 + 40 + 40 * 5 + 40 + 20 * 40 + 20;
  EXPECT_EQ(plan.parameters, 64 * 20 + 2 * layer + 20);
  // [3, 40] and [3, 5, 16] a layer, each rounded up to 16 floats.
  EXPECT_EQ(plan.state_bytes, 2 * (128 + 240) * 4);
  EXPECT_EQ(plan.state_tensors.size(), 4U);
  EXPECT_NE(plan.tree.find("layers.0 to 1"), std::string::npos) << plan.tree;
  EXPECT_NE(plan.tree.find("Mamba, d_inner 40, d_state 5, dt_rank 3"), std::string::npos);
}

TEST(ModelBuilder, ListsAllMissingTensorsUpToTen) {
  const ModelSpec spec = tiny_spec();
  const WeightStore weights = random_weights(spec, 1, "backbone").value();
  const auto one = build_model(spec, without(weights, "layers.1.mixer.D"), "backbone");
  ASSERT_FALSE(one);
  EXPECT_EQ(one.error().code, ErrorCode::missing_tensor);
  EXPECT_NE(one.error().message.find("missing: backbone.layers.1.mixer.D"), std::string::npos)
      << one.error().message;

  const auto many = build_model(spec, without(weights, "mixer"), "backbone");
  ASSERT_FALSE(many);
  EXPECT_NE(many.error().message.find("(18 in all)"), std::string::npos) << many.error().message;
  EXPECT_EQ(many.error().message.find('\n'), std::string::npos);

  EXPECT_FALSE(build_model(spec, weights, "wrong_prefix"));
}

TEST(ModelBuilder, RefusesWrongShapesAndTypes) {
  const ModelSpec spec = tiny_spec();
  WeightStore weights = random_weights(spec, 1, "backbone").value();
  static const float values[40] = {};
  weights.add("backbone.layers.0.mixer.D", {values, DType::f32, {39}}, nullptr, "a.safetensors");
  const auto shape = build_model(spec, weights, "backbone");
  ASSERT_FALSE(shape);
  EXPECT_EQ(shape.error().code, ErrorCode::shape_mismatch);
  EXPECT_EQ(shape.error().message,
            "[build] backbone.layers.0.mixer.D: expected [40], found f32 [39] (a.safetensors)");

  weights.add("backbone.layers.0.mixer.D", {values, DType::i32, {40}}, nullptr);
  const auto type = build_model(spec, weights, "backbone");
  ASSERT_FALSE(type);
  EXPECT_EQ(type.error().code, ErrorCode::dtype_mismatch);
}

TEST(ModelBuilder, RefusesSpecsThatDescribeNoModel) {
  const WeightStore none;
  const auto code = [&](const ModelSpec& spec) { return build_model(spec, none).error().code; };
  ModelSpec spec = tiny_spec();
  spec.embedding.vocab = 0;
  EXPECT_EQ(code(spec), ErrorCode::bad_config);
  spec = tiny_spec();
  spec.layers.clear();
  EXPECT_EQ(code(spec), ErrorCode::bad_config);
  spec = tiny_spec();
  std::get<MambaSpec>(spec.layers[0].residuals[0].block).d_state = Index{1} << 40;
  EXPECT_EQ(code(spec), ErrorCode::bad_config);
  spec = tiny_spec();
  spec.final_norm = RmsNormSpec{-1.0F};
  EXPECT_EQ(code(spec), ErrorCode::bad_config);
  spec = tiny_spec();
  spec.embedding.vocab_padded = 5;
  EXPECT_EQ(code(spec), ErrorCode::bad_config);
}

TEST(ModelBuilder, UsesWeightsWhereTheyLie) {
  const ModelSpec spec = tiny_spec();
  const WeightStore weights = random_weights(spec, 1, "backbone", DType::bf16).value();
  const Model model = build_model(spec, weights, "backbone").value();
  for (const TensorUse& use : model.plan().tensors) {
    const bool is_derived = use.name.ends_with("A_log") || use.name.ends_with("conv1d.weight");
    EXPECT_EQ(use.placement, is_derived ? Placement::derived : Placement::in_place) << use.name;
  }
  const auto& head = std::get<DenseLinear>(model.parts().head.form());
  EXPECT_EQ(head.W.data, weights.find("backbone.embedding.weight")->tensor.data);
  const Model widened = build_model(spec, weights, "backbone", {.form = WeightForm::f32}).value();
  EXPECT_GT(widened.plan().owned_bytes, model.plan().owned_bytes);
}

TEST(ModelBuilder, TheFingerprintTellsModelsApart) {
  const ModelSpec spec = tiny_spec();
  const auto fingerprint = [](const ModelSpec& s, std::uint64_t seed, DType dtype = DType::f32,
                              WeightForm form = WeightForm::file) {
    const WeightStore weights = random_weights(s, seed, "", dtype).value();
    return build_model(s, weights, "", {.form = form}).value().fingerprint();
  };
  const std::string base = fingerprint(spec, 1);
  EXPECT_EQ(base, fingerprint(spec, 1));
  EXPECT_NE(base, fingerprint(spec, 2));
  EXPECT_NE(base, fingerprint(tiny_spec(3), 1));
  EXPECT_NE(base, fingerprint(spec, 1, DType::f32, WeightForm::bf16)) << "rounded weights";
  EXPECT_EQ(fingerprint(spec, 1, DType::bf16), fingerprint(spec, 1, DType::bf16, WeightForm::f32))
      << "the same values";
  ModelSpec other = spec;
  other.final_norm = RmsNormSpec{1e-6F};
  EXPECT_NE(base, fingerprint(other, 1));
}

}  // namespace
}  // namespace krait
