/* Consecutive records: checking and making them. `walle/record.py` draws the record and says what
 * the checks mean.
 *
 * Every function may be given any bytes: nothing outside of [data, data + size) is read, whatever
 * the lengths in it say.
 */
#define _POSIX_C_SOURCE 200809L
#include "walle.h"

#include <errno.h>
#include <unistd.h>

/* What is read of a file at a time stays in a processor's cache until it is checked. */
#define STEP_SIZE (256 * 1024)

static int is_zero(const uint8_t *data, size_t size)
{
    uint64_t seen = 0;
    for (; size >= 8; data += 8, size -= 8)
        seen |= walle_load_u64(data);
    for (; size; ++data, --size)
        seen |= *data;
    return !seen;
}

/* In what follows, `end` is where the data ends, counted from the record's begin. */

static uint32_t crc_of(const uint8_t *record, size_t end)
{
    const uint8_t *covered = record + WALLE_RECORD_CRC_START;
    return walle_crc32c_extend(0, covered, end - WALLE_RECORD_CRC_START);
}

static int has_good_crc(const uint8_t *record, size_t end)
{
    return crc_of(record, end) == walle_load_u32(record + WALLE_RECORD_CRC);
}

/* The padding ends the record's last word. */
static int has_good_padding(const uint8_t *record, size_t end)
{
    size_t size = walle_record_aligned(end), padding = size - end;
    uint64_t last = walle_load_u64(record + size - WALLE_RECORD_ALIGNMENT);
    return !padding || !(last >> 8 * (WALLE_RECORD_ALIGNMENT - padding));
}

static uint64_t chain_of(const uint8_t *record, size_t end, uint64_t prev_chain)
{
    const uint8_t *covered = record + WALLE_RECORD_CHAIN_START;
    return walle_xxh64_hash(covered, end - WALLE_RECORD_CHAIN_START, prev_chain);
}

/* Whether the record that begins at `record`, of which `rest` bytes are there, is whole.
 * Returns END if so, and why not if not. */
static enum walle_records_stop check_size(const uint8_t *record, size_t rest)
{
    if (rest < WALLE_RECORD_HEADER_SIZE)
        return is_zero(record, rest) ? WALLE_RECORDS_BLANK : WALLE_RECORDS_SHORT;
    if (!walle_load_u64(record + WALLE_RECORD_ENTRY_ID)
        && is_zero(record, WALLE_RECORD_HEADER_SIZE))
        return WALLE_RECORDS_BLANK;
    size_t end = walle_record_end(record);
    if (end > WALLE_RECORD_HEADER_SIZE + WALLE_RECORD_DATA_SIZE_MAX)
        return WALLE_RECORDS_BAD_LENGTH;
    return walle_record_aligned(end) > rest ? WALLE_RECORDS_SHORT : WALLE_RECORDS_END;
}

/* The same for all of a record but its place in the history. */
static enum walle_records_stop check_bytes(const uint8_t *record, size_t rest)
{
    enum walle_records_stop stop = check_size(record, rest);
    if (stop != WALLE_RECORDS_END)
        return stop;
    size_t end = walle_record_end(record);
    if (!has_good_crc(record, end))
        return WALLE_RECORDS_BAD_CRC;
    return has_good_padding(record, end) ? WALLE_RECORDS_END : WALLE_RECORDS_BAD_PADDING;
}

/* Checks records one by one until one fails, the bytes end or a bound is reached.
 *
 * has_after: whether the first record must follow (after_id, after_chain).
 * chains: room for min(count_max, size / WALLE_RECORD_HEADER_SIZE) words; takes the chain after
 *     each good record.
 * found: room for WALLE_RECORDS_FOUND_COUNT words. */
