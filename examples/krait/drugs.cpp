#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <utility>

#include "command.hpp"
#include "results.hpp"

namespace krait::cli {
namespace {

void need(std::string_view option, const Result<void>& checked) {
  if (!checked) throw WrongUsage(option, checked.error());
}

}  // namespace

void DrugFlags::add_plan(Command& command) {
  const auto note = [this](std::string option) {
    if (first.empty()) first = std::move(option);
  };
  command.custom(
      "--drugs-state", "STATE",
      "What the next token finds: clean (as without noise), carry (what noise left), shower(N) "
      "(clean again after N noised tokens)",
      [this, note](const std::string& text) {
        note("--drugs-state");
        need("--drugs-state", parse_drug_state(text, plan));
      },
      "clean");
  command.custom(
      "--drugs-seed", "INT", "Seed of the noise",
      [this, note](const std::string& text) {
        note("--drugs-seed");
        plan.seed = parse_seed(text, "--drugs-seed");
      },
      "0");
  command.custom(
      "--drugs-direction", "{gauss, legacy}",
      "Law of the axis: without preference, or as in the reference",
      [this, note](const std::string& text) {
        note("--drugs-direction");
        if (text != "gauss" && text != "legacy") {
          throw WrongUsage("--drugs-direction", "gauss or legacy", in_quotes(text));
        }
        plan.direction = text == "gauss" ? DrugDirection::gauss : DrugDirection::legacy;
      },
      "gauss");
  command.custom(
      "--drugs-angle", "{uniform, halfnormal}", "Law of the angle, from 0 to theta or of its size",
      [this, note](const std::string& text) {
        note("--drugs-angle");
        if (text != "uniform" && text != "halfnormal") {
          throw WrongUsage("--drugs-angle", "uniform or halfnormal", in_quotes(text));
        }
        plan.angle = text == "uniform" ? DrugAngle::uniform : DrugAngle::halfnormal;
      },
      "uniform");
  command.custom(
      "--drugs-group", "INT",
      "Turn parts of so many numbers, at sites H X V A Z O; 0: whole vectors",
      [this, note](const std::string& text) {
        note("--drugs-group");
        plan.group = parse_number(text, "--drugs-group", 0, Index{1} << 30);
      },
      "0");
}

void DrugFlags::add(Command& command) {
  command.custom(
      "--drugs", "SITE:theta=T[,shape=S][,mode=M];…",
      "Noise inside the model: turns vectors at sites H X V B D Q S W A Z O K by up to T "
      "radians; shapes over the layers: rect(c,h), ramp(a,b), peak(c,w), points(d:r,…); "
      "modes: interpolate, ceil, floor",
      [this](const std::string& text) {
        auto doses = parse_doses(text);
        if (!doses) throw WrongUsage("--drugs", doses.error());
        plan.doses = *std::move(doses);
        has_doses = true;
      });
  add_plan(command);
}

Result<std::shared_ptr<const Drugs>> DrugFlags::resolve(const Model& model) const {
  check();
  if (!has_doses) return std::shared_ptr<const Drugs>();
  Result<Drugs> drugs = Drugs::make(plan, model);
  if (!drugs) {
    Error error = std::move(drugs).error();
    error.message.insert(std::string_view("[drugs] ").size(), "--drugs: ");
    return error;
  }
  if (drugs->is_sober()) return std::shared_ptr<const Drugs>();
  return std::shared_ptr<const Drugs>(std::make_shared<Drugs>(*std::move(drugs)));
}

void DrugFlags::check() const {
  if (!first.empty() && !has_doses) throw WrongUsage(first, "--drugs beside it", "none");
}

namespace {

struct DrugsFlags {
  CommonOptions common;
  DrugFlags drugs;
  TextSource text;
  std::optional<Index> limit;
  std::vector<DrugSite> sites;
  std::vector<double> doses;
  std::string out;
};

void read_sites(const std::string& text, std::vector<DrugSite>& sites) {
  for (const std::string& part : split_list(text)) {
    const std::size_t at = part.size() == 1 ? drug_letters.find(part[0]) : drug_letters.npos;
    if (at == drug_letters.npos) {
      throw WrongUsage("--sites", "letters of H X V B D Q S W A Z O K such as A,H",
                       in_quotes(part));
    }
    const auto site = static_cast<DrugSite>(at);
    if (std::ranges::find(sites, site) != sites.end()) {
      throw WrongUsage("--sites", "each site once", in_quotes(text));
    }
    sites.push_back(site);
  }
}

void read_doses(const std::string& text, std::vector<double>& doses) {
  for (const std::string& part : split_list(text)) {
    const double dose = parse_real(part, "--doses");
    if (!(dose >= 0.0 && dose <= 1e9)) {
      throw WrongUsage("--doses", "numbers of at least 0", in_quotes(part));
    }
    doses.push_back(dose);
  }
}

Result<void> check_folder(const std::string& path) {
  namespace fs = std::filesystem;
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (fs::is_directory(status)) return {};
  if (fs::exists(status)) {
    return Error{ErrorCode::bad_argument,
                 "[file] --out: expected a folder, found a file (" + path + ")"};
  }
  const fs::path parent = fs::path(path).parent_path();
  if (parent.empty() || fs::is_directory(fs::status(parent, error))) return {};
  return Error{ErrorCode::not_found,
               "[file] --out: expected a folder to hold it, found none (" + parent.string() + ")"};
}

// A folder that goes away again where nothing came to lie in it.
struct NewFolder {
  std::string path;
  bool is_new = false;

