/* Moves the clock of a process and of its children by CLOCK_SHIFT seconds. The loader puts these functions in place of
 * those of glibc (`LD_PRELOAD`). So `make test-date` runs the tests, with their databases and servers, at another date.
 *
 * A wait with a deadline on that clock goes to the kernel, whose clock did not move, so its deadline moves back. The
 * monotonic clock is that of the machine. Programs that ask the kernel without glibc, as those in Go, keep the time of the
 * machine. Absolute times of clock_nanosleep, timerfd and futex do not move: no program of the tests is known to need it. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

/* Seconds above this are a date. Those of the monotonic clock count from the start of the machine. */
#define DATES_BEGIN 1000000000

static long shift = 0;

__attribute__((constructor)) static void read_shift(void) {
  const char *seconds = getenv("CLOCK_SHIFT");
  if (seconds)
    shift = atol(seconds);
}

static const struct timespec *moved_back(const struct timespec *deadline, struct timespec *moved) {
  if (!deadline || deadline->tv_sec < DATES_BEGIN)
    return deadline;
  *moved = *deadline;
  /* A deadline that never comes may be the largest number. */
  if (__builtin_sub_overflow(deadline->tv_sec, shift, &moved->tv_sec))
    return deadline;
  return moved;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
  static int (*next)(clockid_t, struct timespec *);
  if (!next)
    next = dlsym(RTLD_NEXT, "clock_gettime");
  int failed = next(clock, now);
  if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
    now->tv_sec += shift;
  return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  now->tv_sec = precise.tv_sec;
  now->tv_usec = precise.tv_nsec / 1000;
  if (zone)
    memset(zone, 0, sizeof(struct timezone));
  return 0;
}

time_t time(time_t *now) {
  struct timespec precise;
  clock_gettime(CLOCK_REALTIME, &precise);
  if (now)
    *now = precise.tv_sec;
  return precise.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict cond, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict deadline) {
  static int (*next)(pthread_cond_t *, pthread_mutex_t *, const struct timespec *);
  struct timespec moved;
  /* Without a version, the loader may find one for the older shape of a condition. */
  if (!next)
    next = dlvsym(RTLD_NEXT, "pthread_cond_timedwait", "GLIBC_2.3.2");
  if (!next)
    next = dlsym(RTLD_NEXT, "pthread_cond_timedwait");
  return next(cond, mutex, moved_back(deadline, &moved));
}

int pthread_cond_clockwait(pthread_cond_t *cond, pthread_mutex_t *mutex, clockid_t clock,
                           const struct timespec *deadline) {
  static int (*next)(pthread_cond_t *, pthread_mutex_t *, clockid_t, const struct timespec *);
  struct timespec moved;
  if (!next)
    next = dlsym(RTLD_NEXT, "pthread_cond_clockwait");
  return next(cond, mutex, clock, clock == CLOCK_REALTIME ? moved_back(deadline, &moved) : deadline);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict deadline) {
  static int (*next)(pthread_mutex_t *, const struct timespec *);
  struct timespec moved;
  if (!next)
    next = dlsym(RTLD_NEXT, "pthread_mutex_timedlock");
  return next(mutex, moved_back(deadline, &moved));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict deadline) {
  static int (*next)(sem_t *, const struct timespec *);
  struct timespec moved;
  if (!next)
    next = dlsym(RTLD_NEXT, "sem_timedwait");
  return next(semaphore, moved_back(deadline, &moved));
}
