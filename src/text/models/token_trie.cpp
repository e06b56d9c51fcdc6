#include "text/models/token_trie.hpp"

#include <algorithm>

namespace krait {
inline namespace v0_1 {

TokenTrie::TokenTrie(std::vector<std::pair<std::string_view, Token>> tokens) {
  std::erase_if(tokens, [](const auto& entry) { return entry.first.empty(); });
  std::stable_sort(tokens.begin(), tokens.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  // The last of equal texts stands at the end of its run.
  const auto kept = std::unique(tokens.rbegin(), tokens.rend(),
                                [](const auto& a, const auto& b) { return a.first == b.first; });
  tokens.erase(tokens.begin(), kept.base());

  struct Range {
    std::size_t begin, end, depth;
  };
  std::vector<Range> ranges = {{0, tokens.size(), 0}};  // one for each node
  labels_.push_back(0);
  for (std::size_t node = 0; node < ranges.size(); ++node) {
    Range range = ranges[node];
    first_child_.push_back(static_cast<Node>(ranges.size()));
    Token token = no_token;
    if (range.begin < range.end && tokens[range.begin].first.size() == range.depth) {
      token = tokens[range.begin++].second;
    }
    tokens_.push_back(token);
    while (range.begin < range.end) {
      const char byte = tokens[range.begin].first[range.depth];
      std::size_t end = range.begin + 1;
      while (end < range.end && tokens[end].first[range.depth] == byte) ++end;
      ranges.push_back({range.begin, end, range.depth + 1});
      labels_.push_back(static_cast<unsigned char>(byte));
      range.begin = end;
    }
  }
  first_child_.push_back(static_cast<Node>(ranges.size()));
  of_root_.fill(none);
  for (Node child = first_child_[root]; child < first_child_[root + 1]; ++child) {
    of_root_[labels_[child]] = child;
  }
}

TokenTrie::Node TokenTrie::among_many(Node begin, Node end, unsigned char value) const noexcept {
  const auto first = labels_.begin() + begin;
  const auto last = labels_.begin() + end;
  const auto found = std::lower_bound(first, last, value);
  return found != last && *found == value ? static_cast<Node>(found - labels_.begin()) : none;
}

Token TokenTrie::find(std::string_view text) const noexcept {
  const Match match = longest(text);
  return match.size == text.size() ? match.token : no_token;
}

TokenTrie::Match TokenTrie::longest(std::string_view text) const noexcept {
  Match match;
  Node node = root;
  for (std::size_t i = 0; i < text.size(); ++i) {
    node = next(node, text[i]);
    if (node == none) break;
    if (token(node) != no_token) match = {token(node), i + 1};
  }
  return match;
}

}  // namespace v0_1
}  // namespace krait
