/* CRC-32C: the Castagnoli polynomial, bit-reflected, preset to ones and inverted at the end, as in
 * RFC 3720 (iSCSI), appendix B.4.
 *
 * Two implementations. The portable one takes eight bytes a step from eight tables ("slicing by 8",
 * Kounavis and Berry, 2005). The hardware one uses the processor's CRC32C instruction, which has a
 * latency of three cycles but can begin each cycle: on x86-64 three lanes are computed at once and
 * joined by carry-less multiplication, as in Intel's paper "Fast CRC Computation for iSCSI
 * Polynomial Using CRC32 Instruction" (Gopal et al., 2011). The choice and the tables are made when
 * the library is loaded, before anything can call.
 */
#include "walle.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define HARDWARE_TARGET __attribute__((target("sse4.2,pclmul")))
#elif defined(__aarch64__) && defined(__linux__)
#include <arm_acle.h>
#include <asm/hwcap.h>
#include <sys/auxv.h>
#define HARDWARE_TARGET __attribute__((target("+crc")))
#endif

#define POLYNOMIAL 0x82f63b78u

/* slices[k][b]: the CRC state after byte b and k zero bytes. */
static uint32_t slices[8][256];

static void slices_fill(void)
{
    for (uint32_t byte = 0; byte < 256; ++byte) {
        uint32_t state = byte;
        for (int bit = 0; bit < 8; ++bit)
            state = (state >> 1) ^ (state & 1 ? POLYNOMIAL : 0);
        slices[0][byte] = state;
    }
    for (int k = 1; k < 8; ++k)
        for (int byte = 0; byte < 256; ++byte) {
            uint32_t state = slices[k - 1][byte];
            slices[k][byte] = (state >> 8) ^ slices[0][state & 0xff];
        }
}

static uint32_t extend_portable(uint32_t state, const uint8_t *data, size_t size)
{
    for (; size >= 8; data += 8, size -= 8) {
        uint64_t word = walle_load_u64(data) ^ state;
        state = slices[7][word & 0xff] ^ slices[6][(word >> 8) & 0xff]
            ^ slices[5][(word >> 16) & 0xff] ^ slices[4][(word >> 24) & 0xff]
            ^ slices[3][(word >> 32) & 0xff] ^ slices[2][(word >> 40) & 0xff]
            ^ slices[1][(word >> 48) & 0xff] ^ slices[0][word >> 56];
    }
    for (; size; ++data, --size)
        state = (state >> 8) ^ slices[0][(state ^ *data) & 0xff];
    return state;
}

#if defined(__x86_64__)

/* A lane has at most so many words of 8 bytes: the more, the fewer joins; the fewer, the smaller
 * the table. */
#define LANE_WORDS_MAX 128

/* Below so many bytes three lanes cost more than they save. */
#define LANES_SIZE_MIN 96

/* shifts[n] = x^(64n - 33) modulo the polynomial, reflected. The carry-less product of a CRC state
 * with it, put through the CRC32 instruction (which multiplies by x^32; the product of two
 * reflected values lacks another x), is the state after n more words of zeros. */
static uint32_t shifts[2 * LANE_WORDS_MAX + 1];

HARDWARE_TARGET static void hardware_prepare(void)
{
    shifts[1] = 1; /* x^31, reflected */
    for (int n = 2; n <= 2 * LANE_WORDS_MAX; ++n)
        shifts[n] = (uint32_t)_mm_crc32_u64(shifts[n - 1], 0);
}

static int hardware_is_present(void)
{
    __builtin_cpu_init();
    return __builtin_cpu_supports("sse4.2") && __builtin_cpu_supports("pclmul");
}

HARDWARE_TARGET static inline uint64_t product(uint64_t state, uint32_t shift)
{
    __m128i a = _mm_cvtsi64_si128((long long)state);
    __m128i b = _mm_cvtsi64_si128((long long)shift);
    return (uint64_t)_mm_cvtsi128_si64(_mm_clmulepi64_si128(a, b, 0));
}

HARDWARE_TARGET static uint32_t extend_hardware(uint32_t state, const uint8_t *data, size_t size)
{
    uint64_t a = state;
    while (size >= LANES_SIZE_MIN) {
        size_t words = size / 24 < LANE_WORDS_MAX ? size / 24 : LANE_WORDS_MAX;
        const uint8_t *second = data + 8 * words, *third = data + 16 * words;
        uint64_t b = 0, c = 0;
        for (size_t i = 0; i < 8 * words; i += 8) {
            a = _mm_crc32_u64(a, walle_load_u64(data + i));
            b = _mm_crc32_u64(b, walle_load_u64(second + i));
            c = _mm_crc32_u64(c, walle_load_u64(third + i));
        }
        a = c ^ _mm_crc32_u64(0, product(a, shifts[2 * words]) ^ product(b, shifts[words]));
        data += 24 * words;
        size -= 24 * words;
    }
    for (; size >= 8; data += 8, size -= 8)
        a = _mm_crc32_u64(a, walle_load_u64(data));
    state = (uint32_t)a;
    for (; size; ++data, --size)
        state = _mm_crc32_u8(state, *data);
    return state;
}

#elif defined(HARDWARE_TARGET)

static void hardware_prepare(void) {}

static int hardware_is_present(void)
{
    return (getauxval(AT_HWCAP) & HWCAP_CRC32) != 0;
}

HARDWARE_TARGET static uint32_t extend_hardware(uint32_t state, const uint8_t *data, size_t size)
{
    for (; size >= 8; data += 8, size -= 8)
        state = __crc32cd(state, walle_load_u64(data));
    for (; size; ++data, --size)
        state = __crc32cb(state, *data);
    return state;
}

#endif

static uint32_t (*extend)(uint32_t, const uint8_t *, size_t) = extend_portable;

__attribute__((constructor)) static void load(void)
{
    slices_fill();
#if defined(HARDWARE_TARGET)
    if (hardware_is_present()) {
        hardware_prepare();
        extend = extend_hardware;
    }
#endif
}

uint32_t walle_crc32c_extend(uint32_t crc, const uint8_t *data, size_t size)
{
    return ~extend(~crc, data, size);
}

uint32_t walle_crc32c_extend_portable(uint32_t crc, const uint8_t *data, size_t size)
{
    return ~extend_portable(~crc, data, size);
}

int walle_crc32c_is_hardware(void)
{
    return extend != extend_portable;
}
