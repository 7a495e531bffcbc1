#!/bin/sh
# First program of the default Linux guest: looks at the machine it was given, says what it found, then serves a shell.
#
# Every check prints one line, `KERF-CHECK name ok|FAIL detail`, through the kernel's log: that is written by polling and
# shows even where serial interrupts do not arrive. Only what comes after all checks have passed (`KERF-GUEST-OK`, the
# answer to a nonce, the shell) goes through the terminal, which needs them. No check waits for an interrupt without
# also watching the clock, so a silent timer or UART is a line that says FAIL, not a hang.

export PATH=/bin HOME=/ TERM="${TERM:-vt100}"

# Numbered copies of a file without repetitions, so that no two pages of the pattern are alike.
pattern() {
    copy=0
    while [ "$copy" -lt "$copies" ]; do
        echo "$copy"
        cat /bin/busybox
        copy=$((copy + 1))
    done
}

# What the connection to a peer is handed to: it sends all of the pattern back once it has it.
if [ "$1" = exchange ]; then
    pattern
    sha256sum >/tmp/received
    exit
fi

mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
echo on >/proc/sys/kernel/printk_devkmsg
exec 2>/dev/kmsg
read -r cmdline </proc/cmdline

failed=
say() { echo "<1>$*" >/dev/kmsg; }
ok() { say "KERF-CHECK $1 ok $2"; }
bad() {
    say "KERF-CHECK $1 FAIL $2"
    failed="$failed $1"
}

# Sets `now` to the time since start in hundredths of a second, without a new process.
clock() {
    read -r now _ </proc/uptime
    now=${now%.*}${now#*.}
    now=${now#"${now%%[!0]*}"}
    : "${now:=0}"
}

# Sum over all CPUs of the rows of /proc/interrupts that match $1.
interrupts() {
    awk -v row="$1" '
        $0 ~ row { for (i = 2; i <= NF && $i ~ /^[0-9]+$/; i++) sum += $i }
        END { print sum + 0 }' /proc/interrupts
}

# Runs $2... over and over until it succeeds; gives up after $1 hundredths of a second, or 100000 rounds of a stopped clock.
within() {
    clock
    limit=$((now + $1)) rounds=0
    shift
    until "$@"; do
        clock
        rounds=$((rounds + 1))
        [ "$now" -lt "$limit" ] && [ "$rounds" -lt 100000 ] || return 1
    done
}

check_cpu() {
    set -- "$(awk -F ': *' '
        /^model name/ { model = $2 }
        /^cpu MHz/ { mhz = $2 }
        /^flags/ { hypervisor = $2 ~ /(^| )hypervisor( |$)/; lm = $2 ~ /(^| )lm( |$)/ }
        END {
            if (model == "") print "no model name"
            else if (mhz + 0 < 1) print "no frequency"
            else if (!lm) print "no long mode"
            else if (!hypervisor) print "flag hypervisor missing"
            else print "ok " model ", " mhz " MHz"
        }' /proc/cpuinfo)"
    case $1 in
    ok*) ok cpu "${1#ok }" ;;
    *) bad cpu "$1" ;;
    esac
}

check_clocksource() {
    read -r source </sys/devices/system/clocksource/clocksource0/current_clocksource
    case $source in
    '' | jiffies) bad clocksource "${source:-none}" ;;
    *) ok clocksource "$source" ;;
    esac
}

# A first short sleep is watched by polling: should it never end, this says so. The second one is an idle wait, HLT and all.
check_timer() {
    ticks=$(interrupts '^ *LOC:')
    clock
    start=$now
    { usleep 100000 && : >/tmp/slept; } &
    if ! within 500 test -e /tmp/slept; then
        bad timer "a sleep of 0.1 s did not end in 5 s"
        return
    fi
    usleep 400000
    ticks=$(($(interrupts '^ *LOC:') - ticks))
    clock
    took=$((now - start))
    if [ "$ticks" -lt 10 ]; then
        bad timer "only $ticks interrupts in $took/100 s"
    elif [ "$took" -lt 48 ] || [ "$took" -gt 3000 ]; then
        bad timer "sleeping 0.5 s took $took/100 s"
    else
        ok timer "$ticks interrupts in $took/100 s"
    fi
}

transmitted() { sed -n 's/^0:.* tx:\([0-9]*\).*/\1/p' /proc/tty/driver/serial; }

serial_moved() {
    [ $(($(interrupts 'ttyS0') - irqs)) -ge 2 ] && [ $(($(transmitted) - sent)) -ge 128 ]
}

