// Chat templates: what transformers renders, what is refused, and where text comes from.
#include "krait/text/chat_template.hpp"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "src/io/json.hpp"
#include "tests/support/support.hpp"

namespace krait::chat_template_test {
namespace {

Metadata json(std::string_view text) { return parse_json(text, "test").value(); }

Metadata read_vectors(const char* name) {
  return json(test::read_file(test::data_dir() / "golden" / "chat_templates" / name));
}

// The text, or the error in its place.
std::string render(const std::string& jinja, const Metadata& variables,
                   const Metadata& marks = {}) {
  const Result<ChatTemplate> parsed = ChatTemplate::parse(jinja);
  if (!parsed) return "error: " + parsed.error().message;
  const Result<RenderedText> rendered = parsed->render(variables, marks);
  return rendered ? rendered->text : "error: " + rendered.error().message;
}

// An object with the members of both; those of the second go first.
Metadata with(const Metadata& base, const Metadata& more) {
  Metadata::Object members = *base.object();
  for (const auto& [key, value] : *more.object()) {
    const auto same = [&key = key](const Metadata::Member& member) { return member.key == key; };
    std::erase_if(members, same);
    members.push_back({key, value});
  }
  return members;
}

void expect_rendered(const std::string& rendered, const Metadata& expected,
                     const std::string& what) {
  if (expected.text() != nullptr) {
    EXPECT_EQ(rendered, *expected.text()) << what;
  } else {
    EXPECT_TRUE(rendered.starts_with("error: [template] ")) << what << "\n" << rendered;
    EXPECT_EQ(rendered.find('\n'), std::string::npos) << what;
  }
}

TEST(ChatTemplates, ConstructsGiveWhatTransformersGives) {
  const Metadata vectors = read_vectors("constructs.json");
  ASSERT_GT(vectors["cases"].size(), 1000U);
  for (const Metadata& one : *vectors["cases"].array()) {
    const std::string& jinja = *one[std::size_t{0}].text();
    expect_rendered(render(jinja, vectors["variables"], vectors["marks"]), one[1], jinja);
  }
}

TEST(ChatTemplates, ConversationsGiveWhatTransformersGives) {
  const Metadata vectors = read_vectors("conversations.json");
  ASSERT_GT(vectors["cases"].size(), 200U);
  for (const Metadata& one : *vectors["cases"].array()) {
    const std::string jinja =
        test::read_file(test::data_dir() / "golden" / "chat_templates" / *one["file"].text());
    const std::string& name = *one["conversation"].text();
    const Metadata base = Metadata::Object{{"messages", vectors["conversations"][name]},
                                           {"tools", {}},
                                           {"documents", {}},
                                           {"add_generation_prompt", true}};
    const std::size_t setting = *one["setting"].whole();
    expect_rendered(render(jinja, with(base, vectors["settings"][setting]), vectors["marks"]),
                    one["text"], *one["file"].text() + " " + name + " " + std::to_string(setting));
  }
}

struct Refusal {
  std::string jinja;
  std::string message;  // a part of it
  ErrorCode code = ErrorCode::bad_format;
};

TEST(ChatTemplates, WhatIsWrongIsToldWithItsLine) {
  constexpr ErrorCode unsupported = ErrorCode::unsupported;
  const Refusal cases[] = {
      {"a\n{{ x", "output: expected '}}', found the end of the template (t, line 2)"},
      {"{% if x %}\n", "statement: expected 'endif', found the end of the template"},
      {"{% if x %}{% endfor %}", "found the statement 'endfor' (t, line 1)", unsupported},
      {"\n\n{% include 'x' %}", "found the statement 'include' (t, line 3)", unsupported},
      {"{% import 'x' as y %}", "the statement 'import'", unsupported},
      {"{{ x | nosuch }}", "found the filter 'nosuch' (t, line 1)", unsupported},
      {"\n{{ x is nosuch }}", "found the test 'nosuch' (t, line 2)", unsupported},
      {"{{ [1] | map('nosuch') | list }}", "found the filter \"nosuch\"", unsupported},
      {"{{ lipsum() }}", "the function 'lipsum'", unsupported},
      {"{{ 'a'.encode() }}", "found the method 'encode' of 'str'", unsupported},
      {"{{ nosuch() }}", "found 'nosuch' is undefined (t, line 1)"},
      {"a\n{{ x.y.z }}", "found 'dict object' has no attribute \"y\" (t, line 2)"},
      {"{{ [].append(1) }}", "which the sandbox forbids"},
      {"{{ ''.__class__() }}", "which the sandbox forbids"},
      {"{{ 'a' + 1 }}", "+: expected values that it works on, found 'str' and 'int'"},
      {"{{ 1 / 0 }}", "a divisor other than zero"},
      {"{{ 9223372036854775807 + 1 }}", "at most 64 bits", unsupported},
      {"{{ 2 ** 64 }}", "at most 64 bits", unsupported},
      {"{{ 9223372036854775808 }}", "number: expected one below 9223372036854775808"},
      {"{{ raise_exception('No\nway') }}", "found that it refuses them: \"No\\nway\" (t, line 1)",
       ErrorCode::bad_argument},
      {"{{ \xFF }}", "expected UTF-8"},
      {"{% break %}", "expected one in a loop"},
      {"{{ (1 }}", "brackets: expected pairs"},
      {"{% set 1 = 2 %}", "expected a name, found '1'"},
      {"{% raw %}", "raw: expected endraw"},
      {"{# x", "comment: expected '#}'"},
      {"{{ 'x", "string: expected its end"},
      {"{{ f(a=1, 2) }}", "arguments without a name in front"},
      {"{% macro f(a) %}{% endmacro %}{{ f(1, 2) }}", "macro 'f': expected at most 1 arguments"},
      {"{{ dict() | tojson(nosuch=1) }}", "tojson: expected arguments that it has"},
  };
  for (const Refusal& one : cases) {
    auto parsed = ChatTemplate::parse(one.jinja, "t");
    const Result<RenderedText> rendered =
        parsed ? parsed->render(json(R"({"x": {}})")) : std::move(parsed).error();
    ASSERT_FALSE(rendered) << one.jinja << "\n" << rendered->text;
    EXPECT_NE(rendered.error().message.find(one.message), std::string::npos)
        << rendered.error().message;
    EXPECT_EQ(rendered.error().code, one.code) << rendered.error().message;
    EXPECT_EQ(rendered.error().message.find('\n'), std::string::npos);
  }
}

TEST(ChatTemplates, NothingGrowsWithoutEnd) {
  const auto repeated = [](const std::string& text, int count) {
    std::string result;
    for (int i = 0; i < count; ++i) result += text;
    return result;
  };
  const std::string deep = repeated("(", 3000) + "1" + repeated(")", 3000);
  // Brackets around rows of operations, each of which is allowed.
  const auto rows = [&](auto&& self, int level) -> std::string {
    if (level == 31) return "1";
    return "(" + self(self, level + 1) + repeated(".a", 399) + repeated("|e", 399) +
           repeated("*1", 399) + repeated("+1", 399) + ")";
  };
  const std::string cases[] = {
      "{{ range(10**9) }}",
      "{{ 'abc' * 10**12 }}",
      "{{ [1] * 10**12 }}",
      "{{ '' * 9223372036854775807 }}!{{ nosuch() }}",
      "{% for a in range(100000) %}{% for b in range(100000) %}{% endfor %}{% endfor %}",
      "{% for a in range(100000) %}{{ 'x' * 100000 }}{% endfor %}",
      "{% set ns = namespace(s='x') %}{% for a in range(100) %}{% set ns.s = ns.s + ns.s %}"
      "{% endfor %}",
      "{% set ns = namespace(l=[]) %}{% for a in range(100000) %}{% set ns.l = [ns.l] %}{% endfor "
      "%}",
      "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
      "{% macro f() %}{{ caller() }}{% endmacro %}{% macro g() %}{% call f() %}{{ g() }}{% endcall "
      "%}{% endmacro %}{{ g() }}",
      "{% for x in [[]] recursive %}{{ loop([[]]) }}{% endfor %}",
      "{{ '%1000000000d' % 1 }}",
      "{{ '{:1000000000}'.format(1) }}",
      "{{ 'x'.center(10**15) }}",
      "{{ 'x' | indent(10**15) }}",
      "{{ [1] | batch(10**15, 'x') | list }}",
      "{{ [1] | slice(10**15) | list }}",
      "{{ 'aaaa'.replace('', 'x' * 10**8) }}",
      "{{ strftime_now('%c' * 10**8) }}",
      "{{ " + deep + " }}",
      "{{ " + repeated("not ", 3000) + "1 }}",
      "{{ " + repeated("-", 3000) + "1 }}",
      "{{ 1" + repeated("+1", 3000) + " }}",
      "{{ x" + repeated(".y", 3000) + " }}",
      "{{ x" + repeated("|upper", 3000) + " }}",
      repeated("{% if 1 %}", 3000),
      repeated("{% for x in y %}", 3000),
      "{{ " + repeated("[", 3000),
      "{{ 1 if " + repeated("1 if ", 3000) + "1 }}",
      "{{ 1" + repeated(" if 1 else 1", 3000) + " }}",
      "{{ 1" + repeated(" if 1", 200000) + " }}",
      "{{ " + rows(rows, 0) + " }}",
      "{% set ns = namespace(x={}) %}{% for i in range(100000) %}{% set ns.x = {1: ns.x.get} %}"
      "{% endfor %}",
      "{% set ns = namespace(x=[]) %}{% for i in range(1000) %}{% for j in range(500) %}"
      "{% set ns.x = [ns.x.count] %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(x=1) %}{% for i in range(1000) %}{% for j in range(500) %}"
      "{% for k in [ns.x] %}{% set ns.x = loop %}{% endfor %}{% endfor %}{% endfor %}",
      "{% set ns = namespace(x=(1,)) %}{% for i in range(60) %}{% set ns.x = (ns.x, ns.x) %}"
      "{% endfor %}{{ {}.get(ns.x) }}",
      "{% set a = 'a' * 40000000 %}{% for i in range(100000) %}{{ a | length }}{% endfor %}",
      "{% set a = 'a' * 40000000 %}{% for i in range(100000) %}{{ a.find('b') }}{% endfor %}",
  };
  for (const std::string& jinja : cases) {
    const std::string text = render(jinja, {});
    EXPECT_TRUE(text.starts_with("error: [template] "))
        << jinja.substr(0, 80) << text.substr(0, 80);
  }
}

TEST(ChatTemplates, CyclesOfNamespacesAndMacrosAreFreed) {
  EXPECT_EQ(render("{% set ns = namespace() %}{% set ns.me = ns %}{% macro f() %}{{ f is defined "
                   "}}{% endmacro %}{% set ns.f = f %}{{ ns.me.f() }}",
                   {}),
            "True");
  // A loop that is over is no loop any more.
  EXPECT_EQ(render("{% set ns = namespace() %}{% for x in [1, 2] %}{% set ns.l = loop %}{% endfor "
                   "%}{{ ns.l.index }}{{ ns.l.last }}",
                   {}),
            "2True");
  EXPECT_TRUE(render("{% set ns = namespace() %}{% for x in [1] recursive %}{% set ns.l = loop %}"
                     "{% endfor %}{{ ns.l([1]) }}",
                     {})
                  .starts_with("error: "));
}

// A part that nearly fits everywhere costs no more than any other.
TEST(ChatTemplates, SearchesInLinearTime) {
  EXPECT_EQ(render("{% set a = 'a' * 2000000 %}{% set b = 'a' * 1000000 + 'b' %}{{ b in a }}"
                   "{{ a.find(b) }}{{ a.count(b) }}{{ a.split(b) | length }}"
                   "{{ a.replace(b, '') | length }}{{ a.partition(b)[1] }}",
                   {}),
            "False-1012000000");
}

// The text with brackets around what came from variables.
std::string marked(const std::string& jinja, const char* variables) {
  const RenderedText rendered = ChatTemplate::parse(jinja)
                                    .value()
                                    .render(json(variables), json(R"({"bos_token": "<s>"})"))
                                    .value();
  std::string text;
  std::size_t at = 0;
  for (const ByteRange& range : rendered.literal) {
    text += rendered.text.substr(at, range.begin - at) + "[" +
            rendered.text.substr(range.begin, range.end - range.begin) + "]";
    at = range.end;
  }
  return text + rendered.text.substr(at);
}

TEST(ChatTemplates, TextOfVariablesStaysMarked) {
  const char* const x = R"({"x": "user", "d": {"k": "v"}, "n": 5, "l": ["a", "b"]})";
  const std::pair<const char*, const char*> cases[] = {
      {"{{ bos_token }}<|{{ x }}|>", "<s><|[user]|>"},
      {"{{ '<' + x + '>' + x }}", "<[user]>[user]"},
      {"{{ x[1:3] }}{{ x[0] }}{{ x[::-1] }}", "[seuresu]"},
      {"{{ ('  ' + x + ' .').strip() }}", "[user] ."},
      {"{{ (x + ' end') | upper }}", "[USER END]"},
      {"{{ x | tojson }} {{ d | tojson }} {{ d }}", "[\"user\"] {[\"k\"]: [\"v\"]} {['k']: ['v']}"},
      {"{{ n }}{{ n + 1 }}", "56"},
      {"{{ (x + ',y').split(',') | join(';') }}", "[user];y"},
      {"{{ l | join(', ') }}{{ ', '.join(l) }}", "[a], [ba], [b]"},
      {"{{ 'a-a'.replace('a', x) }}{{ (x ~ '-').replace('-', '+') }}", "[user]-[useruser]+"},
      {"{{ '<%s|%d>' % (x, n) }}{{ '<{}>'.format(x) }}{{ '<{0:>6}>'.format(x) }}",
       "<[user]|5><[user]><  [user]>"},
      {"{% set y %}<{{ x }}>{% endset %}{{ y }}{% filter trim %} {{ x }} {% endfilter %}",
       "<[user]>[user]"},
      {"{% macro f(a) %}<{{ a }}>{% endmacro %}{{ f(x) }}{{ f('x') }}", "<[user]><x>"},
      {"{% for c in x %}{{ c }}.{% endfor %}", "[u].[s].[e].[r]."},
      {"{% for k in d %}{{ k }}{{ d[k] }}{% endfor %}", "[kv]"},
      {"{{ 'true' if x == 'user' else x }}", "true"},
      {"{{ dict(**d) }}{{ dict(k='v') }}", "{['k']: ['v']}{'k': 'v'}"},
      {"{% macro f() %}{{ kwargs }}{% endmacro %}{{ f(**d) }}{{ f(k=1) }}",
       "{['k']: ['v']}{'k': 1}"},
  };
  for (const auto& [jinja, expected] : cases) EXPECT_EQ(marked(jinja, x), expected) << jinja;
}

TEST(ChatTemplates, PlainRolesAreTheTemplatesOwn) {
  const std::string jinja = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}";
  EXPECT_EQ(marked(jinja, R"({"messages": [{"role": "user", "content": "role"}]})"),
            "<|user|>[role]");
  EXPECT_EQ(marked(jinja, R"({"messages": [{"role": "a|><|b", "content": ""}]})"), "<|[a|><|b]|>");
}

}  // namespace
}  // namespace krait::chat_template_test
