/* From the file's layout to that of struct matrix (model.h), and single rows back to float32. */

#include "model.h"

/* Per weight type: inputs in a block, bytes of a block in the file, bytes of the block of a whole row group (without scales). */
static const struct {
    size_t block, file_bytes, tile_bytes;
} TYPES[] = {
    [BULLET_BQ4] = {BLOCK, 18, 256},
    [BULLET_BQ8] = {BLOCK, 34, 512},
    [BULLET_F16] = {1, 2, 32},
    [BULLET_F32] = {1, 4, 64},
};

static bool is_blocked(enum bullet_type type) { return type == BULLET_BQ4 || type == BULLET_BQ8; }

/* Bytes of a row group; scales_offset: where its scales begin. */
static size_t group_bytes(enum bullet_type type, int64_t cols, size_t *scales_offset) {
    size_t blocks = (size_t)cols / TYPES[type].block;
    *scales_offset = blocks * TYPES[type].tile_bytes;
    return ROUND_UP(*scales_offset + (is_blocked(type) ? blocks * ROWS * 2 : 0), ALIGN_BYTES);
}

/* Bytes of a repacked matrix. */
size_t matrix_bytes(enum bullet_type type, int64_t rows, int64_t cols) {
    size_t scales_offset;
    return ROUND_UP((size_t)rows, ROWS) / ROWS * group_bytes(type, cols, &scales_offset);
}

/* Whether a tensor has a known type and exactly the bytes of a (rows, cols) matrix. */
bool tensor_fits(const struct bullet_tensor *tensor, int64_t rows, int64_t cols) {
    if (tensor->data == NULL || tensor->type < BULLET_BQ4 || tensor->type > BULLET_F32) return false;
    size_t block = TYPES[tensor->type].block;
    if ((size_t)cols % block) return false;
    return tensor->bytes == (uint64_t)rows * ((uint64_t)cols / block) * TYPES[tensor->type].file_bytes;
}

/* Whether all numbers (F16, F32) or scales (BQ4, BQ8) of a tensor are finite. Without branches, so that it runs at memory speed. */
bool tensor_is_finite(const struct bullet_tensor *tensor) {
    const uint8_t *data = tensor->data;
    size_t step = TYPES[tensor->type].file_bytes, count = tensor->bytes / step;
    uint32_t exponent = tensor->type == BULLET_F32 ? 0x7f800000u : 0x7c00u; /* in a block, the scale comes first */
    bool finite = true;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits = 0;
        memcpy(&bits, data + i * step, tensor->type == BULLET_F32 ? 4 : 2);
        finite &= (bits & exponent) != exponent;
    }
    return finite;
}

/* The row of the file that becomes row `row`. RoPE rotates the pairs (2i, 2i + 1) of a head. All first members are moved before all
 * second ones, in queries and keys alike: the rotation becomes plain vector arithmetic, and their dot products do not change.
 * head_dim is 0 for matrices whose rows keep their order. */
static int32_t source_row(int32_t row, int32_t head_dim) {
    if (head_dim == 0) return row;
    int32_t start = row / head_dim * head_dim, i = row % head_dim, half = head_dim / 2;
    return start + (i < half ? 2 * i : 2 * (i - half) + 1);
}

/* Write one row of the file into lane `lane` of a row group. */
static void pack_row(uint8_t *group, size_t scales_offset, enum bullet_type type, const uint8_t *row, int32_t cols, int32_t lane,
                     uint8_t bq8_xor) {
    size_t file_bytes = TYPES[type].file_bytes, tile_bytes = TYPES[type].tile_bytes;
    size_t blocks = (size_t)cols / TYPES[type].block;
    for (size_t b = 0; b < blocks; b++) {
        const uint8_t *in = row + b * file_bytes;
        uint8_t *tile = group + b * tile_bytes;
        if (!is_blocked(type)) {
            memcpy(tile + (size_t)lane * file_bytes, in, file_bytes);
            continue;
        }
        memcpy(group + scales_offset + (b * ROWS + (size_t)lane) * 2, in, 2);
        size_t words = (file_bytes - 2) / 4;
        for (size_t i = 0; i < words; i++) {
            uint32_t word;
            memcpy(&word, in + 2 + 4 * i, 4);
            if (type == BULLET_BQ8) word ^= 0x01010101u * bq8_xor;
            memcpy(tile + (i * ROWS + (size_t)lane) * 4, &word, 4);
        }
    }
}

/* Repack a (rows, cols) tensor into `memory`, of matrix_bytes bytes. head_dim: see source_row. */
void matrix_pack(struct matrix *out, uint8_t *memory, const struct bullet_tensor *tensor, int32_t rows, int32_t cols, int32_t head_dim,
                 uint8_t bq8_xor) {
    enum bullet_type type = (enum bullet_type)tensor->type;
    *out = (struct matrix){.type = type, .rows = rows, .cols = cols, .data = memory};
    out->group_bytes = group_bytes(type, cols, &out->scales_offset);
    size_t row_bytes = (size_t)cols / TYPES[type].block * TYPES[type].file_bytes;
    for (int32_t first = 0; first < rows; first += ROWS) {
        uint8_t *group = memory + (size_t)(first / ROWS) * out->group_bytes;
        if (rows - first < ROWS) memset(group, 0, out->group_bytes);
        for (int32_t lane = 0; lane < ROWS && first + lane < rows; lane++) {
            const uint8_t *row = (const uint8_t *)tensor->data + (size_t)source_row(first + lane, head_dim) * row_bytes;
            pack_row(group, out->scales_offset, type, row, cols, lane, bq8_xor);
        }
    }
}

/* out[cols] = one row as float32: the embedding of a token. */
void matrix_row(const struct matrix *m, int32_t row, uint8_t bq8_xor, float *out) {
    const uint8_t *group = m->data + (size_t)(row / ROWS) * m->group_bytes;
    size_t lane = (size_t)(row % ROWS);
    if (!is_blocked(m->type)) {
        for (size_t k = 0; k < (size_t)m->cols; k++) {
            if (m->type == BULLET_F32) {
                memcpy(out + k, group + (k * ROWS + lane) * 4, 4);
            } else {
                uint16_t half;
                memcpy(&half, group + (k * ROWS + lane) * 2, 2);
                out[k] = f32_from_f16(half);
            }
        }
        return;
    }
    for (size_t b = 0; b < (size_t)m->cols / BLOCK; b++) {
        const uint8_t *tile = group + b * TYPES[m->type].tile_bytes;
        uint16_t half;
        memcpy(&half, group + m->scales_offset + (b * ROWS + lane) * 2, 2);
        float scale = f32_from_f16(half), *at = out + b * BLOCK;
        for (size_t i = 0; i < BLOCK; i++) {
            if (m->type == BULLET_BQ8) {
                at[i] = (float)(int8_t)(tile[(i / 4 * ROWS + lane) * 4 + i % 4] ^ bq8_xor) * scale;
            } else {
                uint8_t pair = tile[(i % 16 / 4 * ROWS + lane) * 4 + i % 4];
                at[i] = (float)((i < 16 ? pair & 15 : pair >> 4) - 8) * scale;
            }
        }
    }
}
