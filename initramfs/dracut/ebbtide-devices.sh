#!/bin/sh
# Sourced by dracut, in a shell of its own, as long as it waits for devices: whether those of container and
# stores are there. Once the root is, dracut activates no LVM and no RAID any more.
#
# A device that is missing must not stop the boot: 30 seconds after it was asked for first, and after the last
# question for a passphrase, there is no more waiting. ebbtide-boot then says what is missing.

asked=/tmp/ebbtide-devices-asked

read -r now _ </proc/uptime
now="${now%%.*}"
for question in /run/systemd/ask-password/ask.*; do
	[ -e "$question" ] && rm -f "$asked"
done
[ -e "$asked" ] || echo "$now" >"$asked"
read -r since <"$asked"
[ "$((now - since))" -lt 30 ] || return 0

while read -r device; do
	[ -z "$device" ] || [ -e "$(label_uuid_to_dev "$device")" ] || return 1
done </etc/ebbtide/devices

return 0
