#!/bin/bash
# Puts Ebbtide into an initramfs made by dracut, once this machine has a declaration.
#
# An initramfs without a locator would boot the last root forever, or none: whatever is missing here has
# to stop the build, so that the initramfs of before stays in place.

# Called by dracut.
check() {
	[[ -e /etc/ebbtide/ebbtide.toml ]] || return 255
	return 0
}

# Called by dracut.
depends() {
	echo "systemd-initrd"
	return 0
}

# Says what is missing and stops the build.
ebbtide_fail() {
	dfatal "ebbtide: cannot $*"
	dfatal "ebbtide: hint: run 'ebbtide check', mend what it reports, then build the initramfs again"
	exit 1
}

# Called by dracut.
installkernel() {
	local modules
	modules="$(/usr/bin/ebbtide locator --modules)" ||
		ebbtide_fail "list the kernel modules of container and stores"
	# Split on purpose: one name a line. A module that is built into the kernel is none to install.
	# shellcheck disable=SC2086
	instmods $modules
	return 0
}

# Called by dracut.
install() {
	# The paths of dracut's: where units go, and the tree that becomes the initramfs.
	: "${initdir:?}" "${systemdsystemunitdir:?}" "${moddir:?}"
	local unit
	inst_binary /usr/lib/ebbtide/ebbtide-boot || ebbtide_fail "copy /usr/lib/ebbtide/ebbtide-boot"
	inst_multiple systemctl || ebbtide_fail "copy systemctl"
	mkdir -p "$initdir/etc/ebbtide" || ebbtide_fail "create /etc/ebbtide"
	/usr/bin/ebbtide locator >"$initdir/etc/ebbtide/locator.json" || ebbtide_fail "write the locator"
	[[ -s "$initdir/etc/ebbtide/locator.json" ]] || ebbtide_fail "write the locator: it came out empty"
	/usr/bin/ebbtide locator --devices >"$initdir/etc/ebbtide/devices" ||
		ebbtide_fail "list the devices of container and stores"
	# The last one: it counts from when dracut has all that it waits for itself.
	inst_hook initqueue/finished zz "$moddir/ebbtide-devices.sh" || ebbtide_fail "wait for them"
	for unit in ebbtide-reset.service ebbtide-attach.service; do
		inst_simple "$moddir/$unit" "$systemdsystemunitdir/$unit" || ebbtide_fail "copy $unit"
		mkdir -p "$initdir$systemdsystemunitdir/initrd-root-fs.target.wants"
		ln -sf "../$unit" "$initdir$systemdsystemunitdir/initrd-root-fs.target.wants/$unit" ||
			ebbtide_fail "enable $unit"
	done
	return 0
}
