#pragma once

/// \file
/// The program while it runs: what it is told, and the signals it gets.

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

namespace krait {

/// Runs the program with a pipe or a terminal of ours as its standard input, and files for what it
/// writes.
class Running {
 public:
  enum class Stdin { pipe, terminal };

  Running(std::vector<std::string> arguments, const std::string& out, const std::string& err,
          Stdin type = Stdin::pipe) {
    int read_end = -1;
    if (type == Stdin::pipe) {
      int ends[2] = {-1, -1};
      EXPECT_EQ(::pipe(ends), 0);
      read_end = ends[0];
      write_end_ = ends[1];
    } else {
      write_end_ = ::posix_openpt(O_RDWR | O_NOCTTY);
      EXPECT_GE(write_end_, 0);
      EXPECT_EQ(::grantpt(write_end_), 0);
      EXPECT_EQ(::unlockpt(write_end_), 0);
      read_end = ::open(::ptsname(write_end_), O_RDWR | O_NOCTTY);
    }
    ::fcntl(write_end_, F_SETFD, FD_CLOEXEC);
    arguments.insert(arguments.begin(), KRAIT_PROGRAM);
    std::vector<char*> pointers;
    for (std::string& argument : arguments) pointers.push_back(argument.data());
    pointers.push_back(nullptr);
    // Of an earlier run, which would be taken for this one's.
    for (const std::string& file : {out, err}) {
      if (std::filesystem::is_regular_file(file)) std::filesystem::remove(file);
    }
    process_ = ::fork();
    if (process_ == 0) {
      ::signal(SIGINT, SIG_DFL);
      ::dup2(read_end, STDIN_FILENO);
      ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), STDOUT_FILENO);
      ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0666), STDERR_FILENO);
      ::execv(pointers[0], pointers.data());
      ::_exit(127);
    }
    ::close(read_end);
  }
  Running(const Running&) = delete;
  Running& operator=(const Running&) = delete;
  ~Running() {
    if (write_end_ >= 0) ::close(write_end_);
    if (process_ <= 0) return;
    ::kill(process_, SIGKILL);
    ::waitpid(process_, nullptr, 0);
  }

  void write(const std::string& text) {
    EXPECT_EQ(::write(write_end_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }

  /// Waits until the program catches signals.
  void wait_for_handlers() {
    EXPECT_TRUE(eventually([this] {
      std::ifstream status("/proc/" + std::to_string(process_) + "/status");
      for (std::string line; std::getline(status, line);) {
        if (line.rfind("SigCgt:", 0) != 0) continue;
        return (std::stoull(line.substr(7), nullptr, 16) >> (SIGTERM - 1) & 1U) != 0;
      }
      return false;
    }));
  }
  /// Waits until the file has so many line breaks.
  static void wait_for_lines(const std::string& path, std::ptrdiff_t count) {
    EXPECT_TRUE(eventually([&] {
      std::ifstream file(path);
      std::stringstream text;
      text << file.rdbuf();
      const std::string all = text.str();
      return std::count(all.begin(), all.end(), '\n') >= count;
    }));
  }

  void signal(int number) { ::kill(process_, number); }

  /// The exit code; -1 if the program does not end.
  int wait() {
    int status = 0;
    if (!eventually([&] { return ::waitpid(process_, &status, WNOHANG) == process_; })) return -1;
    process_ = -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  static bool eventually(const std::function<bool()>& condition) {
    // Long, for machines that do other things too.
    for (int i = 0; i < 3000; ++i) {
      if (condition()) return true;
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
    return false;
  }

  pid_t process_ = -1;
  int write_end_ = -1;
};

}  // namespace krait
