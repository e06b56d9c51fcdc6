#include "krait/io/atomic_file.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <utility>

#include "tests/support/support.hpp"

namespace krait::atomic_file_test {
namespace {

namespace fs = std::filesystem;

std::size_t count_files(const fs::path& folder) {
  return static_cast<std::size_t>(
      std::distance(fs::directory_iterator(folder), fs::directory_iterator{}));
}

unsigned mode_of(const fs::path& path) {
  struct stat status {};
  EXPECT_EQ(::stat(path.c_str(), &status), 0);
  return static_cast<unsigned>(status.st_mode) & 0777U;
}

TEST(AtomicFile, TheFileAppearsWithTheCommit) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "x";
  auto file = AtomicFile::create(path.string()).value();
  ASSERT_TRUE(file.write("one "));
  ASSERT_TRUE(file.write("two"));
  const std::string replacement = "ONE";
  ASSERT_TRUE(file.write_at(0, std::as_bytes(std::span(replacement))));
  EXPECT_FALSE(fs::exists(path));
  ASSERT_TRUE(file.commit());
  EXPECT_EQ(test::read_file(path), "ONE two");
  EXPECT_EQ(count_files(folder.path()), 1U);
}

TEST(AtomicFile, WithoutACommitTheOldFileStays) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "x";
  test::write_file(path, "old");
  {
    auto file = AtomicFile::create(path.string()).value();
    ASSERT_TRUE(file.write("new"));
    auto moved = std::move(file);
    EXPECT_EQ(test::read_file(path), "old");
  }
  EXPECT_EQ(test::read_file(path), "old");
  EXPECT_EQ(count_files(folder.path()), 1U);
}

TEST(AtomicFile, KeepsLinksAndModes) {
  const test::TemporaryDirectory folder;
  const fs::path target = folder.path() / "target";
  const fs::path link = folder.path() / "link";
  test::write_file(target, "old");
  ASSERT_EQ(::chmod(target.c_str(), 0600), 0);
  fs::create_symlink(target, link);
  auto file = AtomicFile::create(link.string()).value();
  ASSERT_TRUE(file.write("new"));
  ASSERT_TRUE(file.commit());
  EXPECT_TRUE(fs::is_symlink(link));
  EXPECT_EQ(test::read_file(target), "new");
  EXPECT_EQ(mode_of(target), 0600U);
}

TEST(AtomicFile, ANewFileHasTheModeOfTheProcess) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "x";
  const mode_t mask = ::umask(027);
  auto file = AtomicFile::create(path.string()).value();
  ::umask(mask);
  ASSERT_TRUE(file.commit());
  EXPECT_EQ(mode_of(path), 0640U);
}

TEST(AtomicFile, AFullDeviceIsAnErrorThatNamesIt) {
  auto file = AtomicFile::create("/dev/full");
  ASSERT_TRUE(file) << file.error().message;
  const auto written = file->write("text");
  ASSERT_FALSE(written);
  EXPECT_EQ(written.error().code, ErrorCode::io_failed);
  EXPECT_NE(written.error().message.find("/dev/full"), std::string::npos);
  EXPECT_NE(written.error().message.find("No space left"), std::string::npos);
  EXPECT_TRUE(fs::is_character_file("/dev/full"));
}

TEST(AtomicFile, APipeIsWrittenDirectly) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "pipe";
  ASSERT_EQ(::mkfifo(path.c_str(), 0600), 0);
  const int reader = ::open(path.c_str(), O_RDONLY | O_NONBLOCK);
  ASSERT_GE(reader, 0);
  auto file = AtomicFile::create(path.string()).value();
  ASSERT_TRUE(file.write("text"));
  const std::string replacement = "T";
  EXPECT_FALSE(file.write_at(0, std::as_bytes(std::span(replacement))));
  ASSERT_TRUE(file.commit());
  char buffer[8];
  EXPECT_EQ(::read(reader, buffer, sizeof(buffer)), 4);
  ::close(reader);
  EXPECT_EQ(count_files(folder.path()), 1U);
}

