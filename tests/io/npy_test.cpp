#include "krait/io/npy.hpp"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <vector>

#include "tests/support/support.hpp"

namespace krait::npy_test {
namespace {

TEST(NpyWriter, WritesHeaderAndRows) {
  const test::TemporaryDirectory folder;
  const auto path = folder.path() / "x.npy";
  auto writer = NpyWriter::create(path.string(), 3).value();
  const std::vector<float> values = {1, 2, 3, 4, 5, 6};
  ASSERT_TRUE(writer.write(std::span(values).first(3)));
  ASSERT_TRUE(writer.write(std::span(values).last(3)));
  EXPECT_FALSE(std::filesystem::exists(path));
  ASSERT_TRUE(writer.commit());
  const std::string bytes = test::read_file(path);
  ASSERT_EQ(bytes.size(), 128 + 24U);
  EXPECT_EQ(bytes.substr(0, 10), std::string("\x93NUMPY\x01\x00\x76\x00", 10));
  EXPECT_EQ(bytes.substr(10, 59), "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }");
  EXPECT_EQ(bytes[127], '\n');
  EXPECT_EQ(std::memcmp(bytes.data() + 128, values.data(), 24), 0);
}

TEST(NpyWriter, NoRowsAreAMatrixToo) {
  const test::TemporaryDirectory folder;
  const auto path = folder.path() / "x.npy";
  auto writer = NpyWriter::create(path.string(), 1'000'000'000'000).value();
  ASSERT_TRUE(writer.commit());
  const std::string bytes = test::read_file(path);
  EXPECT_EQ(bytes.size(), 128U);
  EXPECT_NE(bytes.find("(0, 1000000000000)"), std::string::npos);
}

#if KRAIT_HAS_EXCEPTIONS
TEST(NpyWriter, RowsOfAnotherLengthBreakTheContract) {
  const test::TemporaryDirectory folder;
  auto writer = NpyWriter::create((folder.path() / "x.npy").string(), 3).value();
  const std::vector<float> row(4);
  EXPECT_THROW(static_cast<void>(writer.write(row)), ContractError);
}
#endif

TEST(NpyWriter, AFullDeviceIsAnError) {
  const auto writer = NpyWriter::create("/dev/full", 3);
  ASSERT_FALSE(writer);
  EXPECT_EQ(writer.error().code, ErrorCode::io_failed);
}

}  // namespace
}  // namespace krait::npy_test
