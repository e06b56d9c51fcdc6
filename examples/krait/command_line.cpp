#include "command_line.hpp"

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdio>

#include "terminal.hpp"

namespace krait::cli {
namespace {

// The long name of an option, or else its short one: "--tokens", "-n", "prompt".
std::string name_of(const CLI::Option& option) {
  if (!option.get_lnames().empty()) return "--" + option.get_lnames().front();
  if (!option.get_snames().empty()) return "-" + option.get_snames().front();
  return option.get_single_name();
}

// std::from_chars takes no plus sign.
std::string_view without_plus(std::string_view text) {
  if (text.size() > 1 && text[0] == '+' && text[1] != '-') text.remove_prefix(1);
  return text;
}

template <class T>
std::optional<T> read_as(std::string_view text) {
  text = without_plus(text);
  T value{};
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::string shortest(double value) {
  char text[32];
  const auto [end, code] = std::to_chars(text, text + sizeof text, value);
  return code == std::errc() ? std::string(text, end) : "";
}

}  // namespace

WrongUsage::WrongUsage(std::string_view option, std::string_view expected, std::string_view found)
    : message_(std::string(option) + ": expected " + std::string(expected) + ", found " +
               std::string(found)) {}

WrongUsage::WrongUsage(std::string_view option, const Error& error) {
  const std::size_t expected = error.message.find("expected ");
  message_ = std::string(option) + ": " +
             (expected == std::string::npos ? error.message : error.message.substr(expected));
}

std::vector<std::string> split_list(std::string_view text) {
  std::vector<std::string> parts(1);
  for (const char c : text) {
    if (c == ',') {
      parts.emplace_back();
    } else {
      parts.back() += c;
    }
  }
  return parts;
}

std::string in_quotes(std::string_view text) {
  constexpr std::size_t limit = 60;
  return "'" + std::string(text.substr(0, limit)) + (text.size() > limit ? "...'" : "'");
}

Index parse_number(std::string_view text, std::string_view option, Index least, Index most) {
  const std::optional<Index> value = read_as<Index>(text);
  if (!value || *value < least || *value > most) {
    throw WrongUsage(option,
                     "a whole number from " + std::to_string(least) + " to " + std::to_string(most),
                     in_quotes(text));
  }
  return *value;
}

double parse_real(std::string_view text, std::string_view option) {
  const std::optional<double> value = read_as<double>(text);
  if (!value) throw WrongUsage(option, "a number", in_quotes(text));
  return *value;
}

std::vector<Index> parse_numbers(std::string_view text, std::string_view option, Index largest) {
  constexpr std::string_view spaces = " \t\r\n";
  const std::string expected = "numbers from 0 to " + std::to_string(largest);
  const auto skip = [&](std::string_view& rest) {
    rest.remove_prefix(std::min(rest.size(), rest.find_first_not_of(spaces)));
  };
  std::string_view rest = text;
  skip(rest);
  const bool is_array = rest.starts_with('[');
  if (is_array) {
    rest.remove_suffix(rest.size() - 1 - rest.find_last_not_of(spaces));
    if (!rest.ends_with(']')) throw WrongUsage(option, "']' at the end", in_quotes(text));
    rest = rest.substr(1, rest.size() - 2);
    skip(rest);
  }
  std::vector<Index> numbers;
  while (!rest.empty()) {
    const std::string_view part = rest.substr(0, rest.find_first_of(" \t\r\n,"));
    const std::optional<Index> number = read_as<Index>(part);
    if (!number || *number < 0 || *number > largest) {
      throw WrongUsage(option, expected, in_quotes(part));
    }
    numbers.push_back(*number);
    rest.remove_prefix(part.size());
    skip(rest);
    if (!rest.starts_with(',')) continue;
    rest.remove_prefix(1);
    skip(rest);
  }
  return numbers;
}

std::vector<Token> parse_tokens(std::string_view text, std::string_view option, Index largest) {
  const std::vector<Index> numbers = parse_numbers(text, option, largest);
  return {numbers.begin(), numbers.end()};
}

void check_tokens(const std::vector<Token>& tokens, std::string_view option, Index largest) {
  for (const Token token : tokens) {
    if (token < 0 || token > largest) {
      throw WrongUsage(option, "ids from 0 to " + std::to_string(largest), std::to_string(token));
    }
  }
}

const std::string& Command::name() const { return app_->get_name(); }

std::string Command::help() const { return app_->help("krait"); }

void Command::positional(const std::string& name, std::optional<std::string>& value,
                         const std::string& help) {
  CLI::Option* option = app_->add_option(name, help)->type_name("TEXT");
  positionals_.push_back(
      {option, [&value](const std::string& text) { value = text; }, true, false});
}

void Command::flag(const std::string& names, bool& value, const std::string& help, bool sets) {
  CLI::Option* option = app_->add_flag(names, help);
  entries_.push_back({option, [&value, sets](const std::string&) { value = sets; }, false, true});
}

void Command::custom(const std::string& names, const std::string& type, const std::string& help,
                     std::function<void(const std::string&)> take, const std::string& preset,
                     bool repeats) {
  CLI::Option* option = app_->add_option(names, help)->type_name(type)->default_str(preset);
  entries_.push_back({option, std::move(take), true, repeats});
}

void Command::text(const std::string& names, std::optional<std::string>& value,
                   const std::string& help) {
  custom(names, "TEXT", help, [&value](const std::string& text) { value = text; });
}

void Command::text(const std::string& names, std::string& value, const std::string& help) {
  custom(
      names, "TEXT", help, [&value](const std::string& text) { value = text; }, value);
}

void Command::texts(const std::string& names, std::vector<std::string>& values,
                    const std::string& help) {
  custom(
      names, "TEXT", help, [&values](const std::string& text) { values.push_back(text); }, "",
      true);
}

void Command::file(const std::string& names, std::string& value, const std::string& help) {
  custom(
      names, "FILE", help,
      [&value, names](const std::string& text) {
        if (text.empty())
          throw WrongUsage(names.substr(names.find("--")), "a name", "an empty one");
        value = text;
      },
      value);
}

void Command::choice(const std::string& names, std::string& value, std::vector<std::string> choices,
                     const std::string& help) {
  std::string list;
  for (const std::string& choice : choices) list += (list.empty() ? "" : ", ") + choice;
  custom(
      names, "{" + list + "}", help,
      [&value, names, list, choices](const std::string& text) {
        if (std::find(choices.begin(), choices.end(), text) == choices.end()) {
          throw WrongUsage(names.substr(names.find("--")), "one of " + list, in_quotes(text));
        }
        value = text;
      },
      value);
}

void Command::number(const std::string& names, int& value, Index least, Index most,
                     const std::string& help) {
  custom(
      names, "INT", help,
      [&value, names, least, most](const std::string& text) {
        value = static_cast<int>(parse_number(text, names.substr(names.find("--")), least, most));
      },
      std::to_string(value));
}

void Command::number(const std::string& names, Index& value, Index least, Index most,
                     const std::string& help) {
  custom(
      names, "INT", help,
      [&value, names, least, most](const std::string& text) {
        value = parse_number(text, names.substr(names.find("--")), least, most);
      },
      std::to_string(value));
}

void Command::number(const std::string& names, std::optional<Index>& value, Index least, Index most,
                     const std::string& help) {
  custom(names, "INT", help, [&value, names, least, most](const std::string& text) {
    value = parse_number(text, names.substr(names.find("--")), least, most);
  });
}

std::uint64_t parse_seed(const std::string& text, std::string_view option) {
  const auto value = read_as<std::uint64_t>(text);
  if (value) return *value;
  throw WrongUsage(option, "a whole number from 0 to 18446744073709551615", in_quotes(text));
}

void Command::seed(const std::string& names, std::optional<std::uint64_t>& value,
                   const std::string& help) {
  custom(names, "INT", help,
         [&value, names](const std::string& text) { value = parse_seed(text, names); });
}

void Command::real(const std::string& names, double& value, const std::string& help,
                   std::function<Result<void>()> check) {
  custom(
      names, "FLOAT", help,
      [&value, names, check](const std::string& text) {
        value = parse_real(text, names);
        if (const Result<void> checked = check(); !checked)
          throw WrongUsage(names, checked.error());
      },
      shortest(value));
}

void Command::real(const std::string& names, std::optional<double>& value, const std::string& help,
                   std::function<Result<void>(double)> check) {
  custom(names, "FLOAT", help, [&value, names, check](const std::string& text) {
    value = parse_real(text, names);
    if (const Result<void> checked = check(*value); !checked)
      throw WrongUsage(names, checked.error());
  });
}

Command::Entry& Command::find(std::string_view name) {
  const bool is_long = name.starts_with("--");
  const std::string plain(name.substr(is_long ? 2 : 1));
  for (Entry& entry : entries_) {
    if (is_long ? entry.option->check_lname(plain) : entry.option->check_sname(plain)) {
      return entry;
    }
  }
  throw WrongUsage(name, "an option of krait " + this->name(),
                   positionals_.empty() ? "another"
                                        : "another; '--' goes before text that begins "
                                          "with '-'");
}

void Command::give(Entry& entry, const std::string& value) {
  if (entry.count++ > 0 && !entry.repeats) {
    throw WrongUsage(name_of(*entry.option), "one value", "a second one, " + in_quotes(value));
  }
  entry.take(value);
}

bool Command::parse(const std::vector<std::string>& arguments) {
  // Help before anything else that may be wrong.
  std::vector<std::pair<Entry*, std::string>> given;
  std::optional<WrongUsage> wrong;
  std::size_t filled = 0;
  bool options_end = false;
  try {
    for (std::size_t i = 0; i < arguments.size(); ++i) {
      const std::string& argument = arguments[i];
      if (!options_end && argument == "--") {
        options_end = true;
        continue;
      }
      if (options_end || argument.size() < 2 || argument[0] != '-') {
        if (filled == positionals_.size()) {
          throw WrongUsage(
              positionals_.empty() ? "krait " + name() : name_of(*positionals_.back().option),
              positionals_.empty() ? "options alone" : "one argument; text with spaces in quotes",
              (filled > 0 ? "another, " : "") + in_quotes(argument));
        }
        given.emplace_back(&positionals_[filled++], argument);
        continue;
      }
      if (argument == "-h" || argument == "--help") return false;
      // "--name", "--name=value", "-n", "-nvalue" or "-n=value"
      const bool is_long = argument[1] == '-';
      const std::size_t equals = argument.find('=');
      const std::string option = is_long ? argument.substr(0, equals) : argument.substr(0, 2);
      std::optional<std::string> value;
      if (is_long && equals != std::string::npos) value = argument.substr(equals + 1);
      if (!is_long && argument.size() > 2) value = argument.substr(argument[2] == '=' ? 3 : 2);
      Entry& entry = find(option);
      if (!entry.has_value && value) throw WrongUsage(option, "no value", in_quotes(*value));
      if (entry.has_value && !value) {
        if (i + 1 == arguments.size()) throw WrongUsage(name_of(*entry.option), "a value", "none");
        value = arguments[++i];
      }
      given.emplace_back(&entry, value.value_or(""));
    }
  } catch (const WrongUsage& usage) {
    wrong = usage;
  }
  if (wrong) {
    // What could not be read may still ask for help.
    for (const std::string& argument : arguments) {
      if (argument == "--") break;
      if (argument == "--help") return false;
    }
    throw WrongUsage(*wrong);
  }
  for (const auto& [entry, value] : given) give(*entry, value);
  return true;
}

CommandLine::CommandLine(const std::string& description, const std::string& footer)
    : app_(std::make_unique<CLI::App>(description)) {
  app_->name("krait");
  app_->set_version_flag("--version", "");
  app_->require_subcommand(1);
  app_->footer(footer);
}

CommandLine::~CommandLine() = default;

Command& CommandLine::add(const std::string& name, const std::string& help,
                          const std::string& example, std::function<Result<void>()> run) {
  CLI::App* app = app_->add_subcommand(name, help);
  app->footer("Example: " + example);
  return commands_.emplace_back(*app, std::move(run));
}

std::string CommandLine::names() const {
  std::string list;
  for (const Command& command : commands_) list += (list.empty() ? "" : ", ") + command.name();
  return list;
}

int CommandLine::run_command(const std::vector<std::string>& arguments) {
  const std::string& first = arguments.front();
  for (Command& command : commands_) {
    if (command.name() != first) continue;
    try {
      if (!command.parse({arguments.begin() + 1, arguments.end()})) {
        const Result<void> written = print_all(command.help());
        return written ? ok : report(written.error());
      }
      const Result<void> outcome = command.run();
      return outcome ? ok : report(outcome.error());
    } catch (const WrongUsage& usage) {
      tell("krait: " + std::string(usage.what()) + " (krait " + first + " --help)");
      return wrong_usage;
    }
  }
  tell("krait: " +
       std::string(WrongUsage(first.starts_with('-') ? first : "command",
                              first.starts_with('-') ? "a command first" : "one of " + names(),
                              first.starts_with('-') ? "an option" : in_quotes(first))
                       .what()) +
       " (krait --help)");
  return wrong_usage;
}

int CommandLine::run(const std::vector<std::string>& arguments) {
  if (arguments.empty()) {
    tell("krait: command: expected one of " + names() + ", found none (krait --help)");
    return wrong_usage;
  }
  const std::string& first = arguments.front();
  if (first == "--help" || first == "-h" || first == "--version") {
    const Result<void> written =
        print_all(first == "--version" ? std::string("krait ") + version() + "\n" : app_->help());
    return written ? ok : report(written.error());
  }
  return run_command(arguments);
}

}  // namespace krait::cli
