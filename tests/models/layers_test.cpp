// Runs of single layers, and the matrices that blocks say they have.

#include <gtest/gtest.h>

#include <map>
#include <set>

#include "krait/core/thread_pool.hpp"
#include "krait/models/session.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::layers_test {
namespace {

using test::same_bits;

std::vector<Model> models() {
  return {test::tiny_model(), test::tiny_model(test::tiny_mamba2_spec(), DType::f32),
          test::tiny_model(test::tiny_expert_spec(), DType::f32),
          test::tiny_model(test::tiny_hybrid_spec(), DType::f32)};
}

TEST(Layers, RunOneAfterAnotherGiveTheBitsOfTheWholeModel) {
  for (const Model& model : models()) {
    SCOPED_TRACE(model.spec().family);
    ThreadPool pool(2);
    Session session(model, pool, {.chunk = 24});
    const auto tokens = test::random_tokens(61, model.vocab(), 1);
    const Index count = std::ssize(tokens);
    std::vector<float> expected(static_cast<std::size_t>(count * model.vocab_padded()));
    State whole = model.initial_state();
    ASSERT_TRUE(session.prefill_all(tokens, whole, {expected.data(), count, model.vocab_padded()}));

    std::vector<float> x(static_cast<std::size_t>(count * model.d_model()));
    const MatrixView<float> rows(x.data(), count, model.d_model());
    ASSERT_TRUE(session.embed(tokens, rows));
    const Index layers = std::ssize(model.spec().layers);
    for (Index layer = 0; layer < layers; ++layer) {
      State state = model.initial_state();
      // In two parts, the second of which goes on from the first.
      ASSERT_TRUE(session.run_layers({layer, layer + 1}, rows.rows_from(0, 20), state));
      ASSERT_TRUE(session.run_layers({layer, layer + 1}, rows.rows_from(20, count - 20), state));
      EXPECT_EQ(state.position(), count);
    }
    std::vector<float> found(expected.size());
    ASSERT_TRUE(session.unembed(rows, {found.data(), count, model.vocab_padded()}));
    EXPECT_TRUE(same_bits<float>(found, expected));

    ASSERT_TRUE(session.embed(tokens, rows));
    State state = model.initial_state();
    ASSERT_TRUE(session.run_layers({0, layers}, rows, state));
    ASSERT_TRUE(session.unembed(rows, {found.data(), count, model.vocab_padded()}));
    EXPECT_TRUE(same_bits<float>(found, expected));
    EXPECT_TRUE(session.run_layers({1, 1}, rows, state));
  }
}

TEST(Layers, WhatDoesNotFitIsAnError) {
  const Model model = test::tiny_model();
  SerialExecutor serial;
  Session session(model, serial);
  std::vector<float> memory(static_cast<std::size_t>(2 * model.vocab_padded() + model.d_model()));
  const MatrixView<float> x(memory.data(), 2, model.d_model());
  State state = model.initial_state();
  const Index layers = std::ssize(model.spec().layers);
  EXPECT_EQ(session.run_layers({0, layers + 1}, x, state).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(session.run_layers({-1, 1}, x, state).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(session.run_layers({1, 0}, x, state).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(session.run_layers({0, 1}, x.cols_from(0, 3), state).error().code,
            ErrorCode::bad_argument);
  State none;
  EXPECT_EQ(session.run_layers({0, 1}, x, none).error().code, ErrorCode::incompatible_state);
  const Token too_large[] = {0, static_cast<Token>(model.vocab_padded())};
  EXPECT_EQ(session.embed(too_large, x).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(session.embed({too_large, 1}, x).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(session.unembed(x, x).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(state.position(), 0);
}

// Collects the widths that a hook sees, by path, site and expert.
struct Widths final : ActivationHook {
  void at(const ActivationPlace& place, MatrixView<float> values) noexcept override {
    seen[{std::string(place.path), place.site, place.expert}] = values.cols;
  }
  std::map<std::tuple<std::string, Site, Index>, Index> seen;
};

TEST(BlockMatrices, AreThoseThatAreBoundAndReadWhatTheirSitesShow) {
  for (const Model& model : models()) {
    const ModelSpec& spec = model.spec();
    SCOPED_TRACE(to_string(spec));
    std::map<std::string, Shape> bound;  // of all blocks
    for (const TensorUse& use : model.plan().tensors) {
      if (use.role == TensorRole::matrix && use.path.starts_with(spec.layers_name)) {
        bound.emplace(use.path, use.shape);
      }
    }
    Widths widths;
    SerialExecutor serial;
    Session session(model, serial, {.hook = &widths});
    State state = model.initial_state();
    ASSERT_TRUE(session.prefill(test::random_tokens(200, model.vocab(), 2), state));

    std::set<std::string> named;
    for (std::size_t i = 0; i < spec.layers.size(); ++i) {
      for (const ResidualSpec& residual : spec.layers[i].residuals) {
        const std::string path =
            spec.layers_name + '.' + std::to_string(i) + '.' + residual.block_name;
        for (const BlockMatrix& matrix : matrices(residual, spec.d_model())) {
          const std::string tensor = path + '.' + matrix.name + ".weight";
          named.insert(tensor);
          const auto found = bound.find(tensor);
          ASSERT_NE(found, bound.end()) << tensor;
          const Shape& shape = found->second;
          EXPECT_EQ(shape.rank(), matrix.is_stacked ? 3 : 2) << tensor;
          Index rows = 0;
          for (const BlockMatrix::Rows& part : matrix.rows) {
            EXPECT_EQ(part.first, rows) << tensor;
            rows += part.count;
          }
          EXPECT_EQ(rows, matrix.rows.empty() ? 0 : shape[shape.rank() - 2]) << tensor;
          // Experts that no token was sent to are not seen.
          const auto width = widths.seen.find({path, matrix.input, matrix.expert});
          if (width == widths.seen.end()) {
            EXPECT_GE(matrix.expert, 0) << tensor;
          } else {
            EXPECT_EQ(width->second, shape[shape.rank() - 1]) << tensor;
          }
        }
      }
    }
    EXPECT_EQ(named.size(), bound.size());
  }
}

}  // namespace
}  // namespace krait::layers_test