# 130 characters are less than the driver buffers, so writing them cannot block; only interrupts drain them.
check_serial() {
    line=$(sed -n 's/^0: //p' /proc/tty/driver/serial)
    irqs=$(interrupts 'ttyS0')
    sent=$(transmitted)
    echo 'serial 0123456789abcdefghijklmnopqrstuvwxyz 0123456789abcdefghijklmnopqrstuvwxyz 0123456789abcdefghijklmnopqrstuvwxyz 01234567890123'
    if within 300 serial_moved; then
        ok serial "$line, $(($(interrupts 'ttyS0') - irqs)) interrupts"
    else
        bad serial "$line, $(($(interrupts 'ttyS0') - irqs)) interrupts, $(($(transmitted) - sent)) of 130 sent"
    fi
}

# Half of the free memory at most, 12 MB at most, are filled and read back; the expected sum never was in that memory.
check_memory() {
    total=$(awk '/^MemTotal:/ { print $2 }' /proc/meminfo)
    free=$(awk '/^MemFree:/ { print $2 }' /proc/meminfo)
    size=$(($(wc -c </bin/busybox) / 1024))
    copies=$((free / 2 / size))
    most=$((12288 / size))
    [ "$copies" -le "$most" ] || copies=$most
    if [ "${total:-0}" -lt 32768 ] || [ "$copies" -lt 1 ]; then
        bad memory "MemTotal $total kB, MemFree $free kB"
        return
    fi
    want=$(pattern | md5sum)
    pattern >/tmp/pattern
    have=$(md5sum </tmp/pattern)
    rm -f /tmp/pattern
    if [ -n "$want" ] && [ "$want" = "$have" ]; then
        ok memory "$total kB, $((copies * size)) kB of it written and read back"
    else
        bad memory "wrote sum $want, read $have"
    fi
}

check_acpi() {
    missing=
    for table in FACP DSDT APIC; do
        [ -s /sys/firmware/acpi/tables/$table ] || missing="$missing $table"
    done
    if [ -n "$missing" ]; then
        bad acpi "missing:$missing"
    else
        ok acpi "$(cd /sys/firmware/acpi/tables && echo [A-Z]*)"
    fi
}

# Loads drivers of the archive, each once.
load() {
    for module; do
        if [ -e "/modules/$module.ko.xz" ]; then
            xzcat "/modules/$module.ko.xz" >/tmp/module.ko
            insmod /tmp/module.ko
            rm -f "/modules/$module.ko.xz" /tmp/module.ko
        fi
    done
}

