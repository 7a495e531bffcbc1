// SPDX-License-Identifier: LGPL-2.1-or-later
//
// A plugin of Bochs 3.0, `kerf`: puts the models of src/ into its machine, and ends it.
//
//   0xfed90000  registers of the VT-d unit
//   0xf0000000  configuration space of bus 0 by memory (ECAM, PCIe 6.0, 7.2.2), which Bochs has by two ports only
//   port 0xf4   ends the emulator with the byte that is written there, after a line in the log that says what happened
//   functions in PCI slots, one for each name in the variable KERF_DEVICES, with commas between
//
// The variable KERF_IOMMU says what the unit can do. It does a step with every read of its registers; as long as there is more to
// do, it and the functions do one every PERIOD instructions.

#define BX_PLUGGABLE
#include "bochs.h"
#include "pc_system.h"
#include "iodev.h"

#include <stdlib.h>
#include <unistd.h>

extern bool apic_bus_deliver_interrupt(Bit8u vector, Bit32u dest, Bit8u delivery_mode, bool logical_dest, bool level, bool trig_mode);

// What src/lib.rs declares.
extern "C" {
struct Bochs {
  Bit64u memory;
  void (*read)(Bit64u hpa, Bit8u *bytes, Bit32u count);
  void (*write)(Bit64u hpa, const Bit8u *bytes, Bit32u count);
  void (*interrupt)(Bit8u vector, Bit32u destination, Bit8u mode, bool logical);
  void (*say)(const char *line);
};
bool bed_start(Bochs bochs, const char *kind);
Bit32s bed_add(const char *name, Bit8u devfn);
Bit32u bed_bar_bytes(Bit32u function, Bit32u bar);
Bit64u bed_unit_read(Bit64u offset, Bit32u bytes);
void bed_unit_write(Bit64u offset, Bit32u bytes, Bit64u value);
bool bed_tick(void);
Bit32u bed_config_read(Bit32u function, Bit16u offset, Bit32u bytes);
void bed_config_write(Bit32u function, Bit16u offset, Bit32u bytes, Bit32u value);
void bed_bar_read(Bit32u function, Bit32u bar, Bit64u offset, Bit32u bytes, Bit8u *to);
void bed_bar_write(Bit32u function, Bit32u bar, Bit64u offset, Bit32u bytes, const Bit8u *from);
void bed_report(void);
}

static const bx_phy_address UNIT = 0xfed90000, ECAM = 0xf0000000;
static const Bit32u UNIT_BYTES = 0x1000, ECAM_BYTES = 1 << 20;
// Memory handlers have slots of this size.
static const Bit32u SLOT_BYTES = 0x10000;
static const Bit32u EXIT_PORT = 0xf4, CONFIG_ADDRESS = 0xcf8, CONFIG_DATA = 0xcfc;
static const Bit64u PERIOD = 200;

class bx_kerf_c : public bx_devmodel_c {
public:
  bx_kerf_c() : timer(-1), ticking(false) { put("kerf", "KERF"); }
  void init();
  void reset(unsigned) {}

  int timer;
  bool ticking;
};

class bx_kerf_function_c : public bx_pci_device_c {
public:
  bx_kerf_function_c() : devfn(0), number(0) { put("kerf", "KERF"); }
  bool init(const char *name);
  void reset(unsigned) {}
  Bit32u pci_read_handler(Bit8u address, unsigned io_len);
  void pci_write_handler(Bit8u address, Bit32u value, unsigned io_len);
  int bar(bx_phy_address at, Bit64u *offset) const;

  Bit8u devfn;
  Bit32u number;
};

static bx_kerf_c *kerf;
static bx_kerf_function_c *functions[256];
#define LOG_THIS kerf->

static void read_memory(Bit64u hpa, Bit8u *bytes, Bit32u count)
{
  bx_devices.mem->dmaReadPhysicalPage(hpa, count, bytes);
}

static void write_memory(Bit64u hpa, const Bit8u *bytes, Bit32u count)
{
  bx_devices.mem->dmaWritePhysicalPage(hpa, count, const_cast<Bit8u *>(bytes));
}

static void interrupt(Bit8u vector, Bit32u destination, Bit8u mode, bool logical)
{
  if (!apic_bus_deliver_interrupt(vector, destination, mode, logical, false, false))
    BX_ERROR(("no local APIC takes vector %#x for %#x", vector, destination));
}

static void say(const char *line)
{
  BX_ERROR(("%s", line));
}

static void tick(void *)
{
  if (!bed_tick()) {
    bx_pc_system.deactivate_timer(kerf->timer);
    kerf->ticking = false;
  }
}

static void wake()
{
  if (!kerf->ticking) {
    bx_pc_system.activate_timer_ticks(kerf->timer, PERIOD, true);
    kerf->ticking = true;
  }
}

static bool unit_read(bx_phy_address at, unsigned len, void *data, void *)
{
  Bit64u value = bed_unit_read(at - UNIT, len);
  memcpy(data, &value, len < 8 ? len : 8);
  return true;
}

static bool unit_write(bx_phy_address at, unsigned len, void *data, void *)
{
  Bit64u value = 0;
  memcpy(&value, data, len < 8 ? len : 8);
  bed_unit_write(at - UNIT, len, value);
  wake();
  return true;
}

static bool bar_read(bx_phy_address at, unsigned len, void *data, void *param)
{
  const bx_kerf_function_c *function = static_cast<bx_kerf_function_c *>(param);
  Bit64u offset;
  int bar = function->bar(at, &offset);
  bed_bar_read(function->number, bar, offset, len, static_cast<Bit8u *>(data));
  return true;
}

