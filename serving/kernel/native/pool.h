// Threads of our own: they take chunks until none is left, wait for the next walk for microseconds, and then sleep.
#pragma once
#include <linux/futex.h>
#include <pthread.h>
#include <sys/syscall.h>
#include <unistd.h>
#include "walk.h"

const int SPINS = 2000;  // pauses before a thread sleeps: some 20 to 60 us

INLINE void pause_thread() {
#ifdef __x86_64__
  __builtin_ia32_pause();
#endif
}
INLINE void sleep_while(int* word, int value) { syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, nullptr, nullptr, 0); }
INLINE void wake_all(int* word) { syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1 << 30, nullptr, nullptr, 0); }

struct Pool {
  const Walk* walk;
  int chunks, next;    // of this walk; the next that nobody has taken
  int turn, stopping;  // counts walks
  int busy;            // helpers that have not come back from this walk
  int helpers;
  pid_t process;       // to which the helpers belong: a fork has none of them
  pthread_t* threads;
  Worker* workers;     // the caller's, then the helpers'
};

struct Helper { Pool* pool; Worker* worker; };

static void take_chunks(Pool& pool, Worker& worker) {
  begin_tiles();
  for (int chunk; (chunk = __atomic_fetch_add(&pool.next, 1, __ATOMIC_RELAXED)) < pool.chunks;)
    run_chunk(worker, *pool.walk, chunk, pool.chunks);
  end_tiles();
}

INLINE int wait_for_change(int* word, int seen) {
  for (int spin = 0; spin < SPINS; spin++) {
    const int now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if (now != seen) return now;
    pause_thread();
  }
  for (;;) {
    const int now = __atomic_load_n(word, __ATOMIC_ACQUIRE);
    if (now != seen) return now;
    sleep_while(word, seen);
  }
}

static void* help(void* argument) {
  Helper helper = *(Helper*)argument;
  free(argument);
  Pool& pool = *helper.pool;
  for (int seen = 0;;) {
    seen = wait_for_change(&pool.turn, seen);
    if (__atomic_load_n(&pool.stopping, __ATOMIC_ACQUIRE)) return nullptr;
    take_chunks(pool, *helper.worker);
    if (__atomic_sub_fetch(&pool.busy, 1, __ATOMIC_RELEASE) == 0) wake_all(&pool.busy);
  }
}

static Pool* new_pool(int threads) {
  Pool* pool = (Pool*)calloc(1, sizeof(Pool));
  pool->process = getpid();
  pool->workers = (Worker*)calloc(threads, sizeof(Worker));
  pool->threads = (pthread_t*)calloc(threads, sizeof(pthread_t));
  for (int i = 0; i < threads - 1; i++) {
    Helper* helper = (Helper*)malloc(sizeof(Helper));
    *helper = {pool, pool->workers + 1 + i};
    if (pthread_create(pool->threads + i, nullptr, help, helper)) { free(helper); break; }
    pool->helpers++;
  }
  return pool;
}

INLINE void forget_helpers_of_parent(Pool& pool) {
  if (pool.process != getpid()) pool.process = getpid(), pool.helpers = 0;
}

static void run_walk(Pool& pool, const Walk& walk, int chunks) {
  forget_helpers_of_parent(pool);
  pool.walk = &walk, pool.chunks = chunks, pool.next = 0;
  const bool alone = chunks == 1 || !pool.helpers;
  if (!alone) {
    __atomic_store_n(&pool.busy, pool.helpers, __ATOMIC_RELAXED);
    __atomic_add_fetch(&pool.turn, 1, __ATOMIC_RELEASE);
    wake_all(&pool.turn);
  }
  take_chunks(pool, pool.workers[0]);
  for (int busy; !alone && (busy = __atomic_load_n(&pool.busy, __ATOMIC_ACQUIRE));) wait_for_change(&pool.busy, busy);
}

static void free_pool(Pool* pool) {
  forget_helpers_of_parent(*pool);
  __atomic_store_n(&pool->stopping, 1, __ATOMIC_RELEASE);
  __atomic_add_fetch(&pool->turn, 1, __ATOMIC_RELEASE);
  wake_all(&pool->turn);
  for (int i = 0; i < pool->helpers; i++) pthread_join(pool->threads[i], nullptr);
  for (int i = 0; i <= pool->helpers; i++) pool->workers[i].arena.release();
  free(pool->workers);
  free(pool->threads);
  free(pool);
}
