// A worker's memory: taken once for the largest chunk, and used again for every other.
#pragma once
#include <cstdlib>
#include <cstring>
#include <sys/mman.h>
#include "vec.h"

#ifdef ONETRUNK_GUARDS

// For tests: each array ends at a page that nobody may touch, and begins full of NaNs.
struct Arena {
  static const int MOST = 64;
  void* pages[MOST];
  size_t sizes[MOST];
  int count = 0;

  void begin() { release(); }
  void end() {}
  bool ready() { return true; }
  template <class T>
  T* take(i64 count_) {
    const size_t page = 4096, bytes = ((size_t)count_ * sizeof(T) + 63) & ~(size_t)63, whole = (bytes + page - 1) / page * page;
    char* p = (char*)mmap(nullptr, whole + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED || count == MOST) abort();
    mprotect(p + whole, page, PROT_NONE);
    memset(p, 0xff, whole);
    pages[count] = p;
    sizes[count++] = whole + page;
    return (T*)(p + whole - bytes);
  }
  void release() { while (count) { count--; munmap(pages[count], sizes[count]); } }
};

#else

// Arrays one after the other: `take` between `begin` and `end` counts bytes, until there is enough memory for them.
struct Arena {
  char* base = nullptr;
  size_t size = 0, used = 0;

  void begin() { used = 0; }
  bool ready() { return used <= size; }
  // Get what was counted, in huge pages where the kernel gives them: a block's arrays span more pages than the TLB.
  void end() {
    if (ready()) return;
    const size_t huge = (size_t)2 << 20;
    release();
    size = (used + huge - 1) / huge * huge;
    base = (char*)aligned_alloc(huge, size);
    if (!base) abort();
    madvise(base, size, MADV_HUGEPAGE);
    memset(base, 0, size);
  }
  template <class T>
  T* take(i64 count) {
    T* p = (T*)(base + used);
    used += ((size_t)count * sizeof(T) + 63) & ~(size_t)63;
    return p;
  }
  void release() { free(base); base = nullptr; size = 0; }
};

#endif
