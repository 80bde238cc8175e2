/* The state of numpy's PCG64 generator for a seed, as runtime/random.py computes it. sampling.c draws from it. */

const MASK32 = 0xffffffffn;
const MASK128 = (1n << 128n) - 1n;
const MULTIPLIER = (2549297995355413924n << 64n) | 4865540595714422341n;

/** [state, increment] of numpy.random.default_rng(seeds), 128 bits each; seeds are whole numbers from 0. */
export function seeded(seeds) {
  const words = generated(mixPool(seeds.flatMap((seed) => wordsOf(BigInt(seed)))));
  const [a, b, c, d] = [0, 2, 4, 6].map((i) => words[i] | (words[i + 1] << 32n));
  const step = ((((c << 64n) | d) << 1n) | 1n) & MASK128;
  return [((((a << 64n) | b) + step) * MULTIPLIER + step) & MASK128, step];
}

function wordsOf(number) {
  const words = [number & MASK32];
  for (let rest = number >> 32n; rest > 0n; rest >>= 32n) words.push(rest & MASK32);
  return words;
}

/** numpy's SeedSequence (after O'Neill's seed_seq_fe): any number of words, mixed into four. */
function mixPool(words) {
  let constant = 0x43b0d7e5n;
  const hashed = (word) => {
    word ^= constant;
    constant = (constant * 0x931e8875n) & MASK32;
    word = (word * constant) & MASK32;
    return word ^ (word >> 16n);
  };
  const mixed = (a, b) => {
    const word = (0xca01f9ddn * a - 0x4973f715n * b) & MASK32;
    return word ^ (word >> 16n);
  };
  const pool = [...words, 0n, 0n, 0n, 0n].slice(0, 4).map(hashed);
  for (let source = 0; source < 4; source++) {
    for (let target = 0; target < 4; target++) {
      if (source !== target) pool[target] = mixed(pool[target], hashed(pool[source]));
    }
  }
  for (const word of words.slice(4)) {
    for (let target = 0; target < 4; target++) pool[target] = mixed(pool[target], hashed(word));
  }
  return pool;
}

function generated(pool) {
  let constant = 0x8b51f9ddn;
  return [...pool, ...pool].map((word) => {
    word ^= constant;
    constant = (constant * 0x58f38dedn) & MASK32;
    word = (word * constant) & MASK32;
    return word ^ (word >> 16n);
  });
}
