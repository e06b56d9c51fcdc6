// Files of adapters: PEFT's, MLX's, and what is wrong with them.

#include "krait/loading/adapter.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <nlohmann/json.hpp>

#include "krait/io/safetensors.hpp"
#include "krait/loading/registry.hpp"
#include "tests/support/logits.hpp"
#include "tests/support/support.hpp"
#include "tests/support/tiny_models.hpp"

namespace krait::adapter_test {
namespace {

using nlohmann::json;

std::string golden(const std::string& name) {
  return (test::data_dir() / "golden" / name).string();
}

std::vector<Token> golden_tokens() {
  return json::parse(test::read_file(golden("hf_f32/golden.json")))["tokens"]
      .get<std::vector<Token>>();
}

std::vector<float> logits(const Model& model, const std::vector<Token>& tokens, Index chunk = 256) {
  return test::all_logits(model, tokens, {.chunk = chunk});
}

// Adapters that PEFT made, with its logits (tests/golden/make_golden_peft.py).
TEST(Adapter, OfPeftGivesItsLogits) {
  for (const std::string name : {"plain", "patterns", "regex"}) {
    const std::string folder = golden("lora/" + name);
    const Model model = load_model(golden("hf_f32"), {.adapter = folder}).value();
    const std::vector<float> found = logits(model, golden_tokens());
    const std::string bytes = test::read_file(folder + "/logits.bin");
    std::vector<float> expected(bytes.size() / sizeof(float));
    std::memcpy(expected.data(), bytes.data(), bytes.size());
    ASSERT_EQ(found.size(), expected.size());
    float largest = 0.0F;
    for (const float value : expected) largest = std::max(largest, std::abs(value));
    for (std::size_t i = 0; i < found.size(); ++i) {
      EXPECT_NEAR(found[i], expected[i], 5e-5F * largest) << name << i;
    }
    EXPECT_EQ(found, logits(model, golden_tokens(), 7)) << name;
    const Model same =
        load_model(golden("hf_f32"), {.adapter = folder + "/adapter_model.safetensors"}).value();
    EXPECT_EQ(model.fingerprint(), same.fingerprint());
  }
}

// Numbers that the file does not have aligned lie in memory of their own.
TEST(Adapter, LiesAnywhereInItsFile) {
  const std::string from = golden("lora/plain");
  const std::string file = test::read_file(from + "/adapter_model.safetensors");
  std::uint64_t size = 0;
  std::memcpy(&size, file.data(), sizeof size);
  const std::vector<float> expected =
      logits(load_model(golden("hf_f32"), {.adapter = from}).value(), golden_tokens());
  for (const std::uint64_t more : {1U, 2U, 3U}) {
    const test::TemporaryDirectory folder;
    const std::uint64_t longer = size + more;
    std::string moved(reinterpret_cast<const char*>(&longer), sizeof longer);
    moved +=
        file.substr(sizeof size, size) + std::string(more, ' ') + file.substr(sizeof size + size);
    test::write_file(folder.path() / "adapter_model.safetensors", moved);
    test::write_file(folder.path() / "adapter_config.json",
                     test::read_file(from + "/adapter_config.json"));
    const Model model = load_model(golden("hf_f32"), {.adapter = folder.path().string()}).value();
    EXPECT_EQ(logits(model, golden_tokens()), expected) << more;
  }
}

TEST(Adapter, SharesTheWeights) {
  const CheckpointPlan plain = plan_checkpoint(golden("hf_f32")).value();
  const CheckpointPlan adapted =
      plan_checkpoint(golden("hf_f32"), {.adapter = golden("lora/plain")}).value();
  EXPECT_EQ(plain.plan.owned_bytes, adapted.plan.owned_bytes);
  EXPECT_EQ(adapted.plan.tensors.size(), plain.plan.tensors.size() + 18);  // 6 of 3
  EXPECT_TRUE(adapted.plan.unused.empty());
}

// A folder with the adapter "plain", to be changed.
class AdapterFile : public testing::Test {
 protected:
  AdapterFile() {
    const std::string folder = golden("lora/plain");
    config = json::parse(test::read_file(folder + "/adapter_config.json"));
    const auto file = open_file(folder + "/adapter_model.safetensors", WeightsMode::map).value();
    read_safetensors(file, source).value();
    for (const auto& [name, entry] : source.entries()) tensors[name] = entry.tensor;
  }

