/* Makes, checks and seeks `count` records of `size` bytes each, once: for callgrind to count. */
#include "walle.h"

#include <stdio.h>
#include <stdlib.h>

int main(int argc, char **argv)
{
    if (argc != 3)
        return 2;
    size_t count = strtoul(argv[1], NULL, 10), size = strtoul(argv[2], NULL, 10), bytes;
    uint8_t *data = calloc(count, size);
    uint32_t *lengths = calloc(count, sizeof *lengths);
    uint64_t *times = calloc(count, sizeof *times), *chains = calloc(count, sizeof *chains);
    uint64_t found[WALLE_RECORDS_FOUND_COUNT], records_bytes;
    for (size_t index = 0; index < count; ++index)
        lengths[index] = (uint32_t)size;
    walle_records_fit(lengths, count, UINT64_MAX, &records_bytes);
    bytes = (size_t)records_bytes;
    uint8_t *records = malloc(bytes);
    int made = walle_records_encode(data, count * size, lengths, times, count, 1, 0, 1, 1, records,
                                    bytes, chains);
    walle_records_scan(records, bytes, 0, 0, 0, count, UINT64_MAX, chains, found);
    int64_t last = walle_records_seek(records, bytes, count);
    return !(made && found[WALLE_RECORDS_COUNT] == count && last >= 0);
}
