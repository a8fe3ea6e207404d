/* The C core: what has to be done once a byte, or without the interpreter lock. No decision of the
 * protocol is made here, nothing is allocated here but Python's objects (entries.c), and only the
 * files whose descriptors a caller passes are touched.
 *
 * What stands between the two marks is also read by build_native.py, which gives it to cffi; so it
 * keeps to what cffi's parser knows. Sizes, offsets and positions count bytes.
 */
#ifndef WALLE_NATIVE_H
#define WALLE_NATIVE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* cffi: begin */

/* crc32c.c: CRC-32C (Castagnoli). `crc` is 0 to begin, or the result for the bytes before. */
uint32_t walle_crc32c_extend(uint32_t crc, const uint8_t *data, size_t size);
uint32_t walle_crc32c_extend_portable(uint32_t crc, const uint8_t *data, size_t size);
int walle_crc32c_is_hardware(void);

/* xxh64.c */
uint64_t walle_xxh64_hash(const uint8_t *data, size_t size, uint64_t seed);

/* records.c: the record's layout, as walle/record.py draws it. */
#define WALLE_RECORD_CRC 0
#define WALLE_RECORD_PREV_CHAIN 4
#define WALLE_RECORD_LENGTH 12
#define WALLE_RECORD_ENTRY_ID 16
#define WALLE_RECORD_WRITER_TS 24
#define WALLE_RECORD_WRITER_NONCE 32
#define WALLE_RECORD_TIME_US 40
#define WALLE_RECORD_HEADER_SIZE 48
#define WALLE_RECORD_ALIGNMENT 8
#define WALLE_RECORD_CRC_START 4
#define WALLE_RECORD_CHAIN_START 12
#define WALLE_RECORD_LENGTH_MASK 0x00ffffff
#define WALLE_RECORD_FLAGS_SHIFT 24
#define WALLE_RECORD_DATA_SIZE_MAX 1048576

/* Why a scan stopped. */
enum walle_records_stop {
    WALLE_RECORDS_END = 0,
    WALLE_RECORDS_SHORT = 1,
    WALLE_RECORDS_BAD_LENGTH = 2,
    WALLE_RECORDS_BAD_CRC = 3,
    WALLE_RECORDS_BAD_PADDING = 4,
    WALLE_RECORDS_BAD_ID = 5,
    WALLE_RECORDS_BAD_CHAIN = 6,
    WALLE_RECORDS_FULL = 7,
    WALLE_RECORDS_BLANK = 8
};

/* Where a scan leaves what it found: the words behind the chains. */
enum walle_records_found {
    WALLE_RECORDS_COUNT,
    WALLE_RECORDS_SIZE,
    WALLE_RECORDS_STOP,
    WALLE_RECORDS_FIRST_ID,
    WALLE_RECORDS_PREV_CHAIN,
    WALLE_RECORDS_WRITER_TS,
    WALLE_RECORDS_WRITER_NONCE,
    WALLE_RECORDS_MIXED,
    WALLE_RECORDS_FOUND_COUNT
};

void walle_records_scan(const uint8_t *data, size_t size, int has_after, uint64_t after_id,
                        uint64_t after_chain, uint64_t count_max, uint64_t size_max,
                        uint64_t *chains, uint64_t *found);
int64_t walle_records_seek(const uint8_t *data, size_t size, uint64_t entry_id);
int64_t walle_records_search(const uint8_t *data, size_t size, uint64_t first_id);
size_t walle_records_fit(const uint32_t *lengths, size_t count, uint64_t size_max, uint64_t *size);
int walle_records_encode(const uint8_t *data, size_t data_bytes, const uint32_t *lengths,
                         const uint64_t *times, size_t count, uint64_t first_id,
                         uint64_t prev_chain, uint64_t writer_ts, uint64_t writer_nonce,
                         uint8_t *records, size_t size, uint64_t *chains);

