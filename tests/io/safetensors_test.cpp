#include "krait/io/safetensors.hpp"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <filesystem>

#include "tests/io/builders.hpp"
#include "tests/support/support.hpp"

namespace krait::safetensors_test {
namespace {

namespace fs = std::filesystem;

std::uintptr_t address(const void* data) { return reinterpret_cast<std::uintptr_t>(data); }

template <class T>
NamedTensor named(std::string name, const std::vector<T>& values, DType dtype, Shape shape) {
  return {std::move(name), {values.data(), dtype, shape}};
}

TEST(Safetensors, RoundTripKeepsEveryTypeAndTheMetadata) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x.safetensors").string();
  const std::vector<float> floats = test::random_floats(6, 1);
  const std::vector<std::int64_t> bytes = {1, -2, 3};
  std::vector<NamedTensor> tensors = {named("f32", floats, DType::f32, {2, 3}),
                                      named("scalar", floats, DType::f32, {}),
                                      named("empty", floats, DType::f32, {0, 5})};
  for (const DType dtype : {DType::f16, DType::bf16, DType::f64, DType::i64, DType::i32, DType::i16,
                            DType::i8, DType::u8, DType::boolean}) {
    tensors.push_back(named(std::string(to_string(dtype)), bytes, dtype, {3}));
  }
  ASSERT_TRUE(write_safetensors(path, tensors, {{"format", "krait"}, {"note", "\"é\"\n"}}));
  for (const WeightsMode mode : {WeightsMode::map, WeightsMode::copy}) {
    WeightStore store;
    ASSERT_TRUE(read_safetensors(open_file(path, mode).value(), store));
    EXPECT_EQ(store.size(), tensors.size());
    EXPECT_EQ(store.metadata.at("note"), "\"é\"\n");
    for (const NamedTensor& tensor : tensors) {
      const auto* entry = store.find(tensor.name);
      ASSERT_NE(entry, nullptr) << tensor.name;
      EXPECT_EQ(entry->tensor.dtype, tensor.tensor.dtype);
      EXPECT_EQ(entry->tensor.shape, tensor.tensor.shape);
      EXPECT_EQ(entry->file, path);
      const auto size = static_cast<std::size_t>(tensor.tensor.bytes());
      if (size > 0) {
        EXPECT_EQ(std::memcmp(entry->tensor.data, tensor.tensor.data, size), 0);
      }
    }
  }
}

TEST(Safetensors, WritingTwiceGivesTheSameBytes) {
  const test::TemporaryDirectory folder;
  const std::vector<float> floats = test::random_floats(64, 2);
  const std::vector<NamedTensor> tensors = {named("b", floats, DType::f32, {64}),
                                            named("a", floats, DType::bf16, {7})};
  for (const char* name : {"x", "y"}) {
    ASSERT_TRUE(write_safetensors((folder.path() / name).string(), tensors, {{"k", "v"}}));
  }
  EXPECT_EQ(test::read_file(folder.path() / "x"), test::read_file(folder.path() / "y"));
}

TEST(Safetensors, WrittenTensorsAreAligned) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x").string();
  const std::vector<std::int64_t> data(64);
  ASSERT_TRUE(write_safetensors(
      path, {named("odd", data, DType::u8, {3}), named("line", data, DType::f32, {16}),
             named("half", data, DType::f16, {5}), named("float", data, DType::f32, {5}),
             named("lines", data, DType::bf16, {2, 64})}));
  WeightStore store;
  const auto file = open_file(path).value();
  ASSERT_TRUE(read_safetensors(file, store));
  for (const auto& [name, entry] : store.entries()) {
    const auto width = static_cast<std::uintptr_t>(bytes_of(entry.tensor.dtype));
    EXPECT_EQ(address(entry.tensor.data) % width, 0U) << name;
    EXPECT_GE(address(entry.tensor.data), address(file->bytes().data())) << name;
    EXPECT_LT(address(entry.tensor.data), address(file->bytes().data() + file->bytes().size()));
  }
  EXPECT_EQ(address(store.find("line")->tensor.data) % 64, 0U);
  EXPECT_EQ(address(store.find("lines")->tensor.data) % 64, 0U);
}