TEST(AtomicFile, PlacesThatCannotBeWrittenAreErrors) {
  const test::TemporaryDirectory folder;
  for (const std::string& path :
       {folder.path().string(), (folder.path() / "absent" / "x").string(), std::string()}) {
    const auto file = AtomicFile::create(path);
    ASSERT_FALSE(file) << path;
    EXPECT_EQ(file.error().code, ErrorCode::io_failed);
    EXPECT_NE(file.error().message.find(path), std::string::npos);
  }
  EXPECT_EQ(count_files(folder.path()), 0U);
  const fs::path closed = folder.path() / "closed";
  fs::create_directory(closed);
  fs::permissions(closed, fs::perms::owner_read | fs::perms::owner_exec);
  if (::geteuid() != 0) {
    EXPECT_FALSE(AtomicFile::create((closed / "x").string()));
  }
  fs::permissions(closed, fs::perms::owner_all);
}

TEST(AtomicFile, WritesAheadOfWhatIsWritten) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "x";
  auto file = AtomicFile::create(path.string()).value();
  const std::string last = "three";
  ASSERT_TRUE(file.write_at(8, std::as_bytes(std::span(last))));
  ASSERT_TRUE(file.write("one "));
  ASSERT_TRUE(file.write("two "));
  ASSERT_TRUE(file.commit());
  EXPECT_EQ(test::read_file(path), "one two three");
}

TEST(AtomicDirectory, TheFolderAppearsWithTheCommit) {
  const test::TemporaryDirectory folder;
  const fs::path target = folder.path() / "x";
  auto directory = AtomicDirectory::create(target.string() + "/").value();
  test::write_file(fs::path(directory.path()) / "file", "text");
  auto moved = std::move(directory);
  EXPECT_FALSE(fs::exists(target));
  ASSERT_TRUE(moved.commit());
  EXPECT_EQ(test::read_file(target / "file"), "text");
  EXPECT_EQ(count_files(folder.path()), 1U);
}

TEST(AtomicDirectory, WithoutACommitNothingIsLeft) {
  const test::TemporaryDirectory folder;
  {
    auto directory = AtomicDirectory::create((folder.path() / "x").string()).value();
    fs::create_directory(fs::path(directory.path()) / "inner");
    test::write_file(fs::path(directory.path()) / "inner" / "file", "text");
    EXPECT_EQ(count_files(folder.path()), 1U);
  }
  EXPECT_EQ(count_files(folder.path()), 0U);
}