void walle_records_scan(const uint8_t *data, size_t size, int has_after, uint64_t after_id,
                        uint64_t after_chain, uint64_t count_max, uint64_t size_max,
                        uint64_t *chains, uint64_t *found)
{
    uint64_t id = after_id, chain = after_chain, count = 0;
    enum walle_records_stop stop = WALLE_RECORDS_END;
    size_t offset = 0;
    memset(found, 0, WALLE_RECORDS_FOUND_COUNT * sizeof *found);
    while (offset < size) {
        const uint8_t *record = data + offset;
        if (count == count_max || offset >= size_max) {
            stop = WALLE_RECORDS_FULL;
            break;
        }
        stop = check_bytes(record, size - offset);
        if (stop != WALLE_RECORDS_END)
            break;
        uint64_t record_id = walle_load_u64(record + WALLE_RECORD_ENTRY_ID);
        uint64_t prev_chain = walle_load_u64(record + WALLE_RECORD_PREV_CHAIN);
        uint64_t ts = walle_load_u64(record + WALLE_RECORD_WRITER_TS);
        uint64_t nonce = walle_load_u64(record + WALLE_RECORD_WRITER_NONCE);
        int is_any = !count && !has_after;
        if (!record_id || (!is_any && record_id != id + 1)) {
            stop = WALLE_RECORDS_BAD_ID;
            break;
        }
        if (!is_any && prev_chain != chain) {
            stop = WALLE_RECORDS_BAD_CHAIN;
            break;
        }
        if (!count) {
            found[WALLE_RECORDS_FIRST_ID] = record_id;
            found[WALLE_RECORDS_PREV_CHAIN] = prev_chain;
            found[WALLE_RECORDS_WRITER_TS] = ts;
            found[WALLE_RECORDS_WRITER_NONCE] = nonce;
        }
        if (ts != found[WALLE_RECORDS_WRITER_TS] || nonce != found[WALLE_RECORDS_WRITER_NONCE])
            found[WALLE_RECORDS_MIXED] = 1;
        size_t end = walle_record_end(record);
        id = record_id;
        chain = chains[count++] = chain_of(record, end, prev_chain);
        offset += walle_record_aligned(end);
    }
    found[WALLE_RECORDS_COUNT] = count;
    found[WALLE_RECORDS_SIZE] = offset;
    found[WALLE_RECORDS_STOP] = stop;
}

/* The offset of the record with `entry_id` among consecutive good records, of which only headers
 * are read; -1 if it is not there. */
int64_t walle_records_seek(const uint8_t *data, size_t size, uint64_t entry_id)
{
    for (size_t offset = 0; offset < size;
         offset += walle_record_aligned(walle_record_end(data + offset))) {
        const uint8_t *record = data + offset;
        if (check_size(record, size - offset) != WALLE_RECORDS_END)
            return -1;
        uint64_t id = walle_load_u64(record + WALLE_RECORD_ENTRY_ID);
        if (id == entry_id)
            return (int64_t)offset;
        if (id > entry_id)
            return -1;
    }
    return -1;
}

/* The least offset, a multiple of the alignment, at which a record with good bytes and an id of
 * `first_id` or above lies; -1 if there is none. The checks run from the cheapest to the dearest:
 * what is searched may be tens of megabytes of zeros, or of anything. */
int64_t walle_records_search(const uint8_t *data, size_t size, uint64_t first_id)
{
    uint64_t id_min = first_id ? first_id : 1;
    for (size_t offset = 0; size - offset >= WALLE_RECORD_HEADER_SIZE;
         offset += WALLE_RECORD_ALIGNMENT) {
        const uint8_t *record = data + offset;
        if (walle_load_u64(record + WALLE_RECORD_ENTRY_ID) < id_min)
            continue;
        if (check_size(record, size - offset) != WALLE_RECORDS_END)
            continue;
        size_t end = walle_record_end(record);
        if (has_good_padding(record, end) && has_good_crc(record, end))
            return (int64_t)offset;
    }
    return -1;
}

/* Returns how many bytes there are; what cannot be read is taken for the end of the file. */
static size_t read_at(int fd, uint8_t *data, size_t size, uint64_t offset)
{
    size_t done = 0;
    while (done < size) {
        ssize_t count = pread(fd, data + done, size - done, (off_t)(offset + done));
        if (count < 0 && errno == EINTR)
            continue;
        if (count <= 0)
            break;
        done += (size_t)count;
    }
    return done;
}