  std::string path(const std::string& name = "") const { return (folder_.path() / name).string(); }

  void write(const char* weights = "adapter_model.safetensors") const {
    test::write_file(path("adapter_config.json"), config.dump());
    std::vector<NamedTensor> all;
    for (const auto& [name, tensor] : tensors) all.push_back({name, tensor});
    write_safetensors(path(weights), all).value();
  }

  // The message without the file's place.
  std::string message(const std::string& model = golden("hf_f32")) const {
    write();
    const auto loaded = load_model(model, {.adapter = path()});
    if (loaded) return "none";
    std::string text = loaded.error().message;
    EXPECT_EQ(text.find('\n'), text.npos);
    return text.substr(0, text.find(" (" + path()));
  }

  static std::string in_proj(const char* factor, int layer = 1) {
    return "base_model.model.backbone.layers." + std::to_string(layer) + ".mixer.in_proj.lora_" +
           factor + ".weight";
  }

  json config;
  WeightStore source;
  std::map<std::string, TensorView> tensors;
  test::TemporaryDirectory folder_;
};

TEST_F(AdapterFile, UnchangedItLoads) {
  EXPECT_EQ(message(), "none");
  config.erase("target_modules");
  config["target_modules"] = "all-linear";
  EXPECT_EQ(message(), "none");
}

TEST_F(AdapterFile, WhatItsConfigurationMayNotSayIsRefused) {
  const json original = config;
  for (const auto& [change, expected] : std::vector<std::pair<json, std::string>>{
           {{{"r", 0}}, "[adapter] r: expected a rank above 0, found 0"},
           {{{"r", -3}}, "[adapter] r: expected a rank above 0, found -3"},
           {{{"r", "4"}}, "[adapter] r: expected a rank above 0, found \"4\""},
           {{{"r", nullptr}}, "[adapter] r: expected a rank above 0, found none"},
           {{{"lora_alpha", nullptr}}, "[adapter] lora_alpha: expected a number, found none"},
           {{{"lora_alpha", "NaN"}}, "[adapter] lora_alpha: expected a number, found \"NaN\""},
           {{{"rank_pattern", {{"in_proj", 0}}}},
            "[adapter] rank_pattern.in_proj: expected a rank above 0, found 0"},
           {{{"rank_pattern", {{"in_proj(", 4}}}},
            "[adapter] rank_pattern.in_proj(: expected a pattern, found \"in_proj(\""},
           {{{"rank_pattern", {{"in_proj", 3}}}},
            "[adapter] base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight: expected "
            "[3,32] (rank 3), found [4,32]"},
           {{{"r", 8}},
            "[adapter] base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight: expected "
            "[8,32] (rank 8), found [4,32]"},
           {{{"use_dora", true}},
            "[adapter] use_dora: expected an adapter without DoRA, found true"},
           {{{"bias", "lora_only"}}, "[adapter] bias: expected none, found \"lora_only\""},
           {{{"modules_to_save", {"lm_head"}}},
            "[adapter] modules_to_save: expected an adapter of low rank alone, found "
            "[\"lm_head\"]"},
           {{{"peft_type", "IA3"}}, "[adapter] peft_type: expected LORA, found \"IA3\""},
           {{{"init_lora_weights", "pissa_niter_4"}},
            "[adapter] init_lora_weights: expected a way that leaves the model's own weights as "
            "they are, found \"pissa_niter_4\""},
           {{{"init_lora_weights", "loftq"}},
            "[adapter] init_lora_weights: expected a way that leaves the model's own weights as "
            "they are, found \"loftq\""},
           {{{"target_modules", {"in_proj", "out_proj"}}},
            "[adapter] backbone.layers.0.mixer.out_proj: expected factors, as target_modules names "
            "out_proj, found none"},
       }) {
    config = original;
    config.update(change);
    EXPECT_EQ(message(), expected);
  }
}

// A number is a layer, 0 as well.
TEST_F(AdapterFile, MayBeOfTheFirstLayerAlone) {
  config["target_modules"] = {"in_proj", "out_proj"};
  for (const json& layers : {json(0), json({0, 2})}) {
    config["layers_to_transform"] = layers;
    EXPECT_EQ(message(), "none") << layers;
  }
}

TEST_F(AdapterFile, TensorsThatDoNotFitAreRefused) {
  const auto original = tensors;
  const auto with = [&](auto change) {
    tensors = original;
    change();
    return message();
  };
  EXPECT_EQ(with([&] { tensors.erase(in_proj("B")); }),
            "[adapter] " + in_proj("A") + ": expected two factors, found the first (A) only");
  EXPECT_EQ(with([&] { tensors.erase(in_proj("A")); }),
            "[adapter] " + in_proj("B") + ": expected two factors, found the second (B) only");
  EXPECT_EQ(with([&] {
              tensors.erase(in_proj("A"));
              tensors.erase(in_proj("B"));
            }),
            "[adapter] backbone.layers.1.mixer.in_proj: expected factors, as target_modules names "
            "in_proj, found none");
  EXPECT_EQ(with([&] { tensors[in_proj("B")] = tensors[in_proj("A")]; }),
            "[adapter] " + in_proj("B") + ": expected [128,4] (rank 4), found [4,32]");
  std::vector<float> values(4 * 32, 1.0F);
  values[37] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(with([&] {
              tensors[in_proj("A")] = {values.data(), DType::f32, {4, 32}};
            }),
            "[adapter] " + in_proj("A") +
                ": expected finite numbers, found one that is not (element 37)");
  values[37] = std::numeric_limits<float>::infinity();
  EXPECT_EQ(message(), "[adapter] " + in_proj("A") +
                           ": expected finite numbers, found one that is not (element 37)");
  const std::vector<std::int32_t> whole(4 * 32);
  EXPECT_EQ(with([&] {
              tensors[in_proj("A")] = {whole.data(), DType::i32, {4, 32}};
            }),
            "[adapter] " + in_proj("A") + ": expected f32, f16 or bf16, found i32");
  EXPECT_EQ(with([&] {
              tensors[in_proj("A", 7)] = original.at(in_proj("A"));
              tensors[in_proj("B", 7)] = original.at(in_proj("B"));
            }),
            "[adapter] " + in_proj("A", 7) +
                ": expected a matrix of the model, such as backbone.layers.0.mixer.dt_proj, found "
                "a module that it does not have, as in an adapter for another model (hf_f32)");
  EXPECT_EQ(with([&] { tensors["base_model.model.lm_head.weight"] = original.at(in_proj("A")); }),
            "[adapter] base_model.model.lm_head.weight: expected a factor of an adapter of low "
            "rank, found another tensor [4,32]");
  EXPECT_EQ(with([&] { tensors.clear(); }),
            "[adapter] factors: expected tensors such as M.lora_A.weight, found 0 others");
}

TEST_F(AdapterFile, TheBasesOwnMatrixMayStandInIt) {
  const CheckpointPlan base = plan_checkpoint(golden("hf_f32")).value();
  const TensorView own =
      base.checkpoint.weights.find("backbone.layers.1.mixer.in_proj.weight")->tensor;
  const std::string name = "base_model.model.backbone.layers.1.mixer.in_proj.base_layer.weight";
  tensors[name] = own;
  EXPECT_EQ(message(), "none");
  std::vector<float> other(own.as<float>().begin(), own.as<float>().end());
  other[5] += 1.0F;
  tensors[name] = {other.data(), DType::f32, own.shape};
  EXPECT_EQ(message(), "[adapter] " + name + ": expected the model's own matrix, found another");
}

TEST_F(AdapterFile, OfAnotherModelIsRefused) {
  config["base_model_name_or_path"] = "some/model";
  EXPECT_EQ(message(golden("hf_dt_rank")),
            "[adapter] base_model.model.backbone.layers.0.mixer.in_proj.lora_A.weight: expected "
            "[4,24] (rank 4), found [4,32], as in an adapter for another model (some/model)");
  // One with fewer layers, of the same sizes.
  std::erase_if(tensors,
                [](const auto& one) { return one.first.find("layers.2.") != one.first.npos; });
  EXPECT_EQ(message(),
            "[adapter] backbone.layers.2.mixer.in_proj: expected factors, as target_modules names "
            "in_proj, found none, as in an adapter for another model (some/model)");
}

TEST_F(AdapterFile, ThatIsMissingIsNamed) {
  const auto error = [&](const std::string& adapter) {
    return load_model(golden("hf_f32"), {.adapter = adapter}).error().message;
  };
  EXPECT_EQ(error(path("none")),
            "[adapter] expected a folder or a file, found none (" + path("none") + ")");
  EXPECT_EQ(error(folder_.path().string()),
            "[adapter] adapter_config.json: expected the adapter's configuration, found none (" +
                folder_.path().string() + ")");
  write();
  std::filesystem::rename(path("adapter_model.safetensors"), path("adapter_model.bin"));
  EXPECT_EQ(error(folder_.path().string()),
            "[adapter] adapter_model.safetensors: expected the adapter's weights, found "
            "adapter_model.bin (" +
                folder_.path().string() + ")");
  test::write_file(path("adapter_config.json"), "{\"r\": ");
  EXPECT_NE(error(folder_.path().string()).find("adapter_config.json"), std::string::npos);
  write();
  const std::string file = path("adapter_model.safetensors");
  test::write_file(file, test::read_file(file).substr(0, 1000));
  EXPECT_FALSE(load_model(golden("hf_f32"), {.adapter = path()}).has_value());
}

TEST_F(AdapterFile, OfMlxIsTheSameTransposed) {
  write();
  const std::vector<float> expected =
      logits(load_model(golden("hf_f32"), {.adapter = path()}).value(), golden_tokens());
  std::vector<std::vector<float>> blocks;
  std::map<std::string, TensorView> mlx;
  for (const auto& [name, tensor] : tensors) {
    const Index rows = tensor.shape[0];
    const Index cols = tensor.shape[1];
    std::vector<float>& block = blocks.emplace_back(static_cast<std::size_t>(rows * cols));
    for (Index r = 0; r < rows; ++r) {
      for (Index c = 0; c < cols; ++c) {
        block[static_cast<std::size_t>(c * rows + r)] =
            tensor.as<float>()[static_cast<std::size_t>(r * cols + c)];
      }
    }
    std::string module = name.substr(17, name.size() - 17 - 14);
    module += name.ends_with("lora_A.weight") ? ".lora_a" : ".lora_b";
    mlx[module] = {block.data(), DType::f32, {cols, rows}};
  }
  tensors = mlx;
  std::filesystem::remove(path("adapter_model.safetensors"));
  config = {{"fine_tune_type", "lora"},
            {"num_layers", 3},
            {"lora_parameters", {{"rank", 4}, {"scale", 2.0}, {"dropout", 0.0}}}};
  write("adapters.safetensors");
  const auto load = [&] { return load_model(golden("hf_f32"), {.adapter = path()}); };
  EXPECT_EQ(logits(load().value(), golden_tokens()), expected);
  config["lora_parameters"] = {{"rank", 4}, {"scale", 0.5}, {"alpha", 16.0}};
  write("adapters.safetensors");
  EXPECT_EQ(logits(load().value(), golden_tokens()), expected);
  const auto a = tensors.at("backbone.layers.0.mixer.in_proj.lora_a");
  tensors["backbone.embeddings.lora_a"] = tensors["backbone.embeddings.lora_b"] = a;
  write("adapters.safetensors");
  EXPECT_NE(load().error().message.find("backbone.embeddings.lora_a: expected factors of linear "
                                        "maps, found those of an embedding"),
            std::string::npos);
  config["fine_tune_type"] = "dora";
  write("adapters.safetensors");
  EXPECT_NE(load().error().message.find("fine_tune_type: expected lora, found \"dora\""),
            std::string::npos);
}

}  // namespace
}  // namespace krait::adapter_test
