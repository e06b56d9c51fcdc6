// Conversations: what is shown, what is kept, and what a checkpoint's template makes of it.

#include "tests/cli/cli.hpp"

namespace krait::chat_test {
namespace {

namespace fs = std::filesystem;

// The names of byte-level tokens: the character of a byte that has a visible one, and of the others
// those from U+0100 on.
std::vector<std::string> byte_names() {
  std::vector<std::string> names;
  int next = 256;
  for (int byte = 0; byte < 256; ++byte) {
    const bool is_visible =
        (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
    const int code = is_visible ? byte : next++;
    std::string name;
    if (code < 128) {
      name = static_cast<char>(code);
    } else {
      name = {static_cast<char>(0xC0 | code >> 6), static_cast<char>(0x80 | (code & 0x3F))};
    }
    names.push_back(name);
  }
  return names;
}

constexpr Token bos = 256;
constexpr Token im_start = 257;
constexpr Token im_end = 258;

constexpr const char* chatml =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] "
    "+ "
    "'<|im_end|>' + '\\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' "
    "}}{% endif %}";

class CliChat : public Cli {
 protected:
  // A tiny model; with a tokenizer, ids of bytes are followed by those of three special tokens.
  std::string write_model(const char* name, bool has_tokenizer) {
    const fs::path folder = path(name);
    write_checkpoint(folder,
                     R"({"d_model":8,"n_layer":1,"pad_vocab_size_multiple":1,"vocab_size":)" +
                         std::to_string(has_tokenizer ? 259 : 256) + "}");
    if (has_tokenizer) write_tokenizer(folder);
    return folder.string();
  }

  void write_tokenizer(const fs::path& folder) {
    json tokenizer = {{"added_tokens", json::array()},
                      {"pre_tokenizer", {{"type", "ByteLevel"}, {"add_prefix_space", false}}},
                      {"decoder", {{"type", "ByteLevel"}}},
                      {"model", {{"type", "BPE"}, {"merges", json::array()}}}};
    json& vocab = tokenizer["model"]["vocab"] = json::object();
    for (const std::string& name : byte_names()) vocab[name] = vocab.size();
    for (const char* name : {"<|bos|>", "<|im_start|>", "<|im_end|>"}) {
      const auto id = vocab.size();
      vocab[name] = id;
      tokenizer["added_tokens"].push_back(
          {{"id", id}, {"content", name}, {"special", true}, {"normalized", false}});
    }
    test::write_file(folder / "tokenizer.json", tokenizer.dump());
  }

  // The model with a template in one of its places.
  std::string with_template(const json& chat_template) {
    if (chatml_model_.empty()) chatml_model_ = write_model("chatml", true);
    test::write_file(fs::path(chatml_model_) / "tokenizer_config.json",
                     json({{"bos_token", {{"content", "<|bos|>"}}},
                           {"eos_token", "<|im_end|>"},
                           {"additional_special_tokens", {"<|im_start|>"}},
                           {"chat_template", chat_template}})
                         .dump());
    return chatml_model_;
  }

  // Talks and returns the text that was kept.
  std::string talk(const std::string& lines, const std::string& arguments) {
    fs::remove(path("talk"));
    outcome_ = shell("printf '" + lines + "' | " KRAIT_PROGRAM " chat --state-out " + path("talk") +
                     " " + arguments);
    EXPECT_EQ(outcome_.code, 0) << outcome_.err;
    std::string text;
    for (const Token token : state_tokens(path("talk"))) {
      if (token < 256) {
        text += static_cast<char>(token);
      } else {
        text += token == bos ? "<|bos|>" : token == im_start ? "<|im_start|>" : "<|im_end|>";
      }
    }
    return text;
  }

  // Makes the model write "XYXY…" again and again, whatever its weights are.
  static constexpr const char* xyxy =
      " --temperature 0 --logit-bias 88=1000 --logit-bias 89=900 --frequency-penalty 150 ";

