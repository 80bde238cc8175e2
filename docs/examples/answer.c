/* Answers a question with a .bullet file, in C alone: reads the file, encodes the question, and prints the answer.
 *
 *     cc -std=gnu11 -O3 -pthread -I src/bulletlm/runtime/native docs/examples/answer.c src/bulletlm/runtime/native/[a-z]*.c -lm -o answer
 *     ./answer model.bullet "How are you?"
 *
 * docs/c.md explains it, docs/bullet-format.md the file. Sizes and positions from the file are checked before they are used, but this is
 * not a full reader: it trusts that a program wrote the header. Check files from strangers with `bullet verify` first. */

#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "bullet.h"

enum { BEGIN = 1, DOCUMENT_END, USER, ASSISTANT, MESSAGE_END, FIRST_BYTE, NORMAL_PIECE = 1, MOST_LAYERS = 1024 };

static void fail(const char *what) {
    fprintf(stderr, "answer: %s\n", what);
    exit(1);
}

/* ---- the file ---- */

struct file {
    uint8_t *data; /* the JSON of the header ends with a NUL, so it can be searched as a string */
    size_t bytes;
};

static struct file read_file(const char *path) {
    FILE *stream = fopen(path, "rb");
    if (!stream || fseek(stream, 0, SEEK_END)) fail("cannot open the model file");
    const long bytes = ftell(stream);
    rewind(stream);
    uint8_t *data = bytes > 0 ? malloc((size_t)bytes + 1) : NULL;
    if (!data || fread(data, 1, (size_t)bytes, stream) != (size_t)bytes) fail("cannot read the model file");
    fclose(stream);
    data[bytes] = 0;
    if (strncmp((char *)data, "{\n \"bullet_version\": \"2.", 24) != 0) fail("this is not a .bullet file of version 2");
    if (memcmp(data + bytes - 4, "END!", 4) != 0) fail("the model file is cut off");
    return (struct file){data, (size_t)bytes};
}

/* The text after the first `"name":` behind `text`. */
static const char *value_of(const char *text, const char *name) {
    char key[64];
    snprintf(key, sizeof key, "\"%s\":", name);
    const char *found = text ? strstr(text, key) : NULL;
    if (!found) fail("the header lacks a key");
    return found + strlen(key);
}

static int32_t whole(const char *text, const char *name) { return (int32_t)strtol(value_of(text, name), NULL, 10); }

/* The part of the file that the next "offset" and "bytes" behind `text` name. */
static const uint8_t *part(struct file file, const char *text, uint64_t *bytes) {
    const uint64_t offset = strtoull(value_of(text, "offset"), NULL, 10);
    *bytes = strtoull(value_of(text, "bytes"), NULL, 10);
    if (offset > file.bytes || *bytes > file.bytes - offset) fail("the model file is cut off");
    return file.data + offset;
}

static int32_t type_of(const char *text) {
    static const char *const names[] = {"BQ4", "BQ8", "F16", "F32"};
    const char *value = strchr(value_of(text, "type"), '"');
    for (int32_t type = 0; value && type < 4; type++)
        if (strncmp(value + 1, names[type], 3) == 0) return type;
    fail("the header has a tensor of an unknown type");
    return -1;
}

