#include "models/model_tree.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <vector>

namespace krait {
inline namespace v0_1 {
namespace {

struct Node {
  std::string label;
  std::string text;
  std::vector<Node> children;

  friend bool operator==(const Node& a, const Node& b) {
    return a.text == b.text &&
           std::equal(a.children.begin(), a.children.end(), b.children.begin(), b.children.end(),
                      [](const Node& x, const Node& y) { return x.label == y.label && x == y; });
  }

  Node& child(std::string_view name) {
    // Tensors come in order, so the child is among the last ones, if it exists.
    for (auto node = children.rbegin(); node != children.rend(); ++node) {
      if (node->label == name) return *node;
    }
    return children.emplace_back(Node{std::string(name), {}, {}});
  }
};

std::string_view placement_text(Placement placement) {
  switch (placement) {
    case Placement::in_place:
      return "";
    case Placement::converted:
      return ", converted";
    case Placement::derived:
      return ", derived";
  }
  return "";
}

bool is_number(std::string_view text) {
  return !text.empty() &&
         std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

// Folds runs of equal children with consecutive numbers into one child ("0 to 11"), and a node
// without text that has a single child into that child.
void fold(Node& node) {
  std::vector<Node> folded;
  for (std::size_t first = 0; first < node.children.size();) {
    std::size_t last = first;
    while (last + 1 < node.children.size() && is_number(node.children[first].label) &&
           is_number(node.children[last + 1].label) &&
           node.children[last + 1] == node.children[first]) {
      ++last;
    }
    Node kept = std::move(node.children[first]);
    if (last > first) kept.label += " to " + node.children[last].label;
    fold(kept);
    if (kept.text.empty() && kept.children.size() == 1) {
      Node only = std::move(kept.children.front());
      only.label = kept.label + "." + only.label;
      kept = std::move(only);
    }
    folded.push_back(std::move(kept));
    first = last + 1;
  }
  node.children = std::move(folded);
}

void draw(const Node& node, const std::string& indent, std::size_t depth, std::string& out) {
  for (std::size_t i = 0; i < node.children.size(); ++i) {
    const Node& child = node.children[i];
    const bool is_last = i + 1 == node.children.size();
    const std::string branch = indent + (is_last ? "└ " : "├ ") + child.label;
    const std::size_t columns = depth * 2 + child.label.size();  // a branch takes two columns
    const std::size_t padding = columns < 34 ? 34 - columns : 1;
    out += branch + (child.text.empty() ? "" : std::string(padding, ' ') + child.text) + "\n";
    draw(child, indent + (is_last ? "  " : "│ "), depth + 1, out);
  }
}

}  // namespace

std::string bytes_text(Index bytes) {
  const auto value = static_cast<double>(bytes);
  if (bytes < 1024) return fmt::format("{} B", bytes);
  if (bytes < Index{1} << 20) return fmt::format("{:.1f} KiB", value / 0x1p10);
  if (bytes < Index{1} << 30) return fmt::format("{:.1f} MiB", value / 0x1p20);
  return fmt::format("{:.2f} GiB", value / 0x1p30);
}

std::string ModelTree::text(const ModelPlan& plan, const ModelSpec& spec) const {
  Node root;
  for (const TensorUse& use : plan.tensors) {
    Node* node = &root;
    std::string_view rest = use.path;
    std::string path;
    for (;;) {
      const std::size_t dot = rest.find('.');
      const std::string_view part = rest.substr(0, dot);
      path += (path.empty() ? "" : ".") + std::string(part);
      node = &node->child(part);
      if (const auto it = words_.find(path); it != words_.end()) node->text = it->second;
      if (dot == std::string_view::npos) break;
      rest.remove_prefix(dot + 1);
    }
    node->text = fmt::format("{} {}, {}{}", use.form, to_string(use.shape), bytes_text(use.bytes),
                             placement_text(use.placement));
  }
  if (spec.tied_head && root.children.back().label != spec.head_name) {
    root.children.push_back({spec.head_name, "Head, tied to " + spec.embedding_name, {}});
  }
  fold(root);
  std::string out = fmt::format("{}: {} parameters", spec.family.empty() ? "model" : spec.family,
                                plan.parameters);
  if (plan.active_parameters != plan.parameters) {
    out += fmt::format(", {} active", plan.active_parameters);
  }
  out += fmt::format(", {} read per token\n", bytes_text(plan.bytes_per_token));
  draw(root, "", 1, out);
  out += fmt::format(
      "weights {} in place, {} converted or derived; state {} per sequence{}; "
      "working memory {} per token of a run, {} more per token of a verification\n",
      bytes_text(plan.in_place_bytes), bytes_text(plan.owned_bytes), bytes_text(plan.state_bytes),
      plan.cache_bytes_per_token == 0
          ? std::string()
          : fmt::format(" and {} per token", bytes_text(plan.cache_bytes_per_token)),
      bytes_text(plan.scratch_bytes_per_token), bytes_text(plan.trail_bytes_per_token));
  return out;
}

}  // namespace v0_1
}  // namespace krait
