/* Entries as Python objects: a module of its own, which alone knows the interpreter, and holds its
 * lock. Made in Python an entry takes more time than its bytes' receipt, check and copy together.
 */
#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "walle.h"

/* A tuple of a NamedTuple's class, without items. */
static PyObject *make(PyTypeObject *type, Py_ssize_t count)
{
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    return alloc(type, count);
}

/* Takes the value, which may be NULL. Returns whether it is one, and is set. */
static int set(PyObject *tuple, Py_ssize_t index, PyObject *value)
{
    return value && !PyTuple_SetItem(tuple, index, value);
}

static PyObject *word(const uint8_t *data)
{
    return PyLong_FromUnsignedLongLong(walle_load_u64(data));
}

static PyObject *make_writer(PyTypeObject *type, const uint8_t *record)
{
    PyObject *writer = make(type, 2);
    if (writer && set(writer, 0, word(record + WALLE_RECORD_WRITER_TS))
        && set(writer, 1, word(record + WALLE_RECORD_WRITER_NONCE)))
        return writer;
    Py_XDECREF(writer);
    return NULL;
}

/* end: where the record's data ends. */
static PyObject *make_entry(PyTypeObject *type, const uint8_t *record, size_t end,
                            PyObject *writer, PyObject *chain, PyObject *prev_chain)
{
    const char *data = (const char *)record + WALLE_RECORD_HEADER_SIZE;
    Py_ssize_t size = (Py_ssize_t)(end - WALLE_RECORD_HEADER_SIZE);
    uint32_t flags = walle_load_u32(record + WALLE_RECORD_LENGTH) >> WALLE_RECORD_FLAGS_SHIFT;
    PyObject *entry = make(type, 7);
    if (entry && set(entry, 0, word(record + WALLE_RECORD_ENTRY_ID))
        && set(entry, 1, Py_NewRef(writer))
        && set(entry, 2, word(record + WALLE_RECORD_TIME_US))
        && set(entry, 3, PyBytes_FromStringAndSize(data, size))
        && set(entry, 4, Py_NewRef(chain))
        && set(entry, 5, Py_NewRef(prev_chain))
        && set(entry, 6, PyLong_FromLong((long)flags))) {
        /* It is part of no cycle. The collector would look at each again and again, which takes
         * longer than to make them. */
        PyObject_GC_UnTrack(entry);
        return entry;
    }
    Py_XDECREF(entry);
    return NULL;
}

/* Appends the entries of consecutive records, as many as there are chains, to `entries`. Stops
 * before what is no whole record. Returns whether nothing failed. */
static int append_all(PyObject *entries, PyTypeObject *type, PyTypeObject *writer_type,
                      const Py_buffer *records, const Py_buffer *chains)
{
    const uint8_t *record = records->buf, *stop = record + records->len;
    const uint8_t *chain_at = chains->buf, *written_by = NULL;
    PyObject *writer = NULL, *prev_chain = NULL;
    Py_ssize_t count = chains->len / (Py_ssize_t)sizeof(uint64_t);
    int is_good = 1;
    for (; is_good && count; --count, chain_at += sizeof(uint64_t)) {
        size_t rest = (size_t)(stop - record);
        if (rest < WALLE_RECORD_HEADER_SIZE || !walle_load_u64(record + WALLE_RECORD_ENTRY_ID))
            break; /* no record has the id 0 */
        size_t end = walle_record_end(record), taken = walle_record_aligned(end);
        if (taken > rest)
            break;
        if (!written_by || memcmp(record + WALLE_RECORD_WRITER_TS,
                                  written_by + WALLE_RECORD_WRITER_TS, 2 * sizeof(uint64_t))) {
            Py_XDECREF(writer);
            writer = make_writer(writer_type, record);
            written_by = record;
        }
        if (!prev_chain)
            prev_chain = word(record + WALLE_RECORD_PREV_CHAIN);
        PyObject *chain = word(chain_at), *entry = NULL;
        if (writer && prev_chain && chain)
            entry = make_entry(type, record, end, writer, chain, prev_chain);
        is_good = entry && !PyList_Append(entries, entry);
        Py_XDECREF(entry);
        Py_XDECREF(prev_chain);
        prev_chain = chain;
        record += taken;
    }
    Py_XDECREF(writer);
    Py_XDECREF(prev_chain);
    return is_good;
}

static PyObject *decode(PyObject *Py_UNUSED(module), PyObject *args)
{
    PyTypeObject *type, *writer_type;
    Py_buffer records, chains;
    if (!PyArg_ParseTuple(args, "O!O!y*y*", &PyType_Type, &type, &PyType_Type, &writer_type,
                          &records, &chains))
        return NULL;
    PyObject *entries = PyList_New(0);
    if (entries && !append_all(entries, type, writer_type, &records, &chains))
        Py_CLEAR(entries);
    PyBuffer_Release(&records);
    PyBuffer_Release(&chains);
    return entries;
}

static PyMethodDef functions[] = {
    {"decode", decode, METH_VARARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_entries", NULL, 0, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__entries(void)
{
    return PyModuleDef_Init(&definition);
}
