/* The functions of the C library that the engine calls, for WebAssembly: memory, bytes, sorting, and a team of one thread. */

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "common.h"
#include "threads.h"

enum { WASM_PAGE_BYTES = 1 << 16, HEADER_BYTES = ALIGN_BYTES, OUT_OF_MEMORY = 12, INVALID_ARGUMENT = 22 };

/* A block of memory begins with this, in HEADER_BYTES bytes. Free blocks are in a list in the order of their addresses, and two
 * neighbours are never both free. There are few blocks, so the list is short. */
struct block {
    size_t bytes; /* with the header; a multiple of ALIGN_BYTES */
    struct block *next;
};

extern uint8_t __heap_base; /* the first byte after the stack and the data, set by the linker */

static struct block free_list = {0, NULL};
static uintptr_t heap_end;

static uint8_t *end_of(struct block *block) { return (uint8_t *)block + block->bytes; }

/* Put a block back into the list, joined with its neighbours. */
static void release(struct block *block) {
    struct block *before = &free_list;
    while (before->next && before->next < block) before = before->next;
    block->next = before->next;
    before->next = block;
    if (block->next && end_of(block) == (uint8_t *)block->next) {
        block->bytes += block->next->bytes;
        block->next = block->next->next;
    }
    if (before != &free_list && end_of(before) == (uint8_t *)block) {
        before->bytes += block->bytes;
        before->next = block->next;
    }
}

/* Make at least `bytes` more bytes at the end of the memory free; false if the browser has no more. */
static bool grow(size_t bytes) {
    if (heap_end == 0) heap_end = ROUND_UP((uintptr_t)&__heap_base, ALIGN_BYTES);
    const uintptr_t limit = (uintptr_t)__builtin_wasm_memory_size(0) * WASM_PAGE_BYTES; /* 0 stands for 4 GB, which is never reached */
    uintptr_t available = limit - heap_end;
    if (available < bytes) {
        const size_t pages = (bytes - available + WASM_PAGE_BYTES - 1) / WASM_PAGE_BYTES;
        if (__builtin_wasm_memory_size(0) + pages >= 1 << 16 || __builtin_wasm_memory_grow(0, pages) == SIZE_MAX) return false;
        available += pages * WASM_PAGE_BYTES;
    }
    struct block *block = (struct block *)heap_end;
    block->bytes = available;
    heap_end += available;
    release(block);
    return true;
}

void *malloc(size_t bytes) {
    if (bytes > SIZE_MAX / 2) return NULL;
    const size_t needed = ROUND_UP(bytes + HEADER_BYTES, ALIGN_BYTES);
    do {
        for (struct block *before = &free_list; before->next; before = before->next) {
            struct block *found = before->next;
            if (found->bytes < needed) continue;
            before->next = found->next;
            if (found->bytes > needed + HEADER_BYTES) {
                struct block *rest = (struct block *)((uint8_t *)found + needed);
                rest->bytes = found->bytes - needed;
                rest->next = found->next;
                before->next = rest;
                found->bytes = needed;
            }
            return (uint8_t *)found + HEADER_BYTES;
        }
    } while (grow(needed));
    return NULL;
}

void free(void *memory) {
    if (memory) release((struct block *)((uint8_t *)memory - HEADER_BYTES));
}

void *calloc(size_t count, size_t bytes) {
    if (bytes && count > SIZE_MAX / bytes) return NULL;
    void *memory = malloc(count * bytes);
    if (memory) memset(memory, 0, count * bytes);
    return memory;
}

void *realloc(void *memory, size_t bytes) {
    void *larger = malloc(bytes);
    if (larger == NULL || memory == NULL) return larger;
    const size_t had = ((struct block *)((uint8_t *)memory - HEADER_BYTES))->bytes - HEADER_BYTES;
    memcpy(larger, memory, had < bytes ? had : bytes);
    free(memory);
    return larger;
}

