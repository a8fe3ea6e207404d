/* XXH64, written from the algorithm's public specification (Cyan4973/xxHash,
 * doc/xxhash_spec.md): four lanes of 8 bytes each, joined, then the rest of the input, then an
 * avalanche.
 */
#include "walle.h"

#define PRIME_1 0x9e3779b185ebca87u
#define PRIME_2 0xc2b2ae3d27d4eb4fu
#define PRIME_3 0x165667b19e3779f9u
#define PRIME_4 0x85ebca77c2b2ae63u
#define PRIME_5 0x27d4eb2f165667c5u

static inline uint64_t rotate(uint64_t value, int bits)
{
    return (value << bits) | (value >> (64 - bits));
}

static inline uint64_t mix(uint64_t lane, uint64_t word)
{
    return rotate(lane + word * PRIME_2, 31) * PRIME_1;
}

static inline uint64_t join(uint64_t hash, uint64_t lane)
{
    return (hash ^ mix(0, lane)) * PRIME_1 + PRIME_4;
}

/* Hashes whole stripes of 32 bytes. */
static uint64_t hash_stripes(const uint8_t *data, size_t stripes, uint64_t seed)
{
    uint64_t a = seed + PRIME_1 + PRIME_2, b = seed + PRIME_2, c = seed, d = seed - PRIME_1;
    for (; stripes; data += 32, --stripes) {
        a = mix(a, walle_load_u64(data));
        b = mix(b, walle_load_u64(data + 8));
        c = mix(c, walle_load_u64(data + 16));
        d = mix(d, walle_load_u64(data + 24));
    }
    uint64_t hash = rotate(a, 1) + rotate(b, 7) + rotate(c, 12) + rotate(d, 18);
    return join(join(join(join(hash, a), b), c), d);
}

uint64_t walle_xxh64_hash(const uint8_t *data, size_t size, uint64_t seed)
{
    size_t stripes = size / 32;
    uint64_t hash = stripes ? hash_stripes(data, stripes, seed) : seed + PRIME_5;
    hash += size;
    const uint8_t *end = data + size;
    data += 32 * stripes;
    for (; end - data >= 8; data += 8)
        hash = rotate(hash ^ mix(0, walle_load_u64(data)), 27) * PRIME_1 + PRIME_4;
    if (end - data >= 4) {
        hash = rotate(hash ^ (walle_load_u32(data) * PRIME_1), 23) * PRIME_2 + PRIME_3;
        data += 4;
    }
    for (; data != end; ++data)
        hash = rotate(hash ^ (*data * PRIME_5), 11) * PRIME_1;
    hash = (hash ^ (hash >> 33)) * PRIME_2;
    hash = (hash ^ (hash >> 29)) * PRIME_3;
    return hash ^ (hash >> 32);
}
