#include "krait/io/pytorch_bin.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

#include "tests/io/builders.hpp"
#include "tests/support/support.hpp"

namespace krait::pytorch_bin_test {
namespace {

using test::PickleBuilder;

std::uintptr_t address(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

// A dictionary with one tensor "x".
std::string one_tensor(const std::string& type, std::int64_t count, std::int64_t offset,
                       const std::vector<std::int64_t>& shape,
                       const std::vector<std::int64_t>& strides, const std::string& storage) {
  PickleBuilder pickle;
  pickle.raw("\x80\x02}").text("x").tensor(type, "0", count, offset, shape, strides).raw("s.");
  return test::torch_archive(pickle.bytes(), {storage});
}

TEST(PytorchBin, SharedStoragesTransposesAndScalars) {
  const auto file = test::file_of(test::small_bin());
  WeightStore store;
  const auto result = read_pytorch_bin(file, store);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(store.size(), 3U);
  const TensorView a = store.find("a")->tensor;
  EXPECT_EQ(a.shape, (Shape{2, 3}));
  EXPECT_EQ(a.as<float>()[4], 5.0F);
  EXPECT_GE(address(a.data), address(file->bytes().data()));
  EXPECT_LT(address(a.data), address(file->bytes().data()) + file->bytes().size());
  const TensorView t = store.find("t")->tensor;
  const std::vector<float> transposed(t.as<float>().begin(), t.as<float>().end());
  EXPECT_EQ(transposed, (std::vector<float>{1, 4, 2, 5, 3, 6}));
  const TensorView n = store.find("n")->tensor;
  EXPECT_EQ(n.dtype, DType::i64);
  EXPECT_EQ(n.shape, Shape());
  EXPECT_EQ(*static_cast<const std::int64_t*>(n.data), 8);
  EXPECT_EQ(store.find("a")->file, "test.bin");
}

TEST(PytorchBin, TiedTensorsShareTheirBytes) {
  PickleBuilder pickle;
  pickle.raw("\x80\x02}(");
  for (const char* name : {"embedding", "head"}) {
    pickle.text(name).tensor("FloatStorage", "0", 4, 0, {2, 2}, {2, 1});
  }
  pickle.raw("u.");
  WeightStore store;
  const std::string storage = test::bytes_of_array<float>({1, 2, 3, 4});
  ASSERT_TRUE(
      read_pytorch_bin(test::file_of(test::torch_archive(pickle.bytes(), {storage})), store));
  EXPECT_EQ(store.find("embedding")->tensor.data, store.find("head")->tensor.data);
}

TEST(PytorchBin, EveryStorageTypeKeepsItsDtype) {
  for (const auto& [type, dtype] :
       std::vector<std::pair<std::string, DType>>{{"FloatStorage", DType::f32},
                                                  {"HalfStorage", DType::f16},
                                                  {"BFloat16Storage", DType::bf16},
                                                  {"DoubleStorage", DType::f64},
                                                  {"LongStorage", DType::i64},
                                                  {"IntStorage", DType::i32},
                                                  {"ShortStorage", DType::i16},
                                                  {"CharStorage", DType::i8},
                                                  {"ByteStorage", DType::u8},
                                                  {"BoolStorage", DType::boolean}}) {
    const std::string storage(static_cast<std::size_t>(3 * bytes_of(dtype)), '\1');
    WeightStore store;
    const auto result =
        read_pytorch_bin(test::file_of(one_tensor(type, 3, 1, {2}, {1}, storage)), store);
    ASSERT_TRUE(result) << result.error().message;
    EXPECT_EQ(store.find("x")->tensor.dtype, dtype);
    EXPECT_EQ(store.find("x")->tensor.bytes(), 2 * bytes_of(dtype));
  }
}

TEST(PytorchBin, MisalignedBytesAreCopied) {
  const std::string bytes =
      one_tensor("FloatStorage", 3, 0, {3}, {1}, test::bytes_of_array<float>({1, 2, 3}));
  for (std::size_t shift = 0; shift < 8; ++shift) {
    const auto file = test::file_of(bytes, "x.bin", shift);
    WeightStore store;
    ASSERT_TRUE(read_pytorch_bin(file, store));
    const TensorView x = store.find("x")->tensor;
    EXPECT_EQ(address(x.data) % alignof(float), 0U);
    EXPECT_EQ(x.as<float>()[2], 3.0F);
  }
}

TEST(PytorchBin, ParametersAndPlainValues) {
  PickleBuilder pickle;
  pickle.raw("\x80\x02}(").text("epoch").raw("K\x07").text("p");
  pickle.global("torch._utils", "_rebuild_parameter").raw("(");
  pickle.tensor("FloatStorage", "0", 1, 0, {1}, {1}).raw("\x88}tRu.");
  WeightStore store;
  const auto result = read_pytorch_bin(
      test::file_of(test::torch_archive(pickle.bytes(), {std::string(4, '\0')})), store);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(store.size(), 1U);
}

// The file of that pickle, with storage "0" of 24 bytes: the numbers 1 … 6.
Result<WeightStore> read_pickled(const PickleBuilder& pickle) {
  const std::string storage = test::bytes_of_array<float>({1, 2, 3, 4, 5, 6});
  WeightStore store;
  KRAIT_RETURN_IF_ERROR(read_pytorch_bin(
      test::file_of(test::torch_archive("\x80\x02" + pickle.bytes(), {storage}), "x.bin"), store));
  return store;
}

PickleBuilder& add_x(PickleBuilder& pickle) {
  return pickle.text("x").tensor("FloatStorage", "0", 6, 0, {6}, {1});
}

// {"x": tensor} under that key, with other things beside it.
PickleBuilder nested(std::string_view key) {
  PickleBuilder pickle;
  pickle.raw("}(").text("epoch").raw("K\x03").text("lr_schedulers").raw("](}}e");
  pickle.text(key).raw("}");
  add_x(pickle).raw("s");
  return pickle.text("optimizer").raw("}").text("state").raw("}K\x01}ssu.");
}

TEST(PytorchBin, TrainingCheckpointsHoldTheModelUnderAName) {
  for (const char* key : {"state_dict", "model_state_dict", "model", "module", "model_state"}) {
    const auto store = read_pickled(nested(key));
    ASSERT_TRUE(store) << key << ": " << store.error().message;
    EXPECT_EQ(store->size(), 1U) << key;
    EXPECT_EQ(store->find("x")->tensor.as<float>()[5], 6.0F) << key;
  }
  EXPECT_FALSE(read_pickled(nested("weights")));
  // Two levels, and tensors beside them that are not the model's.
  PickleBuilder pickle;
  pickle.raw("}(").text("rng").tensor("FloatStorage", "0", 6, 0, {2}, {1});
  pickle.text("state_dict").raw("}").text("module").raw("}");
  add_x(pickle).raw("ssu.");
  const auto store = read_pickled(pickle);
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_TRUE(store->contains("x"));
  EXPECT_FALSE(store->contains("rng"));
}

TEST(PytorchBin, ParametersMayHaveAttributes) {
  PickleBuilder pickle;
  pickle.raw("}").text("A_log").global("torch._utils", "_rebuild_parameter_with_state").raw("(");
  pickle.tensor("FloatStorage", "0", 6, 0, {6}, {1}).raw("\x88");
  pickle.global("collections", "OrderedDict").raw(")R}").text("_no_weight_decay").raw("\x88stRs.");
  const auto store = read_pickled(pickle);
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_EQ(store->find("A_log")->tensor.size(), 6);
}

TEST(PytorchBin, WhatIsNoTensorIsLeftOut) {
  PickleBuilder pickle;
  pickle.raw("}(");
  add_x(pickle);
  pickle.text("size").global("torch", "Size").raw("(K\x01K\x02t\x85R");
  pickle.text("type").global("torch", "bfloat16");
  pickle.text("device").global("torch", "device").text("cpu").raw("\x85R");
  pickle.text("set")
      .global("__builtin__", "set")
      .raw(
          "](K\x01K\x02"
          "e\x85R");
  pickle.text("counter").global("collections", "Counter").raw("}K\x01K\x02s\x85R");
  pickle.text("bytes").global("_codecs", "encode").text("ab").text("latin1").raw("\x86R");
  pickle.text("args").global("argparse", "Namespace").raw(")\x81}").text("lr").raw("K\x01sb");
  pickle.text("pairs")
      .global("collections", "OrderedDict")
      .raw(
          "]](K\x01K\x02"
          "ea\x85R");
  pickle.text("string").raw("U\x02hi").text("set2").raw("\x8f(K\x01\x90").raw("K\x07N");
  const auto store = read_pickled(pickle.raw("u."));
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_EQ(store->size(), 1U);
  EXPECT_TRUE(store->unreadable().empty());
}

TEST(PytorchBin, TensorsMayNameTheirTypeThemselves) {
  const auto v3 = [](std::string_view type, std::int64_t count) {
    PickleBuilder pickle;
    pickle.raw("}").text("x").global("torch._utils", "_rebuild_tensor_v3").raw("((");
    pickle.text("storage").global("torch.storage", "UntypedStorage").text("0").text("cpu");
    pickle.number(24).raw("tQ").number(0).numbers({count}).numbers({1}).raw("\x89");
    pickle.global("collections", "OrderedDict").raw(")R").global("torch", type).raw("tRs.");
    return pickle;
  };
  const auto floats = read_pickled(v3("float32", 6));
  ASSERT_TRUE(floats) << floats.error().message;
  EXPECT_EQ(floats->find("x")->tensor.as<float>()[5], 6.0F);
  const auto shorts = read_pickled(v3("uint16", 12));
  ASSERT_TRUE(shorts) << shorts.error().message;
  EXPECT_EQ(shorts->size(), 0U);
  EXPECT_EQ(shorts->unreadable().at("x").what, "uint16 [12]");
}

TEST(PytorchBin, TensorsThatKraitLacksAreNoted) {
  PickleBuilder pickle;
  pickle.raw("}(").text("c").tensor("ComplexFloatStorage", "0", 3, 0, {3}, {1});
  pickle.text("r").tensor("FloatStorage", "0", 6, 0, {1, 1, 1, 1, 1, 1, 1, 1, 6},
                          {6, 6, 6, 6, 6, 6, 6, 6, 1});
  pickle.text("s").global("torch._utils", "_rebuild_sparse_tensor").raw("NN\x86R");
  const auto store = read_pickled(pickle.raw("u."));
  ASSERT_TRUE(store) << store.error().message;
  EXPECT_EQ(store->unreadable().at("c").what, "complex64 [3]");
  EXPECT_EQ(store->unreadable().at("r").what, "float32 [1,1,1,1,1,1,1,1,6]");
  EXPECT_EQ(store->unreadable().at("s").what,
            "a tensor made by torch._utils._rebuild_sparse_tensor");
}

TEST(PytorchBin, Zip64DirectoriesAreRead) {
  PickleBuilder pickle;
  pickle.raw("\x80\x02}").text("x").tensor("ByteStorage", "0", 3, 0, {3}, {1}).raw("s.");
  const std::string bytes =
      test::torch_archive(pickle.bytes(), {"abc"}, "little", {.is_zip64 = true});
  WeightStore store;
  const auto result = read_pytorch_bin(test::file_of(bytes), store);
  ASSERT_TRUE(result) << result.error().message;
  EXPECT_EQ(store.find("x")->tensor.as<char>()[2], 'c');
}

TEST(PytorchBin, EmptyTensorsWithHugeExtents) {
  const std::int64_t huge = std::int64_t{1} << 62;
  const std::string bytes =
      one_tensor("FloatStorage", 0, 0, {0, huge, huge}, {1, 1, 1}, std::string());
  WeightStore store;
  ASSERT_TRUE(read_pytorch_bin(test::file_of(bytes), store));
  EXPECT_EQ(store.find("x")->tensor.size(), 0);
}

TEST(PytorchBin, AFailureAddsNothing) {
  PickleBuilder pickle;
  pickle.raw("\x80\x02}(").text("good").tensor("ByteStorage", "0", 3, 0, {3}, {1});
  pickle.text("wrong").tensor("ByteStorage", "0", 3, 0, {4}, {1}).raw("u.");
  WeightStore store;
  EXPECT_FALSE(
      read_pytorch_bin(test::file_of(test::torch_archive(pickle.bytes(), {"abc"})), store));
  EXPECT_EQ(store.size(), 0U);
  EXPECT_TRUE(store.owners().empty());
}

// The files are made by tests/data/pickle/make_pickle_files.py, which fills tensors with 0, 1, 2,
// ….
TEST(PytorchBin, ReadsWhatTorchSaves) {
  for (const char* name : {"state_dict.bin", "views.bin"}) {
    const std::string path = (test::data_dir() / "data" / "pickle" / name).string();
    WeightStore store;
    const auto result = read_pytorch_bin(open_file(path).value(), store);
    ASSERT_TRUE(result) << result.error().message;
    ASSERT_GE(store.size(), 3U);
    for (const auto& [key, entry] : store.entries()) {
      if (entry.tensor.dtype != DType::f32 || key == "transposed") continue;
      const auto values = entry.tensor.as<float>();
      for (std::size_t i = 0; i < values.size(); ++i) {
        EXPECT_EQ(values[i], values[0] + static_cast<float>(i)) << key;
      }
    }
  }
}

TEST(PytorchBin, ViewsOfTorchKeepOffsetsAndStrides) {
  const std::string path = (test::data_dir() / "data" / "pickle" / "views.bin").string();
  WeightStore store;
  ASSERT_TRUE(read_pytorch_bin(open_file(path).value(), store));
  EXPECT_EQ(store.find("whole")->tensor.data, store.find("tied")->tensor.data);
  EXPECT_EQ(store.find("tail")->tensor.as<float>()[0], 8.0F);
  const auto transposed = store.find("transposed")->tensor;
  EXPECT_EQ(transposed.shape, (Shape{4, 3}));
  EXPECT_EQ(transposed.as<float>()[1], 4.0F);
}

}  // namespace
}  // namespace krait::pytorch_bin_test