static bool bar_write(bx_phy_address at, unsigned len, void *data, void *param)
{
  const bx_kerf_function_c *function = static_cast<bx_kerf_function_c *>(param);
  Bit64u offset;
  int bar = function->bar(at, &offset);
  bed_bar_write(function->number, bar, offset, len, static_cast<const Bit8u *>(data));
  wake();
  return true;
}

// The two ports' way to what the first 256 bytes of all functions are; what software has left in the first port stays there.
static Bit32u by_ports(Bit8u devfn, unsigned offset, unsigned len, const Bit32u *value)
{
  Bit32u before = bx_devices.inp(CONFIG_ADDRESS, 4), result = 0;
  bx_devices.outp(CONFIG_ADDRESS, 1u << 31 | Bit32u(devfn) << 8 | (offset & 0xfc), 4);
  if (value)
    bx_devices.outp(CONFIG_DATA + offset % 4, *value, len);
  else
    result = bx_devices.inp(CONFIG_DATA + offset % 4, len);
  bx_devices.outp(CONFIG_ADDRESS, before, 4);
  return result;
}

static bool ecam_read(bx_phy_address at, unsigned len, void *data, void *)
{
  Bit8u devfn = at >> 12;
  unsigned offset = at & 0xfff;
  Bit32u value = 0xffffffff;
  memset(data, 0xff, len);
  if (offset < 256)
    value = by_ports(devfn, offset, len, NULL);
  else if (functions[devfn])
    value = bed_config_read(functions[devfn]->number, offset, len);
  else if (by_ports(devfn, 0, 4, NULL) != 0xffffffff)
    value = 0;
  memcpy(data, &value, len < 4 ? len : 4);
  return true;
}

static bool ecam_write(bx_phy_address at, unsigned len, void *data, void *)
{
  Bit8u devfn = at >> 12;
  unsigned offset = at & 0xfff;
  Bit32u value = 0;
  memcpy(&value, data, len < 4 ? len : 4);
  if (offset < 256)
    by_ports(devfn, offset, len, &value);
  else if (functions[devfn])
    bed_config_write(functions[devfn]->number, offset, len, value);
  return true;
}

static void end(void *, Bit32u, Bit32u value, unsigned)
{
  bed_report();
  fflush(NULL);
  _exit(value & 0xff);
}

// BARs, ROM and interrupt line are Bochs'.
static bool is_own(Bit8u address)
{
  return address < 0x10 || (address >= 0x28 && address < 0x30) || (address >= 0x34 && address != 0x3c);
}

Bit32u bx_kerf_function_c::pci_read_handler(Bit8u address, unsigned io_len)
{
  return is_own(address) ? bed_config_read(number, address, io_len) : bx_pci_device_c::pci_read_handler(address, io_len);
}

void bx_kerf_function_c::pci_write_handler(Bit8u address, Bit32u value, unsigned io_len)
{
  if (is_own(address))
    bed_config_write(number, address, io_len, value);
}

// Which BAR is at an address, where only BARs are.
int bx_kerf_function_c::bar(bx_phy_address at, Bit64u *offset) const
{
  int bar = 5;
  while (bar > 0 && !(pci_bar[bar].size && at >= pci_bar[bar].addr && at - pci_bar[bar].addr < pci_bar[bar].size))
    bar--;
  *offset = at - pci_bar[bar].addr;
  return bar;
}

bool bx_kerf_function_c::init(const char *name)
{
  DEV_register_pci_handlers(this, &devfn, "kerf", "Kerf's models");
  Bit32s added = bed_add(name, devfn);
  if (added < 0)
    return false;
  number = added;
  functions[devfn] = this;
  init_pci_conf(0, 0, 0, 0, 0, 0);
  for (int bar = 0; bar < 6; bar++) {
    Bit32u bytes = bed_bar_bytes(number, bar);
    if (bytes)
      init_bar_mem(bar, bytes < SLOT_BYTES ? SLOT_BYTES : bytes, bar_read, bar_write);
  }
  return true;
}

void bx_kerf_c::init()
{
  DEV_register_memory_handlers(this, unit_read, unit_write, UNIT, UNIT + UNIT_BYTES - 1);
  DEV_register_memory_handlers(this, ecam_read, ecam_write, ECAM, ECAM + ECAM_BYTES - 1);
  DEV_register_iowrite_handler(this, end, EXIT_PORT, "kerf", 7);
  timer = bx_pc_system.register_timer_ticks(this, tick, PERIOD, true, false, "kerf");
  Bochs bochs = { bx_devices.mem->get_memory_len(), read_memory, write_memory, interrupt, say };
  const char *kind = getenv("KERF_IOMMU"), *devices = getenv("KERF_DEVICES");
  if (!bed_start(bochs, kind ? kind : ""))
    BX_PANIC(("KERF_IOMMU names no kind of unit"));
  char *names = strdup(devices ? devices : "");
  for (char *name = strtok(names, ","); name; name = strtok(NULL, ","))
    if (!(new bx_kerf_function_c())->init(name))
      BX_PANIC(("KERF_DEVICES names no function: %s", name));
  free(names);
}

PLUGIN_ENTRY_FOR_MODULE(kerf)
{
  if (mode == PLUGIN_INIT) {
    kerf = new bx_kerf_c();
    BX_REGISTER_DEVICE_DEVMODEL(plugin, type, kerf, "kerf");
  } else if (mode == PLUGIN_FINI) {
    delete kerf;
  } else if (mode == PLUGIN_PROBE) {
    return PLUGTYPE_OPTIONAL;
  } else if (mode == PLUGIN_FLAGS) {
    return PLUGFLAG_PCI;
  }
  return 0;
}
