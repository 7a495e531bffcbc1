// SPDX-License-Identifier: GPL-2.0-or-later
//
// A plugin for QEMU's TCG that counts instructions by where the program counter is: in Kerf's code or not, before the first
// VM entry and after it; and for each kind of exit what Kerf executed until the next entry. From one mark of the guest's to
// the next, a NOP of eight bytes that ends in "KERF", it counts anew.
//
// It runs inside QEMU, hence its licence. Debian packages no header of the interface: what is used of version 7 (QEMU 11.1)
// is declared here.
//
// Arguments: start=HEX and end=HEX, the addresses of Kerf's code, which no guest may use; out=FILE, where the counts go at
// the end: lines of `key=value` words, one `all`, then an `exit` for each code of the VMCB (APM 2, appendix C); and for each
// mark but the first a `phase`, followed by its exits as `in`.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_register;
struct qemu_plugin_scoreboard;
typedef struct { struct qemu_plugin_scoreboard *score; size_t offset; } qemu_plugin_u64;
typedef struct { struct qemu_plugin_register *handle; const char *name, *feature; } reg_descriptor;
typedef struct { char *data; unsigned len; } GArray;
typedef struct { uint8_t *data; unsigned len; } GByteArray;
enum { CB_NO_REGS, CB_R_REGS };
enum { INLINE_ADD_U64 };

extern unsigned g_array_get_element_size(GArray *);
extern GByteArray *g_byte_array_new(void);
extern GByteArray *g_byte_array_set_size(GByteArray *, unsigned);
extern void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t, void (*)(struct qemu_plugin_tb *, void *), void *);
extern void qemu_plugin_register_atexit_cb(uint64_t, void (*)(void *), void *);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *);
extern struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *, size_t);
extern uint64_t qemu_plugin_insn_vaddr(const struct qemu_plugin_insn *);
extern size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *, void *, size_t);
extern void qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(struct qemu_plugin_insn *, int, qemu_plugin_u64, uint64_t);
extern void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *, void (*)(unsigned, void *), int, void *);
extern struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t);
extern uint64_t qemu_plugin_u64_sum(qemu_plugin_u64);
extern GArray *qemu_plugin_get_registers(void);
extern int qemu_plugin_read_register(struct qemu_plugin_register *, GByteArray *);
extern int qemu_plugin_read_memory_hwaddr(uint64_t, GByteArray *, size_t);

__attribute__((visibility("default"))) int qemu_plugin_version = 7;

enum kind { ALL, KERF, WRMSR, RDMSR, XSETBV, STATE, LOCK, FLUSH, KINDS };
static const char *const NAMES[KINDS] = { "all", "kerf", "wrmsr", "rdmsr", "xsetbv", "fpu", "lock", "flush" };

static uint64_t code_start, code_end;
static char out_path[4096];
static struct qemu_plugin_scoreboard *board;
static struct qemu_plugin_register *rax;
static GByteArray *buffer;

// Totals at the first VM entry and at the last one.
static uint64_t first[KINDS], last[KINDS];
static uint64_t entries;

// What was executed in Kerf from exits of one code to the entries after them.
enum { CODES = 64 };
static struct { uint64_t code, count, sum[KINDS], least; } exits[CODES];
static uint64_t exits_left_out;

// What had been counted at each mark.
enum { MARKS = 16 };
static struct { uint64_t all, kerf, entries, counts[CODES], sums[CODES]; } marks[MARKS];
static unsigned marked;

static qemu_plugin_u64 counter(enum kind kind)
{
    qemu_plugin_u64 entry = { board, kind * sizeof(uint64_t) };
    return entry;
}

static bool is_fpu(const uint8_t *op, size_t length)
{
    if (length < 3 || op[0] != 0x0f)
        return false;
    unsigned reg = op[2] >> 3 & 7;
    bool memory = op[2] < 0xc0;
    // FXSAVE, FXRSTOR, XSAVE, XRSTOR, XSAVEOPT; XRSTORS, XSAVEC, XSAVES.
    return memory && ((op[1] == 0xae && (reg <= 1 || reg >= 4)) || (op[1] == 0xc7 && reg >= 3 && reg <= 5));
}