static struct bullet_model *load(struct file file, struct bullet_shape *shape) {
    const char *header = (const char *)file.data, *text = value_of(header, "shape");
    *shape = (struct bullet_shape){
        .vocab_size = whole(text, "vocab_size"),
        .dim = whole(text, "dim"),
        .n_layers = whole(text, "n_layers"),
        .n_heads = whole(text, "n_heads"),
        .n_kv_heads = whole(text, "n_kv_heads"),
        .hidden_dim = whole(text, "hidden_dim"),
        .max_seq_len = whole(text, "max_seq_len"),
        .rope_theta = strtod(value_of(text, "rope_theta"), NULL),
        .norm_eps = strtod(value_of(text, "norm_eps"), NULL),
        .tied_embeddings = strncmp(value_of(text, "tied_embeddings"), " true", 5) == 0,
    };
    if (shape->n_layers < 1 || shape->n_layers > MOST_LAYERS) fail("the number of layers is not possible");
    const int32_t n_tensors = 9 * shape->n_layers + (shape->tied_embeddings ? 2 : 3); /* in the order in which the file has them */
    static struct bullet_tensor tensors[9 * MOST_LAYERS + 3];
    text = value_of(header, "tensors");
    for (int32_t i = 0; i < n_tensors; i++) {
        text = value_of(text, "name");
        tensors[i].type = type_of(text);
        tensors[i].data = part(file, text, &tensors[i].bytes);
    }
    struct bullet_model *model;
    if (bullet_model_new(shape, tensors, n_tensors, bullet_kernels(0), 0, &model)) fail("the weights do not fit the shape");
    return model;
}

/* ---- the tokenizer ---- */

struct vocabulary {
    int32_t size;
    uint32_t *ends; /* of the text of each piece in `texts` */
    float *scores;
    const uint8_t *types;
    const char *texts;
};

static struct vocabulary read_vocabulary(struct file file, int32_t size) {
    const char *text = value_of((const char *)file.data, "sections");
    if (!(text = strstr(text, "\"tokenizer.pieces\""))) fail("the file has no vocabulary");
    uint64_t bytes;
    const uint8_t *at = part(file, text, &bytes);
    const size_t n = (size_t)size;
    if (size <= FIRST_BYTE + 256 || bytes < 4 + 9 * n) fail("the vocabulary is too small");
    struct vocabulary v = {size, malloc(4 * n), malloc(4 * n), at + 4 + 8 * n, (const char *)at + 4 + 9 * n};
    if (!v.ends || !v.scores) fail("out of memory");
    memcpy(v.ends, at + 4, 4 * n);
    memcpy(v.scores, at + 4 + 4 * n, 4 * n);
    for (size_t i = 0; i < n; i++)
        if (v.ends[i] > bytes - 4 - 9 * n || v.ends[i] < (i ? v.ends[i - 1] : 0)) fail("the vocabulary is damaged");
    return v;
}

static const char *text_of(const struct vocabulary *v, int32_t id, size_t *length) {
    const uint32_t start = id ? v->ends[id - 1] : 0;
    *length = v->ends[id] - start;
    return v->texts + start;
}

/* The id of a normal piece; -1 if there is none. A program with long prompts keeps a hash table instead. */
static int32_t find(const struct vocabulary *v, const char *text, size_t length) {
    for (int32_t id = FIRST_BYTE + 256; id < v->size; id++) {
        size_t found;
        const char *piece = text_of(v, id, &found);
        if (found == length && v->types[id] == NORMAL_PIECE && memcmp(piece, text, length) == 0) return id;
    }
    return -1;
}

/* Ids of a UTF-8 text: every character is a symbol, then the two neighbours whose joined text is the piece with the highest score are
 * joined, until no two can be. A symbol that is no piece is written as bytes. U+2581 itself counts as a space here. ids: room for three
 * ids for each byte of the text. */
