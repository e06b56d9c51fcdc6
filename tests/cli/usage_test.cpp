// Wrong usage: exit code 2 and one line, before anything else is done; and arguments that only look
// wrong.

#include <utility>

#include "tests/cli/cli.hpp"
#include "tests/cli/running.hpp"

namespace krait::usage_test {
namespace {

class CliUsage : public Cli {
 protected:
  // The line, and its place for help.
  void expect_usage(const std::string& arguments, const std::string& start) {
    SCOPED_TRACE(arguments);
    expect_error(arguments + " </dev/null", 2, start);
    const std::string command = arguments.substr(0, arguments.find(' '));
    const Outcome outcome = krait(arguments + " </dev/null");
    EXPECT_EQ(outcome.err.rfind("krait: " + start, 0), 0U) << outcome.err;
    EXPECT_NE(outcome.err.find("(krait " + command + " --help)"), std::string::npos) << outcome.err;
  }
  json prompt_tokens(const std::string& arguments) {
    const Outcome outcome =
        krait("generate --json -n 1 --greedy -m krait-bytes-draft " + arguments + " </dev/null");
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return json::parse(outcome.out, nullptr, false).value("prompt_tokens", json());
  }
};

TEST_F(CliUsage, IsToldInOneLineOfItsOption) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"generate a -n -1", "--tokens: expected a whole number from 0 to 2147483648, found '-1'"},
      {"generate a -n many", "--tokens: expected a whole number"},
      {"generate a -n ''", "--tokens: expected a whole number from 0 to 2147483648, found ''"},
      {"generate a -n 0x10", "--tokens:"},
      {"generate a -n 1.5", "--tokens:"},
      {"generate a -n 99999999999999999999", "--tokens:"},
      {"generate a -n 1 -n 2", "--tokens: expected one value, found a second one, '2'"},
      {"generate a -n", "--tokens: expected a value, found none"},
      {"generate a --stop", "--stop: expected a value, found none"},
      {"generate a --count 0", "--count:"},
      {"generate a --count 2 --state-out x", "--state-out: expected one sample, found --count 2"},
      {"generate a --seed -1", "--seed: expected a whole number from 0 to 18446744073709551615"},
      {"generate a --seed 18446744073709551616", "--seed:"},
      {"generate a --seed ''", "--seed:"},
      {"generate a --seed=", "--seed:"},
      {"generate a --seed 1e3", "--seed:"},
      {"generate a --threads -1", "--threads: expected a whole number from 0 to 4096"},
      {"generate a --threads 5000", "--threads:"},
      {"generate a --temperature -1", "--temperature: expected a number of at least 0, found -1"},
      {"generate a --temperature nan", "--temperature:"},
      {"generate a --temperature hot", "--temperature: expected a number, found 'hot'"},
      {"generate a --temperature ''", "--temperature:"},
      {"generate a --top-k -1", "--top-k:"},
      {"generate a --top-p 90", "--top-p: expected a number above 0 and at most 1, found 90"},
      {"generate a --min-p 2", "--min-p:"},
      {"generate a --typical-p 0", "--typical-p:"},
      {"generate a --repetition-penalty 0", "--repetition-penalty:"},
      {"generate a --presence-penalty inf", "--presence-penalty:"},
      {"generate a --frequency-penalty nan", "--frequency-penalty:"},
      {"generate a --logit-bias 5", "--logit-bias: expected TOKEN=BIAS, found '5'"},
      {"generate a --logit-bias 5=", "--logit-bias:"},
      {"generate a --logit-bias =1", "--logit-bias:"},
      {"generate a --logit-bias 5=nan", "--logit-bias:"},
      {"generate a --logit-bias -5=1", "--logit-bias:"},
      {"generate a --logit-bias 999=1", "--logit-bias: expected ids from 0 to 255, found 999"},
      {"generate a --top-n-sigma -1", "--top-n-sigma: expected a number of at least 0, found -1"},
      {"generate a --epsilon-cutoff 1", "--epsilon-cutoff: expected a number of at least 0 and"},
      {"generate a --eta-cutoff nan", "--eta-cutoff:"},
      {"generate a --xtc-probability 2",
       "--xtc-probability: expected a number from 0 to 1, found 2"},
      {"generate a --xtc-threshold 0", "--xtc-threshold:"},
      {"generate a --dynatemp-range -1", "--dynatemp-range:"},
      {"generate a --dynatemp-exp x", "--dynatemp-exp: expected a number, found 'x'"},
      {"generate a --mirostat 3", "--mirostat: expected a whole number from 0 to 2, found '3'"},
      {"generate a --mirostat-ent -1", "--mirostat-ent: expected a number from 0 to 100, found -1"},
      {"generate a --mirostat-lr 2", "--mirostat-lr: expected a number from 0 to 1, found 2"},
      {"generate a --mirostat 2 --top-k 40",
       "--mirostat: expected no other step that takes tokens out, found 'top_k'"},
      {"generate a --dry-multiplier -1", "--dry-multiplier:"},
      {"generate a --dry-base 0", "--dry-base: expected a number of at least 1, found 0"},
      {"generate a --dry-allowed-length 0", "--dry-allowed-length:"},
      {"generate a --dry-penalty-last-n -1", "--dry-penalty-last-n:"},
      {"generate a --dry-multiplier 1 --dry-sequence-breaker ''",
       "--dry-sequence-breaker: expected"},
      {"generate a --bad-words ''", "--bad-words: expected a text, found an empty one"},
      {"generate a --min-length -1", "--min-length:"},
      {"generate a --min-length 5", "--min-length: expected tokens that end a text, found none"},
      {"generate a --samplers top_q",
       "--samplers: expected names of steps (penalties, dry, logit_bias, bad_words, min_length, "
       "top_n_sigma, temperature, top_k, top_p, min_p, typical_p, epsilon_cutoff, eta_cutoff, xtc, "
       "mirostat), found 'top_q'"},
      {"generate a --samplers 'top_k;top_k'",
       "--samplers: expected every step once, found 'top_k'"},
      {"generate a --samplers ''", "--samplers: expected names of steps"},
      {"generate a --samplers top_k --top-p 0.5",
       "--samplers: expected 'top_p', which is on, found an order without it"},
      {"generate a --num-beams 0",
       "--num-beams: expected a whole number from 1 to 1000, found '0'"},
      {"generate a --length-penalty 21", "--length-penalty: expected a number from -20 to 20"},
      {"generate a --num-beams 2 --top-k 5",
       "--num-beams: expected steps that change logits, and none that is about a draw, found "
       "'top_k'"},
      {"generate a --num-beams 2 --temperature 0.5",
       "--num-beams: expected steps that change logits"},
      {"generate a --num-beams 2 --greedy", "--num-beams: expected steps that change logits"},
      {"generate a --num-beams 2 --stop x", "--num-beams: expected no stop strings, but stop"},
      {"generate a --num-beams 2 --count 2", "--num-beams: expected no --count beside it, found 2"},
      {"generate a --num-beams 2 --best-of 3",
       "--num-beams: expected no --best-of beside it, found 3"},
      {"generate a --num-beams 2 --draft ngram", "--draft: expected no --num-beams or --best-of"},
      {"generate a --best-of 2 --draft ngram", "--draft: expected no --num-beams or --best-of"},
      {"generate a --guidance-scale 2 --draft ngram",
       "--draft: expected no --guidance-scale beside it, found one"},
      {"chat --guidance-scale 2 --draft ngram",
       "--draft: expected no --guidance-scale beside it, found one"},
      {"chat --guidance-scale nan", "--guidance-scale: expected a finite number, found nan"},
      {"chat --negative-prompt b",
       "--negative-prompt: expected a --guidance-scale other than 1 beside it, found none"},
      {"generate a --best-of 0", "--best-of:"},
      {"generate a --best-of 2 --count 2", "--best-of: expected no --count beside it, found 2"},
      {"generate a --best-by median", "--best-by: expected one of mean, sum, found 'median'"},
      {"generate a --logprobs 2", "--logprobs: expected --json beside it, found none"},
      {"generate a --json --logprobs 300", "--logprobs: expected at most 256, found 300"},
      {"generate a --json --logprobs 1 --num-beams 2",
       "--logprobs: expected no --num-beams beside"},
      {"generate a --guidance-scale inf", "--guidance-scale: expected a finite number, found inf"},
      {"generate a --negative-prompt b",
       "--negative-prompt: expected a --guidance-scale other than 1 beside it, found none"},
      {"generate a b", "prompt: expected one argument; text with spaces in quotes, found another"},
      {"generate a --no-such-flag", "--no-such-flag: expected an option of krait generate"},
      {"generate -x", "-x: expected an option of krait generate"},
      {"generate '-5 degrees'", "-5: expected an option of krait generate"},
      {"generate a --json=yes", "--json: expected no value, found 'yes'"},
      {"generate a --dtype f8",
       "--dtype: expected one of file, f32, bf16, f16, q8, q4, aqlm, aqlm-exact, gguf"},
      {"generate a --kv-dtype q8", "--kv-dtype: expected one of f32, f16, bf16, found 'q8'"},
      {"generate a --weights ''", "--weights:"},
      {"generate a -m ''", "--model: expected a name, found an empty one"},
      {"generate a --state-out ''", "--state-out:"},
      {"generate a --state-out -", "--state-out: expected the name of a file"},
      {"logits --text a --out -", "--out: expected the name of a file"},
      {"generate a --prompt-file b", "--prompt-file: expected no prompt beside it"},
      {"generate a --grammar b --json-schema c", "--grammar: expected no --json-schema beside it"},
      {"generate a --regex b --json-schema c", "--regex: expected no --json-schema beside it"},
      {"chat --regex b --grammar c", "--regex: expected no --grammar beside it, found 'c'"},
      {"generate a --grammar ''", "--grammar: expected a name"},
      {"generate a --json-schema ''", "--json-schema: expected a file or a schema"},
      {"generate a --regex", "--regex: expected a value, found none"},
      {"chat --json", "--json: expected --print-prompt beside it, found none"},
      {"chat --print-prompt a --system b", "--system: expected no --print-prompt beside it"},
      {"chat --print-prompt a --variables {}", "--variables: expected no --print-prompt beside it"},
      {"generate a --length-penalty 2", "--length-penalty: expected --num-beams beside it"},
      {"generate a --best-by sum", "--best-by: expected --best-of beside it, found none"},
      {"laser a b --set 0:in:1 --loss 1", "--loss: expected --search --mode shrink, found others"},
      {"laser a b --search --data c --mode shrink --dense", "--dense: expected no --mode shrink"},
      {"chat --system a --state-in b", "--system: expected no --state-in beside it, found 'b'"},
      {"chat a", "krait chat: expected options alone, found 'a'"},
      {"chat -n 0", "--tokens:"},
      {"chat --top-p 2", "--top-p:"},
      {"chat --samplers top_q", "--samplers: expected names of steps"},
      {"logits --tokens 1,x", "--tokens: expected numbers from 0 to 2147483647, found 'x'"},
      {"logits --tokens 1,,2", "--tokens:"},
      {"logits --tokens ''", "--tokens: expected at least one id, found none"},
      {"logits --tokens 1,900", "--tokens: expected numbers from 0 to 255, found '900'"},
      {"logits --tokens 1 --text a", "input: expected one of --tokens, --text and --file"},
      {"logits --text a --chunk 0", "--chunk:"},
      {"logits --text a --top 0", "--top:"},
      {"tokenize --decode 999", "--decode: expected numbers from 0 to 255, found '999'"},
      {"tokenize --decode [1,2", "--decode:"},
      {"tokenize --decode 1 a", "--decode: expected no text beside it"},
      {"tokenize a --file b", "--file: expected no text beside it"},
      {"perplexity ''", "file: expected a name"},
      {"perplexity x --limit 0", "--limit:"},
      {"evaluate --file x",
       "--kl: expected a reference model, or --against with another, found none"},
      {"convert krait-bytes-2m", "destination: expected the name of a new folder"},
      {"convert krait-bytes-2m x --to onnx", "--to: expected one of safetensors, gguf"},
      {"convert krait-bytes-2m x --dtype q8", "--dtype: expected one of f32, f16, bf16"},
      {"convert krait-bytes-2m x --shard-size 0", "--shard-size: expected bytes such as 5GB"},
      {"convert krait-bytes-2m x --shard-size 5TB", "--shard-size: expected bytes such as 5GB"},
      {"convert krait-bytes-2m x --to gguf --shard-size 5GB",
       "--shard-size: expected no --to gguf"},
      {"quantize krait-bytes-2m x", "--to: expected one of bf16, f16, q8, q4, found none"},
      {"quantize krait-bytes-2m --to q8", "destination: expected the name of a new folder"},
      {"quantize", "source: expected a checkpoint, found none"},
      {"quantize a b c --to q8", "destination: expected one argument"},
      {"aqlm", "source: expected a checkpoint, found none"},
      {"aqlm krait-bytes-draft", "destination: expected the name of a new folder"},
      {"aqlm krait-bytes-draft x --scheme 4y4", "--scheme: expected MxBgG"},
      {"aqlm krait-bytes-draft x --preset slow", "--preset: expected one of fast, default, best"},
      {"aqlm krait-bytes-draft x --seed -1", "--seed: expected"},
      {"laser", "source: expected a checkpoint, found none"},
      {"laser krait-bytes-draft", "destination: expected the name of a new folder"},
      {"laser krait-bytes-draft x", "--set: expected LAYER:MATRIX:RANK, or --rule, or --search"},
      {"laser krait-bytes-draft x --set 0:in:65", "--set: expected a rank from 1 to 64 or a"},
      {"laser krait-bytes-draft x --set 0:in:0", "--set: expected a rank from 1 to 64 or a"},
      {"laser krait-bytes-draft x --set 0:no:1", "--set: expected one of the matrices in, in_x,"},
      {"laser krait-bytes-draft x --set 2:in:1", "--set: expected a layer from 0 to 1"},
      {"laser krait-bytes-draft x --set 0:in:1 --rule mp", "--set: expected no --rule"},
      {"laser krait-bytes-draft x --set 0:in:1 --search", "--set: expected no --search"},
      {"laser krait-bytes-draft x --search", "--data: expected a file, found none"},
      {"laser krait-bytes-draft x --set 0:in:1 --data x", "--data: expected --search"},
      {"laser krait-bytes-draft x --search --data x --task chess", "--task: expected one of text,"},
      {"laser krait-bytes-draft x --search --data x --loss -1", "--loss: expected bits per byte"},
      {"laser krait-bytes-draft x --search --data x --budget -1", "--budget: expected minutes"},
      {"train", "--model: expected either a checkpoint or --config, found none"},
      {"train -m a --config b", "--model: expected either a checkpoint or --config, found both"},
      {"train -m krait-bytes-draft --out x --steps 3", "--data: expected a text file, found none"},
      {"train -m a --data x --steps 3", "--out: expected the name of a new folder, found none"},
      {"train -m a --data x --out y", "--steps: expected a number of steps, found none"},
      {"sft --data x --out y --steps 3", "--model: expected a checkpoint, found none"},
      {"sft -m a --out y --steps 3", "--data: expected a file of examples, found none"},
      {"train --lr -1", "--lr: expected at least 0, found -1"},
      {"train --beta1 1", "--beta1: expected at least 0 and below 1, found 1"},
      {"train --eps 0", "--eps: expected at least 1.17549"},
      {"train --eps 1e-60", "--eps: expected at least 1.17549"},
      {"train --clip nan", "--clip:"},
      {"train --batch 0", "--batch: expected"},
      {"train --schedule square", "--schedule: expected one of constant, linear, cosine, wsd"},
      {"train --optimizer sgd", "--optimizer: expected one of adamw, muon, found"},
      {"train --momentum 1", "--momentum: expected at least 0 and below 1, found 1"},
      {"train --temperature 0", "--temperature: expected a finite number above 0, found 0"},
      {"train --order backwards", "--order: expected one of shuffled, sequential"},
      {"train --dtype q8", "--dtype: expected one of f32, bf16, f16"},
      {"train -m a --data x --out y --steps 3 --warmup 4",
       "--warmup: expected at most 3 (--steps), found 4"},
      {"train -m a --data x --out y --steps 3 --schedule linear --warmup 3",
       "--warmup: expected at most 2 (--steps, less the schedule's end), found 3"},
      {"train -m a --data x --out y --steps 3 --lora r=1,targets=in --optimizer muon",
       "--optimizer: expected adamw beside --lora, found muon"},
      {"dpo -m a --data x --memory --loss ipo --label-smoothing 0.1",
       "--label-smoothing: expected 0 with the loss ipo "},
      {"aqlm a b --weigh fisher", "--weigh: expected --calibration beside fisher, found none"},
      {"laser a b --set 0:out:4 --mode shrink", "--mode: expected --search, found none"},
      {"laser a b --set 0:out:4 --task lambada", "--task: expected --search, found none"},
      {"inspect a -m b", "--model: expected no path beside it, found both"},
      {"inspect a --spectrum b --router-stats c",
       "--spectrum: expected no --router-stats beside it, found both"},
      {"inspect a --spectrum b --tensors", "--tensors: expected no --spectrum beside it"},
      {"inspect a --router-stats b --tensors", "--tensors: expected no --router-stats beside it"},
      {"inspect a --spectrum b --lora c", "--lora: expected no --spectrum beside it"},
      {"generate a --guidance-scale 2 --drugs A:theta=1 --drugs-state 'shower(2)'",
       "--guidance-scale: expected --drugs-state clean or carry, found a shower"},
      {"train -m a --data x --out y --steps 3 --batch 2 --shards 3",
       "--shards: expected at most 2 (rows of a step), found 3"},
      {"inspect a b", "path: expected one argument"},
      {"bench --users 1,x", "--users: expected numbers from 0 to 256, found 'x'"},
      {"bench --users 257", "--users:"},
      {"bench --verify 1,x", "--verify:"},
      {"bench --repeat 0", "--repeat:"},
      {"bench extra", "krait bench: expected options alone"},
  };
  for (const auto& [arguments, start] : cases) expect_usage(arguments, start);
}

