#include "krait/models/builder.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <memory>

#include "krait/core/tensor.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::builder_test {
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

// Without a layer is as if it wrote nothing into the stream.
TEST(ModelBuilder, LayersCanBeSkipped) {
  const ModelSpec spec = tiny_spec(3);
  const WeightStore weights = random_weights(spec, 1, "backbone").value();
  const std::string name = "backbone.layers.1.mixer.out_proj.weight";
  const TensorView stored = weights.find(name)->tensor;
  const std::vector<float> zeros(static_cast<std::size_t>(stored.size()));
  WeightStore silent = weights;
  silent.add(name, {zeros.data(), DType::f32, stored.shape}, nullptr);
  const Index layers[] = {1, 1};
  const ModelSpec shorter = without_layers(spec, layers).value();
  EXPECT_EQ(shorter.layers.size(), 2U);
  const std::vector<Token> tokens = {5, 1, 60, 33, 2};
  const auto logits = [&](const Model& model) { return test::all_logits(model, tokens); };
  const auto expected = logits(build_model(spec, silent, "backbone").value());
  EXPECT_EQ(logits(build_model(shorter, weights, "backbone").value()), expected);
  EXPECT_NE(logits(build_model(spec, weights, "backbone").value()), expected);

  const Index all[] = {0, 1, 2};
  EXPECT_EQ(without_layers(spec, all).error().message,
            "[model] layers to skip: expected fewer than all 3, found all");
  const Index none[] = {3};
  EXPECT_EQ(without_layers(spec, none).error().message,
            "[model] layer to skip: expected 0 to 2, found 3");
  EXPECT_EQ(without_layers(test::tiny_shared_spec(), layers).error().code, ErrorCode::unsupported);
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

TEST(ModelBuilder, MissingTensorsAreNamedBesideThoseThatAreThere) {
  const ModelSpec spec = tiny_spec();
  const auto absent =
      build_model(spec, random_weights(spec, 1, "other\x1b[31m").value(), "backbone");
  ASSERT_FALSE(absent);
  EXPECT_NE(
      absent.error().message.find("; it has other?[31m.embedding.weight, other?[31m.layers.0."),
      std::string::npos)
      << absent.error().message;
  EXPECT_NE(absent.error().message.find(", …"), std::string::npos);
  // The list comes before any other fault, whatever the form.
  WeightStore weights = without(random_weights(spec, 1, "").value(), "norm_f");
  static const float values[3] = {};
  weights.add("embedding.weight", {values, DType::f32, {3}}, nullptr);
  for (const std::string form : {"file", "bf16"}) {
    const auto result = build_model(spec, weights, "", {.form = form});
    ASSERT_FALSE(result);
    EXPECT_EQ(result.error().code, ErrorCode::missing_tensor) << result.error().message;
  }
}

TEST(ModelBuilder, TensorsThatKraitCannotHoldAreRefusedWhereTheyAreNeeded) {
  const ModelSpec spec = tiny_spec();
  WeightStore weights = random_weights(spec, 1, "").value();
  weights.add_unreadable("extra", {"U16 [3]", "a.safetensors"});
  const auto plan = build_model(spec, weights).value().plan();
  EXPECT_EQ(plan.unused, std::vector<std::string>{"extra"});
  weights.add_unreadable("layers.0.mixer.D", {"F8_E4M3 [40]", "a.safetensors"});
  const auto result = build_model(spec, weights);
  ASSERT_FALSE(result);
  EXPECT_EQ(result.error().code, ErrorCode::dtype_mismatch);
  EXPECT_EQ(result.error().message,
            "[build] layers.0.mixer.D: expected f32, f16, bf16 or f64 [40], found F8_E4M3 [40] "
            "(a.safetensors)");
}

// The weights with those whose names hold `part` in f64.
WeightStore in_f64(const WeightStore& weights, std::string_view part) {
  WeightStore result = weights;
  for (const auto& [name, entry] : weights.entries()) {
    if (name.find(part) == std::string::npos) continue;
    auto wide = std::make_shared<Tensor>(DType::f64, entry.tensor.shape);
    auto* values = static_cast<double*>(wide->data());
    for (Index i = 0; i < entry.tensor.size(); ++i) {
      values[i] = static_cast<double>(static_cast<const float*>(entry.tensor.data)[i]);
    }
    const TensorView view = wide->view();
    result.add(name, view, std::move(wide), "a.safetensors");
  }
  return result;
}

TEST(ModelBuilder, ConvertsWeightsInF64) {
  const ModelSpec spec = tiny_spec();
  const WeightStore weights = random_weights(spec, 1, "").value();
  for (const std::string form : {"file", "bf16", "q8"}) {
    const std::string expected =
        build_model(spec, weights, "", {.form = form}).value().fingerprint();
    for (const char* part : {"", "A_log", "weight"}) {
      const auto model = build_model(spec, in_f64(weights, part), "", {.form = form});
      ASSERT_TRUE(model) << model.error().message;
      EXPECT_EQ(model->fingerprint(), expected) << part << " " << form;
    }
  }
  const ModelPlan plan = plan_model(spec, nullptr).value();
  const WeightStore wide = in_f64(weights, "");
  EXPECT_EQ(plan_model(spec, &wide).value().owned_bytes, plan.in_place_bytes + plan.owned_bytes);
}

TEST(ModelBuilder, RefusesWeightsThatANarrowerFormCannotHold) {
  const ModelSpec spec = tiny_spec();
  const auto message = [&](double value, const std::string& form, DType dtype = DType::f32,
                           const std::string& name = "layers.1.mixer.in_proj.weight") {
    WeightStore weights = random_weights(spec, 1, "").value();
    if (dtype == DType::f64) weights = in_f64(weights, name);
    const TensorView stored = weights.find(name)->tensor;
    auto changed = std::make_shared<Tensor>(dtype, stored.shape);
    std::memcpy(changed->data(), stored.data, static_cast<std::size_t>(stored.bytes()));
    const Index at = stored.size() - 2;
    if (dtype == DType::f64) {
      static_cast<double*>(changed->data())[at] = value;
    } else {
      static_cast<float*>(changed->data())[at] = static_cast<float>(value);
    }
    const TensorView view = changed->view();
    weights.add(name, view, std::move(changed), "a.safetensors");
    const auto model = build_model(spec, weights, "", {.form = form});
    return model ? "built" : model.error().message;
  };
  const std::string name = "[build] layers.1.mixer.in_proj.weight: expected weights that ";
  const std::string place = " (element [79,18]) (a.safetensors)";
  EXPECT_EQ(message(65519.0, "f16"), "built");
  EXPECT_EQ(message(65520.0, "f16"), name + "f16 can hold (at most 65504), found 65520" + place);
  EXPECT_EQ(message(-1e30, "f16"), name + "f16 can hold (at most 65504), found -1e+30" + place);
  EXPECT_EQ(message(std::nan(""), "f16"), name + "f16 can hold (at most 65504), found nan" + place);
  EXPECT_EQ(message(3.3e38, "bf16"), "built");
  EXPECT_EQ(message(3.4e38, "bf16"),
            name + "bf16 can hold (at most 3.38953e+38), found 3.4e+38" + place);
  EXPECT_EQ(message(-HUGE_VAL, "bf16"),
            name + "bf16 can hold (at most 3.38953e+38), found -inf" + place);
  EXPECT_EQ(message(3.4e38, "file", DType::f64), "built");
  EXPECT_EQ(message(1e39, "file", DType::f64),
            name + "f32 can hold (at most 3.40282e+38), found 1e+39" + place);
  EXPECT_EQ(message(1e39, "q8", DType::f64),
            name + "f32 can hold (at most 3.40282e+38), found 1e+39" + place);
  EXPECT_EQ(message(70000.0, "f16", DType::f64),
            name + "f16 can hold (at most 65504), found 70000" + place);
  EXPECT_EQ(message(-1e300, "file", DType::f64, "layers.0.mixer.A_log"),
            "[build] layers.0.mixer.A_log: expected weights that f32 can hold (at most "
            "3.40282e+38), found -1e+300 (element [39,3]) (a.safetensors)");
  EXPECT_EQ(message(1e39, "file", DType::f64, "layers.0.mixer.D"),
            "[build] layers.0.mixer.D: expected weights that f32 can hold (at most 3.40282e+38), "
            "found 1e+39 (element [38]) (a.safetensors)");
}

// A tied matrix may be stored under either name, or under both.
TEST(ModelBuilder, TiedWeightsMayBeUnderTheHeadsName) {
  const ModelSpec spec = tiny_spec();
  ASSERT_TRUE(spec.tied_head);
  const WeightStore usual = random_weights(spec, 1, "backbone").value();
  WeightStore both = usual;
  both.add(spec.head_name + ".weight", usual.find("backbone.embedding.weight")->tensor, nullptr);
  const WeightStore head_only = without(both, "backbone.embedding.weight");
  for (const std::string form : {"file", "bf16", "q4"}) {
    const WeightOptions options{.form = form};
    const Model model = build_model(spec, usual, "backbone", options).value();
    for (const WeightStore* weights :
         std::initializer_list<const WeightStore*>{&both, &head_only}) {
      const auto other = build_model(spec, *weights, "backbone", options);
      ASSERT_TRUE(other) << other.error().message;
      EXPECT_EQ(other->fingerprint(), model.fingerprint());
      EXPECT_EQ(other->plan().owned_bytes, model.plan().owned_bytes);
      EXPECT_EQ(other->plan().parameters, model.plan().parameters);
      EXPECT_EQ(other->plan().bytes_per_token, model.plan().bytes_per_token);
      EXPECT_TRUE(other->plan().unused.empty());
    }
  }
  ModelSpec untied = spec;
  untied.tied_head = false;
  EXPECT_EQ(build_model(untied, usual, "backbone").error().code, ErrorCode::missing_tensor);
  EXPECT_EQ(build_model(untied, head_only, "backbone").error().code, ErrorCode::missing_tensor);
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

// Weights of `tiny_expert_spec` with one tensor changed: the message of the error.
std::string message_with(const std::string& name, const Shape& shape, float value = 0.5F) {
  const ModelSpec spec = test::tiny_expert_spec();
  WeightStore weights = random_weights(spec, 1, "backbone").value();
  const std::vector<float> values(static_cast<std::size_t>(shape.size()), value);
  weights.add("backbone." + name, {values.data(), DType::f32, shape}, nullptr, "a.safetensors");
  const auto model = build_model(spec, weights, "backbone");
  return model ? "built" : model.error().message;
}

TEST(ModelBuilder, RefusesExpertsThatAreNotTheConfigurations) {
  const std::string moe0 = "layers.0.moe.";  // stacked, 5 experts of 23
  const std::string moe1 = "layers.1.moe.";  // with names of their own, gated, with biases
  EXPECT_EQ(message_with(moe0 + "router.weight", {5, 20}), "built");
  EXPECT_EQ(message_with(moe0 + "router.weight", {4, 20}),
            "[build] backbone.layers.0.moe.router.weight: expected [5,20], found f32 [4,20] "
            "(a.safetensors)");
  EXPECT_EQ(message_with(moe0 + "up_proj.weight", {6, 23, 20}),
            "[build] backbone.layers.0.moe.up_proj.weight: expected [5,23,20], found f32 "
            "[6,23,20] (a.safetensors)");
  EXPECT_EQ(message_with(moe0 + "down_proj.weight", {5, 23, 20}),
            "[build] backbone.layers.0.moe.down_proj.weight: expected [5,20,23], found f32 "
            "[5,23,20] (a.safetensors)");
  EXPECT_EQ(message_with(moe0 + "down_proj.weight", {20, 23}),
            "[build] backbone.layers.0.moe.down_proj.weight: expected [5,20,23], found f32 "
            "[20,23] (a.safetensors)");
  EXPECT_EQ(message_with(moe1 + "experts.2.up_proj.weight", {23, 20}),
            "[build] backbone.layers.1.moe.experts.2.up_proj.weight: expected [46,20], found f32 "
            "[23,20] (a.safetensors)");
  EXPECT_EQ(message_with(moe1 + "shared_expert.down_proj.weight", {20, 8}),
            "[build] backbone.layers.1.moe.shared_expert.down_proj.weight: expected [20,9], found "
            "f32 [20,8] (a.safetensors)");
  EXPECT_EQ(message_with(moe1 + "router.bias", {4}),
            "[build] backbone.layers.1.moe.router.bias: expected [5], found f32 [4] "
            "(a.safetensors)");

  const ModelSpec spec = test::tiny_expert_spec();
  const WeightStore weights = random_weights(spec, 1, "backbone").value();
  const auto lacking = build_model(spec, without(weights, "layers.1.moe.experts.3"), "backbone");
  ASSERT_FALSE(lacking);
  EXPECT_EQ(lacking.error().code, ErrorCode::missing_tensor);
  const std::string expert = "backbone.layers.1.moe.experts.3.";
  EXPECT_NE(lacking.error().message.find("missing: " + expert + "up_proj.weight, " + expert +
                                         "up_proj.bias, " + expert + "down_proj.weight, " + expert +
                                         "down_proj.bias"),
            std::string::npos)
      << lacking.error().message;
}

TEST(ModelBuilder, RefusesRoutersThatAreNoNumbers) {
  const float infinity = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(message_with("layers.0.moe.router.weight", {5, 20}, nan),
            "[build] backbone.layers.0.moe.router.weight: expected finite numbers, found nan "
            "(expert 0)");
  EXPECT_EQ(message_with("layers.1.moe.router.bias", {5}, -infinity),
            "[build] backbone.layers.1.moe.router.bias: expected finite numbers, found -inf "
            "(expert 0)");
  EXPECT_EQ(message_with("layers.1.moe.router.e_score_correction_bias", {5}, infinity),
            "[build] backbone.layers.1.moe.router.e_score_correction_bias: expected finite "
            "numbers, found inf (expert 0)");
}

TEST(ModelBuilder, RefusesBlocksThatDescribeNothing) {
  const auto message = [](const BlockSpec& block) {
    ModelSpec spec = tiny_spec();
    spec.layers[1].residuals[0].block = block;
    const auto plan = plan_model(spec);
    return plan ? "planned" : plan.error().message;
  };
  constexpr Index huge = Index{1} << 40;
  EXPECT_EQ(message(MoeSpec{.n_expert = 4, .top_k = 4}), "planned");
  EXPECT_EQ(message(MoeSpec{.n_expert = 0}), "[spec] n_expert: expected 1 to 4096, found 0");
  EXPECT_EQ(message(MoeSpec{.n_expert = huge}),
            "[spec] n_expert: expected 1 to 4096, found 1099511627776");
  EXPECT_EQ(message(MoeSpec{.n_expert = 4, .top_k = 5}),
            "[spec] top_k: expected 1 to n_expert (4), found 5");
  EXPECT_EQ(message(MoeSpec{.top_k = 0}), "[spec] top_k: expected 1 to n_expert (8), found 0");
  EXPECT_EQ(message(MoeSpec{.d_expert = huge}),
            "[spec] d_expert: expected 1 to 268435456, found 1099511627776");
  EXPECT_EQ(message(MoeSpec{.d_shared = -1}), "[spec] d_shared: expected 1 to 268435456, found -1");
  EXPECT_EQ(message(MoeSpec{.router = {.scale = 0.0F}}),
            "[spec] router scale: expected a positive number, found 0");
  EXPECT_EQ(message(MoeSpec{.bias = true}),
            "[spec] bias: expected experts of their own tensors, found stacked ones");
  EXPECT_EQ(message(MlpSpec{.d_hidden = -1}), "[spec] d_hidden: expected 1 to 268435456, found -1");
  EXPECT_EQ(message(Mamba2Spec{.head_dim = 10}), "planned");
  EXPECT_EQ(message(Mamba2Spec{.head_dim = 7}),
            "[spec] head_dim: expected a divisor of d_ssm (40), found 7");
  EXPECT_EQ(message(Mamba2Spec{.head_dim = 10, .n_group = 3}),
            "[spec] n_group: expected a divisor of the number of heads (4), found 3");
  EXPECT_EQ(message(Mamba2Spec{.head_dim = 10, .d_ssm = 50}),
            "[spec] d_ssm: expected at most d_inner (40), found 50");
  EXPECT_EQ(message(Mamba2Spec{.head_dim = 10, .dt_min = 0.2F, .dt_max = 0.1F}),
            "[spec] dt limits: expected 0 <= lower <= upper, found 0.2 and 0.1");
  EXPECT_EQ(message(Mamba2Spec{.d_conv = Index{1} << 27, .head_dim = 10}).find("[spec] d_conv"),
            0U);
  EXPECT_EQ(message(Mamba2Spec{.d_state = Index{1} << 27, .head_dim = 10}).find("[spec] d_ssm"),
            0U);
  EXPECT_EQ(message(MambaSpec{.d_conv = Index{1} << 27}).find("[spec] d_conv"), 0U);
}

TEST(ModelBuilder, RefusesMoreThanAnyMemoryHolds) {
  ModelSpec spec = tiny_spec();
  spec.layers.assign(4096, {{{"norm", RmsNormSpec{}, "moe", MoeSpec{.n_expert = 64}}}});
  const auto experts = plan_model(spec);
  ASSERT_FALSE(experts);
  EXPECT_EQ(experts.error().message,
            "[spec] n_expert: expected at most 65536 in all layers, found more");
  spec.embedding.d_model = Index{1} << 26;
  spec.layers.assign(4096, {{{"norm", RmsNormSpec{}, "mlp", MlpSpec{}}}});
  const auto weights = plan_model(spec);
  ASSERT_FALSE(weights);
  EXPECT_EQ(weights.error().message,
            "[spec] weights: expected at most 1152921504606846976 bytes, found more");
}

TEST(ModelBuilder, UsesWeightsWhereTheyLie) {
  const ModelSpec spec = tiny_spec();
  const WeightStore weights = random_weights(spec, 1, "backbone", DType::bf16).value();
  const Model model = build_model(spec, weights, "backbone").value();
  for (const TensorUse& use : model.plan().tensors) {
    const bool is_derived = use.name.ends_with("A_log") || use.name.ends_with("conv1d.weight");
    EXPECT_EQ(use.placement, is_derived ? Placement::derived : Placement::in_place) << use.name;
  }
  EXPECT_EQ(model.plan().tensors.front().parts.front().data,
            weights.find("backbone.embedding.weight")->tensor.data);
  EXPECT_EQ(&model.parts().head.matrix(), &model.parts().embedding.tied_head().matrix());
  const Model widened = build_model(spec, weights, "backbone", {.form = "f32"}).value();
  EXPECT_GT(widened.plan().owned_bytes, model.plan().owned_bytes);
}

TEST(ModelBuilder, TheFingerprintTellsModelsApart) {
  const ModelSpec spec = tiny_spec();
  const auto fingerprint = [](const ModelSpec& s, std::uint64_t seed, DType dtype = DType::f32,
                              const std::string& form = "file") {
    const WeightStore weights = random_weights(s, seed, "", dtype).value();
    return build_model(s, weights, "", {.form = form}).value().fingerprint();
  };
  const std::string base = fingerprint(spec, 1);
  EXPECT_EQ(base, fingerprint(spec, 1));
  EXPECT_NE(base, fingerprint(spec, 2));
  EXPECT_NE(base, fingerprint(tiny_spec(3), 1));
  EXPECT_NE(base, fingerprint(spec, 1, DType::f32, "bf16")) << "rounded weights";
  EXPECT_EQ(fingerprint(spec, 1, DType::bf16), fingerprint(spec, 1, DType::bf16, "f32"))
      << "the same values";
  ModelSpec other = spec;
  other.final_norm = RmsNormSpec{1e-6F};
  EXPECT_NE(base, fingerprint(other, 1));
}

// Edits that leave the ends of a matrix alone.
TEST(ModelBuilder, TheFingerprintSeesEditedMatrices) {
  ModelSpec spec = tiny_spec(1);
  spec.embedding.vocab = 4096;
  spec.embedding.vocab_padded = 0;
  spec.embedding.d_model = 64;
  for (const DType dtype : {DType::f32, DType::bf16}) {
    const WeightStore weights = random_weights(spec, 1, "", dtype).value();
    const TensorView matrix = weights.find("embedding.weight")->tensor;
    const Index cols = matrix.shape[1];
    const Index width = bytes_of(dtype);
    const auto edited = [&](Index first_row, Index rows, const std::string& form) {
      auto copy = std::make_shared<Tensor>(dtype, matrix.shape);
      std::memcpy(copy->data(), matrix.data, static_cast<std::size_t>(matrix.bytes()));
      auto* bytes = static_cast<std::byte*>(copy->data());
      for (Index i = first_row * cols; i < (first_row + rows) * cols; ++i) {
        bytes[(i + 1) * width - 1] ^= std::byte{0x80};  // the sign
      }
      WeightStore changed = weights;
      const TensorView view = copy->view();
      changed.add("embedding.weight", view, std::move(copy));
      return build_model(spec, changed, "", {.form = form}).value().fingerprint();
    };
    for (const std::string form : {"file", "q8"}) {
      const std::string base = edited(0, 0, form);
      EXPECT_NE(edited(100, 3900, form), base) << "all but the ends";
      for (Index first = 64; first + 128 < 4096; first += 128) {
        EXPECT_NE(edited(first, 128, form), base) << "a block of rows from " << first;
      }
    }
  }
  // A small tensor is seen whole: every row of it counts.
  const ModelSpec small = tiny_spec(1);
  const WeightStore weights = random_weights(small, 1, "").value();
  const TensorView matrix = weights.find("layers.0.mixer.in_proj.weight")->tensor;
  const std::string base = build_model(small, weights).value().fingerprint();
  for (Index row = 0; row < matrix.shape[0]; ++row) {
    auto copy = std::make_shared<Tensor>(DType::f32, matrix.shape);
    std::memcpy(copy->data(), matrix.data, static_cast<std::size_t>(matrix.bytes()));
    static_cast<float*>(copy->data())[row * matrix.shape[1] + row % matrix.shape[1]] += 1.0F;
    WeightStore changed = weights;
    const TensorView view = copy->view();
    changed.add("layers.0.mixer.in_proj.weight", view, std::move(copy));
    EXPECT_NE(build_model(small, changed).value().fingerprint(), base) << row;
  }
}

}  // namespace
}  // namespace krait::builder_test