static enum kind classify(const uint8_t *bytes, size_t length)
{
    const uint8_t *op = bytes, *end = bytes + length;
    while (op < end && (*op == 0x66 || *op == 0xf2 || *op == 0xf3 || *op == 0xf0 || (*op & 0xf0) == 0x40)) {
        if (*op == 0xf0)
            return LOCK;
        op++;
    }
    size_t left = end - op;
    if (left < 2 || op[0] != 0x0f)
        return ALL;
    if (op[1] == 0x30)
        return WRMSR;
    if (op[1] == 0x32)
        return RDMSR;
    if (left >= 3 && op[1] == 0x01 && op[2] == 0xd1)
        return XSETBV;
    // INVLPGA; INVLPG.
    if (left >= 3 && op[1] == 0x01 && (op[2] == 0xdf || (op[2] < 0xc0 && (op[2] >> 3 & 7) == 7)))
        return FLUSH;
    return is_fpu(op, left) ? STATE : ALL;
}

static bool is_vmrun(const uint8_t *bytes, size_t length)
{
    return length == 3 && !memcmp(bytes, "\x0f\x01\xd8", 3);
}

// The exit that came before this entry: EXITCODE still stands in the VMCB, whose address is in RAX (APM 2, 15.5).
static uint64_t exit_code(void)
{
    if (!rax) {
        GArray *all = qemu_plugin_get_registers();
        // Later versions append to the descriptor.
        unsigned bytes = g_array_get_element_size(all);
        for (unsigned i = 0; i < all->len; i++) {
            const reg_descriptor *found = (const reg_descriptor *)(all->data + (size_t)i * bytes);
            if (found->name && !strcmp(found->name, "rax"))
                rax = found->handle;
        }
        buffer = g_byte_array_new();
    }
    uint64_t vmcb, code = -1;
    g_byte_array_set_size(buffer, 0);
    qemu_plugin_read_register(rax, buffer);
    if (buffer->len != sizeof vmcb)
        return code;
    memcpy(&vmcb, buffer->data, sizeof vmcb);
    g_byte_array_set_size(buffer, 0);
    if (qemu_plugin_read_memory_hwaddr(vmcb + 0x70, buffer, sizeof code) == 0 && buffer->len == sizeof code)
        memcpy(&code, buffer->data, sizeof code);
    return code;
}

static void on_entry(unsigned vcpu, void *data)
{
    uint64_t now[KINDS];
    (void)vcpu, (void)data;
    for (int kind = 0; kind < KINDS; kind++)
        now[kind] = qemu_plugin_u64_sum(counter(kind));
    if (entries++ == 0) {
        memcpy(first, now, sizeof first);
    } else {
        uint64_t code = exit_code();
        int slot = 0;
        while (slot < CODES && exits[slot].count && exits[slot].code != code)
            slot++;
        if (slot == CODES) {
            exits_left_out++;
        } else {
            uint64_t kerf = now[KERF] - last[KERF];
            if (!exits[slot].count++ || kerf < exits[slot].least)
                exits[slot].least = kerf;
            exits[slot].code = code;
            for (int kind = 0; kind < KINDS; kind++)
                exits[slot].sum[kind] += now[kind] - last[kind];
        }
    }
    memcpy(last, now, sizeof last);
}

static void on_mark(unsigned vcpu, void *data)
{
    (void)vcpu, (void)data;
    if (marked == MARKS)
        return;
    marks[marked].all = qemu_plugin_u64_sum(counter(ALL));
    marks[marked].kerf = qemu_plugin_u64_sum(counter(KERF));
    marks[marked].entries = entries;
    for (int slot = 0; slot < CODES; slot++) {
        marks[marked].counts[slot] = exits[slot].count;
        marks[marked].sums[slot] = exits[slot].sum[KERF];
    }
    marked++;
}