TEST_F(CliUsage, NamesTheCommands) {
  expect_error("", 2, "command: expected one of generate, chat, logits");
  expect_error("sing", 2, "found 'sing' (krait --help)");
  expect_error("''", 2, "found ''");
  expect_error("--json generate a", 2, "--json: expected a command first");
}

TEST_F(CliUsage, HelpGoesBeforeWhatIsWrong) {
  for (const char* arguments :
       {"generate --help", "generate -n many --help", "generate -h",
        "generate --no-such-flag --help", "logits --tokens --help --help"}) {
    const Outcome outcome = krait(arguments);
    EXPECT_EQ(outcome.code, 0) << arguments;
    EXPECT_NE(outcome.out.find("[OPTIONS]"), std::string::npos) << arguments << outcome.out;
    EXPECT_EQ(outcome.err, "");
  }
}

TEST_F(CliUsage, AFlagTakesOneValue) {
  for (const char* arguments :
       {"--stop . 'It was a dark'", "--stop=. 'It was a dark'", "'It was a dark' --stop .",
        "--stop . --stop , 'It was a dark'", "--logit-bias 5=1 'It was a dark'",
        "--logit-bias 5=1 --logit-bias 6=-inf 'It was a dark'", "--stop '' 'It was a dark'",
        "--stop= 'It was a dark'", "--stop . -- 'It was a dark'", "--stop '[a,b]' 'It was a dark'",
        "-- 'It was a dark'", "--seed 5 'It was a dark'", "--logit-bias 5=+1 'It was a dark'"}) {
    EXPECT_EQ(prompt_tokens(arguments), 13) << arguments;
  }
}