TEST(SafetensorsWriter, PiecesInAnyOrderGiveTheSameBytes) {
  const test::TemporaryDirectory folder;
  const std::vector<float> floats = test::random_floats(64, 3);
  const std::vector<NamedTensor> tensors = {
      named("a", floats, DType::bf16, {7}), named("empty", floats, DType::f32, {0}),
      named("b", floats, DType::f32, {64}), named("c", floats, DType::u8, {64})};
  ASSERT_TRUE(write_safetensors((folder.path() / "x").string(), tensors, {{"k", "v"}}));
  std::vector<NamedTensor> shapes = tensors;
  for (NamedTensor& tensor : shapes) tensor.tensor.data = nullptr;
  const std::string path = (folder.path() / "y").string();
  auto writer = SafetensorsWriter::create(path, shapes, {{"k", "v"}}).value();
  EXPECT_EQ(writer.order(), (std::vector<std::size_t>{1, 2, 3, 0}));
  const auto write = [&](std::size_t i, Index from, Index to) {
    const auto* data = static_cast<const std::byte*>(tensors[i].tensor.data);
    return writer.write(i, from, {data + from, data + to});
  };
  ASSERT_TRUE(write(0, 0, 14));
  ASSERT_TRUE(write(2, 100, 256));
  ASSERT_TRUE(write(2, 0, 100));
  EXPECT_THROW((void)write(3, 1, 66), ContractError);
  EXPECT_THROW((void)writer.write(4, 0, {}), ContractError);
  EXPECT_THROW((void)writer.commit(), ContractError);
  EXPECT_FALSE(fs::exists(path));
  ASSERT_TRUE(write(3, 0, 64));
  ASSERT_TRUE(writer.commit());
  EXPECT_EQ(test::read_file(folder.path() / "x"), test::read_file(path));
}

TEST(Safetensors, AlignedTensorsAreUsedInPlaceAndOthersCopied) {
  const std::string bytes = test::small_safetensors();
  const std::size_t data_at = bytes.size() - 29;
  for (std::size_t shift = 0; shift < 4; ++shift) {
    const auto file = test::file_of(bytes, "x", shift);
    WeightStore store;
    ASSERT_TRUE(read_safetensors(file, store));
    const auto* a = store.find("a");
    ASSERT_NE(a, nullptr);
    const bool is_aligned = address(file->bytes().data() + data_at) % alignof(float) == 0;
    EXPECT_EQ(a->tensor.data == file->bytes().data() + data_at, is_aligned);
    EXPECT_EQ(address(a->tensor.data) % alignof(float), 0U);
    EXPECT_EQ(a->tensor.as<float>()[5], 6.0F);
  }
}

TEST(Safetensors, TheStoreKeepsTheFile) {
  WeightStore store;
  ASSERT_TRUE(read_safetensors(test::file_of(test::small_safetensors()), store));
  const WeightStore copy = store;
  store = {};
  EXPECT_EQ(copy.find("a")->tensor.as<float>()[0], 1.0F);
  EXPECT_EQ(copy.find("absent"), nullptr);
}

TEST(Safetensors, ImpossibleOutputsAreRefused) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x").string();
  const std::vector<float> data(4);
  const auto a = named("a", data, DType::f32, {4});
  EXPECT_EQ(write_safetensors(path, {a, a}).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(write_safetensors(path, {{"a", {nullptr, DType::f32, {1}}}}).error().code,
            ErrorCode::bad_argument);
  EXPECT_EQ(write_safetensors(path, {named("__metadata__", data, DType::f32, {4})}).error().code,
            ErrorCode::bad_argument);
  EXPECT_FALSE(fs::exists(path));
  const auto full = write_safetensors("/dev/full", {a});
  ASSERT_FALSE(full);
  EXPECT_NE(full.error().message.find("/dev/full"), std::string::npos);
  test::write_file(path, "old");
  EXPECT_FALSE(write_safetensors(path, {a, a}));
  EXPECT_EQ(test::read_file(path), "old");
}

// One tensor "a" of 16 bytes.
WeightStore read_one(const std::string& dtype, const std::string& shape) {
  const std::string header =
      "{\"a\":{\"dtype\":\"" + dtype + "\",\"shape\":[" + shape + "],\"data_offsets\":[0,16]}}";
  WeightStore store;
  read_safetensors(test::file_of(test::safetensors(header, std::string(16, 'x')), "x"), store)
      .value();
  return store;
}

TEST(Safetensors, TypesThatKraitLacksAreNoted) {
  for (const auto& [dtype, shape] :
       std::vector<std::pair<std::string, std::string>>{{"U16", "4,2"},
                                                        {"U32", "4"},
                                                        {"U64", "2"},
                                                        {"C64", "2"},
                                                        {"F8_E4M3", "16"},
                                                        {"F8_E5M2", "4,4"},
                                                        {"F8_E8M0", "16"},
                                                        {"F4", "32"},
                                                        {"I4", "7"},
                                                        {"NEW", ""},
                                                        {"F32", "1,1,1,1,1,1,1,1,4"}}) {
    const WeightStore store = read_one(dtype, shape);
    EXPECT_EQ(store.size(), 0U) << dtype;
    ASSERT_EQ(store.unreadable().size(), 1U) << dtype;
    EXPECT_EQ(store.unreadable().at("a").what, dtype + " [" + shape + "]");
    EXPECT_EQ(store.unreadable().at("a").file, "x");
  }
  EXPECT_EQ(read_one("\\u001b[31m\\u202e", "1").unreadable().at("a").what, "?[31m? [1]");
  EXPECT_EQ(read_one("F32", "4").size(), 1U);
}