# The functions of the machine's that Kerf gave to this guest, by vendor and class.
check_functions() {
    copies=$(echo "$cmdline" | sed -n 's/.*kerf\.copies=\([0-9]*\).*/\1/p')
    export copies="${copies:-4}"
    bytes=0 copy=0 size=$(wc -c </bin/busybox)
    while [ "$copy" -lt "$copies" ]; do
        bytes=$((bytes + ${#copy} + 1 + size))
        copy=$((copy + 1))
    done
    for function in /sys/bus/pci/devices/*; do
        read -r vendor <"$function/vendor"
        read -r class <"$function/class"
        case $vendor:$class in
        *:0x010802)
            load nvme-auth nvme-core nvme nls_cp437 nls_ascii fat vfat
            check_files nvme nvme0n1
            check_random
            check_spread nvme
            case $cmdline in
            *kerf.apart=*) check_apart "$function" ;;
            esac
            ;;
        0x1af4:0x010000)
            load virtio_blk
            check_disk virtio-blk vda
            ;;
        0x8086:0x020000)
            read -r device <"$function/device"
            if [ "$device" = 0x10ca ]; then
                load igbvf
                check_network igbvf "$function"
            else
                load i2c-algo-bit dca igb
                check_network igb "$function"
            fi
            ;;
        0x1af4:0x020000)
            load failover net_failover virtio_net
            check_network virtio-net "$function/virtio*"
            ;;
        esac
    done
}

# The pattern goes to disk $2, and is read back from it and not from the page cache.
check_disk() {
    disk=/dev/$2
    if ! within 6000 test -b "$disk"; then
        bad "$1" "no disk appears"
        return
    fi
    want=$(pattern | sha256sum)
    irqs=$(interrupts "PCI-MSI")
    pattern | dd of="$disk" bs=64k conv=fsync
    echo 3 >/proc/sys/vm/drop_caches
    have=$(dd if="$disk" bs=64k iflag=count_bytes count="$bytes" | sha256sum)
    irqs=$(($(interrupts "PCI-MSI") - irqs))
    if [ "$want" = "$have" ] && [ "$irqs" -ge 16 ]; then
        ok "$1" "$bytes bytes written and read back, $irqs interrupts, sum ${have%% *}"
    else
        bad "$1" "wrote sum $want, read $have, $irqs interrupts"
    fi
}

# Disk $2 gets a file system, whose one file the pattern becomes; unmounting leaves nothing of it in the page cache.
check_files() {
    disk=/dev/$2
    if ! within 6000 test -b "$disk"; then
        bad "$1" "no disk appears"
        return
    fi
    want=$(pattern | sha256sum)
    irqs=$(interrupts "PCI-MSI")
    mkdosfs "$disk" && mount -t vfat "$disk" /mnt && pattern >/mnt/pattern && umount /mnt
    mount -t vfat -o ro "$disk" /mnt && have=$(sha256sum </mnt/pattern) && umount /mnt
    irqs=$(($(interrupts "PCI-MSI") - irqs))
    if [ "$want" = "$have" ] && [ "$irqs" -ge 16 ]; then
        ok "$1" "$bytes bytes in a file written and read back, $irqs interrupts, sum ${have%% *}"
    else
        bad "$1" "wrote sum $want, read $have, $irqs interrupts"
    fi
}

# Blocks here and there on the disk, past the page cache: where they are, the tests know, too.
check_random() {
    count=0 seed=1
    have=$(while [ "$count" -lt 64 ]; do
        seed=$(((seed * 1103515245 + 12345) % 2147483648))
        dd if="$disk" bs=4k count=1 skip=$((seed / 256 % (bytes / 4096))) iflag=direct
        count=$((count + 1))
    done | sha256sum)
    ok random "64 blocks read, sum ${have%% *}"
}

# Interrupts that the queue of CPU $1 had there: its row's name ends in a number one higher.
on_its_cpu() {
    awk -v row="nvme[0-9]+q$(($1 + 1))\$" -v column=$(($1 + 2)) '$NF ~ row { print $column }' /proc/interrupts
}

# Each CPU reads, 4 KiB at a time and past the page cache, and its own queue's interrupts come to it.
check_spread() {
    cpus=$(nproc)
    cpu=0 told=
    while [ "$cpu" -lt "$cpus" ]; do
        irqs=$(on_its_cpu "$cpu")
        taskset $((1 << cpu)) dd if="$disk" of=/dev/null bs=4k count=64 skip=$((cpu * 64)) iflag=direct
        irqs=$(($(on_its_cpu "$cpu") - irqs))
        told="$told CPU $cpu $irqs,"
        [ "$irqs" -ge 64 ] || told="$told too few,"
        cpu=$((cpu + 1))
    done
    case $told in
    *few*) bad spread "$told" ;;
    *) ok spread "interrupts of 64 reads on each CPU:$told in all" ;;
    esac
}

# All that lspci can tell, line by line, where the archive has it.
check_lspci() {
    if ! lspci -vvn >/tmp/lspci; then
        bad lspci "it failed"
        return
    fi
    while read -r line; do say "lspci: $line"; done </tmp/lspci
    ok lspci "$(wc -l </tmp/lspci) lines"
}

# Registers and reserved memory, by words of 32 bits.
peek() { devmem "$1" 32; }
poke() { devmem "$1" 32 "$2"; }
is_set() { [ $(($(peek "$1") & $2)) -ne 0 ]; }
is_off() { ! is_set "$1" 1; }

# Puts a command into the queue whose memory is at $1 and whose doorbell is $2, as number $3: opcode $4, namespace $5,
# data at $6, words 10 and 11 $7 and $8. Sets `status` to the answer's, -1 where none comes.
submit() {
    at=$(($1 + 64 * $3))
    for word in $(($4 | $3 << 16)) "$5" 0 0 0 0 "$6" 0 0 0 "$7" "$8" 0 0 0 0; do
        poke "$at" "$word"
        at=$((at + 4))
    done
    poke "$2" $(($3 + 1))
    answer=$(($1 + 0x1000 + 16 * $3 + 12))
    status=-1
    within 1000 is_set "$answer" 0x10000 && status=$(($(peek "$answer") >> 17))
}

# Commands to the controller $1 by hand, in memory that the kernel left alone: namespace 1, its own, answers, and the one that
# the command line names does not. It is not asked to attach that one, which QEMU's would do.
check_apart() {
    other=$(echo "$cmdline" | sed -n 's/.*kerf\.apart=\([0-9]*\).*/\1/p')
    memory=$(echo "$cmdline" | sed -n 's/.*memmap=[0-9]*K.\(0x[0-9a-f]*\).*/\1/p')
    echo "${1##*/}" >/sys/bus/pci/drivers/nvme/unbind
    echo 1 >"$1/enable"
    # Memory and bus mastering.
    printf '\006' | dd of="$1/config" bs=1 seek=4 conv=notrunc
    read -r bar _ <"$1/resource"
    # Phase bits of the completions that are to come.
    for page in 0x1000 0x3000; do
        for at in 0x0c 0x1c 0x2c 0x3c; do poke $((memory + page + at)) 0; done
    done
    poke $((bar + 0x14)) 0
    within 1000 is_off $((bar + 0x1c))
    poke $((bar + 0x24)) 0x70007
    for at in 0x28 0x30; do
        poke $((bar + at)) $((memory + (at - 0x28) * 0x200))
        poke $((bar + at + 4)) 0
    done
    poke $((bar + 0x14)) 0x460001
    within 1000 is_set $((bar + 0x1c)) 1
    bell=$((bar + 0x1000))
    # Queues for I/O, behind the admin queues.
    submit "$memory" "$bell" 0 0x05 0 $((memory + 0x3000)) 0x70001 1
    told="completion queue $status"
    submit "$memory" "$bell" 1 0x01 0 $((memory + 0x2000)) 0x70001 0x10001
    told="$told, submission queue $status"
    submit $((memory + 0x2000)) $((bell + 8)) 0 0x02 1 $((memory + 0x5000)) 0 0
    own=$status
    submit $((memory + 0x2000)) $((bell + 8)) 1 0x02 "$other" $((memory + 0x5000)) 0 0
    told="$told, own $own, other $status"
    if [ "$own" = 0 ] && [ "$status" -gt 0 ]; then
        ok apart "$told"
    else
        bad apart "$told"
    fi
}

# The emulator's network: its gateway answers, and an address that the command line names gives back what it is sent.
check_network() {
    if ! within 6000 interface "$2"; then
        bad "$1" "no interface appears"
        return
    fi
    own=$(echo "$cmdline" | sed -n 's/.*kerf\.ip=\([0-9.]*\).*/\1/p')
    own="${own:-10.0.2.15}"
    ip addr flush to "$own"
    ip addr add "$own/24" dev "$name"
    ip link set "$name" up
    ip route add default via 10.0.2.2
    echo nameserver 10.0.2.3 >/etc/resolv.conf
    if ! within 6000 ping -q -c 1 -W 1 10.0.2.2 >/dev/null; then
        bad "$1" "the gateway does not answer"
        return
    fi
    peer=$(echo "$cmdline" | sed -n 's/.*kerf\.peer=\([0-9.]*\):\([0-9]*\).*/\1 \2/p')
    told="$name, the gateway answers"
    if [ -n "$peer" ]; then
        want=$(pattern | sha256sum)
        # Two words.
        nc $peer -e /init exchange
        read -r have </tmp/received
        if [ "$want" != "$have" ]; then
            bad "$1" "$told, sent sum $want, received $have"
            return
        fi
        told="$told, sent and received sum ${have%% *}"
    fi
    ok "$1" "$told, $(interrupts "$name|virtio") interrupts"
}

# Sets the name of the function's interface.
interface() {
    for name in $1/net/*; do
        name=${name##*/}
        [ "$name" != '*' ]
        return
    done
}

check_cpu
check_clocksource
check_timer
check_serial
check_memory
check_acpi
check_functions
[ -e /bin/lspci ] && check_lspci

if [ -n "$failed" ]; then
    say "KERF-GUEST-FAIL$failed"
else
    # From here on the terminal speaks; the kernel's messages are not to cut its lines in two.
    dmesg -n 1
    [ -e /nonce ] && echo "KERF-NONCE $(sha256sum </nonce | cut -d ' ' -f 1)"
    echo KERF-GUEST-OK
fi

case " $cmdline " in
*' kerf.poweroff '*) ;;
*)
    busybox --install -s /bin
    hostname guest
    # These applets signal an init, and this script is none: in the shell they act by themselves.
    mkdir -p /etc
    for word in poweroff halt reboot; do echo "alias $word='$word -f'"; done >/etc/shrc
    setsid cttyhack sh -c 'export PS1="\h:\w# " ENV=/etc/shrc; exec sh -i' 2>&1
    ;;
esac
# Lets the UART's last characters leave before the power does.
usleep 200000
poweroff -f
while :; do sleep 3600; done