TEST_F(CliUsage, APromptMayBeAnyText) {
  EXPECT_EQ(prompt_tokens("'{}'"), 2);
  EXPECT_EQ(prompt_tokens("'[1,2]'"), 5);
  EXPECT_EQ(prompt_tokens("++"), 2);
  EXPECT_EQ(prompt_tokens("chat"), 4);
  EXPECT_EQ(prompt_tokens("-- -n"), 2);
  EXPECT_EQ(prompt_tokens("-- --"), 2);
  EXPECT_EQ(prompt_tokens("''"), 1);
  EXPECT_EQ(prompt_tokens("'a\nb'"), 3);
  EXPECT_EQ(krait("tokenize {}").out, "123 125\n");
}

TEST_F(CliUsage, NumbersAreDecimal) {
  EXPECT_EQ(krait_json("generate a -m krait-bytes-draft -n 010")["tokens"].size(), 10U);
  EXPECT_EQ(krait_json("generate a -m krait-bytes-draft -n2")["tokens"].size(), 2U);
  EXPECT_EQ(krait_json("generate a -m krait-bytes-draft --tokens=3")["tokens"].size(), 3U);
  EXPECT_EQ(krait_json("generate a -m krait-bytes-draft -n 0 --seed 18446744073709551615")["seed"],
            18446744073709551615ULL);
}

