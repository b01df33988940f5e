# Writes without end, to what is kept and to the root, and says what of it is durable: in a sector that no
# filesystem has, past all caches, so that the record of the disk's writes has it in its place.
# Its argument is the number of the boot.
set -u
boot=$1
cd /var/lib/app
lines=0 rows=0 hosts=0 strays=0
[ -e log ] && lines=$(wc -l <log)
grep -q generation /etc/hosts && hosts=$(sed -n 's/^# generation //p' /etc/hosts)

say() {
    printf '%-511s\n' "durable $boot $lines $rows $hosts $strays" |
        dd of=/dev/vda1 bs=512 seek=2047 count=1 iflag=fullblock oflag=direct conv=notrunc status=none
}

coproc DATABASE { sqlite3 -batch db; }
ask() {
    echo "$1" >&"${DATABASE[1]}"
    read -r answer <&"${DATABASE[0]}"
}
ask 'PRAGMA journal_mode = WAL;'
ask 'PRAGMA synchronous = FULL; CREATE TABLE IF NOT EXISTS t (n INTEGER PRIMARY KEY, filling BLOB);
     SELECT count(*) FROM t;'
rows=$answer

while :; do
    line=$((lines + 1))
    echo "$line $((line * 7919)) whole" >>log && sync log && lines=$line
    ask "INSERT INTO t VALUES ($((rows + 1)), randomblob(700)); SELECT max(n) FROM t;"
    rows=$answer
    say
    stray=$((strays + 1))
    echo "$stray" >>/stray && sync /stray && strays=$stray
    if [ $((line % 3)) = 0 ]; then
        new=$((hosts + 1))
        {
            printf '127.0.0.1 localhost\n# generation %s\n' "$new"
            seq -f '10.0.0.%.0f neighbour' 100
            echo "# end of $new"
        } >/etc/hosts.new
        sync /etc/hosts.new && mv /etc/hosts.new /etc/hosts && sync /etc && hosts=$new
    fi
    say
done
