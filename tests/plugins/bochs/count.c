// SPDX-License-Identifier: LGPL-2.1-or-later
//
// Counts instructions in Bochs 3.0 by whether the CPU is in VMX root operation, and for each kind of VM exit what was executed
// from there to the next entry. It is preloaded, and puts its own functions in the place of the empty hooks that Bochs calls
// before each instruction, at each VM exit and at each OUT (instrument/stubs). It runs inside Bochs, hence its licence.
//
// In the environment: KERF_COUNTS=FILE, where the counts go once the hypervisor's last line begins: lines of `key=value`
// words, one `all`, then an `exit` for each basic exit reason (SDM 3D, appendix C).

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum kind { KERF, VMREAD, VMWRITE, WRMSR, RDMSR, XSETBV, STATE, FLUSH, ENTRY, KINDS };
static const char *const NAMES[KINDS] = { "kerf", "vmread", "vmwrite", "wrmsr", "rdmsr", "xsetbv", "fpu", "flush", "entry" };

// Functions of Bochs that execute what is counted, as its symbols name them.
static const struct { enum kind kind; const char *symbol; } FUNCTIONS[] = {
    { ENTRY, "_ZN8BX_CPU_C8VMLAUNCHEP15bxInstruction_c" }, { ENTRY, "_ZN8BX_CPU_C8VMRESUMEEP15bxInstruction_c" },
    { VMREAD, "_ZN8BX_CPU_C11VMREAD_EqGqEP15bxInstruction_c" }, { VMREAD, "_ZN8BX_CPU_C11VMREAD_EdGdEP15bxInstruction_c" },
    { VMWRITE, "_ZN8BX_CPU_C12VMWRITE_GqEqEP15bxInstruction_c" }, { VMWRITE, "_ZN8BX_CPU_C12VMWRITE_GdEdEP15bxInstruction_c" },
    { WRMSR, "_ZN8BX_CPU_C5WRMSREP15bxInstruction_c" }, { RDMSR, "_ZN8BX_CPU_C5RDMSREP15bxInstruction_c" },
    { XSETBV, "_ZN8BX_CPU_C6XSETBVEP15bxInstruction_c" }, { STATE, "_ZN8BX_CPU_C6FXSAVEEP15bxInstruction_c" },
    { STATE, "_ZN8BX_CPU_C7FXRSTOREP15bxInstruction_c" }, { STATE, "_ZN8BX_CPU_C5XSAVEEP15bxInstruction_c" },
    { STATE, "_ZN8BX_CPU_C6XSAVECEP15bxInstruction_c" }, { STATE, "_ZN8BX_CPU_C6XRSTOREP15bxInstruction_c" },
    { FLUSH, "_ZN8BX_CPU_C6INVEPTEP15bxInstruction_c" }, { FLUSH, "_ZN8BX_CPU_C7INVVPIDEP15bxInstruction_c" },
    { FLUSH, "_ZN8BX_CPU_C6INVLPGEP15bxInstruction_c" }, { FLUSH, "_ZN8BX_CPU_C7INVPCIDEP15bxInstruction_c" },
};
enum { COUNT = sizeof FUNCTIONS / sizeof *FUNCTIONS };
static void *functions[COUNT];
// Which functions may be one of them, by some bits of the address: nearly all instructions are told apart by this alone.
static uint8_t candidates[1 << 14];

static uint8_t *candidate(const void *function)
{
    return &candidates[(uintptr_t)function >> 4 & (sizeof candidates - 1)];
}

static bool in_guest;
static uint64_t guest, entries, now[KINDS], at_first[KINDS], at_exit[KINDS], at_last;
static unsigned reason;

enum { REASONS = 80 };
static struct { uint64_t count, least, sum[KINDS]; } exits[REASONS];

static void enter(void)
{
    in_guest = true;
    at_last = now[KERF];
    if (entries++ == 0) {
        memcpy(at_first, now, sizeof at_first);
        return;
    }
    uint64_t kerf = now[KERF] - at_exit[KERF];
    if (reason >= REASONS)
        return;
    if (!exits[reason].count++ || kerf < exits[reason].least)
        exits[reason].least = kerf;
    for (int kind = 0; kind < KINDS; kind++)
        exits[reason].sum[kind] += now[kind] - at_exit[kind];
}