// Not after a hundred million tokens.
TEST_F(CliUsage, DestinationsAreCheckedBeforeTheWork) {
  std::filesystem::create_directory(path("folder"));
  ASSERT_EQ(shell("mkfifo " + path("pipe")).code, 0);
  const std::string work = "generate a -n 100000000 --state-out ";
  expect_error(work + "/no/such/folder/s", 1, "/no/such/folder/s");
  expect_error(work + path("folder"), 1, "folder");
  expect_error(work + "/proc/version", 1, "/proc/version");
  expect_error("chat --state-out /no/such/folder/s", 1, "/no/such/folder/s");
  expect_error("logits --tokens 1 --out /no/such/folder/x.npy", 1, "/no/such/folder/x.npy");
  expect_error("logits --tokens 1 --out " + path("pipe"), 1, "found a pipe");
  // Nothing is left of the check.
  EXPECT_EQ(std::distance(std::filesystem::directory_iterator(directory_.path()), {}), 3);
  // Nor has it changed what stands there when the work then fails.
  test::write_file(path("kept"), "kept");
  expect_error("generate a -m no-such-model --state-out " + path("kept"), 1, "no-such-model");
  EXPECT_EQ(test::read_file(path("kept")), "kept");
}

TEST_F(CliUsage, NothingGivenInATerminalIsTold) {
  for (const std::string command : {"generate", "tokenize", "logits", "perplexity"}) {
    Running running({command}, path("out"), path("err"), Running::Stdin::terminal);
    EXPECT_EQ(running.wait(), 2) << command;
    const std::string line = test::read_file(path("err"));
    EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1) << line;
    EXPECT_NE(line.find("expected a text, '-' or text piped into the program, found none (krait " +
                        command + " --help)"),
              std::string::npos)
        << line;
  }
}