  std::string chatml_model_;
  Outcome outcome_;
};

// The tokenizer's configuration alone names the token that ends a text.
TEST_F(CliChat, AnAnswerThatIsTrainedOnEndsAsAllTextsDo) {
  const std::string model = with_template(chatml);
  test::write_file(path("e.jsonl"), "{\"prompt\": \"Q\", \"response\": \"abc\"}\n");
  const Outcome trained = krait("sft -m " + model + " --data " + path("e.jsonl") + " --out " +
                                path("s") + " --steps 80 --batch 1 --length 8 --lr 0.03");
  ASSERT_EQ(trained.code, 0) << trained.err;
  const json answer = krait_json("generate -m " + path("s") + " Q -n 20 --greedy");
  EXPECT_EQ(answer["text"], "abc");
  EXPECT_EQ(answer["finish_reason"], "stop_token");
}

TEST_F(CliChat, AConversationCutInTwoGoesOnAsOne) {
  const std::string common = " -n 12 --seed 1";
  const std::string whole = talk("Hello\\nAnd you?\\nBye\\n", common);
  const std::string shown = outcome_.out;
  EXPECT_GE(std::count(shown.begin(), shown.end(), '\n'), 3);
  EXPECT_NE(whole.find("User: Hello\nAssistant:"), std::string::npos) << whole;
  talk("Hello\\nAnd you?\\n", common);
  const std::string first = outcome_.out;
  fs::rename(path("talk"), path("first"));
  EXPECT_EQ(talk("Bye\\n", common + " --state-in " + path("first")), whole);
  EXPECT_EQ(first + outcome_.out, shown);
  EXPECT_EQ(talk("", " --state-in " + path("first")), whole.substr(0, whole.find("\nUser: Bye")));
}

// A reply is guided as a text behind the same prompt is.
TEST_F(CliChat, RepliesAreGuided) {
  const std::string guided = " -m krait-bytes-2m --greedy -n 12 --guidance-scale 3";
  const std::string plain = talk("Hello\\n", " -m krait-bytes-2m --greedy -n 12");
  for (const std::string& options : {guided, guided + " --negative-prompt 'User: Hello'"}) {
    const std::string text = talk("Hello\\n", options);
    EXPECT_NE(text, plain);
    const json expected = krait_json("generate" + options + " \"User: Hello\nAssistant:\"");
    EXPECT_EQ(text, "User: Hello\nAssistant:" + expected["text"].get<std::string>());
  }
}

TEST_F(CliChat, TheHistoryIsWhatWasShown) {
  const std::string model = " -m " + write_model("bytes", false);
  const std::string user = "User: ";
  // Cut by -n.
  EXPECT_EQ(talk("hi\\nmore\\n", model + xyxy + "-n 2"),
            "User: hi\nAssistant:XY\nUser: more\nAssistant:XY");
  EXPECT_EQ(outcome_.out, "XY\nXY\n");
  // Ended by a stop string, which is not shown, nor kept, nor counted by the penalty.
  EXPECT_EQ(talk("hi\\n", model + xyxy + "-n 9 --stop YX"), "User: hi\nAssistant:X");
  EXPECT_EQ(outcome_.out, "X\n");
  EXPECT_EQ(talk("hi\\nmore\\n", model + xyxy + "-n 9 --stop YX"),
            "User: hi\nAssistant:X\nUser: more\nAssistant:");
  // The end of half a character is not shown either: of U+00E9 only the first byte.
  EXPECT_EQ(talk("hi\\nmore\\n",
                 model + " -n 1 --temperature 0 --logit-bias 195=1000 --frequency-penalty 0"),
            "User: hi\nAssistant:\nUser: more\nAssistant:");
  // A model that begins the user's turn is stopped there, and the prefix stands once.
  const std::string turn =
      " -n 30 --temperature 0 --user-prefix A --logit-bias 10=1000 --logit-bias 65=900 "
      "--frequency-penalty 150";
  EXPECT_EQ(talk("hi\\nmore\\n", model + turn), "Ahi\nAssistant:\nAmore\nAssistant:\n");
  EXPECT_EQ(talk("hi\\n", model + xyxy + "-n 2 --user-prefix 'Q: ' --reply-prefix 'A: '"),
            "Q: hi\nA: XY");
}

TEST_F(CliChat, LinesMayEndAsOnOtherSystems) {
  const std::string common = " -n 3 --greedy";
  EXPECT_EQ(talk("hi\\r\\nmore\\r\\n\\r\\n", common), talk("hi\\nmore\\n", common));
  EXPECT_EQ(talk("hi\\nmore", common), talk("hi\\nmore\\n", common));
}

TEST_F(CliChat, AnErrorInATurnLeavesTheConversation) {
  const std::string common = "-n 3 --greedy -m " + with_template(chatml);
  const std::string expected = talk("hi\\nmore\\n", common);
  EXPECT_EQ(talk("hi\\nbad \\377 line\\nmore\\n", common), expected);
  EXPECT_EQ(std::count(outcome_.err.begin(), outcome_.err.end(), '\n'), 1) << outcome_.err;
  EXPECT_NE(outcome_.err.find("UTF-8"), std::string::npos) << outcome_.err;
  EXPECT_EQ(talk("bad \\377 line\\n", common), "");
}

TEST_F(CliChat, ChatMlIsWrittenToTheLetter) {
  const std::string model = "-m " + with_template(chatml) + xyxy;
  const std::string one = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(talk("hi\\n", model + "-n 2"), one + "XY");
  EXPECT_EQ(outcome_.err, "");
  // A reply that was cut is closed in front of the next turn; so it is after a state file.
  const std::string two =
      one + "XY<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\nXY";
  EXPECT_EQ(talk("hi\\nmore\\n", model + "-n 2"), two);
  talk("hi\\n", model + "-n 2");
  fs::rename(path("talk"), path("first"));
  EXPECT_EQ(talk("more\\n", model + "-n 2 --state-in " + path("first")), two);
  // One that the model closed is not closed again.
  const std::string closing =
      " --temperature 0 --frequency-penalty 150 --logit-bias 258=1000 -m " + chatml_model_;
  EXPECT_EQ(
      talk("hi\\nmore\\n", closing),
      one + "<|im_end|>\n<|im_start|>user\nmore<|im_end|>\n<|im_start|>assistant\n<|im_end|>");
  EXPECT_EQ(outcome_.out, "\n\n");
  // Stop strings beside that of the template.
  EXPECT_EQ(talk("hi\\n", model + "-n 9 --stop YX"), one + "X");
  EXPECT_EQ(outcome_.out, "X\n");
  expect_error("chat --user-prefix Me: -m " + chatml_model_ + " </dev/null", 2,
               "--user-prefix: expected a model without a chat template");
  expect_error("chat --reply-prefix Me: -m " + chatml_model_ + " </dev/null", 2,
               "--reply-prefix: expected a model without a chat template");
}

TEST_F(CliChat, TemplatesOfChatMlsKindAreWrittenToTheLetter) {
  const std::string turns = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nX";
  const std::string system = "<|im_start|>system\nBe kind.<|im_end|>\n";
  const std::string loop(chatml);
  const std::vector<std::pair<json, std::string>> cases = {
      {loop, turns},
      {"{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m[\"content\"] }}<|im_end|>\n"
       "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}\n",
       turns},
      {"{%- for m in messages -%}\n  {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ "
       "'<|im_end|>\\n' -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n  "
       "{{- '<|im_start|>assistant\\n' -}}\n{%- endif -%}\n",
       turns},
      {"{# ChatML #}\n{% for m in messages %}\n    {% if loop.first and messages[0].role != "
       "'system' %}\n{{ '<|im_start|>system\\nBe kind.<|im_end|>\\n' }}{% endif %}\n"
       "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}\n"
       "{% if add_generation_prompt %}\n<|im_start|>assistant\n{% endif %}\n",
       system + turns},
      {"{% if messages[0]['role'] != 'system' %}<|im_start|>system\nBe kind.<|im_end|>\n{% endif "
       "%}" +
           loop,
       system + turns},
      {"{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}"
       "{% endif %}" +
           loop,
       turns},
      {"{{ bos_token }}" + loop, "<|bos|>" + turns},
      {"{% for m in messages %}{{'<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + ('' "
       "if loop.last and not add_generation_prompt else '\\n')}}{% endfor %}"
       "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}",
       turns},
      {"You are a model.\n" + loop, "You are a model.\n" + turns},
      {"{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
       "{% if add_generation_prompt %}[assistant] {% endif %}",
       "[user] hi\n[assistant] X"},
      {"{{ bos_token }}{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}"
       "{% endfor %}{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
       "<|bos|>user: hi<|im_end|>assistant: X"},
      {json::array({{{"name", "tool_use"}, {"template", "{{ tools }}"}},
                    {{"name", "default"}, {"template", loop}}}),
       turns},
  };
  for (const auto& [jinja, expected] : cases) {
    EXPECT_EQ(talk("hi\\n", "-n 1 -m " + with_template(jinja) + xyxy), expected) << jinja;
    EXPECT_EQ(outcome_.err, "") << jinja;
  }
}

TEST_F(CliChat, TemplatesWriteTurnsAsTheyWish) {
  const std::string loop(chatml);
  const std::string turns = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n";
  const std::vector<std::pair<json, std::string>> cases = {
      {"{# <|im_start|> #}{% for m in messages %}{{ m.content }}{% endfor %}", "hiX"},
      {loop + "!", turns + "!X"},
      {"{% if messages[0].role == 'system' %}{{ 1/0 }}{% endif %}" + loop, turns + "X"},
      {"{% if tools %}{{ tools }}{% endif %}" + loop, turns + "X"},
      {"{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | upper }}<|im_end|>\n"
       "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
       "<|im_start|>user\nHI<|im_end|>\n<|im_start|>assistant\nX"},
      {"{% for m in messages %}{{ m.role }} {{ m.content }}{% endfor %}"
       "{% if add_generation_prompt %}assistant {% endif %}",
       "user hiassistant X"},
      {"{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}"
       "{% if add_generation_prompt %}[model] {% endif %}",
       "[user] hi\n[model] X"},
      {"{% for m in messages %}{{ '[Q]' + m.content + '[/Q]' if m.role == 'user' else m.content }}"
       "{% endfor %}",
       "[Q]hi[/Q]X"},
  };
  for (const auto& [jinja, expected] : cases) {
    EXPECT_EQ(talk("hi\\n", "-n 1 -m " + with_template(jinja) + xyxy), expected) << jinja;
    EXPECT_EQ(outcome_.err, "") << jinja;
  }
}

TEST_F(CliChat, TemplatesThatCannotBeUsedAreTold) {
  const std::string loop(chatml);
  const std::vector<json> cases = {
      "{% for m in messages",
      "{{ '<|im_start|>",
      "{",
      "{% %}{{ }}",
      json::array({{{"name", "other"}, {"template", loop}}}),
      json::array({1, json::object()}),
      json::object(),
      5,
  };
  for (const json& jinja : cases) {
    EXPECT_EQ(talk("hi\\n", "-n 1 -m " + with_template(jinja) + xyxy), "User: hi\nAssistant:X")
        << jinja;
    EXPECT_EQ(std::count(outcome_.err.begin(), outcome_.err.end(), '\n'), 1) << outcome_.err;
    EXPECT_NE(outcome_.err.find("template is not known"), std::string::npos) << outcome_.err;
  }
  // None is none.
  EXPECT_EQ(talk("hi\\n", "-n 1 -m " + with_template(nullptr) + xyxy), "User: hi\nAssistant:X");
  EXPECT_EQ(outcome_.err, "");
  // One that does not say how replies begin leaves that to the model.
  const std::string silent = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}";
  EXPECT_EQ(talk("hi\\n", "-n 1 -m " + with_template(silent) + xyxy), "[user] hi\nX");
  EXPECT_NE(outcome_.err.find("template is not known"), std::string::npos) << outcome_.err;
  // What fails, fails with its line, and the conversation goes on.
  const std::string failing = "\n{% if messages | length > 1 %}{{ n.content }}{% endif %}" + loop;
  const std::string model = "-m " + with_template(failing) + xyxy;
  EXPECT_EQ(talk("hi\\nmore\\n", "-n 1 " + model),
            "\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nX");
  EXPECT_NE(outcome_.err.find("'n' is undefined (chat template, line 2)"), std::string::npos)
      << outcome_.err;
}

TEST_F(CliChat, SystemToolsAndVariablesReachTheTemplate) {
  const std::string model = "-m " +
                            with_template(
                                "{% if tools %}<{{ tools[0].name }}>{% endif %}"
                                "{{ mood }}" +
                                std::string(chatml)) +
                            xyxy + "-n 1 ";
  test::write_file(path("tools.json"), R"([{"name": "f"}])");
  EXPECT_EQ(talk("hi\\n", model + "--system 'Be kind.' --tools " + path("tools.json") +
                              " --variables '{\"mood\": \"good\"}'"),
            "<f>good<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
            "<|im_start|>assistant\nX");
  EXPECT_EQ(outcome_.err, "");
  expect_error("chat --variables 5 " + model + "</dev/null", 2,
               "--variables: expected a JSON object");
  expect_error("chat --variables '{' " + model + "</dev/null", 1,
               "[json] variables: expected JSON");
  expect_error("chat --tools /no/such " + model + "</dev/null", 1, "/no/such");
  expect_error("chat --system a </dev/null", 2, "--system: expected a model with a chat template");
}

// What others say within a conversation writes no control tokens.
TEST_F(CliChat, TextOfUsersIsNoControlToken) {
  const std::string spelled = "<|im_end|>";
  const std::string one = "<|im_start|>user\n" + spelled + "<|im_end|>\n<|im_start|>assistant\n";
  EXPECT_EQ(talk(spelled + "\\n", "-n 1 -m " + with_template(chatml) + xyxy), one + "X");
  const std::vector<Token> tokens = state_tokens(path("talk"));
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), im_end), 1);
}

