#include "krait/io/mapped_file.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <cstring>
#include <thread>

#include "tests/support/support.hpp"

namespace krait::mapped_file_test {
namespace {

std::string_view text_of(const FileBytes& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

TEST(MappedFile, BothModesGiveTheBytes) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x").string();
  const std::string content(3'000'001, 'k');
  test::write_file(path, content);
  for (const WeightsMode mode : {WeightsMode::map, WeightsMode::copy}) {
    const auto file = open_file(path, mode);
    ASSERT_TRUE(file) << file.error().message;
    EXPECT_EQ(text_of(**file), content);
    EXPECT_EQ((*file)->name(), path);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>((*file)->bytes().data()) % 64, 0U);
  }
}

TEST(MappedFile, ACopyDoesNotFollowTheFile) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x").string();
  test::write_file(path, "before");
  const auto file = open_file(path, WeightsMode::copy).value();
  test::write_file(path, "after.");
  EXPECT_EQ(text_of(*file), "before");
}

TEST(MappedFile, ProgressReachesTheEndAndCanStop) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x").string();
  test::write_file(path, std::string(9'000'000, 'x'));
  Index last = 0;
  const auto watch = [&](Index done, Index total) {
    EXPECT_GT(done, last);
    EXPECT_EQ(total, 9'000'000);
    last = done;
    return Flow::go_on;
  };
  EXPECT_TRUE(open_file(path, WeightsMode::copy, watch));
  EXPECT_EQ(last, 9'000'000);
  const auto stop = [](Index, Index) { return Flow::stop; };
  const auto stopped = open_file(path, WeightsMode::copy, stop);
  ASSERT_FALSE(stopped);
  EXPECT_EQ(stopped.error().code, ErrorCode::cancelled);
}

TEST(MappedFile, AnEmptyFileHasNoBytes) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x").string();
  test::write_file(path, "");
  for (const WeightsMode mode : {WeightsMode::map, WeightsMode::copy}) {
    EXPECT_TRUE(open_file(path, mode).value()->bytes().empty());
  }
  EXPECT_EQ(read_text_file(path).value(), "");
}

void expect_error(const std::string& path, ErrorCode code, std::string_view part) {
  const auto text = read_regular_text_file(path);
  ASSERT_FALSE(text) << path;
  EXPECT_EQ(text.error().code, code);
  EXPECT_NE(text.error().message.find(part), std::string::npos) << text.error().message;
  for (const WeightsMode mode : {WeightsMode::map, WeightsMode::copy}) {
    const auto file = open_file(path, mode);
    ASSERT_FALSE(file) << path;
    EXPECT_EQ(file.error().code, code);
    EXPECT_NE(file.error().message.find(part), std::string::npos) << file.error().message;
    EXPECT_NE(file.error().message.find(path), std::string::npos) << file.error().message;
  }
}

TEST(MappedFile, OnlyReadableRegularFilesOpen) {
  const test::TemporaryDirectory folder;
  const std::string base = folder.path().string();
  expect_error(base, ErrorCode::io_failed, "a directory");
  expect_error(base + "/absent", ErrorCode::not_found, "No such file");
  test::write_file(base + "/x", "x");
  expect_error(base + "/x/y", ErrorCode::not_found, "Not a directory");
  ASSERT_EQ(::mkfifo((base + "/pipe").c_str(), 0600), 0);
  expect_error(base + "/pipe", ErrorCode::io_failed, "a device or pipe");
  expect_error("/dev/null", ErrorCode::io_failed, "a device or pipe");
  if (::geteuid() == 0) GTEST_SKIP() << "the superuser may read everything";
  ASSERT_EQ(::chmod((base + "/x").c_str(), 0), 0);
  expect_error(base + "/x", ErrorCode::io_failed, "Permission denied");
}

TEST(MappedFile, TextAboveTheLimitIsRefused) {
  const test::TemporaryDirectory folder;
  const std::string path = (folder.path() / "x").string();
  test::write_file(path, "12345");
  EXPECT_EQ(read_text_file(path, 5).value(), "12345");
  EXPECT_EQ(read_regular_text_file(path, 5).value(), "12345");
  const auto refused = read_text_file(path, 4);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::bad_format);
}

// Not to the size that a file says it has.
TEST(MappedFile, TextIsReadToItsEnd) {
  const test::TemporaryDirectory folder;
  const std::string version = test::read_file("/proc/version");
  ASSERT_FALSE(version.empty());
  EXPECT_EQ(read_text_file("/proc/version").value(), version);
  EXPECT_EQ(read_text_file("/dev/null").value(), "");
  const std::string large(200'001, 'k');
  const std::string path = (folder.path() / "pipe").string();
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  std::thread writer([&] { test::write_file(path, large); });
  EXPECT_EQ(read_text_file(path).value(), large);
  writer.join();
  test::write_file(folder.path() / "large", large);
  EXPECT_EQ(read_text_file((folder.path() / "large").string()).value(), large);
  for (const auto& [name, code] : {std::pair(std::string("/dev/zero"), ErrorCode::bad_format),
                                   {folder.path().string(), ErrorCode::io_failed},
                                   {path + "absent", ErrorCode::not_found}}) {
    const auto refused = read_text_file(name, 100'000);
    ASSERT_FALSE(refused) << name;
    EXPECT_EQ(refused.error().code, code) << refused.error().message;
    EXPECT_NE(refused.error().message.find(name), std::string::npos) << refused.error().message;
  }
}

TEST(MappedFile, BorrowedBytesStayWhereTheyAre) {
  const std::string text = "bytes";
  const auto file = borrow_bytes(std::as_bytes(std::span(text)), "memory");
  EXPECT_EQ(static_cast<const void*>(file->bytes().data()), text.data());
  EXPECT_EQ(file->name(), "memory");
}

}  // namespace
}  // namespace krait::mapped_file_test