static size_t encode(const struct vocabulary *v, const char *question, int32_t *ids) {
    const size_t most = 3 * strlen(question) + 1;
    char *text = malloc(most);
    size_t *starts = malloc((most + 1) * sizeof *starts), n = 0, length = 0; /* starts[n]: the end of the text */
    int32_t *pairs = malloc(most * sizeof *pairs);                           /* the piece that symbols i and i + 1 form; -1: none */
    if (!text || !starts || !pairs) fail("out of memory");
    for (const char *c = question; *c; c++) {
        if (((unsigned char)*c & 0xc0) != 0x80) starts[n++] = length; /* a character begins */
        if (*c == ' ') {
            memcpy(text + length, "\xe2\x96\x81", 3); /* U+2581 stands for a space */
            length += 3;
        } else {
            text[length++] = *c;
        }
    }
    starts[n] = length;
    for (size_t i = 0; i + 1 < n; i++) pairs[i] = find(v, text + starts[i], starts[i + 2] - starts[i]);
    for (;;) {
        size_t best = n;
        for (size_t i = 0; i + 1 < n; i++)
            if (pairs[i] >= 0 && (best == n || v->scores[pairs[i]] > v->scores[pairs[best]])) best = i;
        if (best == n) break;
        memmove(starts + best + 1, starts + best + 2, (n - best - 1) * sizeof *starts);
        memmove(pairs + best, pairs + best + 1, (n - best - 1) * sizeof *pairs);
        n--;
        for (size_t i = best > 0 ? best - 1 : 0; i <= best && i + 1 < n; i++)
            pairs[i] = find(v, text + starts[i], starts[i + 2] - starts[i]);
    }
    size_t count = 0;
    for (size_t i = 0; i < n; i++) {
        const int32_t id = find(v, text + starts[i], starts[i + 1] - starts[i]);
        if (id >= 0) {
            ids[count++] = id;
            continue;
        }
        for (size_t byte = starts[i]; byte < starts[i + 1]; byte++) ids[count++] = FIRST_BYTE + (uint8_t)text[byte];
    }
    free(text);
    free(starts);
    free(pairs);
    return count;
}

static void print_token(const struct vocabulary *v, int32_t id) {
    size_t length;
    const char *text = text_of(v, id, &length);
    if (id >= FIRST_BYTE && id < FIRST_BYTE + 256) putchar(id - FIRST_BYTE);
    for (size_t i = 0; v->types[id] == NORMAL_PIECE && i < length; i++) {
        const bool space = length - i >= 3 && memcmp(text + i, "\xe2\x96\x81", 3) == 0;
        putchar(space ? ' ' : text[i]);
        i += space ? 2 : 0;
    }
}

int main(int argc, char **argv) {
    if (argc != 3) fail("usage: answer MODEL QUESTION");
    const struct file file = read_file(argv[1]);
    struct bullet_shape shape;
    struct bullet_model *model = load(file, &shape);
    const struct vocabulary vocabulary = read_vocabulary(file, shape.vocab_size);

    /* The chat template: <s> <|user|> question <|end|> <|assistant|>, and then the model writes until <|end|>. */
    int32_t *prompt = malloc((3 * strlen(argv[2]) + 4) * sizeof *prompt), answer[256];
    if (!prompt) fail("out of memory");
    size_t n = 0;
    prompt[n++] = BEGIN;
    prompt[n++] = USER;
    n += encode(&vocabulary, argv[2], prompt + n);
    prompt[n++] = MESSAGE_END;
    prompt[n++] = ASSISTANT;

    struct bullet_cache *cache;
    if (bullet_cache_new(model, shape.max_seq_len, &cache)) fail("out of memory");
    /* Temperature 0 always takes the likeliest token. For random answers: a temperature of 0.7, and a seed in state_low. */
    struct bullet_sampler sampler = {.temperature = 0, .top_k = 40, .top_p = 1, .repetition_penalty = 1, .step_low = 1};
    const int32_t stops[] = {MESSAGE_END, DOCUMENT_END};
    const int64_t written = bullet_generate(cache, prompt, (int64_t)n, &sampler, stops, 2, 1, answer, 256);
    if (written == BULLET_FULL) fail("the question is longer than the context of the model");
    if (written < 0) fail("the model file is damaged");
    for (int64_t i = 0; i < written; i++) print_token(&vocabulary, answer[i]);
    putchar('\n');
    bullet_cache_free(cache);
    bullet_model_free(model);
    free(vocabulary.ends);
    free(vocabulary.scores);
    free(prompt);
    free(file.data);
    return 0;
}