TEST_F(CliChat, WhatATemplateChangesRunsAgain) {
  // Earlier replies are left out, as thinking is.
  const std::string forgetful =
      "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]{% else %}(){% endif %}"
      "{% endfor %}{{ '=' if add_generation_prompt }}";
  const std::string model = "-n 2 -m " + with_template(forgetful) + xyxy;
  EXPECT_EQ(talk("a\\nb\\nc\\n", model), "[a]()[b]()[c]=XY");
  EXPECT_EQ(std::count(outcome_.err.begin(), outcome_.err.end(), '\n'), 2) << outcome_.err;
  EXPECT_NE(outcome_.err.find("tokens ran again"), std::string::npos) << outcome_.err;
  // Replies that are only cut go on from the prompt before them.
  const std::string cut =
      "{% for m in messages %}{% if m.role == 'user' %}[{{ m.content }}]={% else %}{{ "
      "m.content[:1] "
      "}}{% endif %}{% endfor %}";
  EXPECT_EQ(talk("a\\nb\\nc\\n", "-n 2 -m " + with_template(cut) + xyxy), "[a]=X[b]=Y[c]=XY");
  EXPECT_NE(outcome_.err.find("; 2 tokens ran again"), std::string::npos) << outcome_.err;
}

class CliPrintPrompt : public CliChat {
 protected:
  std::string print(const std::string& variables, const std::string& arguments = "") {
    test::write_file(path("prompt.json"), variables);
    outcome_ = krait("chat -m " + chatml_model_ + " --print-prompt " + path("prompt.json") + " " +
                     arguments);
    return outcome_.out;
  }
};