/* Checks the records of a file from `place` on, until one fails, or ends at byte `end` or with the
 * entry `last_id`; `place` is then behind the last good one.
 *
 * buffer: room for any record.
 * chains: room for buffer_size / WALLE_RECORD_HEADER_SIZE words.
 */
void walle_records_follow(int fd, walle_records_place *place, uint64_t end, uint64_t last_id,
                          uint8_t *buffer, size_t buffer_size, uint64_t *chains)
{
    size_t step = buffer_size < STEP_SIZE ? buffer_size : STEP_SIZE;
    while (place->offset < end && place->entry_id < last_id) {
        uint64_t rest = end - place->offset, found[WALLE_RECORDS_FOUND_COUNT];
        size_t size = read_at(fd, buffer, rest < step ? (size_t)rest : step, place->offset);
        walle_records_scan(buffer, size, 1, place->entry_id, place->chain,
                           last_id - place->entry_id, size, chains, found);
        uint64_t count = found[WALLE_RECORDS_COUNT];
        if (count) {
            place->offset += found[WALLE_RECORDS_SIZE];
            place->entry_id += count;
            place->chain = chains[count - 1];
        } else if (found[WALLE_RECORDS_STOP] == WALLE_RECORDS_SHORT && step < buffer_size) {
            step = buffer_size; /* a record larger than a step */
        } else {
            return;
        }
    }
}

/* How many records with data of these lengths (flags and all) have `size_max` bytes at most; one at
 * least, if there is one. `size` takes their bytes. */
size_t walle_records_fit(const uint32_t *lengths, size_t count, uint64_t size_max, uint64_t *size)
{
    size_t fit = 0;
    *size = 0;
    for (; fit < count; ++fit) {
        size_t end = WALLE_RECORD_HEADER_SIZE + (lengths[fit] & WALLE_RECORD_LENGTH_MASK);
        uint64_t grown = *size + walle_record_aligned(end);
        if (fit && grown > size_max)
            break;
        *size = grown;
    }
    return fit;
}

/* Makes records: `data` is what they hold, one behind the other; `lengths` are the fields of that
 * name, flags and all.
 *
 * records: takes the records; size: their bytes.
 * chains: takes the chain after each.
 * Returns whether the lengths make up just `data` and `records`; if not, the rest is not made. */
int walle_records_encode(const uint8_t *data, size_t data_bytes, const uint32_t *lengths,
                         const uint64_t *times, size_t count, uint64_t first_id,
                         uint64_t prev_chain, uint64_t writer_ts, uint64_t writer_nonce,
                         uint8_t *records, size_t size, uint64_t *chains)
{
    for (size_t index = 0; index < count; ++index) {
        size_t length = lengths[index] & WALLE_RECORD_LENGTH_MASK;
        size_t end = WALLE_RECORD_HEADER_SIZE + length, taken = walle_record_aligned(end);
        if (length > data_bytes || taken > size)
            return 0;
        walle_store_u64(records + WALLE_RECORD_PREV_CHAIN, prev_chain);
        walle_store_u32(records + WALLE_RECORD_LENGTH, lengths[index]);
        walle_store_u64(records + WALLE_RECORD_ENTRY_ID, first_id + index);
        walle_store_u64(records + WALLE_RECORD_WRITER_TS, writer_ts);
        walle_store_u64(records + WALLE_RECORD_WRITER_NONCE, writer_nonce);
        walle_store_u64(records + WALLE_RECORD_TIME_US, times[index]);
        memcpy(records + WALLE_RECORD_HEADER_SIZE, data, length);
        memset(records + end, 0, taken - end);
        walle_store_u32(records + WALLE_RECORD_CRC, crc_of(records, end));
        prev_chain = chains[index] = chain_of(records, end, prev_chain);
        data += length;
        data_bytes -= length;
        records += taken;
        size -= taken;
    }
    return !data_bytes && !size;
}
