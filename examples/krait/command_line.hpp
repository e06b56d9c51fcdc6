#pragma once

/// \file
/// Arguments of the program: declared once, for the help and for the parser.

#include <cstdint>
#include <deque>
#include <exception>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "krait/krait.hpp"

namespace CLI {  // CLI11, whose header is long
class App;
class Option;
}  // namespace CLI

namespace krait::cli {

/// Thrown for whatever is wrong with the arguments themselves; exit code 2.
class WrongUsage : public std::exception {
 public:
  WrongUsage(std::string_view option, std::string_view expected, std::string_view found);
  /// From an error `[area] what: expected X, found Y`, whose cause is the value of `option`.
  WrongUsage(std::string_view option, const Error& error);
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  std::string message_;
};

/// The value as it was written, for "found".
std::string in_quotes(std::string_view text);
/// The parts of an option's list: "a,b" is two, "" is one.
std::vector<std::string> split_list(std::string_view text);

/// A command with its options. Names are written "-n,--tokens"; what is declared refers to
/// variables that must outlive the command.
///
/// CLI11 keeps the declarations and writes the help, but does not parse: it would take the argument
/// after `--stop=` for its value, read "[a,b]", "{}" and "++" as signs of its own, 010 as 8 and -1
/// as 2^64 - 1, and has its own words for every mistake.
class Command {
 public:
  Command(CLI::App& app, std::function<Result<void>()> run) : app_(&app), run_(std::move(run)) {}

  /// An argument without a name; those of a command are filled in the order of their declaration.
  void positional(const std::string& name, std::optional<std::string>& value,
                  const std::string& help);
  void flag(const std::string& names, bool& value, const std::string& help, bool sets = true);
  /// Any text, the empty one included.
  void text(const std::string& names, std::optional<std::string>& value, const std::string& help);
  void text(const std::string& names, std::string& value, const std::string& help);
  /// A text per flag; may be repeated.
  void texts(const std::string& names, std::vector<std::string>& values, const std::string& help);
  /// The name of a file, which is not empty.
  void file(const std::string& names, std::string& value, const std::string& help);
  void choice(const std::string& names, std::string& value, std::vector<std::string> choices,
              const std::string& help);
  void number(const std::string& names, int& value, Index least, Index most,
              const std::string& help);
  void number(const std::string& names, Index& value, Index least, Index most,
              const std::string& help);
  void number(const std::string& names, std::optional<Index>& value, Index least, Index most,
              const std::string& help);
  void seed(const std::string& names, std::optional<std::uint64_t>& value, const std::string& help);
  /// `check` is asked after the value was set.
  void real(const std::string& names, double& value, const std::string& help,
            std::function<Result<void>()> check);
  void real(const std::string& names, std::optional<double>& value, const std::string& help,
            std::function<Result<void>(double)> check);
  /// An option whose value is taken by a function, which throws WrongUsage. `preset` is for the
  /// help.
  void custom(const std::string& names, const std::string& type, const std::string& help,
              std::function<void(const std::string&)> take, const std::string& preset = "",
              bool repeats = false);

  const std::string& name() const;
  std::string help() const;

  /// Reads the arguments after the command's name; false if they ask for help.
  bool parse(const std::vector<std::string>& arguments);
  Result<void> run() const { return run_(); }

 private:
  struct Entry {
    CLI::Option* option;
    std::function<void(const std::string&)> take;
    bool has_value;
    bool repeats;
    int count = 0;
  };

  void give(Entry& entry, const std::string& value);
  Entry& find(std::string_view name);

  CLI::App* app_;
  std::function<Result<void>()> run_;
  std::deque<Entry> entries_;
  std::deque<Entry> positionals_;
};

/// The program.
class CommandLine {
 public:
  CommandLine(const std::string& description, const std::string& footer);
  ~CommandLine();

  /// Adds a command whose values are one struct, which lives as long as the program: `declare`
  /// names its options, `work` is what it does.
  template <class Options>
  void add(const std::string& name, const std::string& help, const std::string& example,
           void (*declare)(Command&, Options&), Result<void> (*work)(const Options&)) {
    auto options = std::make_shared<Options>();
    declare(add(name, help, example, [options, work] { return work(*options); }), *options);
  }

  /// Runs the command that the arguments name; the exit code.
  int run(const std::vector<std::string>& arguments);

 private:
  Command& add(const std::string& name, const std::string& help, const std::string& example,
               std::function<Result<void>()> run);
  int run_command(const std::vector<std::string>& arguments);
  std::string names() const;

  std::unique_ptr<CLI::App> app_;
  std::deque<Command> commands_;
};

/// A whole number of at least `least` and at most `most`; throws WrongUsage.
Index parse_number(std::string_view text, std::string_view option, Index least, Index most);
double parse_real(std::string_view text, std::string_view option);
/// Any number of 64 bits; throws WrongUsage.
std::uint64_t parse_seed(const std::string& text, std::string_view option);
/// A number; throws WrongUsage.
double parse_real(std::string_view text, std::string_view option);

/// A list such as "1,2,3", "1 2 3" or "[1, 2, 3]" of numbers from 0 to `largest`, which may be
/// empty. Throws WrongUsage.
std::vector<Index> parse_numbers(std::string_view text, std::string_view option, Index largest);
std::vector<Token> parse_tokens(std::string_view text, std::string_view option,
                                Index largest = std::numeric_limits<Token>::max());
/// Throws WrongUsage where an id is above `largest`.
void check_tokens(const std::vector<Token>& tokens, std::string_view option, Index largest);

}  // namespace krait::cli
