#pragma once

/// \file
/// MaskCache: which tokens may follow the readings of a text.

#include <bitset>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <unordered_map>
#include <utility>
#include <vector>

#include "decoding/grammar/recogniser.hpp"
#include "decoding/grammar/token_trie.hpp"

namespace krait {
inline namespace v0_1 {
namespace grammar {

/// Walks the vocabulary's trie with the automata of the grammar, and remembers what it found.
///
/// Of a state of a lexeme, the tokens that stay within the lexeme are always the same. So are the
/// places in the trie where the lexeme may end and one of certain bytes comes next: what of the
/// tokens is left there goes on with whatever the grammar has behind it, which is looked up in the
/// same way, by that state and those places. So all that is remembered is independent of the text,
/// and what depends on it is only which of it is put together.
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
  using Bytes = std::bitset<256>;
  static constexpr std::uint32_t none = 0xFFFFFFFF;
  static constexpr std::uint32_t all = 0;  // suffixes: the whole tokens
  static constexpr std::size_t most_bytes = std::size_t{64} << 20U;
  static constexpr std::size_t most_items = 5000;

  /// What is left of tokens from some nodes of the trie on, those included, as one trie: below node
  /// i of the walk are those from i + 1 to its `behind`, and node i stands for `count` nodes of the
  /// vocabulary's.
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

  /// The tokens that stay in a lexeme.
  struct Entry {
    std::vector<std::uint64_t> words;  // if there are many
    std::vector<Token> tokens;         // if there are few, or the lexeme is counted
    std::vector<std::uint32_t> needs;  // of a counted lexeme: how many texts more each token begins
  };
  /// Where a lexeme may end within a token.
  struct Exit {
    std::uint32_t count;  // texts of a counted lexeme before it
    std::uint32_t node;   // the one behind it
  };
  struct Exits {
    std::vector<Exit> places;
    std::uint32_t suffixes = none;  // of all of them
  };
  struct ExitKey {
    std::uint32_t suffixes, state, bytes;
    friend bool operator==(const ExitKey&, const ExitKey&) = default;
  };
  /// Tokens from some place on, and a reading that they are to go on with.
  struct Item {
    std::uint32_t suffixes;
    Reading reading;
    friend bool operator==(const Item&, const Item&) = default;
  };
  struct Hash {
    std::size_t operator()(const Item& item) const noexcept;
    std::size_t operator()(const ExitKey& key) const noexcept;
  };
  /// What may be behind a lexeme, and which bytes that begins with.
  struct Behind {
    std::vector<Reading> readings;
    std::uint32_t bytes = 0;
  };

  const Entry& find_entry(std::uint32_t suffixes, std::uint32_t state);
  Entry make_entry(const Suffixes& suffixes, std::uint32_t state) const;
  static void sort_by_needs(Entry& entry);
  void add_entry(const Entry& entry, const Reading& reading,
                 std::vector<std::uint64_t>& words) const;
  Behind find_behind(Recogniser& ahead, std::uint32_t point, std::uint32_t frame);
  std::uint32_t suffixes_behind(std::uint32_t suffixes, const Reading& reading,
                                std::uint32_t bytes);
  std::vector<Exit> find_exits(std::uint32_t suffixes, std::uint32_t state, const Bytes& bytes);
  void find_exits_among(const Bytes& some, bool are_ends, const Bytes& bytes, const Lexeme& lexeme,
                        std::uint32_t state, std::vector<Exit>& exits) const;
  const Bytes& ends_of(std::uint32_t lexeme);
  std::pair<std::uint32_t, std::uint32_t> nodes_from(std::uint32_t root) const noexcept;
  bool reach(std::uint32_t node, const Lexeme& lexeme, std::uint32_t state,
             std::uint32_t& count) const;
  std::uint32_t find_suffixes(std::vector<std::uint32_t> roots);
  void merge(Suffixes& suffixes) const;
  const Bytes& bytes_of(std::uint32_t state);
  void clear();

  std::shared_ptr<const Program> program_;
  std::shared_ptr<const TokenTrie> trie_;
  Index vocab_;
  std::mutex mutex_;
  std::size_t bytes_ = 0;  // of what follows, about
  std::unordered_map<std::uint64_t, Entry> entries_;
  std::unordered_map<ExitKey, Exits, Hash> exits_;
  std::vector<std::unique_ptr<Suffixes>> suffixes_;
  std::map<std::vector<std::uint32_t>, std::uint32_t> suffixes_by_roots_;
  std::unordered_map<std::uint32_t, Bytes> bytes_by_state_;
  std::unordered_map<std::uint32_t, Bytes> ends_by_lexeme_;
  std::vector<Bytes> byte_sets_;
  std::unordered_map<Bytes, std::uint32_t> byte_set_ids_;
};

}  // namespace grammar
}  // namespace v0_1
}  // namespace krait