/* Where in a file a record begins, and the entry before it. */
typedef struct walle_records_place {
    uint64_t offset;
    uint64_t entry_id;
    uint64_t chain;
} walle_records_place;

void walle_records_follow(int fd, walle_records_place *place, uint64_t end, uint64_t last_id,
                          uint8_t *buffer, size_t buffer_size, uint64_t *chains);

/* ring.c: `walle/ring/spsc.py` draws the ring and says who may call what. */
#define WALLE_RING_CONTROL_SIZE 320
#define WALLE_RING_HEADER_SIZE 8
#define WALLE_RING_CAPACITY_MIN 64
#define WALLE_RING_CAPACITY_MAX 0x80000000
#define WALLE_RING_BATCH_COUNT_MAX 1024

enum walle_ring_refusal {
    WALLE_RING_NO_ROOM = -1,
    WALLE_RING_BROKEN = -2
};

/* One process's view of a ring; constant once it is open. */
typedef struct walle_ring {
    void *control;
    uint8_t *data;
    uint64_t capacity;
} walle_ring;

/* What one look of the consumer found: message i is data[starts[i]:ends[i]]. */
typedef struct walle_ring_batch {
    uint32_t starts[WALLE_RING_BATCH_COUNT_MAX];
    uint32_t ends[WALLE_RING_BATCH_COUNT_MAX];
    uint64_t consumed;
} walle_ring_batch;

void walle_ring_create(uint8_t *memory, uint64_t capacity);
int walle_ring_open(walle_ring *ring, uint8_t *memory, uint64_t capacity);
uint64_t walle_ring_published(const walle_ring *ring);
uint64_t walle_ring_released(const walle_ring *ring);
int64_t walle_ring_reserve(const walle_ring *ring, uint64_t written, uint64_t size);
int walle_ring_publish(const walle_ring *ring, uint64_t written);
int walle_ring_arm_producer(const walle_ring *ring, uint64_t written, uint64_t size);
int walle_ring_consume(const walle_ring *ring, uint64_t consumed, uint64_t size_max,
                       walle_ring_batch *batch);
int walle_ring_release(const walle_ring *ring, uint64_t consumed);
int walle_ring_arm_consumer(const walle_ring *ring, uint64_t consumed);
void walle_ring_disarm_consumer(const walle_ring *ring);

/* sync.c: files[i] is a descriptor, and becomes the errno of its sync, 0 if it is on the disk. */
#define WALLE_SYNC_THREADS_MAX 64
void walle_sync_files(int *files, size_t count, size_t threads_max);

/* process.c: the first returns an errno, 0 if it is done. */
int walle_process_set_parent_death_signal(int signal);
void walle_process_return_large_blocks(void);

/* cffi: end */

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "records are little-endian, and so must the machine be"
#endif

/* Records lie at any address (in a frame, in a Python object), so words are read through memcpy,
 * which the compiler turns into one load. */
static inline uint32_t walle_load_u32(const uint8_t *data)
{
    uint32_t value;
    memcpy(&value, data, sizeof value);
    return value;
}

static inline uint64_t walle_load_u64(const uint8_t *data)
{
    uint64_t value;
    memcpy(&value, data, sizeof value);
    return value;
}

/* Where the data of a record ends, counted from the record's begin. */
static inline size_t walle_record_end(const uint8_t *record)
{
    return WALLE_RECORD_HEADER_SIZE
        + (walle_load_u32(record + WALLE_RECORD_LENGTH) & WALLE_RECORD_LENGTH_MASK);
}

static inline size_t walle_record_aligned(size_t size)
{
    return (size + WALLE_RECORD_ALIGNMENT - 1) & ~(size_t)(WALLE_RECORD_ALIGNMENT - 1);
}

static inline void walle_store_u32(uint8_t *data, uint32_t value)
{
    memcpy(data, &value, sizeof value);
}

static inline void walle_store_u64(uint8_t *data, uint64_t value)
{
    memcpy(data, &value, sizeof value);
}

#endif
