// Signals, at every place where the program waits for input or works.

#include <sys/stat.h>

#include "tests/cli/cli.hpp"
#include "tests/cli/running.hpp"

namespace krait::signal_test {
namespace {

class CliSignals : public Cli {
 protected:
  // Interrupts a command while it waits for input; it writes nothing.
  void expect_interruption(const std::vector<std::string>& arguments, int signal,
                           Running::Stdin type = Running::Stdin::pipe) {
    SCOPED_TRACE(arguments[0] + " " + std::to_string(signal));
    Running running(arguments, path("out"), path("err"), type);
    running.wait_for_handlers();
    running.signal(signal);
    EXPECT_EQ(running.wait(), 130);
    EXPECT_EQ(test::read_file(path("out")), "");
    EXPECT_NE(test::read_file(path("err")).find("krait: interrupted\n"), std::string::npos);
  }
};

TEST_F(CliSignals, EndChatAtThePromptAndKeepTheConversation) {
  // What the same line gives when the input just ends.
  EXPECT_EQ(
      shell("printf 'hi\n' | " KRAIT_PROGRAM " chat -n 3 --greedy --state-out " + path("expected"))
          .code,
      0);
  for (const auto type : {Running::Stdin::pipe, Running::Stdin::terminal}) {
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
      SCOPED_TRACE(signal);
      Running chat({"chat", "-n", "3", "--greedy", "--state-out", path("talk")}, path("out"),
                   path("err"), type);
      chat.write("hi\n");
      Running::wait_for_lines(path("out"), 1);
      chat.signal(signal);
      EXPECT_EQ(chat.wait(), 130);
      EXPECT_TRUE(test::read_file(path("talk")) == test::read_file(path("expected")));
      std::filesystem::remove(path("talk"));
    }
  }
}

TEST_F(CliSignals, EndChatBeforeTheFirstLine) {
  for (const int signal : {SIGINT, SIGTERM}) {
    Running chat({"chat", "--state-out", path("talk")}, path("out"), path("err"));
    chat.wait_for_handlers();
    chat.signal(signal);
    EXPECT_EQ(chat.wait(), 130);
    EXPECT_TRUE(std::filesystem::exists(path("talk")));
    std::filesystem::remove(path("talk"));
  }
}

TEST_F(CliSignals, EndARunningReplyAndKeepWhatWasShown) {
  Running chat({"chat", "-n", "100000000", "--greedy", "--state-out", path("talk")}, path("out"),
               path("err"));
  chat.write("hi\n");
  Running::wait_for_lines(path("out"), 1);
  chat.signal(SIGINT);
  EXPECT_EQ(chat.wait(), 130);
  const std::string shown = test::read_file(path("out"));
  const std::string text =
      "User: hi\nAssistant:" + shown.substr(0, shown.find_last_not_of('\n') + 1);
  std::string kept;
  for (const Token token : state_tokens(path("talk"))) kept += static_cast<char>(token);
  EXPECT_EQ(kept.substr(0, text.size()), text);
  EXPECT_EQ(kept.find_first_not_of('\n', text.size()), std::string::npos);
}

TEST_F(CliSignals, EndWaitingForInput) {
  const std::string fifo = path("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  for (const int signal : {SIGINT, SIGTERM}) {
    expect_interruption({"generate", "-"}, signal);
    expect_interruption({"generate"}, signal);
    expect_interruption({"generate", "--prompt-file", fifo}, signal);
    expect_interruption({"generate", "a", "--state-in", fifo}, signal);
    expect_interruption({"tokenize", "-"}, signal, Running::Stdin::terminal);
    expect_interruption({"tokenize", "--decode", "-"}, signal);
    expect_interruption({"logits", "--file", "/dev/stdin"}, signal);
    expect_interruption({"perplexity", fifo}, signal);
    expect_interruption({"evaluate", "--kl", "krait-bytes-2m"}, signal);
    expect_interruption({"inspect", "--router-stats", "-"}, signal);
  }
}

TEST_F(CliSignals, EndWork) {
  for (const int signal : {SIGINT, SIGTERM}) {
    // The output is a file: what arrived is whole text.
    Running running({"generate", "a", "-n", "100000000", "--greedy", "--state-out", path("s")},
                    path("out"), path("err"));
    Running::wait_for_lines(path("out"), 1);
    running.signal(signal);
    EXPECT_EQ(running.wait(), 130);
    EXPECT_NE(test::read_file(path("err")).find("krait: interrupted\n"), std::string::npos);
    // The sequence goes on where the text ended.
    const std::vector<Token> tokens = state_tokens(path("s"));
    std::string kept;
    for (const Token token : tokens) kept += static_cast<char>(token);
    EXPECT_EQ(kept, "a" + test::read_file(path("out")));
  }
}

TEST_F(CliSignals, ASecondOneKills) {
  // Nobody reads this pipe, so that writing to it never ends.
  const std::string fifo = path("fifo");
  ASSERT_EQ(::mkfifo(fifo.c_str(), 0600), 0);
  const int reader = ::open(fifo.c_str(), O_RDONLY | O_NONBLOCK);
  Running running({"generate", "a", "-n", "100000000"}, fifo, path("err"));
  running.wait_for_handlers();
  std::this_thread::sleep_for(std::chrono::milliseconds(200));
  running.signal(SIGTERM);
  running.signal(SIGTERM);
  const int code = running.wait();
  EXPECT_TRUE(code == 128 + SIGTERM || code == 130) << code;
  ::close(reader);
}

}  // namespace
}  // namespace krait::signal_test
