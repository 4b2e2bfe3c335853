#include <pthread.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base.h"

const float zeros[1 << 14];

/* --- Memory ---

   Some of what is given back is kept for the next time, since the system clears what it
   hands out, page by page, which takes as long as to compute with it. */

struct block { struct block *next; size_t size; };
enum { HEADER = 64, LARGE_PAGE = 2 << 20, MOST_KEPT = 80 << 20 };
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct block *spare; /* the last that was given first */
static size_t kept;

static struct block *removed(struct block **at) {
    struct block *block = *at;
    *at = block->next, kept -= block->size;
    return block;
}

float *take(size_t count) {
    size_t size = up(4 * count + 2 * HEADER, 1 << 16);
    struct block *block = NULL;
    pthread_mutex_lock(&lock);
    struct block **best = NULL;
    for (struct block **at = &spare; *at; at = &(*at)->next)
        if ((*at)->size >= size && (!best || (*at)->size < (*best)->size)) best = at;
    if (best) block = removed(best);
    pthread_mutex_unlock(&lock);
    if (!block) {
        size = size < LARGE_PAGE ? size : (size_t)up(size, LARGE_PAGE);
        block = aligned_alloc(size < LARGE_PAGE ? HEADER : LARGE_PAGE, size);
        if (!block) abort();
        if (size >= LARGE_PAGE) madvise(block, size, MADV_HUGEPAGE);
        block->size = size;
    }
    return (float *)((char *)block + HEADER);
}

void give(float *floats) {
    struct block *block = (struct block *)((char *)floats - HEADER);
    pthread_mutex_lock(&lock);
    block->next = spare, spare = block, kept += block->size;
    while (kept > MOST_KEPT) {
        struct block **at = &spare;
        while ((*at)->next) at = &(*at)->next;
        free(removed(at));
    }
    pthread_mutex_unlock(&lock);
}

/* --- All cores --- */

struct crew { task run; void *job; long items; atomic_long next; };

static void *work(void *arg) {
    struct crew *crew = arg;
    for (long i; (i = atomic_fetch_add(&crew->next, 1)) < crew->items;)
        crew->run(crew->job, i);
    return NULL;
}

/* Each item once, in any order; cores that are busy elsewhere take fewer. */
void share(task run, void *job, long items, int threads) {
    struct crew crew = {run, job, items, 0};
    pthread_t others[64];
    int count = 0, most = least(least(threads, items), 64);
    while (count < most - 1 && !pthread_create(&others[count], NULL, work, &crew))
        count++;
    work(&crew);
    while (count) pthread_join(others[--count], NULL);
}
