# One boot in the life of a machine: what is to be kept, and strays of every kind.
set -eu

# --- kept ---
echo thesis >/home/alice/thesis.tex
chown alice:alice /home/alice/thesis.tex
chmod 0640 /home/alice/thesis.tex
setfattr -n user.note -v remember /home/alice/thesis.tex
setfacl -m u:1234:rw /home/alice/thesis.tex
cp /bin/true /var/lib/app/tool
setcap cap_net_raw+ep /var/lib/app/tool
chown -h alice:alice /var/lib/app
ln -s thesis.tex /home/alice/link
mkfifo /var/lib/app/fifo
truncate -s 1G /srv/sparse
printf 'odd' >"/srv/$(printf 'new\nline \033[31m')"
echo later >/etc/made-later.conf
echo 'welcome back' >/etc/motd
logger --id=1 'the first boot was here' || echo 'the first boot was here' | systemd-cat

sed -i 's/^127.0.1.1.*/127.0.1.1 kept-by-sync/' /etc/hosts
rm /etc/issue

# --- strays ---
echo x >/stray
mkdir -p /opt/evil && cp /bin/sh /opt/evil/sh && chmod 4755 /opt/evil/sh
useradd --create-home mallory 2>/dev/null || useradd mallory
printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >/etc/systemd/system/evil.service
systemctl --quiet enable evil.service
echo '* * * * * root /opt/evil/sh' >/etc/cron.d/evil
mkdir -p /opt/evil && cp /lib/x86_64-linux-gnu/libdl.so.2 /opt/evil/preload.so
echo /opt/evil/preload.so >/etc/ld.so.preload
echo 'PermitRootLogin yes' >>/etc/ssh/sshd_config
rm /etc/cron.daily/apt-compat
# What is on a filesystem of its own is not forgotten: that mess would stay.
mountpoint --quiet /usr || rm /usr/sbin/getcap
echo key >/root/.profile
{ btrfs --quiet subvolume create /opt/nested 2>/dev/null || mkdir /opt/nested; } && echo in >/opt/nested/file
mountpoint --quiet /boot || mkdir -p /boot/grub
mountpoint --quiet /boot || for file in /boot/vmlinuz-* /boot/initrd.img-* /boot/grub/grub.cfg; do
    echo planted >"$file"
done
sync
