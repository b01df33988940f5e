#!/bin/sh
# Runs what the machine that holds this VM asks for, as root, and answers with what came of it.
#
# Asked:    run ID LENGTH INPUT-LENGTH\n  then the command, then its standard input
# Answered: result ID STATUS STDOUT-LENGTH STDERR-LENGTH\n  then both
# First of all it says: ready BOOT-ID\n
set -u

find_port() {
    for name in /sys/class/virtio-ports/*/name; do
        if [ "$(cat "$name" 2>/dev/null)" = ebbtide.testkit ]; then
            port=${name%/name}
            port=/dev/${port##*/}
            [ -c "$port" ] && return 0
        fi
    done
    return 1
}

modprobe --quiet virtio_console
until find_port; do
    sleep 0.2
done
exec 3<>"$port" || exit 1

here=/run/testkit
mkdir -p "$here"
printf 'ready %s\n' "$(cat /proc/sys/kernel/random/boot_id)" >&3

while read -r verb id length input_length <&3; do
    [ "$verb" = run ] || continue
    head -c "$length" <&3 >"$here/command"
    head -c "$input_length" <&3 >"$here/input"
    cd /root || cd /
    setsid --wait bash "$here/command" \
        <"$here/input" >"$here/stdout" 2>"$here/stderr" 3<&-
    status=$?
    {
        printf 'result %s %s %s %s\n' "$id" "$status" \
            "$(stat --format=%s "$here/stdout")" "$(stat --format=%s "$here/stderr")"
        cat "$here/stdout" "$here/stderr"
    } >&3
done
