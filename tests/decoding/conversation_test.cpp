#include "krait/decoding/conversation.hpp"

#include <gtest/gtest.h>

#include "krait/core/executor.hpp"
#include "krait/decoding/template_conversation.hpp"
#include "tests/support/support.hpp"

namespace krait::conversation_test {
namespace {

class Conversations : public testing::Test {
 protected:
  ChatTurns turns() const {
    return {.opening = "A talk.\n",
            .before_user = "User: ",
            .after_user = "\n",
            .before_reply = "Bot:",
            .after_reply = "\n",
            .stops = {"\nUser: ", "e"}};
  }
  std::string text(const Conversation& conversation) const {
    return lm_.tokenizer->decode(conversation.sequence().tokens);
  }
  Conversation start() {
    return {
        session_, lm_, {.max_tokens = 20, .sampler = {.seed = 3}}, turns(), Sequence(lm_.model)};
  }

  LanguageModel lm_ =
      load_language_model((test::bundled_models_dir() / "krait-bytes-draft").string()).value();
  SerialExecutor executor_;
  Session session_{lm_.model, executor_};
};

TEST_F(Conversations, HoldWhatWasSaid) {
  Conversation conversation = start();
  std::string expected = "A talk.\n";
  for (const std::string line : {"Hello", "Who are you?", "Tell me more"}) {
    // The reply is what the model writes behind the text so far.
    const std::string said = "User: " + line + "\nBot:";
    Sequence alone(lm_.model, lm_.tokenizer->encode(expected + said).value());
    const std::string written = generate(session_, *lm_.tokenizer, alone,
                                         {.max_tokens = 20,
                                          .sampler = {.seed = 3},
                                          .stop_strings = turns().stops,
                                          .hold_back = false})
                                    .value()
                                    .text;
    std::string shown;
    const auto show = [&](const GenerationEvent& event) {
      shown += event.text;
      return Flow::go_on;
    };
    const GenerationResult reply = conversation.reply(line, show).value();
    EXPECT_EQ(reply.text, written);
    EXPECT_EQ(shown, reply.text);
    expected += said + reply.text;
    EXPECT_EQ(text(conversation), expected);
    if (!reply.text.ends_with('\n')) expected += "\n";  // which the model may write itself
  }
}

TEST_F(Conversations, StandAsBeforeAfterAnError) {
  Conversation conversation = start();
  conversation.reply("Hello").value();
  const Sequence before = conversation.sequence();
  Session small(lm_.model, executor_, {.chunk = 4});
  Conversation stopped(small, lm_, {.max_tokens = 20, .sampler = {.seed = 3}}, turns(), before);
  const auto stop = [](Index, Index) { return Flow::stop; };
  const auto reply = stopped.reply("Who are you, and why?", {}, stop);
  ASSERT_FALSE(reply);
  EXPECT_EQ(reply.error().code, ErrorCode::cancelled);
  EXPECT_EQ(stopped.sequence().tokens, before.tokens);
  EXPECT_EQ(stopped.sequence().pending, before.pending);
  EXPECT_TRUE(stopped.sequence().state == before.state);
  EXPECT_EQ(stopped.reply("Why?").value().text, conversation.reply("Why?").value().text);
}

TEST_F(Conversations, OfATemplateAreThoseOfTheWholeText) {
  const ChatTemplate written_by =
      ChatTemplate::parse(
          "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
          "{{ 'assistant:' if add_generation_prompt }}")
          .value();
  ChatSetup setup{written_by};
  setup.system = "A talk.";
  setup.stops = find_turn_marks(setup, *lm_.tokenizer).stops;
  EXPECT_EQ(setup.stops, (std::vector<std::string>{"\nuser: "}));
  const GenerationOptions options{.max_tokens = 20, .sampler = {.seed = 3}};
  TemplateConversation conversation(session_, lm_, options, setup, Sequence(lm_.model));
  std::string text = "system: A talk.\n";
  for (const std::string line : {"Hello", "Who are you?", "Tell me more"}) {
    text += "user: " + line + "\nassistant:";
    Sequence alone(lm_.model, lm_.tokenizer->encode(text).value());
    GenerationOptions once = options;
    once.stop_strings = setup.stops;
    once.hold_back = false;
    const GenerationResult expected = generate(session_, *lm_.tokenizer, alone, once).value();
    const GenerationResult reply = conversation.reply(line).value();
    EXPECT_EQ(reply.text, expected.text);
    // The template writes a blank in front of a reply, which the model need not have written: then
    // the text of the reply moved, and ran again.
    EXPECT_EQ(conversation.sequence().tokens, alone.tokens);
    EXPECT_TRUE(conversation.sequence().state == alone.state);
    text += " " + reply.text + "\n";
  }
}

}  // namespace
}  // namespace krait::conversation_test
