#include "decoding/suffix_index.hpp"

#include <utility>

namespace krait {
inline namespace v0_1 {

void SuffixIndex::clear() {
  tokens_.clear();
  edges_.clear();
  table_.assign(64, none);
  states_.assign(1, State{});
  last_ = 0;
  match_ = {};
}

void SuffixIndex::append(Token token) {
  if (tokens_.size() == history_) {
    const std::vector<Token> kept(tokens_.end() - static_cast<std::ptrdiff_t>(history_ / 2),
                                  tokens_.end());
    clear();
    for (const Token one : kept) append(one);
  }
  // The match that was found with the token before ends there, too.
  if (match_.length > 0) {
    at(match_.state).last_end = static_cast<std::uint32_t>(tokens_.size() - 1);
  }
  tokens_.push_back(token);
  extend(token);
  const std::int32_t link = at(last_).link;
  match_ = {link, at(link).length};
}

// Blumer's step: the text becomes longer by a token.
void SuffixIndex::extend(Token token) {
  const auto end = static_cast<std::uint32_t>(tokens_.size() - 1);
  const std::int32_t now = add_state({.length = at(last_).length + 1,
                                      .link = 0,
                                      .first_end = end,
                                      .last_end = end,
                                      .edges = none});
  std::int32_t from = last_;
  const Edge* edge = nullptr;
  while (from != none && (edge = find(from, token)) == nullptr) {
    add_edge(from, token, now);
    from = at(from).link;
  }
  if (from != none) {
    const std::int32_t to = edge->to;
    at(now).link = at(from).length + 1 == at(to).length ? to : split(from, token, to);
  }
  last_ = now;
}

// Of the substrings of a state, those that now end at one place more become a state of their own.
std::int32_t SuffixIndex::split(std::int32_t from, Token token, std::int32_t to) {
  State part = at(to);
  part.length = at(from).length + 1;
  part.edges = none;
  const std::int32_t copy = add_state(part);
  for (std::int32_t e = at(to).edges; e != none; e = edges_[static_cast<std::size_t>(e)].next) {
    const Edge edge = edges_[static_cast<std::size_t>(e)];
    add_edge(copy, edge.token, edge.to);
  }
  while (from != none) {
    Edge* const edge = find(from, token);
    if (edge == nullptr || edge->to != to) break;
    edge->to = copy;
    from = at(from).link;
  }
  at(to).link = copy;
  return copy;
}

SuffixIndex::Match SuffixIndex::follow(Match match, Token token) const noexcept {
  std::int32_t state = match.state;
  Index length = match.length;
  const Edge* edge = find(state, token);
  while (edge == nullptr && state != 0) {
    state = at(state).link;
    length = at(state).length;
    edge = find(state, token);
  }
  return edge == nullptr ? Match{} : Match{edge->to, length + 1};
}

std::int32_t SuffixIndex::add_state(const State& state) {
  states_.push_back(state);
  return static_cast<std::int32_t>(states_.size() - 1);
}

void SuffixIndex::add_edge(std::int32_t from, Token token, std::int32_t to) {
  if (2 * (edges_.size() + 1) > table_.size()) grow_table();
  table_[slot(from, token)] = static_cast<std::int32_t>(edges_.size());
  edges_.push_back({from, token, to, at(from).edges});
  at(from).edges = static_cast<std::int32_t>(edges_.size() - 1);
}

std::size_t SuffixIndex::slot(std::int32_t from, Token token) const noexcept {
  const std::size_t mask = table_.size() - 1;
  const std::uint64_t key = (static_cast<std::uint64_t>(static_cast<std::uint32_t>(from)) << 32U) |
                            static_cast<std::uint32_t>(token);
  std::size_t place = static_cast<std::size_t>((key * 0x9E3779B97F4A7C15U) >> 32U) & mask;
  while (table_[place] != none) {
    const Edge& edge = edges_[static_cast<std::size_t>(table_[place])];
    if (edge.from == from && edge.token == token) break;
    place = (place + 1) & mask;
  }
  return place;
}

const SuffixIndex::Edge* SuffixIndex::find(std::int32_t from, Token token) const noexcept {
  const std::int32_t edge = table_[slot(from, token)];
  return edge == none ? nullptr : &edges_[static_cast<std::size_t>(edge)];
}

SuffixIndex::Edge* SuffixIndex::find(std::int32_t from, Token token) noexcept {
  return const_cast<Edge*>(std::as_const(*this).find(from, token));
}

void SuffixIndex::grow_table() {
  table_.assign(2 * table_.size(), none);
  for (std::size_t e = 0; e < edges_.size(); ++e) {
    table_[slot(edges_[e].from, edges_[e].token)] = static_cast<std::int32_t>(e);
  }
}

}  // namespace v0_1
}  // namespace krait
