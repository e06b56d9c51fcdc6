#pragma once

/// \file
/// Replaces operator new and delete of a test program, for it to count, or to refuse. All forms of
/// them: memory that one leaves to the library would come from another allocator than the one it
/// goes back to, which sanitizers refuse. For one file of a program, which defines the three
/// functions declared here.

#include <cstddef>
#include <cstdlib>
#include <new>

namespace krait::test {

/// Before memory is taken; throws std::bad_alloc where there is to be none.
void before_allocation(std::size_t size);
/// Memory that was taken.
void after_allocation(void* memory) noexcept;
/// Memory that is about to be given back; not null.
void before_release(void* memory) noexcept;

inline void* allocate(std::size_t size, std::size_t align = 0) {
  before_allocation(size);
  void* memory = align > alignof(std::max_align_t)
                     ? std::aligned_alloc(align, (size + align - 1) / align * align)
                     : std::malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  after_allocation(memory);
  return memory;
}

inline void* try_to_allocate(std::size_t size, std::size_t align = 0) noexcept {
  try {
    return allocate(size, align);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

// Inlined where operator new is not, it looks to GCC 12 like free() of what new gave.
[[gnu::noinline]] inline void release(void* memory) noexcept {
  if (memory != nullptr) before_release(memory);
  std::free(memory);
}

}  // namespace krait::test

// NOLINTBEGIN(misc-definitions-in-headers): of one program, as said above
void* operator new(std::size_t size) { return krait::test::allocate(size); }
void* operator new[](std::size_t size) { return krait::test::allocate(size); }
void* operator new(std::size_t size, std::align_val_t align) {
  return krait::test::allocate(size, static_cast<std::size_t>(align));
}
void* operator new(std::size_t size, const std::nothrow_t& /*tag*/) noexcept {
  return krait::test::try_to_allocate(size);
}
void* operator new(std::size_t size, std::align_val_t align,
                   const std::nothrow_t& /*tag*/) noexcept {
  return krait::test::try_to_allocate(size, static_cast<std::size_t>(align));
}
void operator delete(void* memory) noexcept { krait::test::release(memory); }
void operator delete[](void* memory) noexcept { krait::test::release(memory); }
void operator delete(void* memory, std::size_t) noexcept { krait::test::release(memory); }
void operator delete[](void* memory, std::size_t) noexcept { krait::test::release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { krait::test::release(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept {
  krait::test::release(memory);
}
// NOLINTEND(misc-definitions-in-headers)
