/* Checks of consecutive records. `walle/record.py` draws the record and says what the checks mean.
 *
 * Every function may be given any bytes: nothing outside of [data, data + size) is read, whatever
 * the lengths in it say.
 */
#include "walle.h"

static int is_zero(const uint8_t *data, size_t size)
{
    uint64_t seen = 0;
    for (; size >= 8; data += 8, size -= 8)
        seen |= walle_load_u64(data);
    for (; size; ++data, --size)
        seen |= *data;
    return !seen;
}

static size_t data_size(const uint8_t *record)
{
    return walle_load_u32(record + WALLE_RECORD_LENGTH) & WALLE_RECORD_LENGTH_MASK;
}

static size_t record_size(const uint8_t *record)
{
    size_t size = WALLE_RECORD_HEADER_SIZE + data_size(record);
    return (size + WALLE_RECORD_ALIGNMENT - 1) & ~(size_t)(WALLE_RECORD_ALIGNMENT - 1);
}

static int has_good_crc(const uint8_t *record)
{
    size_t covered = WALLE_RECORD_HEADER_SIZE + data_size(record) - WALLE_RECORD_CRC_START;
    return walle_crc32c_extend(0, record + WALLE_RECORD_CRC_START, covered)
        == walle_load_u32(record + WALLE_RECORD_CRC);
}

static int has_good_padding(const uint8_t *record)
{
    size_t end = WALLE_RECORD_HEADER_SIZE + data_size(record);
    return is_zero(record + end, record_size(record) - end);
}

/* Whether the record that begins at `record`, of which `rest` bytes are there, is whole.
 * Returns END if so, and why not if not. */
static enum walle_records_stop check_size(const uint8_t *record, size_t rest)
{
    if (rest < WALLE_RECORD_HEADER_SIZE)
        return is_zero(record, rest) ? WALLE_RECORDS_BLANK : WALLE_RECORDS_SHORT;
    if (is_zero(record, WALLE_RECORD_HEADER_SIZE))
        return WALLE_RECORDS_BLANK;
    if (data_size(record) > WALLE_RECORD_DATA_SIZE_MAX)
        return WALLE_RECORDS_BAD_LENGTH;
    return record_size(record) > rest ? WALLE_RECORDS_SHORT : WALLE_RECORDS_END;
}

/* The same for all of a record but its place in the history. */
static enum walle_records_stop check_bytes(const uint8_t *record, size_t rest)
{
    enum walle_records_stop stop = check_size(record, rest);
    if (stop != WALLE_RECORDS_END)
        return stop;
    if (!has_good_crc(record))
        return WALLE_RECORDS_BAD_CRC;
    return has_good_padding(record) ? WALLE_RECORDS_END : WALLE_RECORDS_BAD_PADDING;
}

static uint64_t chain_of(const uint8_t *record, uint64_t prev_chain)
{
    size_t covered = WALLE_RECORD_HEADER_SIZE + data_size(record) - WALLE_RECORD_CHAIN_START;
    return walle_xxh64_hash(record + WALLE_RECORD_CHAIN_START, covered, prev_chain);
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
        id = record_id;
        chain = chains[count++] = chain_of(record, prev_chain);
        offset += record_size(record);
    }
    found[WALLE_RECORDS_COUNT] = count;
    found[WALLE_RECORDS_SIZE] = offset;
    found[WALLE_RECORDS_STOP] = stop;
}

/* The offset of the record with `entry_id` among consecutive good records, of which only headers
 * are read; -1 if it is not there. */
int64_t walle_records_seek(const uint8_t *data, size_t size, uint64_t entry_id)
{
    for (size_t offset = 0; offset < size; offset += record_size(data + offset)) {
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
        if (check_size(record, size - offset) == WALLE_RECORDS_END && has_good_padding(record)
            && has_good_crc(record))
            return (int64_t)offset;
    }
    return -1;
}