// Whatever stands in arguments, paths and files.
TEST_F(CliUsage, ControlCharactersAreShownAndNotSent) {
  const std::string hostile = "$(printf '\\033[2J\\302\\233x\\342\\200\\256y\\177\\377')";
  const std::string seen = "\\x1b[2J\\u009bx\\u202ey\\x7f\\xff";
  for (const std::string& arguments :
       {"\"" + hostile + "\"", "generate \"--" + hostile + "\"",
        "generate a -n \"" + hostile + "\"", "perplexity \"" + hostile + "\"",
        "generate a --state-out \"/no/" + hostile + "\""}) {
    const Outcome outcome = krait(arguments);
    EXPECT_NE(outcome.err.find(seen), std::string::npos) << arguments << ": " << outcome.err;
    for (const char c : outcome.err) EXPECT_TRUE(c == '\n' || (c >= ' ' && c <= '~')) << int{c};
  }
  const Outcome model = krait("generate a -m \"" + hostile + "\"");
  EXPECT_EQ(model.code, 1);
  for (const char c : model.err) EXPECT_TRUE(c == '\n' || (c >= ' ' && c <= '~')) << int{c};
  std::filesystem::copy(test::bundled_models_dir() / "krait-bytes-draft", path("model"));
  std::string config = test::read_file(path("model") + "/config.json");
  config.insert(config.find('{') + 1, "\"\\u001b[2J\\u202e\\n\": 1, ");
  test::write_file(path("model") + "/config.json", config);
  const Outcome table = krait("inspect " + path("model"));
  EXPECT_NE(table.out.find("[2J"), std::string::npos) << table.out;
  const Outcome object = krait("inspect --json " + path("model"));
  EXPECT_FALSE(json::parse(object.out)["ignored_config_keys"].empty());
  for (const std::string& text : {table.out, object.out}) {
    EXPECT_EQ(text.find('\033'), std::string::npos);
    EXPECT_EQ(text.find("\u202e"), std::string::npos);
    EXPECT_EQ(text.find("\n\n"), std::string::npos);
  }
}

}  // namespace
}  // namespace krait::usage_test
