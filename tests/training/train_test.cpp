#include "krait/training/train.hpp"

#include <gtest/gtest.h>

#include <filesystem>
#include <sstream>

#include "krait/loading/language_model.hpp"
#include "tests/support/support.hpp"

namespace krait::train_test {
namespace {

namespace fs = std::filesystem;
using test::read_file;

constexpr const char* config = R"({"model_type": "mamba", "vocab_size": 256, "hidden_size": 24,
  "num_hidden_layers": 2, "state_size": 4, "conv_kernel": 4, "expand": 2, "time_step_rank": 2,
  "use_conv_bias": true, "use_bias": false, "tie_word_embeddings": true,
  "layer_norm_epsilon": 1e-5, "intermediate_size": 48})";

// A folder with a configuration; runs in it.
class Train : public ::testing::Test {
 protected:
  Train() { test::write_file(path("config.json"), config); }

  std::string path(const std::string& name) const { return (folder_.path() / name).string(); }

  static TrainOptions options() {
    return {
        .steps = 7, .batch = 2, .length = 12, .seed = 3, .schedule = Schedule::cosine, .warmup = 2};
  }
  TrainFiles files(const std::string& name) const {
    return {.destination = path(name), .log = path(name + ".jsonl"), .checkpoint_every = 2};
  }

  Result<TrainSummary> run(const TrainFiles& files, const TrainOptions& options,
                           Index stop_after = -1) const {
    TrainTask task = new_train_task(path("config.json"), options.seed).value();
    for (const char c : std::string("It was the best of times, it was the worst of times, it was "
                                    "the age of wisdom, it was the age of foolishness.")) {
      task.text.push_back(static_cast<unsigned char>(c));
    }
    std::vector<Token> held_out;
    for (const char c : held_out_) held_out.push_back(static_cast<unsigned char>(c));
    task.held_out = cut_rows(held_out, options.length);
    SerialExecutor serial;
    return train(std::move(task), options, files, serial, [&](const TrainProgress& progress) {
      if (!hinder_.empty() && progress.step.step == options.steps - 1) {
        fs::create_directories(hinder_);
      }
      return progress.step.step == stop_after ? Flow::stop : Flow::go_on;
    });
  }

  std::string weights(const std::string& name) const {
    return read_file(path(name + "/model.safetensors"));
  }

  static std::size_t lines(const std::string& text) {
    return static_cast<std::size_t>(std::ranges::count(text, '\n'));
  }

  test::TemporaryDirectory folder_;
  std::string held_out_;
  std::string hinder_;  // a folder that is made in the last step
};

TEST_F(Train, MakesACheckpointThatLoads) {
  const TrainSummary summary = run(files("a"), options()).value();
  EXPECT_EQ(summary.steps, 7);
  EXPECT_GT(summary.loss, 0.0);
  EXPECT_TRUE(load_language_model(path("a")).has_value());
  EXPECT_EQ(read_file(path("a/config.json")), config);
  const std::string log = read_file(path("a.jsonl"));
  EXPECT_EQ(lines(log), 7U);
  EXPECT_TRUE(log.starts_with("{\"step\": 0, \"loss\": 5.")) << log;
  EXPECT_FALSE(fs::exists(path("a.partial")));
}

TEST_F(Train, InterruptedAnywhereItGivesTheSameBytes) {
  run(files("whole"), options()).value();
  for (const Index stop : {0, 1, 2, 5}) {
    const std::string name = "cut" + std::to_string(stop);
    const Error error = run(files(name), options(), stop).error();
    EXPECT_EQ(error.code, ErrorCode::cancelled);
    TrainFiles again = files(name);
    again.resume = true;
    EXPECT_FALSE(run(again, options()).value().was_finished);
    EXPECT_EQ(weights("whole"), weights(name));
    EXPECT_EQ(lines(read_file(path(name + ".jsonl"))), 7U);
    EXPECT_TRUE(run(again, options()).value().was_finished);
    EXPECT_EQ(weights("whole"), weights(name));
  }
}

