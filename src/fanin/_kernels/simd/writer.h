/* A dense result, handed over in runs and written past the cache in whole lines.
 *
 * Runs are collected in a buffer that lies to the lines of memory as the destination
 * does. Full lines leave it by fanin_write_past; the first and the last line, which
 * may be shared with other data, by plain stores. See stream.h for when this pays.
 */
#ifndef FANIN_WRITER_H
#define FANIN_WRITER_H

#include "stream.h"

/* The longest run; what is collected of shorter ones before it leaves, for many lines
 * at once would hold up the reading; and the buffer. */
#define FANIN_RUN_BYTES 4096
#define FANIN_WRITER_FULL (4 * FANIN_LINE)
#define FANIN_WRITER_BYTES (FANIN_RUN_BYTES + FANIN_WRITER_FULL)

typedef struct {
    char *to;           /* where the buffer's first byte belongs: on a line */
    char *buffer;
    ptrdiff_t head;     /* bytes of the first line that are not ours */
    ptrdiff_t at;       /* bytes in the buffer, those included */
} fanin_writer;

static inline void fanin_writer_begin(fanin_writer *w, void *to, char *buffer)
{
    w->head = (ptrdiff_t)((uintptr_t)to % FANIN_LINE);
    w->to = (char *)to - w->head;
    w->at = w->head;
    w->buffer = buffer;
}

static inline void fanin_writer_flush(fanin_writer *w)
{
    ptrdiff_t full = w->at / FANIN_LINE * FANIN_LINE, i = 0;
    if (full == 0) {
        return;
    }
    if (w->head > 0) {
        memcpy(w->to + w->head, w->buffer + w->head, (size_t)(FANIN_LINE - w->head));
        w->head = 0;
        i = FANIN_LINE;
    }
    for (; i < full; i += FANIN_LINE) {
        fanin_write_past(w->to + i, w->buffer + i);
    }
    memcpy(w->buffer, w->buffer + full, (size_t)(w->at - full));
    w->to += full;
    w->at -= full;
}

/* Where to put the next run, of at most FANIN_RUN_BYTES. */
static inline void *fanin_writer_room(fanin_writer *w, ptrdiff_t bytes)
{
    if (w->at >= FANIN_WRITER_FULL) {
        fanin_writer_flush(w);
    }
    w->at += bytes;
    return w->buffer + w->at - bytes;
}

static inline void fanin_writer_end(fanin_writer *w)
{
    fanin_writer_flush(w);
    memcpy(w->to + w->head, w->buffer + w->head, (size_t)(w->at - w->head));
}

#endif