int posix_memalign(void **out, size_t alignment, size_t bytes) {
    if (alignment > ALIGN_BYTES) return INVALID_ARGUMENT;
    *out = malloc(bytes);
    return *out ? 0 : OUT_OF_MEMORY;
}

/* Eight bytes at a time, then the rest. The compiler must not turn the loops into calls of the functions that they are (-fno-builtin). */
void *memcpy(void *restrict to, const void *restrict from, size_t bytes) {
    uint8_t *out = to;
    const uint8_t *in = from;
    for (; bytes >= 8; bytes -= 8, out += 8, in += 8) {
        uint64_t word;
        __builtin_memcpy_inline(&word, in, 8);
        __builtin_memcpy_inline(out, &word, 8);
    }
    for (; bytes; bytes--) *out++ = *in++;
    return to;
}

void *memmove(void *to, const void *from, size_t bytes) {
    if ((uintptr_t)to - (uintptr_t)from >= bytes) return memcpy(to, from, bytes);
    for (; bytes; bytes--) ((uint8_t *)to)[bytes - 1] = ((const uint8_t *)from)[bytes - 1];
    return to;
}

void *memset(void *to, int byte, size_t bytes) {
    uint8_t *out = to;
    const uint64_t word = (uint8_t)byte * 0x0101010101010101u;
    for (; bytes >= 8; bytes -= 8, out += 8) __builtin_memcpy_inline(out, &word, 8);
    for (; bytes; bytes--) *out++ = (uint8_t)byte;
    return to;
}

int strcmp(const char *a, const char *b) {
    for (; *a && *a == *b; a++) b++;
    return (uint8_t)*a - (uint8_t)*b;
}

static void swap(uint8_t *a, uint8_t *b, size_t bytes) {
    for (size_t i = 0; i < bytes; i++) {
        uint8_t byte = a[i];
        a[i] = b[i];
        b[i] = byte;
    }
}

static void sift_down(uint8_t *base, size_t from, size_t count, size_t bytes, int (*compare)(const void *, const void *)) {
    for (size_t i = from, child; (child = 2 * i + 1) < count; i = child) {
        if (child + 1 < count && compare(base + child * bytes, base + (child + 1) * bytes) < 0) child++;
        if (compare(base + i * bytes, base + child * bytes) >= 0) return;
        swap(base + i * bytes, base + child * bytes, bytes);
    }
}

/* Heapsort: n log n steps for every input. */
void qsort(void *base, size_t count, size_t bytes, int (*compare)(const void *, const void *)) {
    for (size_t i = count / 2; i > 0; i--) sift_down(base, i - 1, count, bytes, compare);
    for (size_t n = count; n > 1; n--) {
        swap(base, (uint8_t *)base + (n - 1) * bytes, bytes);
        sift_down(base, 0, n - 1, bytes, compare);
    }
}

/* The product of 128-bit integers, which the compiler calls for the random numbers of sampling.c. */
unsigned __int128 __multi3(unsigned __int128 a, unsigned __int128 b) {
    const uint64_t a_low = (uint64_t)a, b_low = (uint64_t)b, mask = 0xffffffff;
    const uint64_t low = (a_low & mask) * (b_low & mask);
    const uint64_t first = (a_low >> 32) * (b_low & mask) + (low >> 32);
    const uint64_t second = (a_low & mask) * (b_low >> 32) + (first & mask);
    uint64_t high = (a_low >> 32) * (b_low >> 32) + (first >> 32) + (second >> 32);
    high += (uint64_t)(a >> 64) * b_low + a_low * (uint64_t)(b >> 64);
    return (unsigned __int128)high << 64 | (second << 32 | (low & mask));
}

/* A module of WebAssembly has one thread: `append` in api.c then does all the work on it. */
bool run_team(int32_t n, void (*job)(void *context, int32_t member, struct barrier *barrier), void *context) {
    (void)n, (void)job, (void)context;
    return false;
}

void barrier_wait(struct barrier *barrier) { (void)barrier; }