class SafetensorsIndex : public ::testing::Test {
 protected:
  void SetUp() override {
    const std::vector<float> data = {1, 2, 3, 4};
    for (const auto& [file, names] :
         {std::pair("one", std::vector{"a", "b"}), std::pair("two", std::vector{"c"})}) {
      std::vector<NamedTensor> tensors;
      for (const char* name : names) tensors.push_back(named(name, data, DType::f32, {2, 2}));
      ASSERT_TRUE(write_safetensors((folder_.path() / file).string(), tensors));
    }
  }

  Result<void> read(const std::string& index) {
    return read_safetensors_index(index, folder_.path().string(), WeightsMode::map, store_);
  }

  void expect_error(const std::string& index, ErrorCode code, std::string_view part) {
    const auto result = read(index);
    ASSERT_FALSE(result) << index;
    EXPECT_EQ(result.error().code, code) << result.error().message;
    EXPECT_NE(result.error().message.find(part), std::string::npos) << result.error().message;
    EXPECT_NE(result.error().message.find(folder_.path().string()), std::string::npos);
    EXPECT_EQ(result.error().message.find('\n'), std::string::npos);
    EXPECT_EQ(store_.size(), 0U);
  }

  test::TemporaryDirectory folder_;
  WeightStore store_;
};

TEST_F(SafetensorsIndex, GathersTheNamedTensors) {
  ASSERT_TRUE(read(R"({"metadata":{},"weight_map":{"a":"one","c":"two"}})"));
  EXPECT_EQ(store_.size(), 3U) << "b as well, which the index forgot";
  EXPECT_EQ(store_.find("c")->tensor.as<float>()[3], 4.0F);
  EXPECT_EQ(store_.find("c")->file, (folder_.path() / "two").string());
}

TEST_F(SafetensorsIndex, ShardsKnowBetterThanTheIndex) {
  // "a" in another shard than said, "d" in none, "b" not mentioned.
  ASSERT_TRUE(read(R"({"weight_map":{"a":"two","c":"two","d":"one"}})"));
  EXPECT_EQ(store_.size(), 3U);
  EXPECT_EQ(store_.find("a")->file, (folder_.path() / "one").string());
}

TEST_F(SafetensorsIndex, OfTwoTensorsTheNamedOneIsTaken) {
  const std::vector<float> other = {9, 9, 9, 9};
  const std::string three = (folder_.path() / "three").string();
  ASSERT_TRUE(write_safetensors(three, {named("a", other, DType::f32, {2, 2})}));
  ASSERT_TRUE(read(R"({"weight_map":{"a":"three","b":"one"}})"));
  EXPECT_EQ(store_.find("a")->tensor.as<float>()[0], 9.0F);
  store_ = {};
  ASSERT_TRUE(read(R"({"weight_map":{"a":"one","x":"three"}})"));
  EXPECT_EQ(store_.find("a")->tensor.as<float>()[0], 1.0F);
  store_ = {};
  expect_error(R"({"weight_map":{"b":"one","x":"three"}})", ErrorCode::bad_format,
               "a: expected one tensor of that name, found different ones in ");
  const std::vector<float> same = {1, 2, 3, 4};
  ASSERT_TRUE(write_safetensors(three, {named("a", same, DType::f32, {2, 2})}));
  EXPECT_TRUE(read(R"({"weight_map":{"b":"one","x":"three"}})"));
}

TEST_F(SafetensorsIndex, HostileOnesAreRefused) {
  using enum ErrorCode;
  expect_error("", bad_format, "JSON");
  expect_error("[]", bad_format, "weight_map");
  expect_error("{}", bad_format, "weight_map");
  expect_error(R"({"weight_map":[]})", bad_format, "weight_map");
  expect_error(R"({"weight_map":{"a":1}})", bad_format, "beside the index");
  expect_error(R"({"weight_map":{"a":"../one"}})", bad_format, "beside the index");
  expect_error(R"({"weight_map":{"a":"/etc/passwd"}})", bad_format, "beside the index");
  expect_error(R"({"weight_map":{"a":".."}})", bad_format, "beside the index");
  expect_error(R"({"weight_map":{"a":""}})", bad_format, "beside the index");
  expect_error(R"({"weight_map":{"a":"one\u0000x"}})", bad_format, "beside the index");
  expect_error(R"({"weight_map":{"a":"x\\one"}})", bad_format, "beside the index");
  expect_error(R"({"weight_map":{"a":"three"}})", not_found, "three");
  expect_error(R"({"weight_map":{"n\nl":1}})", bad_format, "n?l");
  expect_error(R"({"weight_map":{"a":"one","a":"two"}})", bad_format, "twice");
  test::write_file(folder_.path() / "bad", "short");
  expect_error(R"({"weight_map":{"a":"one","b":"bad"}})", bad_format, "bad");
}

}  // namespace
}  // namespace krait::safetensors_test