TEST_F(CliPrintPrompt, WritesTheTemplatesTextAndItsTokens) {
  with_template("{{ bos_token }}" + std::string(chatml));
  const std::string messages = R"("messages": [{"role": "user", "content": "<|im_end|>é"}])";
  EXPECT_EQ(print("{" + messages + "}"),
            "<|bos|><|im_start|>user\n<|im_end|>é<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(outcome_.err, "");
  EXPECT_EQ(print("{" + messages + R"(, "add_generation_prompt": false})"),
            "<|bos|><|im_start|>user\n<|im_end|>é<|im_end|>\n");
  const json printed = json::parse(print("{" + messages + "}", "--json"));
  EXPECT_EQ(printed["prompt"],
            "<|bos|><|im_start|>user\n<|im_end|>é<|im_end|>\n<|im_start|>assistant\n");
  const std::vector<Token> tokens = printed["tokens"];
  EXPECT_EQ(std::vector<Token>(tokens.begin(), tokens.begin() + 2),
            (std::vector<Token>{bos, im_start}));
  EXPECT_EQ(std::count(tokens.begin(), tokens.end(), im_end), 1);
  // The order of keys is kept; every key is a variable.
  with_template("{{ messages | tojson }}{{ tools is none }}{{ x | tojson }}");
  EXPECT_EQ(print(R"({"x": {"b": 1, "a": [1.0, null]}, "messages": [{"z": 1, "a": 2}]})"),
            R"([{"z": 1, "a": 2}]True{"b": 1, "a": [1.0, null]})");
}

TEST_F(CliPrintPrompt, ChoosesTheTemplate) {
  const std::string tools = R"({"messages": [], "tools": []})";
  with_template(json::array(
      {{{"name", "default"}, {"template", "D"}}, {{"name", "tool_use"}, {"template", "T"}}}));
  EXPECT_EQ(print(R"({"messages": []})"), "D");
  EXPECT_EQ(print(tools), "T");
  const fs::path more = fs::path(chatml_model_) / "additional_chat_templates";
  fs::create_directory(more);
  test::write_file(more / "tool_use.jinja", "A");
  EXPECT_EQ(print(tools), "A");
  test::write_file(fs::path(chatml_model_) / "chat_template.jinja", "F");
  EXPECT_EQ(print(R"({"messages": []})"), "F");
  EXPECT_EQ(print(tools), "A");
}

TEST_F(CliPrintPrompt, TellsWhatIsWrongInOneLine) {
  const std::pair<const char*, const char*> cases[] = {
      {"{% if %}", "[template] expression: expected a value, found '%}' (chat template, line 1)"},
      {"\n{{ raise_exception('No.') }}", "that it refuses them: \"No.\" (chat template, line 2)"},
      {"{{ x | nosuch }}", "the filter 'nosuch' (chat template, line 1)"},
      {"{% include 'x' %}", "the statement 'include'"},
      {"{{ 'a' * 10**12 }}", "at most 256 MiB"},
  };
  for (const auto& [jinja, message] : cases) {
    with_template(jinja);
    EXPECT_EQ(print(R"({"messages": []})"), "");
    EXPECT_EQ(outcome_.code, 1);
    EXPECT_NE(outcome_.err.find(message), std::string::npos) << outcome_.err;
    EXPECT_EQ(std::count(outcome_.err.begin(), outcome_.err.end(), '\n'), 1) << outcome_.err;
  }
  with_template(nullptr);
  EXPECT_EQ(print(R"({"messages": []})"), "");
  EXPECT_EQ(outcome_.code, 1);
  EXPECT_NE(outcome_.err.find("found none in the checkpoint"), std::string::npos) << outcome_.err;
  with_template("x");
  for (const auto& [file, message] : std::vector<std::pair<std::string, const char*>>{
           {"", "expected JSON"},
           {"{", "expected JSON"},
           {"[]", "messages: expected a list"},
           {"{}", "messages: expected a list"},
           {R"({"messages": 5})", "messages: expected a list"},
           {R"({"messages": [], "x": 100000000000000000000})", "whole numbers below"},
           {R"({"messages": ")"
            "\xFF"
            R"("})",
            "expected JSON"},
           {R"({"messages": )" + std::string(1000, '[') + std::string(1000, ']') + "}",
            "nested at most 150 deep"}}) {
    EXPECT_EQ(print(file), "") << file;
    EXPECT_EQ(outcome_.code, 1) << file;
    EXPECT_NE(outcome_.err.find(message), std::string::npos) << outcome_.err;
  }
}

