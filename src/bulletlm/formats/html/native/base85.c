/* Base 85: the model as it is in the text of a page (page.py describes the digits). */

#include <stdint.h>
#include <string.h>

#include "bullet.h"

enum { BASE = 85, INVALID = 0x80, GROUP = 5 };

static const char DIGITS[BASE + 1] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%.()*+-;,=>?@^_`{|}~";

/* Write four bytes to `out` for each five digits of `text`; line ends are skipped. Returns the number of bytes; BULLET_ARGUMENT if they
 * are more than `room`, or the text has other characters, a group of digits above 2^32 - 1, or an incomplete group at its end. */
BULLET_API int32_t bullet_base85(const uint8_t *text, uint32_t length, uint8_t *out, uint32_t room) {
    uint8_t values[256];
    memset(values, INVALID, sizeof values);
    for (uint32_t value = 0; value < BASE; value++) values[(uint8_t)DIGITS[value]] = (uint8_t)value;
    uint32_t written = 0, digits = 0;
    uint64_t word = 0;
    for (uint32_t at = 0; at < length;) {
        if (digits == 0 && length - at >= GROUP) { /* the usual case: a whole group without a line end in it */
            const uint8_t a = values[text[at]], b = values[text[at + 1]], c = values[text[at + 2]], d = values[text[at + 3]];
            const uint8_t e = values[text[at + 4]];
            if (((a | b | c | d | e) & INVALID) == 0) {
                word = (uint64_t)(((a * BASE + b) * BASE + c) * BASE + d) * BASE + e;
                digits = GROUP;
                at += GROUP;
            }
        }
        if (digits < GROUP) {
            const uint8_t character = text[at++];
            if (character == '\n' || character == '\r') continue;
            if (values[character] & INVALID) return BULLET_ARGUMENT;
            word = word * BASE + values[character];
            if (++digits < GROUP) continue;
        }
        if (word > UINT32_MAX || room - written < 4) return BULLET_ARGUMENT;
        const uint32_t bytes = __builtin_bswap32((uint32_t)word);
        memcpy(out + written, &bytes, sizeof bytes);
        written += sizeof bytes;
        word = digits = 0;
    }
    return digits ? BULLET_ARGUMENT : (int32_t)written;
}
