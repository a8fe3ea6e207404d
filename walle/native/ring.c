/* The indices of a ring between one producer and one consumer in two processes.
 *
 * `walle/ring/spsc.py` draws the ring. The producer alone stores `published`, the consumer alone
 * stores `released`; both only grow. A message's bytes are written first and published after, so
 * a producer that dies leaves nothing half visible. The order of memory that this rests on:
 *
 * (1) publish -> consume. The producer stores `published` with release, the consumer loads it with
 *     acquire: whoever sees the position sees the bytes before it.
 * (2) release -> reserve. The consumer stores `released` with release, the producer loads it with
 *     acquire: the consumer's reads of the bytes come before the producer's writes over them.
 * (3) No wake-up is lost. One side stores a position, then looks whether the other sleeps; the
 *     other says that it will sleep, then looks at the position (Dekker's pattern). Release and
 *     acquire would allow both to see the old value, since a store may wait in the processor
 *     while a later load is done: the consumer would sleep on a full ring. Hence a sequentially
 *     consistent fence on each side, between the store and the load. These fences have one order
 *     that all see: behind the later fence of the two, the other side's store is seen.
 */
#include "walle.h"

#include <stdatomic.h>

#define VERSION 1
#define CACHE_LINE 64

/* The control block, at the head of the ring's memory. */
struct control {
    /* Constant; stored last when the ring is made. */
    _Alignas(CACHE_LINE) _Atomic uint64_t version;
    uint64_t capacity;
    /* Stored by the producer: the end of what the consumer may read. */
    _Alignas(CACHE_LINE) _Atomic uint64_t published;
    /* Set by the consumer before it sleeps, cleared by whoever wakes it and by itself. */
    _Alignas(CACHE_LINE) _Atomic uint64_t consumer_sleeps;
    /* Stored by the consumer: the end of what the producer may write over. */
    _Alignas(CACHE_LINE) _Atomic uint64_t released;
    /* Set by the producer before it sleeps to the value of `released` that it needs, which is
     * never 0; cleared by whoever wakes it and by itself. */
    _Alignas(CACHE_LINE) _Atomic uint64_t producer_waits_for;
};

_Static_assert(sizeof(struct control) == WALLE_RING_CONTROL_SIZE, "as Python knows it");
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "processes share no lock inside of an atomic");

/* What stands before each message and at the place of the bytes left over before a wrap. */
struct header {
    uint32_t size; /* of what follows, before it is filled up to a multiple of 8 */
    uint32_t kind; /* not 0, so that blank memory is no message */
};

_Static_assert(sizeof(struct header) == WALLE_RING_HEADER_SIZE, "as Python knows it");

enum { MESSAGE = 1, PADDING = 2 };

static uint64_t size_with_header(uint64_t size)
{
    return WALLE_RING_HEADER_SIZE + ((size + 7) & ~(uint64_t)7);
}

static struct header *header_at(const walle_ring *ring, uint64_t position)
{
    return (struct header *)(void *)(ring->data + (position & (ring->capacity - 1)));
}

/* The bytes from `position` to the end of the ring's memory. */
static uint64_t size_to_end(const walle_ring *ring, uint64_t position)
{
    return ring->capacity - (position & (ring->capacity - 1));
}

/* The padding that a message of `size` bytes needs before it. */
static uint64_t padding_size(const walle_ring *ring, uint64_t written, uint64_t size)
{
    uint64_t rest = size_to_end(ring, written);
    return size_with_header(size) > rest ? rest : 0;
}

void walle_ring_create(uint8_t *memory, uint64_t capacity)
{
    struct control *control = (struct control *)(void *)memory;
    memset(memory, 0, sizeof *control);
    control->capacity = capacity;
    /* Pairs with the acquire in walle_ring_open: who sees the version sees the rest. */
    atomic_store_explicit(&control->version, VERSION, memory_order_release);
}

/* Whether `memory` holds a ring of that capacity. */
int walle_ring_open(walle_ring *ring, uint8_t *memory, uint64_t capacity)
{
    struct control *control = (struct control *)(void *)memory;
    ring->control = control;
    ring->data = memory + sizeof *control;
    ring->capacity = capacity;
    /* Pairs with the release in walle_ring_create. */
    if (atomic_load_explicit(&control->version, memory_order_acquire) != VERSION)
        return 0;
    return control->capacity == capacity
        && walle_ring_published(ring) - walle_ring_released(ring) <= capacity;
}

uint64_t walle_ring_published(const walle_ring *ring)
{
    const struct control *control = ring->control;
    /* Pairs with the release in walle_ring_publish (1). */
    return atomic_load_explicit(&control->published, memory_order_acquire);
}

uint64_t walle_ring_released(const walle_ring *ring)
{
    const struct control *control = ring->control;
    /* Pairs with the release in walle_ring_release (2). */
    return atomic_load_explicit(&control->released, memory_order_acquire);
}

/* Producer. Makes room for a message of `size` bytes behind `written`, the end of what it has
 * written so far, and writes its header. Returns the position of the message's first byte, or
 * NO_ROOM, or BROKEN if the consumer's position cannot be. */