// Tags are closed in the order in which they were opened, and nothing else lies behind them.
void expect_well_formed(const std::string& svg) {
  std::vector<std::string> open;
  for (std::size_t at = 0; (at = svg.find('<', at)) != std::string::npos;) {
    const std::size_t end = svg.find('>', at);
    ASSERT_NE(end, std::string::npos);
    const std::string tag = svg.substr(at + 1, end - at - 1);
    ASSERT_EQ(tag.find('<'), std::string::npos) << tag;
    EXPECT_EQ(std::ranges::count(tag, '"') % 2, 0) << tag;
    if (tag.starts_with('/')) {
      ASSERT_FALSE(open.empty());
      EXPECT_EQ(tag.substr(1), open.back());
      open.pop_back();
    } else if (!tag.ends_with('/')) {
      open.push_back(tag.substr(0, tag.find(' ')));
    }
    at = end;
  }
  EXPECT_TRUE(open.empty());
  EXPECT_TRUE(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
}

TEST_F(Train, DrawsItsLosses) {
  held_out_ = "It was the season of light, it was the season of darkness.";
  run(files("whole"), options()).value();
  const std::string svg = read_file(path("whole.jsonl.svg"));
  expect_well_formed(svg);
  EXPECT_NE(svg.find("training loss"), std::string::npos);
  EXPECT_NE(svg.find("held-out loss"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
  std::istringstream log(read_file(path("whole.jsonl")));
  Index step = 0;
  for (std::string line; std::getline(log, line); ++step) {
    // Behind every second step, and the last.
    EXPECT_EQ(line.find("held_out_loss") != std::string::npos, step % 2 == 1 || step == 6) << line;
  }
  // An interrupted run has a drawing of what it did, and ends with that of the whole.
  EXPECT_FALSE(run(files("cut"), options(), 2).has_value());
  expect_well_formed(read_file(path("cut.jsonl.svg")));
  EXPECT_NE(read_file(path("cut.jsonl.svg")), svg);
  TrainFiles again = files("cut");
  again.resume = true;
  run(again, options()).value();
  EXPECT_EQ(read_file(path("cut.jsonl.svg")), svg);
  // What is held out changes nothing.
  held_out_.clear();
  run(files("without"), options()).value();
  EXPECT_EQ(weights("whole"), weights("without"));
  EXPECT_EQ(read_file(path("without.jsonl.svg")).find("held-out"), std::string::npos);
}

TEST_F(Train, HeldOutLossIsThatOfTheResult) {
  held_out_ = "It was the season of light, it was the season of darkness.";
  run(files("a"), options()).value();
  const std::string log = read_file(path("a.jsonl"));
  const std::size_t at = log.rfind("\"held_out_loss\": ");
  ASSERT_NE(at, std::string::npos);
  TrainTask task = open_train_task(path("a")).value();
  SerialExecutor serial;
  ModelGradient model = ModelGradient::create(task.spec, task.prefix, serial).value();
  model.bind(task.values.data()).value();
  double sum = 0.0;
  for (std::size_t first = 0; first + 1 < held_out_.size(); first += 12) {
    const std::string part = held_out_.substr(first, 13);
    Row row{.tokens = {}, .given = 1};
    for (const char c : part) row.tokens.push_back(static_cast<unsigned char>(c));
    for (const float log_p : target_log_probabilities(model, row).value()) sum -= double(log_p);
  }
  EXPECT_DOUBLE_EQ(std::stod(log.substr(at + 17)), sum / double(held_out_.size() - 1));
}

TEST_F(Train, AHeldOutLossThatIsNotFiniteEndsTheRun) {
  held_out_ = "It was the season of light.";
  TrainOptions wild = options();
  wild.steps = 1;
  wild.learning_rate = 1e30;
  wild.warmup = 0;
  wild.clip = 0.0;
  const Result<TrainSummary> found = run(files("a"), wild);
  ASSERT_FALSE(found);
  EXPECT_EQ(found.error().code, ErrorCode::not_finite);
  EXPECT_TRUE(found.error().message.starts_with(
      "[training] step 0: expected a finite held-out loss, found "))
      << found.error().message;
  EXPECT_EQ(read_file(path("a.jsonl")), "");
  EXPECT_FALSE(fs::exists(path("a")));
}

TEST_F(Train, WithMuonTooItGivesTheSameBytes) {
  TrainOptions muon = options();
  muon.optimizer = Optimizer::muon;
  run(files("whole"), muon).value();
  run(files("adamw"), options()).value();
  EXPECT_NE(weights("whole"), weights("adamw"));
  EXPECT_FALSE(run(files("cut"), muon, 3).has_value());
  TrainFiles again = files("cut");
  again.resume = true;
  EXPECT_EQ(run(again, options()).error().message,
            "[training] optimizer: expected muon, as in the interrupted run, found adamw (" +
                path("cut.partial") + ")");
  run(again, muon).value();
  EXPECT_EQ(weights("whole"), weights("cut"));
}

TEST_F(Train, LearnsFromATeacher) {
  TrainOptions longer = options();
  longer.steps = 60;
  longer.learning_rate = 0.01;
  run(files("teacher"), longer).value();
  const auto learn = [&](const std::string& name, double alpha, Index stop, bool resume) {
    TrainTask task = new_train_task(path("config.json"), 11).value();
    for (const char c : std::string("It was the winter of despair, we had everything before us."))
      task.text.push_back(static_cast<unsigned char>(c));
    if (alpha > 0.0) {
      task.teacher = TeacherTask{.model = load_language_model(path("teacher")).value().model,
                                 .distillation = {.alpha = alpha, .temperature = 2.0}};
    }
    SerialExecutor serial;
    TrainFiles to = files(name);
    to.resume = resume;
    return train(std::move(task), options(), to, serial, [&](const TrainProgress& progress) {
      return progress.step.step == stop ? Flow::stop : Flow::go_on;
    });
  };
  learn("whole", 0.5, -1, false).value();
  EXPECT_FALSE(learn("cut", 0.5, 3, false).has_value());
  EXPECT_EQ(learn("cut", 0.6, -1, true).error().message,
            "[training] distill: expected 0.5, as in the interrupted run, found 0.6 (" +
                path("cut.partial") + ")");
  const std::string alone = learn("cut", 0.0, -1, true).error().message;
  EXPECT_NE(alone.find("as in the interrupted run, found none"), std::string::npos) << alone;
  learn("cut", 0.5, -1, true).value();
  EXPECT_EQ(weights("whole"), weights("cut"));
  const std::string log = read_file(path("whole.jsonl"));
  const auto kl = [&](std::size_t at) { return std::stod(log.substr(at + 6)); };
  EXPECT_LT(kl(log.rfind("\"kl\": ")), kl(log.find("\"kl\": ")));
}

TEST_F(Train, WithNothingToResumeItBegins) {
  run(files("whole"), options()).value();
  TrainFiles resumed = files("resumed");
  resumed.resume = true;
  run(resumed, options()).value();
  EXPECT_EQ(weights("whole"), weights("resumed"));
}

TEST_F(Train, AnotherRunIsNotResumed) {
  EXPECT_FALSE(run(files("a"), options(), 3).has_value());
  TrainFiles again = files("a");
  again.resume = true;
  const auto message = [&](auto change) {
    TrainOptions other = options();
    change(other);
    return run(again, other).error().message;
  };
  const std::string place = " (" + path("a.partial") + ")";
  EXPECT_EQ(message([](TrainOptions& o) { o.learning_rate = 0.5; }),
            "[training] lr: expected 0.001, as in the interrupted run, found 0.5" + place);
  EXPECT_EQ(message([](TrainOptions& o) { o.batch = 3; }),
            "[training] batch: expected 2, as in the interrupted run, found 3" + place);
  EXPECT_NE(message([](TrainOptions& o) { o.seed = 4; }).find("model: expected"),
            std::string::npos);
  EXPECT_TRUE(run(again, options()).has_value());
  EXPECT_EQ(
      message([](TrainOptions& o) { o.length = 13; }),
      "[training] length: expected 12, as in the interrupted run, found 13 (" + path("a") + ")");
}

TEST_F(Train, PlacesThatCannotBeWrittenAreRefusedFirst) {
  TrainFiles bad = files("no/such/folder");
  EXPECT_EQ(run(bad, options()).error().code, ErrorCode::not_found);
  bad = files("a");
  bad.log = path("missing/log.jsonl");
  EXPECT_EQ(run(bad, options()).error().message,
            "[training] log: expected a folder for it, found none (" + bad.log + ")");
  test::write_file(path("file"), "x");
  EXPECT_EQ(run(files("file"), options()).error().code, ErrorCode::bad_argument);
  EXPECT_EQ(read_file(path("file")), "x");
}

TEST_F(Train, ALogInsideTheResultIsRefused) {
  fs::create_directories(path("a.partial/logs"));
  for (const char* log : {"a.partial", "a.partial/log", "a.partial/logs/log"}) {
    TrainFiles bad = files("a");
    bad.log = path(log);
    EXPECT_EQ(run(bad, options()).error().message,
              "[training] log: expected a file beside the result, found the result's place (" +
                  bad.log + ")");
  }
}

// What takes the result's place in the last moment, or has no room for a weight, costs no step.
TEST_F(Train, AResultThatCannotBeWrittenIsNotLost) {
  run(files("whole"), options()).value();
  TrainFiles late = files("late");
  late.checkpoint_every = 100;
  hinder_ = path("late/in the way");
  EXPECT_FALSE(run(late, options()).has_value());
  fs::remove_all(path("late"));
  hinder_.clear();
  late.resume = true;
  EXPECT_TRUE(run(late, options()).value().was_finished);
  EXPECT_EQ(weights("late"), weights("whole"));
  EXPECT_FALSE(fs::exists(path("late.partial")));

  TrainOptions large = options();
  large.learning_rate = 1e5;
  large.steps = 1;
  large.schedule = Schedule::constant;
  large.warmup = 0;
  TrainFiles small = files("small");
  small.dtype = DType::f16;
  EXPECT_NE(run(small, large).error().message.find("f16"), std::string::npos);
  small.resume = true;
  small.dtype = DType::f32;
  EXPECT_TRUE(run(small, large).has_value());
}

TEST_F(Train, ADamagedCheckpointIsRefused) {
  EXPECT_FALSE(run(files("a"), options(), 3).has_value());
  const std::string file = path("a.partial/checkpoint.safetensors");
  test::write_file(file, read_file(file).substr(0, 1000));
  TrainFiles again = files("a");
  again.resume = true;
  EXPECT_EQ(run(again, options()).error().code, ErrorCode::bad_format);
}

TEST_F(Train, RoundsTheResultAlone) {
  run(files("f32"), options()).value();
  TrainFiles rounded = files("bf16");
  rounded.dtype = DType::bf16;
  run(rounded, options()).value();
  EXPECT_LT(weights("bf16").size(), weights("f32").size());
  const TrainTask a = open_train_task(path("f32")).value();
  const TrainTask b = open_train_task(path("bf16")).value();
  for (Index i = 0; i < a.values.size(); ++i) {
    EXPECT_NEAR(a.values[i], b.values[i], 0.005F * std::abs(a.values[i]) + 1e-30F);
  }
}

TEST_F(Train, AModelThatIsNotThereIsRefused) {
  const auto task = open_train_task((test::bundled_models_dir() / "no-such").string());
  EXPECT_EQ(task.error().code, ErrorCode::not_found);
}

TEST_F(Train, AResultInsideItsSourceIsRefused) {
  run(files("a"), options()).value();
  for (const bool is_whole : {true, false}) {
    TrainTask task = is_whole ? open_train_task(path("a")).value()
                              : new_lora_task(path("a"), {.rank = 2, .alpha = 4}, 1).value();
    task.text.assign(100, 65);
    SerialExecutor serial;
    const auto summary = train(std::move(task), options(), files("a/sub"), serial,
                               [](const TrainProgress&) { return Flow::go_on; });
    ASSERT_FALSE(summary);
    EXPECT_EQ(summary.error().message,
              "[training] destination: expected a place outside the source, found one in it (" +
                  path("a/sub") + ")");
    EXPECT_FALSE(fs::exists(path("a/sub")));
  }
  EXPECT_TRUE(run(files("b"), options()).has_value());  // a configuration alone is no source
}

TEST_F(Train, ACapacityWithoutExpertsIsRefused) {
  TrainOptions limited = options();
  limited.capacity = 1.25;
  const auto summary = run(files("a"), limited);
  ASSERT_FALSE(summary);
  EXPECT_EQ(summary.error().message,
            "[training] capacity: expected a model with experts, found one without");
  EXPECT_FALSE(fs::exists(path("a")));
  const TrainTask task = new_train_task(path("config.json"), 1).value();
  EXPECT_EQ(train_memory(task, limited, 1).error().message, summary.error().message);
}

}  // namespace
}  // namespace krait::train_test