  ~NewFolder() {
    std::error_code ignored;
    if (is_new) std::filesystem::remove(path, ignored);
  }
};

Result<void> run(const DrugsFlags& options) {
  if (options.text.file.empty()) throw WrongUsage("--file", "a text", "none");
  if (options.sites.empty()) throw WrongUsage("--sites", "letters such as A,H", "none");
  if (options.doses.empty()) throw WrongUsage("--doses", "numbers such as 0.05,0.1", "none");
  if (options.out.empty()) throw WrongUsage("--out", "a folder", "none");
  KRAIT_RETURN_IF_ERROR(check_folder(options.out));
  KRAIT_ASSIGN_OR_RETURN(Runtime runtime, start(options.common, {.max_batch = 64}));
  KRAIT_ASSIGN_OR_RETURN(
      const std::vector<Token> tokens,
      read_tokens(options.text, "--file", runtime.language_model, options.limit));
  // What cannot be written is found before the work.
  NewFolder folder{options.out};
  std::error_code error;
  folder.is_new = std::filesystem::create_directory(options.out, error);
  if (error) {
    return Error{ErrorCode::io_failed, "[file] --out: expected to make a folder, found " +
                                           error.message() + " (" + options.out + ")"};
  }
  KRAIT_ASSIGN_OR_RETURN(AtomicFile report_file, AtomicFile::create(options.out + "/report.json"));
  KRAIT_ASSIGN_OR_RETURN(AtomicFile picture_file,
                         AtomicFile::create(options.out + "/vergence.svg"));
  ProgressLine progress("drugs-report", "points");
  KRAIT_ASSIGN_OR_RETURN(const std::vector<DrugPoint> points,
                         drugs_report(*runtime.session, options.drugs.plan, options.sites,
                                      options.doses, tokens, progress));
  const std::string report =
      to_json(points, options.drugs.plan, options.text.name(), tokens.size());
  KRAIT_RETURN_IF_ERROR(report_file.write(report + "\n"));
  KRAIT_RETURN_IF_ERROR(report_file.commit());
  KRAIT_RETURN_IF_ERROR(picture_file.write(vergence_picture(points)));
  KRAIT_RETURN_IF_ERROR(picture_file.commit());
  if (options.common.json) return print_json(report);
  std::string lines = "site  dose      KL (nats)  flips     (all layers)\n";
  for (const DrugPoint& point : points) {
    if (point.layer) continue;
    char line[96];
    std::snprintf(line, sizeof line, "%c     %-8g  %-9.3g  %.2f %%\n",
                  drug_letters[static_cast<std::size_t>(point.site)], point.dose, point.kl,
                  100.0 * point.flips);
    lines += line;
  }
  return print_all(lines);
}

void declare(Command& command, DrugsFlags& options) {
  command.file("--file", options.text.file, "Text file; '-': standard input");
  command.number("--limit", options.limit, 1, Index{1} << 60, "Only the first N bytes");
  command.custom("--sites", "LIST", "Sites, such as A,H",
                 [&options](const std::string& text) { read_sites(text, options.sites); });
  command.custom("--doses", "LIST", "Doses (theta in radians), such as 0.05,0.1",
                 [&options](const std::string& text) { read_doses(text, options.doses); });
  options.drugs.add_plan(command);
  command.file("--out", options.out, "Folder for report.json and vergence.svg");
  add_common(command, options.common, "Also prints report.json");
}

}  // namespace

void add_drugs_report(CommandLine& line) {
  line.add<DrugsFlags>(
      "drugs-report", "Measures what noise inside the model does to its predictions",
      "krait drugs-report --file book.txt --limit 1024 --sites A,H --doses 0.1,0.3 --out "
      "report",
      declare, run);
}

}  // namespace krait::cli
