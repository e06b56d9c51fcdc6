#pragma once

/// \file
/// MaskCache: which tokens may follow the readings of a text.

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <unordered_map>
#include <vector>

#include "decoding/grammar/recogniser.hpp"
#include "decoding/grammar/token_trie.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// Walks the vocabulary's trie with the automata of the grammar, and remembers what it found.
///
/// Of a state of a lexeme, the tokens that stay within the lexeme are always the same. So are the
/// places in the trie where the lexeme may end: what of the tokens is left there goes on with
/// whatever the grammar has behind it, which is looked up in the same way, by that state and those
/// places. So all that is remembered is independent of the text, and what depends on it is only
/// which entries are put together.
///
/// May be used from several threads.
class MaskCache {
 public:
  MaskCache(std::shared_ptr<const Program> program, std::shared_ptr<const TokenTrie> trie,
            Index vocab);

  /// Sets the bits of the tokens that may come next, in words of zeros.
  void allow(const Recogniser& recogniser, std::vector<std::uint64_t>& words);

  Index vocab() const noexcept { return vocab_; }

 private:
  static constexpr std::uint32_t none = 0xFFFFFFFF;
  static constexpr std::size_t most_bytes = std::size_t{64} << 20U;
  static constexpr std::size_t most_items = 5000;

  /// What is left of the tokens below some nodes of the trie, as one trie: below node i of the walk
  /// are those from i + 1 to its `behind`, and node i stands for `count` nodes of the vocabulary's.
  struct Suffixes {
    struct Node {
      std::uint32_t behind, first, count;
      std::uint16_t depth;
      std::uint8_t byte;
    };
    std::vector<std::uint32_t> roots;
    std::vector<Node> nodes;  // empty if there is one root: then the vocabulary's trie is walked
    std::vector<std::uint32_t> members;
  };

  struct Exit {
    std::uint32_t count;  // texts of a counted lexeme before it
    std::uint32_t node;   // of the vocabulary's trie
  };
  struct Entry {
    std::vector<std::uint64_t> words;  // if there are many
    std::vector<Token> tokens;         // if there are few, or the lexeme is counted
    std::vector<std::uint32_t> needs;  // of a counted lexeme: how many texts more each token begins
    std::vector<Exit> exits;           // of a counted lexeme
    std::uint32_t suffixes = none;     // behind the exits, all of them
  };
  struct Item {
    std::uint32_t suffixes;
    Reading reading;
    friend bool operator==(const Item&, const Item&) = default;
  };
  struct HashItem {
    std::size_t operator()(const Item& item) const noexcept;
  };

  const Entry& find_entry(std::uint32_t suffixes, std::uint32_t state);
  Entry make_entry(const Suffixes& suffixes, std::uint32_t state);
  std::uint32_t find_suffixes(std::vector<std::uint32_t> roots);
  void merge(Suffixes& suffixes) const;
  std::uint32_t apply(const Entry& entry, const Reading& reading,
                      std::vector<std::uint64_t>& words);
  void clear();

  std::shared_ptr<const Program> program_;
  std::shared_ptr<const TokenTrie> trie_;
  Index vocab_;
  std::mutex mutex_;
  std::size_t bytes_ = 0;
  std::unordered_map<std::uint64_t, Entry> entries_;
  std::vector<std::unique_ptr<Suffixes>> suffixes_;
  std::map<std::vector<std::uint32_t>, std::uint32_t> suffixes_by_roots_;
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
