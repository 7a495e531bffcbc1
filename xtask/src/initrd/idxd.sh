#!/bin/sh
# First program of a Linux that has its own driver configure each Intel DSA that it finds, as an administrator would, and
# prints one line for each check, `KERF-CHECK name ok|FAIL detail`, then `KERF-GUEST-OK` or `KERF-GUEST-FAIL`. What is to be
# found stands on the command line: `kerf.devices=` names, with commas between, `kerf.queues=`, `kerf.size=` and, of
# commands until a queue works, `kerf.commands=`. With `kerf.copies=` each queue makes so many copies for a client.

export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys

failed=
# The value $3 must be $2.
check() {
    if [ "$2" = "$3" ]; then
        echo "KERF-CHECK $1 ok $3"
    else
        echo "KERF-CHECK $1 FAIL $3, not $2"
        failed=yes
    fi
}

# Interrupts so far: `misc` those of all functions' first entries, `portal` those of the queues.
interrupts() {
    awk "/idxd-$1/ { sum += \$2 } END { print sum + 0 }" /proc/interrupts
}

for module in idxd_bus idxd; do
    xzcat "/modules/$module.ko.xz" >"/tmp/$module.ko"
    insmod "/tmp/$module.ko"
done
# Devices and queues are bound by hand.
cd /sys/bus/dsa/devices || exit
set -- dsa*
# The word after $1= on the command line.
wanted() {
    tr ' ' '\n' </proc/cmdline | sed -n "s/^kerf.$1=//p"
}
copies=$(wanted copies)
check devices "$(wanted devices | tr , ' ')" "$*"

for device; do
    queue=$device/wq${device#dsa}.0
    version=$(cat "$device/version")
    check "$device-queues" "$(wanted queues)" "$(cat "$device/max_work_queues")"
    check "$device-size" "$(wanted size)" "$(cat "$device/max_work_queues_size")"
    before=$(interrupts misc)
    echo 0 >"$device/engine${device#dsa}.0/group_id"
    echo 0 >"$queue/group_id"
    echo dedicated >"$queue/mode"
    echo 16 >"$queue/size"
    echo 10 >"$queue/priority"
    echo kernel >"$queue/type"
    echo dmaengine >"$queue/name"
    echo dmaengine >"$queue/driver_name"
    echo "$device" >/sys/bus/dsa/drivers/idxd/bind
    check "$device-$version" "enabled 0x0" "$(cat "$device/state") $(cat "$device/cmd_status")"
    echo "${queue#*/}" >/sys/bus/dsa/drivers/dmaengine/bind
    check "$device-queue" "enabled 0x0" "$(cat "$queue/state") $(cat "$device/cmd_status")"
    check "$device-channel" "dma${device#dsa}chan0" "$(ls "/sys/class/dma" | grep "dma${device#dsa}chan")"
    # Enable Device and Enable WQ, each with its interrupt; before that Request Interrupt Handle, where there is need for it.
    check "$device-interrupts" "$(wanted commands)" $(($(interrupts misc) - before))
    if [ "$copies" ]; then
        # It waits for the interrupt of each copy before the next.
        insmod /modules/kerf_copy.ko "copies=$copies"
        check "$device-copies" "$copies" "$(cat /sys/module/kerf_copy/parameters/right)"
        check "$device-copies-interrupts" "$copies" "$(interrupts portal)"
        dmesg | sed -n 's/^.*kerf_copy: \(.* copies\)/KERF-COPY \1/p'
        rmmod kerf_copy
    fi
    echo "${queue#*/}" >/sys/bus/dsa/drivers/dmaengine/unbind
    check "$device-queue-off" disabled "$(cat "$queue/state")"
    # Linux 6.12.95 takes the event log of a device for granted when it lets go of it, and 1.0 has none.
    if [ "$version" = 0x200 ]; then
        echo "$device" >/sys/bus/dsa/drivers/idxd/unbind
        check "$device-off" disabled "$(cat "$device/state")"
    fi
    check "$device-errors" "" "$(tr -d ',0' <"$device/errors")"
done

if [ "$failed" ]; then echo KERF-GUEST-FAIL; else echo KERF-GUEST-OK; fi
poweroff -f