TEST_F(CliChat, TheFileOfATemplateGoesFirstAndIsCopied) {
  const std::string model = with_template("{{ messages }}");
  test::write_file(fs::path(model) / "chat_template.jinja", chatml);
  const std::string expected = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nX";
  EXPECT_EQ(talk("hi\\n", "-n 1 -m " + model + xyxy), expected);
  EXPECT_EQ(krait("quantize " + model + " " + path("q8") + " --to q8").code, 0);
  EXPECT_EQ(talk("hi\\n", "-n 1 -m " + path("q8") + xyxy), expected);
  EXPECT_EQ(outcome_.err, "");
  test::write_file(fs::path(model) / "chat_template.jinja", "{{ messages }}");
  EXPECT_EQ(talk("hi\\n", "-n 1 -m " + model + xyxy), "[{'role': 'user', 'content': 'hi'}]X");
}

TEST_F(CliChat, KeepsTheConversationWhenNothingCanBeWritten) {
  const Outcome outcome =
      shell("printf 'hi\\nmore\\n' | " KRAIT_PROGRAM " chat -n 3 --greedy --state-out " +
            path("talk") + " >/dev/full");
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("standard output"), std::string::npos) << outcome.err;
  EXPECT_FALSE(state_tokens(path("talk")).empty());
  // A pipe whose reader has gone.
  for (const std::string command : {"chat -n 3", "generate 'hi there' -n 1000"}) {
    std::filesystem::remove(path("talk"));
    shell("printf 'hi\\nmore\\n' | (sleep 0.2; " KRAIT_PROGRAM " " + command +
          " --greedy --state-out " + path("talk") + ") | true");
    EXPECT_FALSE(state_tokens(path("talk")).empty()) << command;
  }
}

}  // namespace
}  // namespace krait::chat_test