int64_t walle_ring_reserve(const walle_ring *ring, uint64_t written, uint64_t size)
{
    uint64_t padding = padding_size(ring, written, size);
    uint64_t used = written - walle_ring_released(ring);
    if (used > ring->capacity)
        return WALLE_RING_BROKEN;
    if (ring->capacity - used < padding + size_with_header(size))
        return WALLE_RING_NO_ROOM;
    if (padding) {
        uint32_t unused = (uint32_t)(padding - WALLE_RING_HEADER_SIZE);
        *header_at(ring, written) = (struct header){.size = unused, .kind = PADDING};
    }
    written += padding;
    *header_at(ring, written) = (struct header){.size = (uint32_t)size, .kind = MESSAGE};
    return (int64_t)(written + WALLE_RING_HEADER_SIZE);
}

/* Producer. Makes visible what lies before `written`. Returns whether to ring the consumer's
 * bell. */
int walle_ring_publish(const walle_ring *ring, uint64_t written)
{
    struct control *control = ring->control;
    /* Pairs with the acquire in walle_ring_published (1). */
    atomic_store_explicit(&control->published, written, memory_order_release);
    /* Pairs with the fence in walle_ring_arm_consumer (3). */
    atomic_thread_fence(memory_order_seq_cst);
    /* The plain load first: an exchange would take the cache line from the consumer each time. */
    return atomic_load_explicit(&control->consumer_sleeps, memory_order_relaxed)
        && atomic_exchange_explicit(&control->consumer_sleeps, 0, memory_order_relaxed);
}

/* Producer. Announces that it will sleep until a message of `size` bytes has room. Returns
 * whether there is still none; if there is, nothing is announced. */
int walle_ring_arm_producer(const walle_ring *ring, uint64_t written, uint64_t size)
{
    struct control *control = ring->control;
    uint64_t end = written + padding_size(ring, written, size) + size_with_header(size);
    if (end - walle_ring_released(ring) <= ring->capacity)
        return 0;
    atomic_store_explicit(&control->producer_waits_for, end - ring->capacity,
                          memory_order_relaxed);
    /* Pairs with the fence in walle_ring_release (3). */
    atomic_thread_fence(memory_order_seq_cst);
    if (end - walle_ring_released(ring) > ring->capacity)
        return 1;
    atomic_store_explicit(&control->producer_waits_for, 0, memory_order_relaxed);
    return 0;
}

/* Consumer. Finds the published messages behind `consumed`, the end of what it has consumed so
 * far: one at least, if there is one, and no more once they have `size_max` bytes, headers
 * included. Returns how many, or BROKEN if what is there cannot be. */
int walle_ring_consume(const walle_ring *ring, uint64_t consumed, uint64_t size_max,
                       walle_ring_batch *batch)
{
    const uint64_t published = walle_ring_published(ring);
    uint64_t taken = 0;
    int count = 0;
    if (published - consumed > ring->capacity || published % 8)
        return WALLE_RING_BROKEN;
    while (consumed != published && count < WALLE_RING_BATCH_COUNT_MAX) {
        if (count && taken >= size_max)
            break;
        const struct header header = *header_at(ring, consumed);
        uint64_t rest = size_to_end(ring, consumed), unread = published - consumed;
        uint64_t size = size_with_header(header.size);
        if (header.kind == MESSAGE && size <= rest && size <= unread) {
            uint64_t start = ring->capacity - rest + WALLE_RING_HEADER_SIZE;
            batch->starts[count] = (uint32_t)start;
            batch->ends[count++] = (uint32_t)(start + header.size);
            taken += size;
        } else if (header.kind != PADDING || size != rest || size >= unread) {
            return WALLE_RING_BROKEN;
        }
        consumed += size;
    }
    batch->consumed = consumed;
    return count;
}

/* Consumer. Gives back what lies before `consumed`. Returns whether to ring the producer's bell. */
int walle_ring_release(const walle_ring *ring, uint64_t consumed)
{
    struct control *control = ring->control;
    /* Pairs with the acquire in walle_ring_released (2). */
    atomic_store_explicit(&control->released, consumed, memory_order_release);
    /* Pairs with the fence in walle_ring_arm_producer (3). */
    atomic_thread_fence(memory_order_seq_cst);
    uint64_t wanted = atomic_load_explicit(&control->producer_waits_for, memory_order_relaxed);
    return wanted && consumed >= wanted
        && atomic_exchange_explicit(&control->producer_waits_for, 0, memory_order_relaxed);
}

/* Consumer. Announces that it will sleep. Returns whether there is still nothing behind
 * `consumed`; if there is, nothing is announced. */
int walle_ring_arm_consumer(const walle_ring *ring, uint64_t consumed)
{
    struct control *control = ring->control;
    atomic_store_explicit(&control->consumer_sleeps, 1, memory_order_relaxed);
    /* Pairs with the fence in walle_ring_publish (3). */
    atomic_thread_fence(memory_order_seq_cst);
    if (walle_ring_published(ring) == consumed)
        return 1;
    walle_ring_disarm_consumer(ring);
    return 0;
}

/* Consumer. It is awake and looks by itself: no bell needs to be rung. */
void walle_ring_disarm_consumer(const walle_ring *ring)
{
    struct control *control = ring->control;
    atomic_store_explicit(&control->consumer_sleeps, 0, memory_order_relaxed);
}