static void print_phases(FILE *out)
{
    for (unsigned i = 1; i < marked; i++) {
        uint64_t all = marks[i].all - marks[i - 1].all, kerf = marks[i].kerf - marks[i - 1].kerf;
        fprintf(out, "phase entries=%llu kerf=%llu guest=%llu\n", (unsigned long long)(marks[i].entries - marks[i - 1].entries),
                (unsigned long long)kerf, (unsigned long long)(all - kerf));
        for (int slot = 0; slot < CODES && marks[i].counts[slot]; slot++)
            fprintf(out, "in code=%llu count=%llu kerf=%llu\n", (unsigned long long)exits[slot].code,
                    (unsigned long long)(marks[i].counts[slot] - marks[i - 1].counts[slot]),
                    (unsigned long long)(marks[i].sums[slot] - marks[i - 1].sums[slot]));
    }
}

static void on_translation(struct qemu_plugin_tb *tb, void *data)
{
    (void)data;
    for (size_t i = 0, count = qemu_plugin_tb_n_insns(tb); i < count; i++) {
        struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
        uint64_t address = qemu_plugin_insn_vaddr(insn);
        uint8_t bytes[16];
        size_t length = qemu_plugin_insn_data(insn, bytes, sizeof bytes);
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD_U64, counter(ALL), 1);
        if (address < code_start || address >= code_end) {
            if (length == 8 && !memcmp(bytes, "\x0f\x1f\x84\0KERF", 8))
                qemu_plugin_register_vcpu_insn_exec_cb(insn, on_mark, CB_NO_REGS, NULL);
            continue;
        }
        qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD_U64, counter(KERF), 1);
        enum kind kind = classify(bytes, length);
        if (kind != ALL)
            qemu_plugin_register_vcpu_insn_exec_inline_per_vcpu(insn, INLINE_ADD_U64, counter(kind), 1);
        if (is_vmrun(bytes, length))
            qemu_plugin_register_vcpu_insn_exec_cb(insn, on_entry, CB_R_REGS, NULL);
    }
}

static void at_exit(void *data)
{
    (void)data;
    FILE *out = fopen(out_path, "w");
    if (!out)
        return;
    uint64_t all = qemu_plugin_u64_sum(counter(ALL)) - first[ALL], kerf = qemu_plugin_u64_sum(counter(KERF)) - first[KERF];
    fprintf(out, "all entries=%llu before=%llu kerf=%llu guest=%llu left_out=%llu\n", (unsigned long long)entries,
            (unsigned long long)first[KERF], (unsigned long long)kerf, (unsigned long long)(all - kerf), (unsigned long long)exits_left_out);
    for (int slot = 0; slot < CODES && exits[slot].count; slot++) {
        fprintf(out, "exit code=%llu count=%llu least=%llu", (unsigned long long)exits[slot].code,
                (unsigned long long)exits[slot].count, (unsigned long long)exits[slot].least);
        for (int kind = KERF; kind < KINDS; kind++)
            fprintf(out, " %s=%llu", NAMES[kind], (unsigned long long)exits[slot].sum[kind]);
        fputc('\n', out);
    }
    print_phases(out);
    fclose(out);
}

// Not strtoull, whose symbol's version depends on the C library that this is built with.
static uint64_t from_hex(const char *text)
{
    uint64_t value = 0;
    for (; *text; text++)
        value = value << 4 | (*text <= '9' ? *text - '0' : (*text | 0x20) - 'a' + 10);
    return value;
}

__attribute__((visibility("default"))) int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
    (void)info;
    for (int i = 0; i < argc; i++) {
        if (!strncmp(argv[i], "start=", 6))
            code_start = from_hex(argv[i] + 6);
        else if (!strncmp(argv[i], "end=", 4))
            code_end = from_hex(argv[i] + 4);
        else if (!strncmp(argv[i], "out=", 4) && strlen(argv[i] + 4) < sizeof out_path)
            strcpy(out_path, argv[i] + 4);
    }
    if (code_start >= code_end || !*out_path)
        return -1;
    board = qemu_plugin_scoreboard_new(KINDS * sizeof(uint64_t));
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation, NULL);
    qemu_plugin_register_atexit_cb(id, at_exit, NULL);
    return 0;
}
