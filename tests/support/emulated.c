/* What runs in the emulator: it maps images, and calls what is in them, as stdin says.

   All is 64-bit words, and bytes where a length was given before. First it answers with the address
   of each function of OUTSIDE and of GIVEN, which the command that compiles this names. Then:

       'M' size                                               -> base
       'W' base, regions, {start, size, protection}, bytes    -> 0
       'U' base, size                                         -> 0
       'A' function, six arguments                            -> its result
       'K' entry, parallel, worker, stop, threads, spin, bytes of workspace, arguments,
           the first that is written, {bytes}, contents       -> what was written

   An argument ends where a page does, up to the 64 bytes of its alignment, and the next page
   cannot be touched. A command that takes longer than LIMIT_S ends the process. */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

typedef uint64_t word;
typedef void parallel_t(void *pool, void *body, void *closure, int64_t extent);
typedef void entry_t(void *const *args, char *workspace, parallel_t *parallel, void *pool);
typedef word call_t(word, word, word, word, word, word);

#define DECLARE(name) extern void name(void);
GIVEN(DECLARE)

enum { MAX_ARGUMENTS = 32, MAX_THREADS = 16, ROOM = 64, LIMIT_S = 60 };

static void need(int fine, const char *what)
{
    if (fine) return;
    fprintf(stderr, "emulated: %s\n", what);
    exit(3);
}

static void get(void *to, size_t size) { need(fread(to, 1, size, stdin) == size, "cut short"); }

static word next(void)
{
    word value;
    get(&value, sizeof value);
    return value;
}

static void put(word value) { fwrite(&value, sizeof value, 1, stdout); }

static word pages(word size)
{
    word page = (word)sysconf(_SC_PAGESIZE);
    return (size + page - 1) / page * page;
}

static char *map(word size)
{
    char *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    need(memory != MAP_FAILED, "no memory");
    return memory;
}

static void fill(void)
{
    struct { word start, size, protection; } regions[8];
    char *base = (char *)next();
    word count = next(), size = 0;
    need(count <= 8, "too many regions");
    for (word n = 0; n < count; n++) {
        get(regions + n, sizeof *regions);
        if (regions[n].size) size = regions[n].start + pages(regions[n].size);
    }
    get(base, size);
    for (word n = 0; n < count; n++) {
        char *start = base + regions[n].start;
        if (!regions[n].size) continue;
        __builtin___clear_cache(start, start + regions[n].size);
        need(!mprotect(start, pages(regions[n].size), (int)regions[n].protection), "mprotect");
    }
    put(0);
}

static void call(void)
{
    call_t *function = (call_t *)next();
    word a[6];
    get(a, sizeof a);
    put(function(a[0], a[1], a[2], a[3], a[4], a[5]));
}

static char *guarded(word size)
{
    word held = (size + ROOM - 1) / ROOM * ROOM, whole = pages(held + 1);
    char *memory = map(whole + pages(1));
    need(!mprotect(memory + whole, pages(1), PROT_NONE), "mprotect");
    return memory + whole - held;
}

static void release(char *argument, word size)
{
    word held = (size + ROOM - 1) / ROOM * ROOM, whole = pages(held + 1);
    munmap(argument + held - whole, whole + pages(1));
}

/* The pool as `runtime/pool.py` makes it; LAYOUT_* are the offsets of `runtime/native_ir.py`. */
static char *make_pool(word threads, word spin, void *(*worker)(void *), pthread_t *handles)
{
    char *pool = map(pages(LAYOUT_SLOTS + threads * LAYOUT_SLOT_BYTES));
    *(word *)(pool + LAYOUT_THREADS) = threads;
    *(word *)(pool + LAYOUT_SPIN) = spin;
    for (word n = 0; n < threads; n++) {
        word *slot = (word *)(pool + LAYOUT_SLOTS + n * LAYOUT_SLOT_BYTES);
        slot[0] = (word)pool;
        slot[1] = n;
        if (n) need(!pthread_create(handles + n, NULL, worker, slot), "pthread_create");
    }
    return pool;
}

static void end_pool(char *pool, word threads, void (*stop)(void *), pthread_t *handles)
{
    stop(pool);
    for (word n = 1; n < threads; n++) pthread_join(handles[n], NULL);
    munmap(pool, pages(LAYOUT_SLOTS + threads * LAYOUT_SLOT_BYTES));
}

static void kernel(void)
{
    entry_t *entry = (entry_t *)next();
    parallel_t *parallel = (parallel_t *)next();
    void *(*worker)(void *) = (void *(*)(void *))next();
    void (*stop)(void *) = (void (*)(void *))next();
    word threads = next(), spin = next(), bytes = next(), count = next(), first = next();
    word sizes[MAX_ARGUMENTS];
    void *args[MAX_ARGUMENTS];
    pthread_t handles[MAX_THREADS];
    need(count <= MAX_ARGUMENTS && threads <= MAX_THREADS, "too many");
    get(sizes, count * sizeof *sizes);
    for (word n = 0; n < count; n++) get(args[n] = guarded(sizes[n]), sizes[n]);
    char *workspace = guarded(bytes);
    memset(workspace, 0xa5, bytes);
    char *pool = threads > 1 ? make_pool(threads, spin, worker, handles) : NULL;
    entry(args, workspace, parallel, pool);
    if (pool) end_pool(pool, threads, stop, handles);
    for (word n = first; n < count; n++) fwrite(args[n], 1, sizes[n], stdout);
    for (word n = 0; n < count; n++) release(args[n], sizes[n]);
    release(workspace, bytes);
}

int main(void)
{
#define SHOW(name) put((word)(void *)name);
    OUTSIDE(SHOW)
    GIVEN(SHOW)
    for (;;) {
        fflush(stdout);
        word command;
        alarm(0);
        if (fread(&command, sizeof command, 1, stdin) != 1) return 0;
        alarm(LIMIT_S);
        switch (command) {
        case 'M': put((word)map(pages(next()))); break;
        case 'W': fill(); break;
        case 'U': {
            void *base = (void *)next();
            put((word)munmap(base, next()));
            break;
        }
        case 'A': call(); break;
        case 'K': kernel(); break;
        default: need(0, "no such command");
        }
    }
}