// An instruction begins with pointers to the functions that execute it: one, or where it reads memory first, two. Each takes
// one word or, as a pointer to a member function, two.
static void before(unsigned cpu, void *const *instruction)
{
    (void)cpu;
    if (in_guest) {
        guest++;
        return;
    }
    now[KERF]++;
    if (!(*candidate(instruction[0]) | *candidate(instruction[1]) | *candidate(instruction[2])))
        return;
    for (int i = 0; i < COUNT; i++)
        if (instruction[0] == functions[i] || instruction[1] == functions[i] || instruction[2] == functions[i]) {
            now[FUNCTIONS[i].kind]++;
            if (FUNCTIONS[i].kind == ENTRY)
                enter();
            return;
        }
}

static void repeat(unsigned cpu, void *instruction)
{
    (void)cpu, (void)instruction;
    if (in_guest)
        guest++;
    else
        now[KERF]++;
}

static void vm_exit(unsigned cpu, uint32_t why, uint64_t qualification)
{
    (void)cpu, (void)qualification;
    in_guest = false;
    reason = why & 0xffff;
    memcpy(at_exit, now, sizeof at_exit);
}

static void report(void)
{
    const char *path = getenv("KERF_COUNTS");
    FILE *out = path ? fopen(path, "w") : NULL;
    if (!out)
        return;
    // How much of what came before the first entry was the firmware's is not known here.
    fprintf(out, "all entries=%llu before=0 kerf=%llu guest=%llu\n", (unsigned long long)entries,
            (unsigned long long)(at_last - at_first[KERF]), (unsigned long long)guest);
    for (int i = 0; i < REASONS; i++) {
        if (!exits[i].count)
            continue;
        fprintf(out, "exit code=%d count=%llu least=%llu", i, (unsigned long long)exits[i].count, (unsigned long long)exits[i].least);
        for (int kind = 0; kind < ENTRY; kind++)
            fprintf(out, " %s=%llu", NAMES[kind], (unsigned long long)exits[i].sum[kind]);
        fputc('\n', out);
    }
    fclose(out);
}

// The last line's beginning on the first serial port, from root operation: Bochs itself is killed, not ended.
static void out_port(uint16_t port, unsigned length, unsigned value)
{
    static const char LAST[] = "kerf: all guests ended";
    static size_t seen;
    (void)length;
    if (in_guest || port != 0x3f8)
        return;
    if ((char)value == LAST[seen])
        seen++;
    else
        seen = (char)value == LAST[0];
    if (seen == sizeof LAST - 1) {
        report();
        seen = 0;
    }
}

static void replace(const char *symbol, void *with)
{
    unsigned char jump[12] = { 0x48, 0xb8, [10] = 0xff, [11] = 0xe0 };
    unsigned char *at = dlsym(RTLD_DEFAULT, symbol);
    // Each hook has 16 bytes to itself.
    if (!at || (uintptr_t)at % 16) {
        fprintf(stderr, "no hook to count by: %s\n", symbol);
        return;
    }
    void *page = (void *)((uintptr_t)at & ~(uintptr_t)4095);
    memcpy(jump + 2, &with, sizeof with);
    if (mprotect(page, 4096, PROT_READ | PROT_WRITE | PROT_EXEC) == 0) {
        memcpy(at, jump, sizeof jump);
        mprotect(page, 4096, PROT_READ | PROT_EXEC);
    }
}

// In every process that the variable LD_PRELOAD reaches: the others have no such symbols.
__attribute__((constructor)) static void start(void)
{
    for (int i = 0; i < COUNT; i++)
        functions[i] = dlsym(RTLD_DEFAULT, FUNCTIONS[i].symbol);
    if (!functions[0])
        return;
    for (int i = 0; i < COUNT; i++) {
        // One that is absent must not be found in an empty word.
        if (!functions[i])
            functions[i] = functions;
        *candidate(functions[i]) = 1;
    }
    replace("_Z25bx_instr_before_executionjP15bxInstruction_c", (void *)before);
    replace("_Z25bx_instr_repeat_iterationjP15bxInstruction_c", (void *)repeat);
    replace("_Z15bx_instr_vmexitjjm", (void *)vm_exit);
    replace("_Z13bx_instr_outptjj", (void *)out_port);
}
