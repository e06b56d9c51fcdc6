// A model with other weights for some matrices: everything else is shared.

#include "krait/weights/overlay.hpp"

#include <gtest/gtest.h>

#include "krait/models/builder.hpp"
#include "krait/weights/form.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::overlay_test {
namespace {

const std::string matrix = "backbone.layers.1.mixer.in_proj";

// The parts of that matrix in q4, and what keeps them.
std::vector<NamedTensor> q4_parts(const WeightStore& weights, std::shared_ptr<const void>& owner) {
  const TensorView floats = weights.find(matrix + ".weight")->tensor;
  const RowForm& form = *find_form("q4")->row_form();
  const auto parts = form.parts(floats.shape[0], floats.shape[1]);
  auto memory = std::make_shared<std::vector<AlignedBuffer<std::byte>>>();
  std::vector<std::byte*> data;
  std::vector<NamedTensor> named;
  for (const WeightPart& part : parts) {
    memory->emplace_back(TensorView{nullptr, part.dtype, part.shape}.bytes());
    data.push_back(memory->back().data());
    named.push_back({part.name, {memory->back().data(), part.dtype, part.shape}});
  }
  SerialExecutor serial;
  EXPECT_FALSE(form.encode(serial, floats, data));
  owner = memory;
  return named;
}

TEST(Overlay, ReplacesOneMatrixAndSharesTheOthers) {
  const ModelSpec spec = test::tiny_spec();
  const WeightStore weights = random_weights(spec, 11, "backbone").value();
  const Model base = build_model(spec, weights, "backbone").value();

  WeightStore changed = weights;
  std::weak_ptr<const void> alive;
  {
    std::shared_ptr<const void> owner;
    const auto parts = q4_parts(weights, owner);
    replace_matrix(changed, matrix, "q4", parts, owner);
    alive = owner;
  }
  EXPECT_FALSE(changed.contains(matrix + ".weight"));
  EXPECT_TRUE(weights.contains(matrix + ".weight"));
  EXPECT_TRUE(weights.metadata.empty());
  const Model other = build_model(spec, changed, "backbone").value();
  changed = {};
  EXPECT_FALSE(alive.expired()) << "the model keeps it";

  ASSERT_EQ(base.plan().tensors.size(), other.plan().tensors.size());
  for (std::size_t i = 0; i < base.plan().tensors.size(); ++i) {
    const TensorUse& a = base.plan().tensors[i];
    const TensorUse& b = other.plan().tensors[i];
    EXPECT_EQ(a.name, b.name);
    if (a.name == matrix + ".weight") {
      EXPECT_EQ(b.form, "q4");
      EXPECT_EQ(b.placement, Placement::in_place);
    } else if (a.placement == Placement::in_place) {
      EXPECT_EQ(a.parts[0].data, b.parts[0].data) << a.name;
    }
  }
  EXPECT_TRUE(other.plan().unused.empty());
  EXPECT_NE(base.fingerprint(), other.fingerprint());

  const auto logits = [](const Model& model) {
    return test::all_logits(model, test::random_tokens(9, model.vocab(), 5));
  };
  EXPECT_FALSE(test::same_bits<float>(logits(base), logits(other)));
}

TEST(Overlay, GoesBackAndForth) {
  const ModelSpec spec = test::tiny_spec();
  const WeightStore weights = random_weights(spec, 11, "backbone").value();
  const Model base = build_model(spec, weights, "backbone").value();
  WeightStore changed = weights;
  std::shared_ptr<const void> owner;
  replace_matrix(changed, matrix, "q4", q4_parts(weights, owner), owner);
  replace_matrix(changed, matrix, "f32", {{"weight", weights.find(matrix + ".weight")->tensor}},
                 nullptr);
  EXPECT_FALSE(changed.contains(matrix + ".codes"));
  EXPECT_EQ(build_model(spec, changed, "backbone").value().fingerprint(), base.fingerprint());
}

TEST(Overlay, KeepsTheBiasAndWhatLiesBelow) {
  const std::vector<float> values(6);
  const TensorView tensor{values.data(), DType::f32, {2, 3}};
  WeightStore store;
  for (const char* name : {"p.weight", "p.bias", "p.q.weight", "pp.weight"}) {
    store.add(name, tensor, nullptr);
  }
  store.add_unreadable("p.mask", {.what = "BOOL [3]", .file = ""});
  replace_matrix(store, "p", "mine", {{"u", tensor}, {"v", tensor}}, nullptr);
  std::vector<std::string> names;
  for (const auto& [name, entry] : store.entries()) names.push_back(name);
  EXPECT_EQ(names, (std::vector<std::string>{"p.bias", "p.q.weight", "p.u", "p.v", "pp.weight"}));
  EXPECT_TRUE(store.unreadable().empty());
  EXPECT_EQ(store.metadata.at("krait.form:p"), "mine");
}

TEST(Overlay, OfTheWrongShapeIsRefusedWhenItIsBound) {
  const ModelSpec spec = test::tiny_spec();
  WeightStore weights = random_weights(spec, 11, "backbone").value();
  const std::vector<float> values(6);
  replace_matrix(weights, matrix, "f32", {{"weight", {values.data(), DType::f32, {2, 3}}}},
                 nullptr);
  const auto model = build_model(spec, weights, "backbone");
  ASSERT_FALSE(model);
  EXPECT_EQ(model.error().message,
            "[build] " + matrix + ".weight: expected [80,20], found f32 [2,3]");
}

}  // namespace
}  // namespace krait::overlay_test