TEST(AtomicDirectory, ReplacesAnEmptyFolderAndNothingElse) {
  const test::TemporaryDirectory folder;
  const fs::path target = folder.path() / "x";
  fs::create_directory(target);
  fs::create_directory_symlink(target, folder.path() / "link");
  ASSERT_EQ(::chmod(target.c_str(), 0700), 0);
  auto directory = AtomicDirectory::create((folder.path() / "link").string()).value();
  test::write_file(fs::path(directory.path()) / "file", "text");
  ASSERT_TRUE(directory.commit());
  EXPECT_EQ(test::read_file(target / "file"), "text");
  EXPECT_EQ(mode_of(target), 0700U);
  EXPECT_TRUE(fs::is_symlink(folder.path() / "link"));

  EXPECT_EQ(AtomicDirectory::create(target.string()).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(AtomicDirectory::create((target / "file").string()).error().code,
            ErrorCode::bad_argument);
  EXPECT_EQ(AtomicDirectory::create((target / "file" / "x").string()).error().code,
            ErrorCode::not_found);
  EXPECT_EQ(AtomicDirectory::create((target / "absent" / "x").string()).error().code,
            ErrorCode::not_found);
  EXPECT_EQ(AtomicDirectory::create("").error().code, ErrorCode::not_found);
  fs::create_directory_symlink("nowhere", folder.path() / "dangling");
  EXPECT_EQ(AtomicDirectory::create((folder.path() / "dangling").string()).error().code,
            ErrorCode::bad_argument);

  // Somebody else takes the name in the meantime.
  const fs::path other = folder.path() / "other";
  auto late = AtomicDirectory::create(other.string()).value();
  fs::create_directory(other);
  test::write_file(other / "theirs", "text");
  EXPECT_FALSE(late.commit());
  EXPECT_EQ(test::read_file(other / "theirs"), "text");
}

// A process that writes a file or a folder called `path`, until it is killed.
class Writer {
 public:
  Writer(const fs::path& path, bool is_folder) {
    int ends[2];
    EXPECT_EQ(::pipe(ends), 0);
    process_ = ::fork();
    if (process_ == 0) write(path, is_folder, ends[1]);
    ::close(ends[1]);
    char ready = 0;
    EXPECT_EQ(::read(ends[0], &ready, 1), 1);
    ::close(ends[0]);
  }
  ~Writer() { kill(); }
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;

  ::pid_t process() const noexcept { return process_; }

  void kill() {
    if (std::exchange(is_running_, false)) {
      EXPECT_EQ(::kill(process_, SIGKILL), 0);
      EXPECT_EQ(::waitpid(process_, nullptr, 0), process_);
    }
  }

 private:
  [[noreturn]] static void write(const fs::path& path, bool is_folder, int ready) {
    const auto tell = [&](bool is_written) {
      if (!is_written || ::write(ready, "1", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    };
    if (is_folder) {
      const auto folder = AtomicDirectory::create(path.string());
      if (folder) test::write_file(fs::path(folder->path()) / "half", "text");
      tell(folder.has_value());
    }
    auto file = AtomicFile::create(path.string());
    tell(file && file->write("half"));
    ::_exit(1);
  }

  ::pid_t process_ = -1;
  bool is_running_ = true;
};

// Makes and drops what is called `path`, so that leftovers are looked for.
void touch(const fs::path& path, bool is_folder) {
  if (is_folder) {
    ASSERT_TRUE(AtomicDirectory::create(path.string()));
  } else {
    ASSERT_TRUE(AtomicFile::create(path.string()));
  }
}

class Leftovers : public testing::TestWithParam<bool> {};

TEST_P(Leftovers, OfAKilledWriterGoWithTheNext) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "x";
  Writer writer(path, GetParam());
  Writer other(folder.path() / "x2", GetParam());
  EXPECT_EQ(count_files(folder.path()), 2U);
  touch(path, GetParam());  // beside living ones
  EXPECT_EQ(count_files(folder.path()), 2U);
  writer.kill();
  other.kill();
  EXPECT_EQ(count_files(folder.path()), 2U);
  touch(path, GetParam());
  EXPECT_EQ(count_files(folder.path()), 1U);  // that of another name
  touch(folder.path() / "x2", !GetParam());
  EXPECT_EQ(count_files(folder.path()), 0U);
}

TEST_P(Leftovers, StayWhereTheyAreLockedOrHaveAnotherName) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "x";
  Writer writer(path, GetParam());
  writer.kill();
  // As a writer on another machine holds it.
  const fs::path locked = *fs::directory_iterator(folder.path());
  const int lock = ::open(locked.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  const std::string dead = std::to_string(writer.process());
  for (const std::string& name :
       {"x." + dead + ".krait.tmp", "x." + dead + "-123456", "x." + dead + "-a.krait.tmp",
        "x.y." + dead + "-1.krait.tmp", "x.-" + dead + "-1.krait.tmp", "x." + dead + "-1.tmp",
        std::string("x.99999999999999999999-1.krait.tmp"), std::string("x.0-1.krait.tmp"),
        std::string("x.2024-11.tmp"), "x" + dead + "-1.krait.tmp"}) {
    test::write_file(folder.path() / name, "somebody's");
  }
  fs::create_symlink("nowhere", folder.path() / ("x." + dead + "-123456.krait.tmp"));
  const std::size_t before = count_files(folder.path());
  touch(path, GetParam());
  EXPECT_EQ(count_files(folder.path()), before);
  ::close(lock);
  touch(path, GetParam());
  EXPECT_FALSE(fs::exists(locked));
  EXPECT_EQ(count_files(folder.path()), before - 1);
}

// Where every call has the same id, as the first process of a container has.
TEST_P(Leftovers, OfThisProcessAreKnownByTheirLock) {
  const test::TemporaryDirectory folder;
  const fs::path path = folder.path() / "x";
  const fs::path left = path.string() + "." + std::to_string(::getpid()) + "-123456.krait.tmp";
  if (GetParam()) {
    fs::create_directory(left);
  } else {
    test::write_file(left, "half");
  }
  const int lock = ::open(left.c_str(), O_RDONLY | O_CLOEXEC);
  ASSERT_EQ(::flock(lock, LOCK_EX), 0);
  touch(path, GetParam());
  EXPECT_TRUE(fs::exists(left));
  ::close(lock);
  touch(path, GetParam());
  EXPECT_FALSE(fs::exists(left));
}

INSTANTIATE_TEST_SUITE_P(Of, Leftovers, testing::Bool(), [](const auto& info) {
  return std::string(info.param ? "Folders" : "Files");
});

}  // namespace
}  // namespace krait::atomic_file_test
