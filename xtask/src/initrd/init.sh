#!/bin/sh
# First program of the default Linux guest: looks at the machine it was given, says what it found, then serves a shell.
#
# Every check prints one line, `KERF-CHECK name ok|FAIL detail`, through the kernel's log: that is written by polling and
# shows even where serial interrupts do not arrive. Only what comes after all checks have passed (`KERF-GUEST-OK`, the
# answer to a nonce, the shell) goes through the terminal, which needs them. No check waits for an interrupt without
# also watching the clock, so a silent timer or UART is a line that says FAIL, not a hang.

export PATH=/bin HOME=/ TERM="${TERM:-vt100}"
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

# Numbered copies of a file without repetitions, so that no two pages of the pattern are alike.
pattern() {
    copy=0
    while [ "$copy" -lt "$copies" ]; do
        echo "$copy"
        cat /bin/busybox
        copy=$((copy + 1))
    done
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

# What has a driver in the archive is a disk of the machine's that Kerf gave away.
load_drivers() {
    for module in /modules/*; do
        xzcat "$module" >/tmp/module.ko
        insmod /tmp/module.ko
    done
    rm -f /tmp/module.ko
}

# 32 MB of the pattern go to the disk, and are read back from it and not from the page cache.
check_nvme() {
    if ! within 6000 test -b /dev/nvme0n1; then
        bad nvme "no disk appears"
        return
    fi
    copies=16
    bytes=$(pattern | wc -c)
    want=$(pattern | sha256sum)
    irqs=$(interrupts 'nvme')
    pattern | dd of=/dev/nvme0n1 bs=64k conv=fsync
    echo 3 >/proc/sys/vm/drop_caches
    have=$(head -c "$bytes" /dev/nvme0n1 | sha256sum)
    irqs=$(($(interrupts 'nvme') - irqs))
    if [ "$want" = "$have" ] && [ "$irqs" -ge 16 ]; then
        ok nvme "$bytes bytes written and read back, $irqs interrupts, sum ${have%% *}"
    else
        bad nvme "wrote sum $want, read $have, $irqs interrupts"
    fi
}

check_cpu
check_clocksource
check_timer
check_serial
check_memory
check_acpi
if [ -e /modules ]; then
    load_drivers
    check_nvme
fi

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
