/* Memory and sorting, for WebAssembly (libc.c). */
#ifndef STDLIB_H
#define STDLIB_H

#include <stddef.h>

void *malloc(size_t bytes);
void *calloc(size_t count, size_t bytes);
void *realloc(void *memory, size_t bytes);
/* `alignment` is at most 64. Returns 0, or an error number. */
int posix_memalign(void **out, size_t alignment, size_t bytes);
void free(void *memory);

void qsort(void *base, size_t count, size_t bytes, int (*compare)(const void *, const void *));

#endif
