// Matrices cut to lower ranks, in memory and in checkpoints.

#include "krait/tools/laser.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <filesystem>

#include "krait/core/thread_pool.hpp"
#include "krait/io/safetensors.hpp"
#include "krait/models/random_weights.hpp"
#include "krait/tools/quantize.hpp"
#include "krait/weights/convert.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/relative_difference.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::laser_test {
namespace {

namespace fs = std::filesystem;

struct Laser : testing::Test {
  std::string in(const std::string& name) const { return (folder.path() / name).string(); }

  static std::string bundled(const std::string& name) {
    return (test::bundled_models_dir() / name).string();
  }
  static std::string golden(const std::string& name) {
    return (test::data_dir() / "golden" / name).string();
  }

  test::TemporaryDirectory folder;
  ThreadPool pool{2};
};

std::string joined(const std::vector<LaserMatrix>& matrices, Index layer) {
  std::string text;
  for (const LaserMatrix& m : matrices) {
    if (m.layer == layer)
      text += m.name + "[" + std::to_string(m.rows) + "," + std::to_string(m.cols) + "] ";
  }
  return text;
}

TEST_F(Laser, MatricesHaveShortNames) {
  const auto plain = laser_matrices(plan_checkpoint(bundled("krait-bytes-2m")).value());
  EXPECT_EQ(joined(plain, 3),
            "in[768,192] in_x[384,192] in_z[384,192] x_proj[44,384] x_dt[12,384] x_B[16,384] "
            "x_C[16,384] dt[384,12] out[192,384] ");
  EXPECT_EQ(joined(plain, -1), "emb[256,192] ");
  const auto experts = laser_matrices(plan_checkpoint(bundled("krait-bytes-moe")).value());
  EXPECT_NE(joined(experts, 5).find("up[7][176,160] down[7][160,176] "), std::string::npos)
      << joined(experts, 5);
  EXPECT_NE(joined(experts, 5).find("router[8,160] up[0]"), std::string::npos);
  const auto routed = laser_matrices(plan_checkpoint(golden("blackmamba_bias")).value());
  EXPECT_TRUE(std::ranges::any_of(routed, [](const LaserMatrix& m) {
    return m.name == "router" && m.tensor.find("local_experts") == std::string::npos;
  }));
  const auto mamba2 = laser_matrices(plan_checkpoint(golden("hf_mamba2_f32")).value());
  EXPECT_NE(joined(mamba2, 0).find("in_z["), std::string::npos) << joined(mamba2, 0);
  EXPECT_NE(joined(mamba2, 0).find("in_dt["), std::string::npos);
}

TEST_F(Laser, CutsAreReadAsUsersWriteThem) {
  const auto matrices = laser_matrices(plan_checkpoint(bundled("krait-bytes-2m")).value());
  const auto cut = [&](const std::string& text) { return parse_laser_cut(text, matrices).value(); };
  EXPECT_EQ(cut("3:in_x:25"), (LaserCut{3, "in_x", 25}));
  EXPECT_EQ(cut("0:in:0.3"), (LaserCut{0, "in", 57}));  // ⌊0.3 · 192⌋
  EXPECT_EQ(cut("7:out:1.0"), (LaserCut{7, "out", 192}));
  EXPECT_EQ(cut("7:out:1"), (LaserCut{7, "out", 1}));
  EXPECT_EQ(cut("emb:64"), (LaserCut{-1, "emb", 64}));
  EXPECT_EQ(cut("head:64"), (LaserCut{-1, "emb", 64}));  // tied
  EXPECT_EQ(to_string(cut("3:in_x:25")), "3:in_x:25");
  const auto error = [&](const std::string& text) {
    return parse_laser_cut(text, matrices).error().message;
  };
  EXPECT_EQ(error("3:in_x:0"),
            "[laser] set: expected a rank from 1 to 192 or a fraction of it, such as 0.5, found "
            "'3:in_x:0'");
  for (const char* wrong : {"3:in_x:193", "3:in_x:0.001", "3:in_x:1.5", "3:in_x:-1",
                            "3:in_x:", "3:in_x:nan.", "3:in_x:5x", "3:in_x:99999999999999999999"}) {
    EXPECT_EQ(error(wrong).find("[laser] set: expected a rank from 1 to 192"), 0U) << error(wrong);
  }
  EXPECT_EQ(error("3:in_y:5"),
            "[laser] set: expected one of the matrices in, in_x, in_z, x_proj, x_dt, x_B, x_C, dt, "
            "out, found '3:in_y:5'");
  EXPECT_EQ(error("8:in:5"), "[laser] set: expected a layer from 0 to 7, found '8:in:5'");
  EXPECT_EQ(error("-1:in:5"), "[laser] set: expected a layer from 0 to 7, found '-1:in:5'");
  EXPECT_EQ(error("in:5"),
            "[laser] set: expected LAYER:MATRIX:RANK, or one of emb in front of a rank, found "
            "'in:5'");
  for (const char* wrong : {"", ":", "5", "a:in:5", ":in:5"}) {
    EXPECT_EQ(error(wrong).find("[laser] set: expected LAYER:MATRIX:RANK"), 0U) << error(wrong);
  }
}

// The largest difference of logits over the largest logit.
double difference(const Model& a, const Model& b) {
  const auto tokens = test::random_tokens(30, a.vocab(), 1);
  return test::relative_difference(test::all_logits(b, tokens), test::all_logits(a, tokens));
}

// Every matrix of every family, written and read again: the factored checkpoint computes what the
// dense one does.
TEST_F(Laser, EveryFamilyIsWrittenFactoredAndDense) {
  for (const char* name : {"hf_f32", "orig_two_heads", "orig_mambabyte_names", "hf_falcon_f32",
                           "hf_mamba2_f32", "orig_mamba2_mlp", "codestral", "moe_mamba",
                           "moe_mamba_bytes", "blackmamba", "blackmamba_bias"}) {
    SCOPED_TRACE(name);
    const CheckpointPlan plan = plan_checkpoint(golden(name)).value();
    std::vector<LaserCut> cuts;
    Index whole = 0;
    for (const LaserMatrix& m : laser_matrices(plan)) {
      if (!m.is_whole()) continue;
      ++whole;
      const Index even = m.rows * m.cols / (m.rows + m.cols);
      cuts.push_back({m.layer, m.name, std::max<Index>(1, even / 2)});
    }
    EXPECT_GT(whole, 3);
    const auto factored = write_laser(plan, in("factored"), cuts, LaserForm::smaller, pool);
    ASSERT_TRUE(factored) << factored.error().message;
    EXPECT_GT(factored->factored, 0);
    EXPECT_LT(factored->bytes_after, factored->bytes_before);
    const auto dense = write_laser(plan, in("dense"), cuts, LaserForm::dense, pool);
    ASSERT_TRUE(dense) << dense.error().message;
    EXPECT_EQ(dense->factored, 0);
    const Model a = load_model(in("factored")).value();
    const Model b = load_model(in("dense")).value();
    const bool is_exact = plan.plan.tensors.front().form == "f32";
    EXPECT_LT(difference(a, b), is_exact ? 1e-4 : 0.05);
    EXPECT_LT(difference(a, cut_model(plan, cuts, pool).value()), 1e-9);
    EXPECT_GT(difference(a, load_model(golden(name)).value()), 1e-3);
    // LASER, then q8.
    ASSERT_TRUE(quantize_checkpoint(in("factored"), in("q8"), "q8", pool));
    EXPECT_EQ(difference(load_model(in("q8")).value(),
                         load_model(in("factored"), {.form = "q8"}).value()),
              0.0);
    for (const char* made : {"factored", "dense", "q8"}) fs::remove_all(in(made));
  }
}

TEST_F(Laser, TheFullRankIsTheIdentity) {
  const CheckpointPlan plan = plan_checkpoint(golden("hf_f32")).value();
  std::vector<LaserCut> cuts;
  for (const LaserMatrix& m : laser_matrices(plan)) {
    if (m.is_whole()) cuts.push_back({m.layer, m.name, m.largest_rank()});
  }
  EXPECT_LT(difference(cut_model(plan, cuts, pool).value(), load_model(golden("hf_f32")).value()),
            1e-4);
}

// Rows of a tensor in f32.
std::vector<float> floats(const WeightStore& store, const std::string& name) {
  const TensorView& tensor = store.find(name)->tensor;
  std::vector<float> values(static_cast<std::size_t>(tensor.size()));
  convert_floats(tensor, DType::f32, values.data());
  return values;
}

TEST_F(Laser, RowsAreCutAloneAndOthersStay) {
  const CheckpointPlan plan = plan_checkpoint(golden("hf_f32")).value();
  const auto matrices = laser_matrices(plan);
  const auto x = std::ranges::find(matrices, "in_x", &LaserMatrix::name);
  const std::string name = x->tensor + ".weight";
  const WeightStore one = cut_weights(plan, {{0, "in_x", 3}}, LaserForm::smaller, pool).value();
  const auto before = floats(plan.checkpoint.weights, name);
  const auto after = floats(one, name);
  const auto split = static_cast<std::size_t>(x->rows * x->cols);
  EXPECT_TRUE(std::equal(before.begin() + static_cast<std::ptrdiff_t>(split), before.end(),
                         after.begin() + static_cast<std::ptrdiff_t>(split)));
  const SingularValues values = decompose({after.data(), x->rows, x->cols}).value();
  EXPECT_GT(values.s[2], 1e-3F);
  EXPECT_LT(values.s[3], 1e-5F);
  // Everything else is shared, and the order of cuts does not matter.
  for (const auto& [other, entry] : plan.checkpoint.weights.entries()) {
    EXPECT_EQ(one.find(other)->tensor.data == entry.tensor.data, other != name) << other;
  }
  const WeightStore a =
      cut_weights(plan, {{0, "in_x", 3}, {0, "in_z", 2}, {1, "out", 4}}, LaserForm::dense, pool)
          .value();
  const WeightStore b =
      cut_weights(plan, {{1, "out", 4}, {0, "in_z", 2}, {0, "in_x", 3}}, LaserForm::dense, pool)
          .value();
  for (const auto& [other, entry] : a.entries()) {
    EXPECT_EQ(std::memcmp(entry.tensor.data, b.find(other)->tensor.data,
                          static_cast<std::size_t>(entry.tensor.bytes())),
              0)
        << other;
  }
}

TEST_F(Laser, ExpertsOfAStackBecomeFactorsTogether) {
  const CheckpointPlan plan = plan_checkpoint(bundled("krait-bytes-moe")).value();
  const WeightStore one = cut_weights(plan, {{5, "up[3]", 40}}, LaserForm::smaller, pool).value();
  const std::string name = "backbone.layers.5.moe.up_proj";
  EXPECT_TRUE(one.contains(name + ".weight"));
  std::vector<LaserCut> cuts;
  for (int e = 0; e < 8; ++e) cuts.push_back({5, "up[" + std::to_string(e) + "]", 40});
  const WeightStore all = cut_weights(plan, cuts, LaserForm::smaller, pool).value();
  EXPECT_FALSE(all.contains(name + ".weight"));
  EXPECT_EQ(all.find(name + ".u")->tensor.shape, (Shape{8, 176, 40}));
  EXPECT_EQ(all.find(name + ".v")->tensor.dtype, DType::bf16);
}

// The choice of experts needs the matrix, as it is stored.
TEST_F(Laser, RoutersAreCutAndStayMatrices) {
  const CheckpointPlan plan = plan_checkpoint(bundled("krait-bytes-moe")).value();
  const auto cut = parse_laser_cut("5:router:3", laser_matrices(plan)).value();
  EXPECT_EQ(cut, (LaserCut{5, "router", 3}));
  const std::string name = "backbone.layers.5.moe.router";
  const WeightStore one = cut_weights(plan, {{5, "router", 1}}, LaserForm::smaller, pool).value();
  EXPECT_FALSE(one.contains(name + ".u"));
  EXPECT_EQ(one.find(name + ".weight")->tensor.dtype,
            plan.checkpoint.weights.find(name + ".weight")->tensor.dtype);
  const auto W = floats(one, name + ".weight");
  const SingularValues values = decompose({W.data(), 8, 160}).value();
  EXPECT_GT(values.s[0], 0.1F);
  EXPECT_LT(values.s[1], 0.01F * values.s[0]);
  ASSERT_TRUE(write_laser(plan, in("new"), {cut}, LaserForm::smaller, pool));
  EXPECT_TRUE(load_model(in("new")));
}

TEST_F(Laser, WhatCannotBeDoneLeavesNothing) {
  const CheckpointPlan plan = plan_checkpoint(bundled("krait-bytes-draft")).value();
  const auto message = [&](const std::vector<LaserCut>& cuts, const std::string& to) {
    const auto result = write_laser(plan, to, cuts, LaserForm::smaller, pool);
    EXPECT_TRUE(fs::is_empty(folder.path()));
    return result ? std::string("none") : result.error().message;
  };
  EXPECT_EQ(message({}, in("new")), "[laser] set: expected a matrix to cut, found none");
  EXPECT_EQ(message({{0, "in", 5}, {1, "in", 5}, {0, "in", 6}}, in("new")),
            "[laser] set: expected each matrix once, found 0:in twice");
  EXPECT_EQ(message({{0, "in", 5}, {0, "in_x", 6}}, in("new")),
            "[laser] set: expected each matrix once, found 0:in and 0:in_x, which share rows");
  EXPECT_EQ(message({{0, "in", 0}}, in("new")).find("[laser] set: expected a rank from 1 to 64"),
            0U);
  EXPECT_EQ(message({{2, "in", 1}}, in("new")).find("[laser] set: expected a layer from 0 to 1"),
            0U);
  EXPECT_NE(message({{0, "in", 5}}, in("no/folder/new")), "none");
  EXPECT_EQ(message({{0, "in", 5}}, bundled("krait-bytes-draft") + "/new")
                .find("[laser] destination: expected a place outside the source"),
            0U);
  ASSERT_TRUE(quantize_checkpoint(bundled("krait-bytes-draft"), in("q8"), "q8", pool));
  const CheckpointPlan coded = plan_checkpoint(in("q8")).value();
  EXPECT_NE(write_laser(coded, in("new"), {{0, "in", 5}}, LaserForm::smaller, pool)
                .error()
                .message.find("expected a matrix of floats, found q8"),
            std::string::npos);
  EXPECT_FALSE(fs::exists(in("new")));
}

TEST_F(Laser, WeightsThatAreNotFiniteAreNamed) {
  CheckpointPlan plan = plan_checkpoint(golden("hf_f32")).value();
  const auto matrices = laser_matrices(plan);
  const LaserMatrix out = *std::ranges::find(matrices, "out", &LaserMatrix::name);
  std::vector<float> values = floats(plan.checkpoint.weights, out.tensor + ".weight");
  values[5] = INFINITY;
  plan.checkpoint.weights.add(out.tensor + ".weight",
                              {values.data(), DType::f32, {out.rows, out.cols}}, nullptr);
  const auto made = write_laser(plan, in("new"), {{0, "out", 5}}, LaserForm::smaller, pool);
  const std::string where = " (" + golden("hf_f32") + ")";
  EXPECT_EQ(made.error().code, ErrorCode::not_finite);
  EXPECT_EQ(made.error().message,
            "[laser] " + out.tensor +
                ".weight: expected finite weights, found inf (element [0,5])" + where);
  // Also those that are not cut.
  values[5] = 0.0F;
  const std::string beside = "backbone.layers.1.mixer.D";
  const Shape shape = plan.checkpoint.weights.find(beside)->tensor.shape;
  std::vector<double> wide(static_cast<std::size_t>(shape.size()));
  wide[2] = -std::nan("");
  plan.checkpoint.weights.add(beside, {wide.data(), DType::f64, shape}, nullptr);
  const std::string expected =
      "[laser] " + beside + ": expected finite weights, found nan (element [2])" + where;
  EXPECT_EQ(write_laser(plan, in("new"), {{0, "out", 5}}, LaserForm::smaller, pool).error().message,
            expected);
  EXPECT_EQ(laser_rule(plan, pool).error().message, expected);
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST_F(Laser, TheRuleCutsWhatLiesUnderItsThreshold) {
  const CheckpointPlan plan = plan_checkpoint(bundled("krait-bytes-draft")).value();
  const auto cuts = laser_rule(plan, pool).value();
  ASSERT_FALSE(cuts.empty());
  const auto matrices = laser_matrices(plan);
  for (const LaserCut& cut : cuts) {
    const LaserMatrix& m = *std::ranges::find_if(matrices, [&](const LaserMatrix& matrix) {
      return matrix.layer == cut.layer && matrix.name == cut.matrix;
    });
    const auto W = floats(plan.checkpoint.weights, m.tensor + ".weight");
    EXPECT_EQ(cut.rank, marchenko_pastur_rank(decompose({W.data(), m.rows, m.cols}).value()));
  }
  const std::string svg = draw_spectrum(plan, pool).value();
  EXPECT_EQ(svg.find("<svg xmlns"), 0U);
  EXPECT_EQ(static_cast<Index>(std::count(svg.begin(), svg.end(), '\n')) > std::ssize(matrices),
            true);
}

}  // namespace
}  // namespace krait::laser_test
